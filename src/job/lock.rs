//! The lock of a job: two refreshes of one destination never overlap.

use crate::backend::identity::{pin_settings, set_local};
use crate::backend::spi;
use crate::backend::subtransaction::attempt;
use crate::error::Result;

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

/// Whether a session holds it now.
pub fn is_taken(destination: &str) -> Result<bool> {
    let _pinned = pin_settings()?;
    spi::is_true(
        "SELECT EXISTS (SELECT FROM pg_locks l
                         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
                           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                           AND l.classid::bigint = hashtext('mimeo refresh') & 4294967295
                           AND l.objid::bigint = hashtext($1) & 4294967295)",
        &[destination.into()],
    )
}

/// Takes the lock of a destination until the end of the transaction; false if another one holds it for longer
/// than the caller waits.
pub fn take(destination: &str, wait: Wait) -> Result<bool> {
    let _pinned = pin_settings()?;
    let args = &[destination.into()];
    let timeout = match wait {
        Wait::Not => {
            return spi::is_true("SELECT pg_try_advisory_xact_lock(hashtext('mimeo refresh'), hashtext($1))", args);
        }
        Wait::Seconds(seconds) => format!("{seconds}s"),
        Wait::Unlimited => "0".to_string(),
    };
    let taken = attempt(|| {
        set_local("lock_timeout", &timeout)?;
        spi::run("SELECT pg_advisory_xact_lock(hashtext('mimeo refresh'), hashtext($1))", args)
    });
    match taken {
        Ok(_) => Ok(true),
        Err(error) if error.sqlstate_text() == "55P03" => Ok(false),
        Err(error) => Err(error),
    }
}
