//! snapshot_maker.

use super::{copied_indexes, copy_index, names, refresh, Options, State};
use crate::backend::identity::{current_role, pin_settings, require_writable};
use crate::backend::name::Name;
use crate::backend::relation;
use crate::destination::{table, twins};
use crate::error::{Error, Result};
use crate::job::config::{Catalog, NewJob};
use crate::job::lock::Wait;
use crate::method::{about, connect, new_destination, selected_columns};
use crate::shape::Column;
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;
use pgrx::{notice, pg_sys};

/// The arguments of snapshot_maker.
pub struct Request<'a> {
    pub source_table: &'a str,
    pub data_source_id: i32,
    pub destination: Option<&'a str>,
    pub indexes: bool,
    pub filter: Option<Vec<String>>,
    pub condition: Option<&'a str>,
    pub pull_data: bool,
    pub jobmon: Option<bool>,
    pub debug: bool,
}

/// Makes a snapshot job and pulls its first data. The caller becomes the destination's owner.
///
/// 1. The source's shape is read, and everything that can be refused is refused.
/// 2. Twins, copied indexes and the view are made, and the job is recorded.
/// 3. The data comes through an ordinary refresh.
pub fn make(request: &Request<'_>) -> Result<()> {
    require_writable("snapshot_maker")?;
    let what = format!("Making a snapshot of {} from data source {}.", request.source_table, request.data_source_id);
    let destination = about(&what, || make_objects(request))?;
    if request.pull_data {
        refresh(&Options {
            destination: &destination.plain(),
            indexes: request.indexes,
            pull_data: true,
            lock_wait: Wait::Unlimited,
            check_stats: None,
            debug: request.debug,
        })?;
    }
    Ok(())
}

fn make_objects(request: &Request<'_>) -> Result<Name> {
    let catalog = Catalog::find()?;
    let named_for = request.destination.unwrap_or(request.source_table);
    let mut source = connect(&catalog, request.data_source_id, current_role(), named_for)?;
    let source_table = source.find_table(request.source_table)?;
    let destination = new_destination(request.destination, &source_table.table())?;
    let _pinned = pin_settings()?;

    let mut shape = source.snapshot_of(source_table.oid)?;
    shape.indexes = source.indexes(&source_table)?;
    let columns = selected_columns(&shape, request.filter.as_deref(), source.label())?;
    source.require_readable(&source_table, &names(&columns))?;
    check_condition(&mut source, &source_table, &columns, request.condition)?;

    for name in twins::names(&destination).iter().chain([&destination]) {
        if relation::find(name)?.is_some() {
            return Err(Error::DestinationExists(name.plain()));
        }
    }
    catalog.insert(&NewJob {
        dest_table: destination.plain(),
        source_table: source_table.table().plain(),
        kind: "snap",
        data_source_id: request.data_source_id,
        filter: request.filter.clone(),
        condition: request.condition,
        jobmon: request.jobmon,
    })?;

    let local = table::localise(&columns, &source_table.table())?;
    let [first, second] = twins::names(&destination);
    for twin in [&first, &second] {
        let comment = format!("One of the two tables behind {}, kept by mimeo", destination.plain());
        table::create(twin, &local, &comment)?;
        if request.indexes {
            let oid = relation::find(twin)?.map(|twin| twin.oid).unwrap_or(pg_sys::InvalidOid);
            for index in copied_indexes(&shape, request.filter.as_deref()) {
                copy_index(index, &source_table, twin, oid)?;
            }
        }
    }
    twins::replace_view(&destination, None, &first, &columns)?;
    let state = State { seen: None, columns, types: shape.types };
    catalog.record_state(&destination.plain(), &serde_json::to_value(&state)?)?;
    if request.debug {
        notice!("{}: twins and view made", destination.plain());
    }
    Ok(destination)
}

/// Lets the source read the query that a refresh will run, before anything is made here.
fn check_condition(
    source: &mut Connection,
    table: &SourceTable,
    columns: &[Column],
    condition: Option<&str>,
) -> Result<()> {
    if condition.is_none() {
        return Ok(());
    }
    source.use_own_search_path()?;
    let query = rows_query(&table.table(), &names(columns), condition);
    source.value(&format!("EXPLAIN {query}"), &[], "checking the condition")?;
    Ok(())
}
