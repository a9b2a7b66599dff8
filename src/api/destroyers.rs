//! Destroyers: they end a job.

use crate::method::snapshot;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Ends a snapshot job, and keeps its data as a plain table unless told otherwise.
#[pg_extern]
fn snapshot_destroyer(
    p_dest_table: &str,
    p_keep_table: default!(bool, "true"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    snapshot::destroy(p_dest_table, p_keep_table, p_debug)?;
    Ok(())
}
