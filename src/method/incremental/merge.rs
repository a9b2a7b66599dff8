//! An updater's rows, on their way into the destination by key.

use crate::backend::identity::Identity;
use crate::backend::relation::Relation;
use crate::destination::column_map::ColumnMap;
use crate::destination::copy_in::Target;
use crate::destination::upsert::{Collected, MUCH_TO_MERGE};
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::job::run::Run;
use crate::method::load::{leave, patience, pull};
use crate::shape::Shape;
use crate::source::connection::Connection;

/// Pulls them into a temporary table. The source is done with then.
pub fn collect(
    job: &Job,
    source: &mut Connection,
    query: &str,
    owner: &Identity,
    local: &Shape,
    column_map: &ColumnMap,
    run: &mut Run,
) -> Result<Collected> {
    let key = job.pk_name.clone().unwrap_or_default();
    let missing: Vec<_> = key.iter().filter(|column| !column_map.columns.contains(column)).cloned().collect();
    if key.is_empty() || !missing.is_empty() {
        let table = local.table().plain();
        return Err(Error::FilterLacks { table, what: "columns of the key", columns: missing });
    }
    let collected = Collected::make(&job.destination, &column_map.columns, owner)?;
    let target = Target { oid: collected.oid, columns: &column_map.columns, binary: column_map.binary, emptied: true };
    pull(source, query, &job.destination, &target, run)?;
    leave(source, false)?;
    Ok(collected)
}

/// Merges them into the destination; returns whether different rows have the same key.
pub fn merge(
    job: &Job,
    collected: Collected,
    destination: &Relation,
    shape: &Shape,
    local: &Shape,
    column_map: &ColumnMap,
    run: &mut Run,
) -> Result<bool> {
    let key = job.pk_name.clone().unwrap_or_default();
    let control = job.control.as_deref().unwrap_or_default();
    let may_be_null = key.iter().any(|name| shape.column(name).is_none_or(|column| !column.not_null));
    let unique = shape.is_unique(&key) && !may_be_null;
    let rows = collected.rows(&column_map.columns, &key, control, unique);
    collected.ready(&key)?;
    let shared = !unique && collected.shares_keys(&key)?;
    if shared {
        run.note("rows share a key: the one with the greatest control value is kept");
    }
    if may_be_null {
        collected.delete_null_keys(local, &key)?;
    }
    if collected.is_much(local, run.rows, MUCH_TO_MERGE)? {
        run.note("so many rows that the table is written anew");
        collected.rewrite(destination, &column_map.columns, &key, &rows, "true", patience())?;
    } else {
        collected.merge_into(local, &column_map.columns, &key, &rows)?;
    }
    collected.drop()?;
    Ok(shared)
}
