//! An updater's rows, on their way into the destination by key.

use super::decide::Decision;
use super::values::Values;
use crate::backend::identity::Caller;
use crate::backend::relation::Relation;
use crate::destination::copy_in::Target;
use crate::destination::exchange::Exchange;
use crate::destination::upsert::{is_rewritable, Collected, MUCH_TO_MERGE};
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::job::run::Run;
use crate::method::load::{self, leave, patience};
use crate::source::connection::Connection;

/// Pulls them into a temporary table. The source is done with then.
pub fn collect(
    job: &Job,
    source: &mut Connection,
    query: &str,
    caller: Caller,
    decision: &Decision,
    run: &mut Run,
) -> Result<Collected> {
    let Decision { local, column_map, .. } = decision;
    let key = job.pk_name.clone().unwrap_or_default();
    let missing: Vec<_> = key.iter().filter(|column| !column_map.columns.contains(column)).cloned().collect();
    if key.is_empty() || !missing.is_empty() {
        let table = local.table().plain();
        return Err(Error::FilterLacks { table, what: "columns of the key", columns: missing });
    }
    pull(job, source, query, caller, decision, run)
}

/// The same without a key.
pub fn pull(
    job: &Job,
    source: &mut Connection,
    query: &str,
    caller: Caller,
    decision: &Decision,
    run: &mut Run,
) -> Result<Collected> {
    let Decision { column_map, following, .. } = decision;
    let collected = Collected::make(&job.destination, &column_map.columns, following, caller)?;
    let target = Target { oid: collected.oid, columns: &column_map.columns, binary: column_map.binary, emptied: true };
    load::pull(source, query, &job.destination, &target, run)?;
    leave(source, false)?;
    Ok(collected)
}

/// Rows that are ready to be merged.
pub struct Merge {
    collected: Collected,
    key: Vec<String>,
    /// The rows as a query, one for each key.
    rows: String,
    may_be_null: bool,
    shared: bool,
    /// The table is written anew with them.
    anew: bool,
    /// Its columns are altered before they can be merged.
    alters: bool,
}

impl Merge {
    pub fn of(
        job: &Job,
        collected: Collected,
        destination: &Relation,
        (decision, in_place): (&Decision, bool),
        run: &mut Run,
    ) -> Result<Merge> {
        let Decision { take, shape, local, column_map, following, .. } = decision;
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
        let anew = if following.is_empty() {
            !in_place && collected.is_much(local, run.rows, MUCH_TO_MERGE)?
        } else {
            !take.delete
                && !may_be_null
                && is_rewritable(local)?
                && following.goes_beside(destination, run.rows, &[])?
        };
        let alters = !following.is_empty() && !anew;
        Ok(Merge { collected, key, rows, may_be_null, shared, anew, alters })
    }

    /// Different rows have the same key.
    pub fn shares_keys(&self) -> bool {
        self.shared
    }

    pub fn alters(&self) -> bool {
        self.alters
    }

    /// Merges them into the destination; what is to be exchanged, if that is written anew.
    pub fn carry_out(
        self,
        destination: &Relation,
        decision: &Decision,
        values: &Values,
        run: &mut Run,
    ) -> Result<Option<Box<Exchange>>> {
        let Merge { collected, key, rows, may_be_null, anew, .. } = self;
        let Decision { take, local, column_map, following, .. } = decision;
        if !anew {
            following.apply(destination, patience())?;
        }
        if take.delete {
            values.delete(&destination.name(), &take.range)?;
        }
        if may_be_null {
            collected.delete_null_keys(local, &key)?;
        }
        let mut exchange = None;
        if anew {
            run.note("so many rows that the table is written anew");
            let rows = (column_map.columns.as_slice(), key.as_slice(), rows.as_str());
            exchange = Some(Box::new(collected.rewrite(destination, rows, "true", following, patience())?));
        } else {
            collected.merge_into(local, &column_map.columns, &key, &rows)?;
            following.finish(destination)?;
        }
        collected.drop()?;
        Ok(exchange)
    }
}
