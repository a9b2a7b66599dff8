//! Destroyers: they end a job.

use super::arguments::{Given, Later, Text};
use crate::job::method::Method;
use crate::method::incremental;
use crate::method::replay;
use crate::method::snapshot;
use crate::method::table;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Ends a snapshot job, and keeps its data as a plain table unless told otherwise.
#[pg_extern]
fn snapshot_destroyer(
    p_dest_table: Option<Text>,
    p_keep_table: default!(Option<bool>, "true"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    snapshot::destroy(
        &p_dest_table.given("p_dest_table")?,
        p_keep_table.given("p_keep_table")?,
        p_debug.given("p_debug")?,
    )?;
    Ok(())
}

/// Ends a table job, and keeps its destination unless told otherwise.
#[pg_extern]
fn table_destroyer(
    p_dest_table: Option<Text>,
    p_keep_table: default!(Option<bool>, "true"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    table::destroy(
        &p_dest_table.given("p_dest_table")?,
        p_keep_table.given("p_keep_table")?,
        p_debug.given("p_debug")?,
    )?;
    Ok(())
}

/// Ends an inserter job, and keeps its destination unless told otherwise.
#[pg_extern]
fn inserter_destroyer(
    p_dest_table: Option<Text>,
    p_keep_table: default!(Option<bool>, "true"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    incremental::destroy(
        Method::Inserter,
        &p_dest_table.given("p_dest_table")?,
        p_keep_table.given("p_keep_table")?,
        p_debug.given("p_debug")?,
    )?;
    Ok(())
}

/// Ends an updater job, and keeps its destination unless told otherwise.
#[pg_extern]
fn updater_destroyer(
    p_dest_table: Option<Text>,
    p_keep_table: default!(Option<bool>, "true"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    incremental::destroy(
        Method::Updater,
        &p_dest_table.given("p_dest_table")?,
        p_keep_table.given("p_keep_table")?,
        p_debug.given("p_debug")?,
    )?;
    Ok(())
}

/// Ends a dml job: queue and triggers on the source are dropped, unless they are to be kept for another copy of the job; the destination is
/// kept unless told otherwise.
#[pg_extern]
fn dml_destroyer(
    p_dest_table: Option<Text>,
    p_keep_table: default!(Option<bool>, "true"),
    p_debug: default!(Option<bool>, "false"),
    p_keep_source: default!(Later<3, bool>, "false"),
) -> Result<(), ErrorReport> {
    replay::destroy(
        Method::Dml,
        &p_dest_table.given("p_dest_table")?,
        p_keep_table.given("p_keep_table")?,
        p_keep_source.given_or(false, "p_keep_source")?,
        p_debug.given("p_debug")?,
    )?;
    Ok(())
}

/// Ends a logdel job, as dml_destroyer does.
#[pg_extern]
fn logdel_destroyer(
    p_dest_table: Option<Text>,
    p_keep_table: default!(Option<bool>, "true"),
    p_debug: default!(Option<bool>, "false"),
    p_keep_source: default!(Later<3, bool>, "false"),
) -> Result<(), ErrorReport> {
    replay::destroy(
        Method::Logdel,
        &p_dest_table.given("p_dest_table")?,
        p_keep_table.given("p_keep_table")?,
        p_keep_source.given_or(false, "p_keep_source")?,
        p_debug.given("p_debug")?,
    )?;
    Ok(())
}
