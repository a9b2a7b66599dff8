//! Monitors: they look at jobs and change nothing.

use crate::job::lock::{self, Wait};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Takes the lock of a job until the end of the transaction, as its refreshes do; false if a refresh holds it.
#[pg_extern]
fn concurrent_lock_check(p_dest_table: &str, p_lock_wait: default!(Option<i32>, "NULL")) -> Result<bool, ErrorReport> {
    Ok(lock::take(p_dest_table, Wait::from_argument(p_lock_wait))?)
}
