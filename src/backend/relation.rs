//! Relations of this database: finding them, locking them without making others wait, what they hold.

use crate::backend::identity::set_local;
use crate::backend::interrupts;
use crate::backend::name::{literal, quote, readings, Name};
use crate::backend::spi;
use crate::backend::subtransaction::attempt;
use crate::error::{Error, Result};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use serde::Deserialize;
use std::time::{Duration, Instant};

/// A relation that exists.
#[derive(Debug, Clone, Deserialize)]
pub struct Relation {
    #[serde(deserialize_with = "oid")]
    pub oid: pg_sys::Oid,
    pub schema: String,
    pub name: String,
    /// pg_class.relkind
    pub kind: char,
    #[serde(deserialize_with = "oid")]
    pub owner: pg_sys::Oid,
}

impl Relation {
    pub fn name(&self) -> Name {
        Name::new(&self.schema, &self.name)
    }
}

/// Reads an OID out of JSON.
pub fn oid<'de, D: serde::Deserializer<'de>>(value: D) -> std::result::Result<pg_sys::Oid, D::Error> {
    Ok(pg_sys::Oid::from(u32::deserialize(value)?))
}

/// The relation of that name, whatever its kind.
pub fn find(name: &Name) -> Result<Option<Relation>> {
    spi::json(
        "SELECT pg_catalog.json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname,
                    'kind', c.relkind, 'owner', c.relowner::bigint)::pg_catalog.text
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
             ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name
            AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[name.schema.as_str().into(), name.name.as_str().into()],
    )
}

/// The relation that a user names, in the readings of `backend::name::readings`; a bare name is looked up along
/// the search_path that is in force.
pub fn find_as_written(text: &str) -> Result<Option<Relation>> {
    for (schema, name) in readings(text)? {
        let found = match schema {
            Some(schema) => find(&Name::new(schema, name))?,
            None => find_visible(&name)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The columns of a table that a role may read.
pub fn readable_columns(role: pg_sys::Oid, table: pg_sys::Oid) -> Result<Vec<String>> {
    let columns = spi::json(
        "SELECT pg_catalog.json_agg(a.attname)::pg_catalog.text FROM pg_catalog.pg_attribute a
          WHERE a.attrelid OPERATOR(pg_catalog.=) $2 AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
            AND pg_catalog.has_column_privilege($1, a.attrelid, a.attnum, 'SELECT')",
        &[role.into(), oid_arg(table)],
    )?;
    Ok(columns.unwrap_or_default())
}

/// The names of these relations, as far as they exist.
pub fn names_of(oids: &[pg_sys::Oid]) -> Result<Vec<Name>> {
    let names = spi::json(
        "SELECT pg_catalog.json_agg(pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname))::pg_catalog.text
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
             ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1)",
        &[oids.to_vec().into()],
    )?;
    Ok(names.unwrap_or_default())
}

fn find_visible(name: &str) -> Result<Option<Relation>> {
    let schema = spi::text(
        "SELECT n.nspname::pg_catalog.text
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
             ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name
            AND pg_catalog.pg_table_is_visible(c.oid)",
        &[name.into()],
    )?;
    match schema {
        Some(schema) => find(&Name::new(schema, name)),
        None => Ok(None),
    }
}

pub fn schema_exists(schema: &str) -> Result<bool> {
    spi::is_true(
        "SELECT true FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[schema.into()],
    )
}

/// Where a new table of a bare name would be created.
pub fn creation_schema() -> Result<Option<String>> {
    spi::text("SELECT pg_catalog.current_schema()::pg_catalog.text", &[])
}

/// Takes an ACCESS EXCLUSIVE lock without making anybody wait for long behind it: it stands in the queue for
/// `queue` at a time, then steps back for a growing pause.
///
/// # Errors
/// InUse after `give_up`; the lock is not held then.
pub fn lock_exclusively(oids: &[pg_sys::Oid], name: &Name, wait: Patience, intent: &'static str) -> Result<()> {
    lock_patiently(oids, pg_sys::AccessExclusiveLock, || Ok(name.plain()), wait, intent)
}

/// The same with any lock. `name` tells, for the error, what was in use.
pub fn lock_patiently(
    oids: &[pg_sys::Oid],
    mode: u32,
    name: impl FnOnce() -> Result<String>,
    wait: Patience,
    intent: &'static str,
) -> Result<()> {
    lock_together(oids, mode, |_| name(), wait, intent)
}

/// The same; `name` is told which of them was in use.
pub fn lock_together(
    oids: &[pg_sys::Oid],
    mode: u32,
    name: impl FnOnce(pg_sys::Oid) -> Result<String>,
    wait: Patience,
    intent: &'static str,
) -> Result<()> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        let mut next = pg_sys::InvalidOid;
        let outcome = attempt(|| {
            // Who waits behind the first one waits for the others, too.
            let until = wait.together.map(|together| Instant::now() + together);
            for &oid in oids {
                next = oid;
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                set_lock_timeout(left.map_or(wait.queue, |left| left.min(wait.queue)))?;
                // SAFETY: waits for a lock, for lock_timeout at most; the transaction releases it.
                unsafe { pg_sys::LockRelationOid(oid, mode as i32) };
            }
            Ok(())
        });
        match outcome {
            Err(error) if error.is_lock_timeout() => {}
            other => return other,
        }
        if start.elapsed() + pause > wait.give_up {
            return Err(Error::InUse { relation: name(next)?, seconds: start.elapsed().as_secs(), intent });
        }
        interrupts::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_secs(1));
    }
}

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// In the lock's queue, where later readers wait behind us.
    pub queue: Duration,
    /// The same for all locks that are taken together. None: for each of them.
    pub together: Option<Duration>,
    /// In all.
    pub give_up: Duration,
}

/// Takes the lock that a reader takes: until the end of the transaction nobody changes the relation's columns.
pub fn lock_to_read(oid: pg_sys::Oid) {
    // SAFETY: waits for a lock, interruptibly; the transaction releases it.
    unsafe { pg_sys::LockRelationOid(oid, pg_sys::AccessShareLock as i32) };
}

/// Takes an ACCESS EXCLUSIVE lock if it is free at this instant.
pub fn lock_if_free(oid: pg_sys::Oid) -> bool {
    // SAFETY: never waits; the transaction releases it.
    unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::AccessExclusiveLock as i32) }
}

/// Takes a ROW EXCLUSIVE lock, as writers do, if it is free at this instant.
pub fn lock_to_write_if_free(oid: pg_sys::Oid) -> bool {
    // SAFETY: never waits; the transaction releases it.
    unsafe { pg_sys::ConditionalLockRelationOid(oid, pg_sys::RowExclusiveLock as i32) }
}

/// The subtransaction that calls this restores the setting when it is rolled back, and the Identity around it
/// when it is kept.
fn set_lock_timeout(timeout: Duration) -> Result<()> {
    set_local("lock_timeout", &timeout.as_millis().max(1).to_string())
}

/// The OID as an SQL parameter.
pub fn oid_arg<'a>(oid: pg_sys::Oid) -> DatumWithOid<'a> {
    DatumWithOid::from(oid)
}

/// ` WITH (…)` for the options of a view or a materialized view; empty if it has none.
pub fn view_options(oid: pg_sys::Oid) -> Result<String> {
    let options: Option<Vec<(String, String)>> = spi::json(
        "SELECT json_agg(json_build_array(o.option_name, o.option_value))::pg_catalog.text
           FROM pg_class c, pg_options_to_table(c.reloptions) o WHERE c.oid = $1",
        &[oid_arg(oid)],
    )?;
    let Some(options) = options else { return Ok(String::new()) };
    let list: Vec<_> = options.iter().map(|(name, value)| format!("{} = {}", quote(name), literal(value))).collect();
    Ok(format!(" WITH ({})", list.join(", ")))
}

/// ` WITH (…)` for the storage parameters of a table and of its TOAST table; empty if there are none.
pub fn table_options(oid: pg_sys::Oid) -> Result<String> {
    let options: Vec<(bool, String, String)> = spi::json(
        "SELECT json_agg(json_build_array(c.oid <> $1, o.option_name, o.option_value))::pg_catalog.text
           FROM pg_class c, pg_options_to_table(c.reloptions) o
          WHERE c.oid IN ($1, (SELECT t.reltoastrelid FROM pg_class t WHERE t.oid = $1))",
        &[oid_arg(oid)],
    )?
    .unwrap_or_default();
    if options.is_empty() {
        return Ok(String::new());
    }
    let list: Vec<_> = options
        .iter()
        .map(|(toast, name, value)| {
            format!("{}{} = {}", if *toast { "toast." } else { "" }, quote(name), literal(value))
        })
        .collect();
    Ok(format!(" WITH ({})", list.join(", ")))
}
