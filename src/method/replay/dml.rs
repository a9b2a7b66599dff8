//! dml: rows that are gone on the source are deleted from the destination.

use super::decide::{Columns, Decision, Extent};
use super::work::{Loaded, Rows, Work};
use crate::backend::relation::Relation;
use crate::destination::copy_in::Target;
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::destination::upsert::{is_replaceable, is_rewritable, Collected, MUCH_TO_COPY, MUCH_TO_MERGE};
use crate::error::Result;
use crate::job::config::Job;
use crate::job::run::Run;
use crate::method::load::{leave, load_all, patience, pull_after, Everything, How};
use crate::shape::Shape;
use crate::source::connection::Connection;

/// 1. All rows: beside the existing ones; through a temporary table if some may come twice, or if they are not to be written while they come.
/// 2. Few changes, each of which is one row: the rows of the queued keys are deleted, and the rows that the source has now are written straight.
/// 3. Otherwise the rows that the source has now go into a temporary table, and the keys without rows into another.
pub fn load(source: &mut Connection, work: &Work<'_>, run: &mut Run) -> Result<Loaded> {
    let Columns { local, column_map, following, .. } = &work.decision.columns;
    let flush = work.decision.present.summary.unflushed;
    let straight = work.options.straight(work.job) && !work.joined;
    let how = How { cascade: false, in_place: work.in_place, following };
    let until = match work.decision.portion.extent {
        Extent::Changes(until) => until,
        Extent::All | Extent::Nothing => {
            let query = work.everything();
            run.phase("copy");
            if straight && !work.in_place {
                let rows = Everything { source, query: &query, flush };
                return Ok(Loaded::All(load_all(rows, work.destination, local, column_map, how, run)?));
            }
            let collected = work.make(&column_map.columns)?;
            work.collect(source, &query, &collected, &column_map.columns, run)?;
            leave(source, flush)?;
            return Ok(Loaded::Whole(Rows { collected, joined: work.joined }));
        }
    };
    if straight && following.is_empty() && is_replaceable(local, column_map.columns.len())? {
        if let Some(loaded) = load_straight(source, work, until, run)? {
            return Ok(loaded);
        }
    }
    let changes = work.changes(until);
    let gone = work.make(&work.key)?;
    run.phase("copy");
    let collected = work.make(&column_map.columns)?;
    work.collect(source, &changes.present(&column_map.columns), &collected, &column_map.columns, run)?;
    let before = run.rows;
    work.collect(source, &changes.gone(), &gone, &work.key, run)?;
    leave(source, flush)?;
    Ok(Loaded::Changed(Rows { collected, joined: work.joined }, gone, run.rows - before))
}

/// None if the queued keys turn out to be many.
fn load_straight(source: &mut Connection, work: &Work<'_>, until: i64, run: &mut Run) -> Result<Option<Loaded>> {
    let Columns { local, column_map, .. } = &work.decision.columns;
    let (key, changes) = (&work.key, work.changes(until));
    let gone = work.make(key)?;
    run.phase("keys");
    work.collect(source, &changes.keys(), &gone, key, run)?;
    if !work.in_place && gone.is_much(local, run.rows, MUCH_TO_COPY)? {
        run.rows = 0;
        gone.drop()?;
        return Ok(None);
    }
    run.phase("delete");
    let keys = std::mem::take(&mut run.rows);
    let target =
        Target { oid: local.local_oid(), columns: &column_map.columns, binary: column_map.binary, emptied: false };
    pull_after(source, &changes.present(&column_map.columns), &work.job.destination, &target, run, |run| {
        gone.ready(key)?;
        gone.delete_from(local, key)?;
        run.phase("copy");
        Ok(())
    })?;
    leave(source, work.decision.present.summary.unflushed)?;
    if keys > run.rows {
        run.note(format!("{} keys without a row", keys - run.rows));
        run.rows = keys;
    }
    Ok(Some(Loaded::There(gone)))
}

/// Replaces all rows.
pub fn replace_all(
    job: &Job,
    rows: Rows,
    destination: &Relation,
    decision: &Decision,
    (following, anew): (&Following, bool),
) -> Result<Option<Box<Exchange>>> {
    let Columns { local, column_map, .. } = &decision.columns;
    let key = job.pk_name.clone().unwrap_or_default();
    let Rows { collected, joined } = rows;
    let (columns, ordered) = (&column_map.columns, collected.rows(&column_map.columns, &key, &key[0], !joined));
    let mut exchange = None;
    if anew {
        let rows = (columns.as_slice(), key.as_slice(), ordered.as_str());
        exchange = Some(Box::new(collected.rewrite(destination, rows, "false", following, patience())?));
    } else {
        collected.replace_in_place(destination, local, (columns, &ordered), following, patience())?;
    }
    collected.drop()?;
    Ok(exchange)
}

/// Whether rows are better written anew together with all others than merged.
pub fn is_written_anew(
    collected: &Collected,
    destination: &Relation,
    local: &Shape,
    (following, in_place): (&Following, bool),
    (rows, key): (u64, &[String]),
) -> Result<bool> {
    if following.is_empty() {
        return Ok(!in_place && collected.is_much(local, rows, MUCH_TO_MERGE)?);
    }
    Ok(is_rewritable(local)? && following.goes_beside(destination, rows, key)?)
}

/// Rows of keys that have changed, and keys that are gone.
pub fn merge(
    job: &Job,
    rows: Rows,
    (gone, deleted): (Collected, u64),
    destination: &Relation,
    decision: &Decision,
    (following, anew): (&Following, bool),
) -> Result<Option<Box<Exchange>>> {
    let Columns { local, column_map, .. } = &decision.columns;
    let key = job.pk_name.clone().unwrap_or_default();
    let Rows { collected, joined } = rows;
    let ordered = collected.rows(&column_map.columns, &key, &key[0], !joined);
    let mut exchange = None;
    if anew {
        let kept = format!("NOT {}", gone.holds(&key)?);
        let rows = (column_map.columns.as_slice(), key.as_slice(), ordered.as_str());
        exchange = Some(Box::new(collected.rewrite(destination, rows, &kept, following, patience())?));
    } else {
        following.apply(destination, patience())?;
        if deleted > 0 {
            gone.delete_from(local, &key)?;
        }
        collected.merge_into(local, &column_map.columns, &key, &ordered)?;
        following.finish(destination)?;
    }
    gone.drop()?;
    collected.drop()?;
    Ok(exchange)
}
