//! Destroyers: they end a job.

use crate::method::{incremental, snapshot, table, Method};
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

/// Ends a table job, and keeps its destination unless told otherwise.
#[pg_extern]
fn table_destroyer(
    p_dest_table: &str,
    p_keep_table: default!(bool, "true"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    table::destroy(p_dest_table, p_keep_table, p_debug)?;
    Ok(())
}

/// Ends an inserter job, and keeps its destination unless told otherwise.
#[pg_extern]
fn inserter_destroyer(
    p_dest_table: &str,
    p_keep_table: default!(bool, "true"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    incremental::destroy(Method::Inserter, p_dest_table, p_keep_table, p_debug)?;
    Ok(())
}

/// Ends an updater job, and keeps its destination unless told otherwise.
#[pg_extern]
fn updater_destroyer(
    p_dest_table: &str,
    p_keep_table: default!(bool, "true"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    incremental::destroy(Method::Updater, p_dest_table, p_keep_table, p_debug)?;
    Ok(())
}
