//! Makers: they set a job up and pull the first data.

use super::arguments::{strings, Given, Later, Text};
use crate::job::method::Method;
use crate::method::incremental;
use crate::method::making::Request;
use crate::method::replay;
use crate::method::row_key::GivenKey;
use crate::method::snapshot;
use crate::method::table;
use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Makes a snapshot job: `<destination>_snap1`, `<destination>_snap2` and the view in front of them.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn snapshot_maker(
    p_src_table: Option<Text>,
    p_dblink_id: Option<i32>,
    p_dest_table: default!(Option<Text>, "NULL"),
    p_index: default!(Option<bool>, "true"),
    p_filter: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_condition: default!(Option<Text>, "NULL"),
    p_pulldata: default!(Option<bool>, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
    p_group: default!(Later<9, Text>, "NULL"),
    p_period: default!(Later<10, Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    snapshot::make(&Request {
        source_table: &p_src_table.given("p_src_table")?,
        data_source_id: p_dblink_id.given("p_dblink_id")?,
        destination: p_dest_table.as_deref(),
        indexes: p_index.given("p_index")?,
        filter: strings(p_filter, "p_filter")?,
        condition: p_condition.as_deref(),
        pull_data: p_pulldata.given("p_pulldata")?,
        jobmon: p_jobmon,
        debug: p_debug.given("p_debug")?,
        period: p_period.value(),
        group: p_group.value().map(|group| group.to_string()),
    })?;
    Ok(())
}

/// Makes a table job: a plain table, all of whose rows are replaced by each refresh.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn table_maker(
    p_src_table: Option<Text>,
    p_dblink_id: Option<i32>,
    p_dest_table: default!(Option<Text>, "NULL"),
    p_index: default!(Option<bool>, "true"),
    p_filter: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_condition: default!(Option<Text>, "NULL"),
    p_sequences: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_pulldata: default!(Option<bool>, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
    p_group: default!(Later<10, Text>, "NULL"),
    p_period: default!(Later<11, Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    let common = Request {
        source_table: &p_src_table.given("p_src_table")?,
        data_source_id: p_dblink_id.given("p_dblink_id")?,
        destination: p_dest_table.as_deref(),
        indexes: p_index.given("p_index")?,
        filter: strings(p_filter, "p_filter")?,
        condition: p_condition.as_deref(),
        pull_data: p_pulldata.given("p_pulldata")?,
        jobmon: p_jobmon,
        debug: p_debug.given("p_debug")?,
        period: p_period.value(),
        group: p_group.value().map(|group| group.to_string()),
    };
    table::make(&table::Request { common, sequences: strings(p_sequences, "p_sequences")? })?;
    Ok(())
}

/// Makes an inserter job: rows that are new by a time or serial column are added.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn inserter_maker(
    p_src_table: Option<Text>,
    p_type: Option<Text>,
    p_control_field: Option<Text>,
    p_dblink_id: Option<i32>,
    p_boundary: default!(Option<Text>, "NULL"),
    p_dest_table: default!(Option<Text>, "NULL"),
    p_index: default!(Option<bool>, "true"),
    p_filter: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_condition: default!(Option<Text>, "NULL"),
    p_pulldata: default!(Option<bool>, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
    p_group: default!(Later<12, Text>, "NULL"),
    p_period: default!(Later<13, Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    let common = Request {
        source_table: &p_src_table.given("p_src_table")?,
        data_source_id: p_dblink_id.given("p_dblink_id")?,
        destination: p_dest_table.as_deref(),
        indexes: p_index.given("p_index")?,
        filter: strings(p_filter, "p_filter")?,
        condition: p_condition.as_deref(),
        pull_data: p_pulldata.given("p_pulldata")?,
        jobmon: p_jobmon,
        debug: p_debug.given("p_debug")?,
        period: p_period.value(),
        group: p_group.value().map(|group| group.to_string()),
    };
    incremental::make(
        Method::Inserter,
        &incremental::Request {
            common,
            p_type: &p_type.given("p_type")?,
            control: &p_control_field.given("p_control_field")?,
            boundary: p_boundary.as_deref(),
            key: GivenKey::default(),
        },
    )?;
    Ok(())
}

/// Makes an updater job: rows that are new or changed by a time or serial column are merged by key.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn updater_maker(
    p_src_table: Option<Text>,
    p_type: Option<Text>,
    p_control_field: Option<Text>,
    p_dblink_id: Option<i32>,
    p_boundary: default!(Option<Text>, "NULL"),
    p_dest_table: default!(Option<Text>, "NULL"),
    p_index: default!(Option<bool>, "true"),
    p_filter: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_condition: default!(Option<Text>, "NULL"),
    p_pulldata: default!(Option<bool>, "true"),
    p_pk_name: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_pk_type: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
    p_group: default!(Later<14, Text>, "NULL"),
    p_period: default!(Later<15, Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    let common = Request {
        source_table: &p_src_table.given("p_src_table")?,
        data_source_id: p_dblink_id.given("p_dblink_id")?,
        destination: p_dest_table.as_deref(),
        indexes: p_index.given("p_index")?,
        filter: strings(p_filter, "p_filter")?,
        condition: p_condition.as_deref(),
        pull_data: p_pulldata.given("p_pulldata")?,
        jobmon: p_jobmon,
        debug: p_debug.given("p_debug")?,
        period: p_period.value(),
        group: p_group.value().map(|group| group.to_string()),
    };
    incremental::make(
        Method::Updater,
        &incremental::Request {
            common,
            p_type: &p_type.given("p_type")?,
            control: &p_control_field.given("p_control_field")?,
            boundary: p_boundary.as_deref(),
            key: GivenKey { names: strings(p_pk_name, "p_pk_name")?, types: strings(p_pk_type, "p_pk_type")? },
        },
    )?;
    Ok(())
}

/// Makes a dml job: triggers on the source queue what changes, and inserts, updates and deletes are replayed.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn dml_maker(
    p_src_table: Option<Text>,
    p_dblink_id: Option<i32>,
    p_dest_table: default!(Option<Text>, "NULL"),
    p_index: default!(Option<bool>, "true"),
    p_filter: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_condition: default!(Option<Text>, "NULL"),
    p_pulldata: default!(Option<bool>, "true"),
    p_pk_name: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_pk_type: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
    p_group: default!(Later<11, Text>, "NULL"),
    p_period: default!(Later<12, Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    let common = Request {
        source_table: &p_src_table.given("p_src_table")?,
        data_source_id: p_dblink_id.given("p_dblink_id")?,
        destination: p_dest_table.as_deref(),
        indexes: p_index.given("p_index")?,
        filter: strings(p_filter, "p_filter")?,
        condition: p_condition.as_deref(),
        pull_data: p_pulldata.given("p_pulldata")?,
        jobmon: p_jobmon,
        debug: p_debug.given("p_debug")?,
        period: p_period.value(),
        group: p_group.value().map(|group| group.to_string()),
    };
    let key = GivenKey { names: strings(p_pk_name, "p_pk_name")?, types: strings(p_pk_type, "p_pk_type")? };
    replay::make(Method::Dml, &replay::Request { common, key })?;
    Ok(())
}

/// Makes a logdel job: as dml, and deleted rows stay, with the time in mimeo_source_deleted.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn logdel_maker(
    p_src_table: Option<Text>,
    p_dblink_id: Option<i32>,
    p_dest_table: default!(Option<Text>, "NULL"),
    p_index: default!(Option<bool>, "true"),
    p_filter: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_condition: default!(Option<Text>, "NULL"),
    p_pulldata: default!(Option<bool>, "true"),
    p_pk_name: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_pk_type: default!(Option<Vec<Option<Text>>>, "NULL"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
    p_group: default!(Later<11, Text>, "NULL"),
    p_period: default!(Later<12, Interval>, "NULL"),
) -> Result<(), ErrorReport> {
    let common = Request {
        source_table: &p_src_table.given("p_src_table")?,
        data_source_id: p_dblink_id.given("p_dblink_id")?,
        destination: p_dest_table.as_deref(),
        indexes: p_index.given("p_index")?,
        filter: strings(p_filter, "p_filter")?,
        condition: p_condition.as_deref(),
        pull_data: p_pulldata.given("p_pulldata")?,
        jobmon: p_jobmon,
        debug: p_debug.given("p_debug")?,
        period: p_period.value(),
        group: p_group.value().map(|group| group.to_string()),
    };
    let key = GivenKey { names: strings(p_pk_name, "p_pk_name")?, types: strings(p_pk_type, "p_pk_type")? };
    replay::make(Method::Logdel, &replay::Request { common, key })?;
    Ok(())
}
