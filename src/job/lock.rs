//! The lock of a job: two refreshes of one destination never overlap.
//!
//! It is a lock of type object on an object that does not exist: of class refresh_config, with a hash of the destination as its OID. No
//! SQL can take such a lock; an advisory lock could be taken by any role, to block all refreshes.

use crate::backend::identity::{in_recovery, pin_settings, set_local};
use crate::backend::name::Name;
use crate::backend::relation::{self, oid_arg};
use crate::backend::spi;
use crate::backend::subtransaction::attempt;
use crate::error::{Error, Result};
use pgrx::pg_sys;

/// How long a caller is ready to wait, from the argument p_lock_wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Not,
    Seconds(i32),
    Unlimited,
}

impl Wait {
    pub fn from_argument(seconds: Option<i32>) -> Wait {
        match seconds {
            None => Wait::Not,
            Some(seconds) if seconds > 0 => Wait::Seconds(seconds),
            Some(_) => Wait::Unlimited,
        }
    }
}

/// What is locked: the OID of refresh_config, and a hash of the destination.
#[derive(Clone, Copy)]
struct Tag {
    class: pg_sys::Oid,
    object: u32,
}

impl Tag {
    /// # Errors
    /// Internal, if the extension is not created here.
    fn of(destination: &str) -> Result<Tag> {
        let schema = spi::text(
            "SELECT n.nspname::pg_catalog.text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'mimeo'",
            &[],
        )?;
        let config = match schema {
            Some(schema) => relation::find(&Name::new(schema, "refresh_config"))?,
            None => None,
        };
        let class = config.ok_or_else(|| Error::Internal("the extension mimeo is not created here".to_string()))?.oid;
        let hash = spi::number("SELECT hashtext($1)::bigint & 4294967295", &[destination.into()])?;
        Ok(Tag { class, object: hash as u32 })
    }

    /// Until the end of the transaction; false if it is not free and `wait` is not wanted.
    fn lock(self, wait: bool) -> bool {
        // SAFETY: a tag as LockDatabaseObject makes it; the transaction releases the lock.
        unsafe {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.to_u32(),
                locktag_field2: self.class.to_u32(),
                locktag_field3: self.object,
                locktag_field4: 0,
                locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
                locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
            };
            let taken = pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, !wait);
            taken != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
        }
    }
}

/// Takes the locks of destinations that are free at this instant, until the end of the transaction; those.
pub fn take_free(destinations: &[String]) -> Result<Vec<String>> {
    let Some(first) = destinations.first() else { return Ok(Vec::new()) };
    let _pinned = pin_settings()?;
    let class = Tag::of(first)?.class;
    let hashed: Vec<(String, u32)> = spi::json(
        "SELECT json_agg(json_build_array(d.name, hashtext(d.name)::bigint & 4294967295) ORDER BY d.name COLLATE \"C\")::pg_catalog.text
           FROM unnest($1::pg_catalog.text[]) d(name)",
        &[destinations.to_vec().into()],
    )?
    .unwrap_or_default();
    Ok(hashed
        .into_iter()
        .filter(|(_, object)| Tag { class, object: *object }.lock(false))
        .map(|(name, _)| name)
        .collect())
}

/// Whether a session holds it now.
pub fn is_taken(destination: &str) -> Result<bool> {
    let _pinned = pin_settings()?;
    let tag = Tag::of(destination)?;
    spi::is_true(
        "SELECT EXISTS (SELECT FROM pg_locks l
                         WHERE l.locktype = 'object' AND l.granted AND l.classid = $1 AND l.objid::bigint = $2
                           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))",
        &[oid_arg(tag.class), i64::from(tag.object).into()],
    )
}

/// Takes the lock of a destination until the end of the transaction; false if another one holds it for longer
/// than the caller waits.
pub fn take(destination: &str, wait: Wait) -> Result<bool> {
    // On a standby nothing is refreshed, and no such lock can be taken.
    if in_recovery() {
        return Ok(true);
    }
    let _pinned = pin_settings()?;
    let tag = Tag::of(destination)?;
    let timeout = match wait {
        Wait::Not => return Ok(tag.lock(false)),
        Wait::Seconds(seconds) => format!("{seconds}s"),
        Wait::Unlimited => "0".to_string(),
    };
    let taken = attempt(|| {
        set_local("lock_timeout", &timeout)?;
        Ok(tag.lock(true))
    });
    match taken {
        Ok(taken) => Ok(taken),
        Err(error) if error.is_lock_timeout() => Ok(false),
        Err(error) => Err(error),
    }
}
