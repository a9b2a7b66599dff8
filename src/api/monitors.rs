//! Monitors: they read jobs, sources and destinations, and change nothing.

use super::arguments::{strings, Given, Later, Text};
use crate::backend::result_row::ResultRow;
use crate::check::{self, Intervals};
use crate::job::lock::{self, Wait};
use crate::method::dispatch;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::JsonB;

/// Takes the lock of a job until the end of the transaction, as its refreshes do; false if a refresh holds it.
#[pg_extern]
fn concurrent_lock_check(
    p_dest_table: Option<Text>,
    p_lock_wait: default!(Option<i32>, "NULL"),
) -> Result<bool, ErrorReport> {
    Ok(lock::take(&p_dest_table.given("p_dest_table")?, Wait::from_argument(p_lock_wait))?)
}

/// Counts the rows of a job on both sides.
#[pg_extern(sql = "
CREATE FUNCTION validate_rowcount(p_destination text, p_lower_interval text DEFAULT NULL, p_upper_interval text DEFAULT NULL,
    p_debug boolean DEFAULT false, OUT match boolean, OUT source_count bigint, OUT dest_count bigint, OUT min_dest_value text,
    OUT max_dest_value text) RETURNS record
LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';
")]
fn validate_rowcount(
    p_destination: Option<Text>,
    p_lower_interval: Option<Text>,
    p_upper_interval: Option<Text>,
    p_debug: Option<bool>,
    call: pg_sys::FunctionCallInfo,
) -> Result<ResultRow, ErrorReport> {
    let intervals = Intervals { lower: p_lower_interval.as_deref(), upper: p_upper_interval.as_deref() };
    let counts = check::rowcount(&p_destination.given("p_destination")?, intervals, p_debug.given("p_debug")?)?;
    let values = vec![
        (counts.source == counts.destination).into_datum(),
        counts.source.into_datum(),
        counts.destination.into_datum(),
        counts.lower.into_datum(),
        counts.upper.into_datum(),
    ];
    Ok(ResultRow::of(call, values)?)
}

/// Compares what the rows of a job hold on both sides.
#[pg_extern(sql = "
CREATE FUNCTION validate_content(p_destination text, p_lower_interval text DEFAULT NULL, p_upper_interval text DEFAULT NULL,
    p_show integer DEFAULT 0, OUT match boolean, OUT source_count bigint, OUT dest_count bigint, OUT source_hash text,
    OUT dest_hash text) RETURNS record
LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';
")]
fn validate_content(
    p_destination: Option<Text>,
    p_lower_interval: Option<Text>,
    p_upper_interval: Option<Text>,
    p_show: Option<i32>,
    call: pg_sys::FunctionCallInfo,
) -> Result<ResultRow, ErrorReport> {
    let intervals = Intervals { lower: p_lower_interval.as_deref(), upper: p_upper_interval.as_deref() };
    let contents = check::content(&p_destination.given("p_destination")?, intervals, p_show.given("p_show")?)?;
    let values = vec![
        (contents.source == contents.destination).into_datum(),
        contents.source.rows.into_datum(),
        contents.destination.rows.into_datum(),
        contents.source.text().into_datum(),
        contents.destination.text().into_datum(),
    ];
    Ok(ResultRow::of(call, values)?)
}

/// Rows that differ between both sides of a job, each by its key.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn differences(
    p_destination: Option<Text>,
    p_lower_interval: default!(Option<Text>, "NULL"),
    p_upper_interval: default!(Option<Text>, "NULL"),
    p_limit: default!(Option<i32>, "100"),
) -> Result<TableIterator<'static, (name!(key, JsonB), name!(difference, String), name!(may_wait, bool))>, ErrorReport>
{
    let intervals = Intervals { lower: p_lower_interval.as_deref(), upper: p_upper_interval.as_deref() };
    let found = check::differences(&p_destination.given("p_destination")?, intervals, p_limit.given("p_limit")?)?;
    Ok(TableIterator::new(found.into_iter().map(|(key, difference, may_wait)| (JsonB(key), difference, may_wait))))
}

/// Columns of sources that destinations lack, or hold with another type.
#[pg_extern(sql = "
CREATE FUNCTION check_source_columns(p_data_source_id integer DEFAULT NULL, OUT dest_schemaname text, OUT dest_tablename text,
    OUT src_schemaname text, OUT src_tablename text, OUT missing_column_name text, OUT missing_column_type text,
    OUT data_source integer) RETURNS SETOF record
LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';
")]
#[allow(clippy::type_complexity)]
fn check_source_columns(
    p_data_source_id: Option<i32>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(dest_schemaname, String),
            name!(dest_tablename, String),
            name!(src_schemaname, String),
            name!(src_tablename, String),
            name!(missing_column_name, String),
            name!(missing_column_type, String),
            name!(data_source, i32),
        ),
    >,
    ErrorReport,
> {
    let missing = check::source_columns(p_data_source_id)?;
    Ok(TableIterator::new(missing.into_iter().map(|column| {
        let (here, there) = (column.destination, column.source);
        (here.schema, here.name, there.schema, there.name, column.column, column.type_name, column.data_source_id)
    })))
}

/// Tables of sources that no job copies.
#[pg_extern(sql = "
CREATE FUNCTION check_missing_source_tables(p_data_source_id integer DEFAULT NULL, p_views boolean DEFAULT false,
    OUT schemaname text, OUT tablename text, OUT data_source integer) RETURNS SETOF record
LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';
")]
#[allow(clippy::type_complexity)]
fn check_missing_source_tables(
    p_data_source_id: Option<i32>,
    p_views: Option<bool>,
) -> Result<
    TableIterator<'static, (name!(schemaname, String), name!(tablename, String), name!(data_source, i32))>,
    ErrorReport,
> {
    let missing = check::source_tables(p_data_source_id, p_views.given("p_views")?)?;
    Ok(TableIterator::new(missing.into_iter().map(|table| (table.schema, table.name, table.data_source_id))))
}

/// How large the source tables of snapshots are.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn snapshot_monitor(
    p_rowcount: default!(Option<i64>, "NULL"),
    p_size: default!(Option<i64>, "NULL"),
    p_destination: default!(Option<Text>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<
    TableIterator<'static, (name!(dest_tablename, String), name!(source_rowcount, i64), name!(source_size, i64))>,
    ErrorReport,
> {
    let sizes = check::snapshots(p_rowcount, p_size, p_destination.as_deref(), p_debug.given("p_debug")?)?;
    Ok(TableIterator::new(sizes.into_iter().map(|size| (size.destination, size.rows, size.bytes))))
}

/// The privileges that the source role and the caller have and lack, for a job that is to be made, or that fails.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn check_permissions(
    p_dblink_id: Option<i32>,
    p_src_table: Option<Text>,
    p_type: default!(Option<Text>, "'snap'"),
    p_dest_table: default!(Option<Text>, "NULL"),
    p_filter: default!(Later<4, Vec<Option<Text>>>, "NULL"),
) -> Result<
    TableIterator<
        'static,
        (
            name!(side, String),
            name!(object, String),
            name!(privilege, String),
            name!(granted, bool),
            name!(fix, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let rights = check::permissions(
        p_dblink_id.given("p_dblink_id")?,
        &p_src_table.given("p_src_table")?,
        &p_type.given("p_type")?,
        p_dest_table.as_deref(),
        strings(p_filter.value(), "p_filter")?,
    )?;
    Ok(TableIterator::new(
        rights
            .into_iter()
            .map(|(side, right)| (side.to_string(), right.object, right.privilege, right.granted, right.fix)),
    ))
}

/// What a refresh would do now; nothing is done.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn plan_refresh(
    p_destination: Option<Text>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(step, i32),
            name!(side, String),
            name!(action, String),
            name!(lock, Option<String>),
            name!(estimate, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let steps = dispatch::plan(&p_destination.given("p_destination")?)?;
    Ok(TableIterator::new(
        (1..).zip(steps).map(|(number, step)| (number, step.side.to_string(), step.action, step.lock, step.estimate)),
    ))
}
