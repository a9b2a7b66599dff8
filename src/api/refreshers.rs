//! Refreshers: what cron calls.

use crate::job::lock::Wait;
use crate::method::snapshot;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Refreshes a snapshot.
#[pg_extern]
fn refresh_snapshot(
    p_destination: &str,
    p_index: default!(bool, "true"),
    p_pulldata: default!(bool, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_check_stats: default!(Option<bool>, "NULL"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    let _ = p_jobmon;
    snapshot::refresh(&snapshot::Options {
        destination: p_destination,
        indexes: p_index,
        pull_data: p_pulldata,
        lock_wait: Wait::from_argument(p_lock_wait),
        check_stats: p_check_stats,
        debug: p_debug,
    })?;
    Ok(())
}

/// The name that refresh_snapshot had in 1.x.
#[pg_extern]
fn refresh_snap(
    p_destination: &str,
    p_index: default!(bool, "true"),
    p_pulldata: default!(bool, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_check_stats: default!(Option<bool>, "NULL"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    refresh_snapshot(p_destination, p_index, p_pulldata, p_jobmon, p_lock_wait, p_check_stats, p_debug)
}
