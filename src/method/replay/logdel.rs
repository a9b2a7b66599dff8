//! logdel: rows that are gone on the source stay here, with the time when they were deleted.

use super::decide::{Columns, Decision, Extent};
use super::stamp::DELETED;
use super::work::{Loaded, Rows, Work};
use crate::backend::name::quote;
use crate::backend::relation::Relation;
use crate::backend::spi;
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::destination::upsert::Collected;
use crate::error::Result;
use crate::job::config::Job;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::load::{leave, load_all, patience, Everything, How};
use crate::source::connection::Connection;

/// The columns, and the time of the deletion.
fn stamped(columns: &[String]) -> Vec<String> {
    columns.iter().cloned().chain([DELETED.to_string()]).collect()
}

/// 1. All rows into an empty destination: beside it.
/// 2. Otherwise the rows that the source has now, and the deleted rows that are queued, go into a temporary table, and keys without either into another.
pub fn load(source: &mut Connection, work: &Work<'_>, status: &mut Status, run: &mut Run) -> Result<Loaded> {
    let Decision {
        present, columns: Columns { local, column_map, following, renamed, .. }, portion, same_types, ..
    } = work.decision;
    let (table, summary, columns) = (present.table.table(), &present.summary, &column_map.columns);
    let flush = summary.unflushed;
    let until = match portion.extent {
        Extent::Changes(until) => until,
        Extent::All | Extent::Nothing => summary.last.unwrap_or(0),
    };
    let changes = work.changes(until);

    run.phase("copy");
    let all = portion.extent == Extent::All;
    let empty = all && spi::is_true(&format!("SELECT NOT EXISTS (SELECT FROM {})", work.job.destination), &[])?;
    if empty && summary.rows == 0 && !work.joined && !work.in_place {
        let how = How { cascade: false, in_place: false, following };
        let rows = Everything { source, query: &work.everything(), flush };
        return Ok(Loaded::All(load_all(rows, work.destination, local, column_map, how, run)?));
    }
    let (stamped, stamped_key) = (stamped(columns), stamped(&work.key));
    let collected = work.make(&stamped)?;
    let left = work.make(&stamped_key)?;
    let live = if all { work.everything() } else { changes.present(columns) };
    work.collect(source, &live, &collected, columns, run)?;
    let live = run.rows;
    let gone = changes.deleted(&table, &work.typed, renamed);
    // Values that were queued before the type of a column has changed may not be valid for the new type.
    let named = changes.tells_names(renamed);
    let readable = named && (*same_types || source.is_readable(&gone, "reading deleted rows")?);
    if readable {
        work.collect(source, &gone, &collected, &stamped, run)?;
    } else if !named {
        run.note("deleted rows do not tell which of the columns that have exchanged their names their values are of: these rows keep the values of the last refresh");
        *status = Status::Warning;
    } else {
        run.note("deleted rows have values that the new types of the columns cannot hold: these rows keep the values of the last refresh");
        *status = Status::Warning;
    }
    let deleted = run.rows - live;
    if readable && !renamed.is_empty() {
        let nameless = source.value(&changes.nameless(renamed), &[], "counting deleted rows")?.unwrap_or_default();
        if nameless != "0" {
            run.note(format!("{nameless} deleted rows hold a column under a name that is not known: these rows keep the values of the last refresh"));
            *status = Status::Warning;
        }
    }
    if !all {
        work.collect(source, &changes.left(!readable, renamed), &left, &stamped_key, run)?;
    }
    leave(source, flush)?;
    Ok(Loaded::Stamped(Rows { collected, joined: work.joined }, left, deleted))
}

/// The changes of columns, with those that rows need which were deleted before their columns became NOT NULL.
pub fn following(job: &Job, collected: &Collected, decision: &Decision) -> Result<Following> {
    let Columns { local, column_map, following, .. } = &decision.columns;
    if !job.follows_columns() {
        return Ok(following.clone());
    }
    let key = job.pk_name.as_deref().unwrap_or_default();
    let required = local.columns.iter().filter(|own| own.not_null && column_map.columns.contains(&own.name));
    let required = required.map(|own| own.name.as_str()).chain(following.required_at_once());
    let required: Vec<_> = required.map(str::to_string).filter(|name| !key.contains(name)).collect();
    Ok(following.relaxing(&collected.with_nulls(&required)?))
}

/// Merges the rows, and stamps rows that are gone; after all rows have come without `stamps`, these are deleted.
pub fn merge(
    job: &Job,
    rows: Rows,
    (left, deleted, stamps): (Collected, u64, bool),
    destination: &Relation,
    decision: &Decision,
    (following, anew): (&Following, bool),
) -> Result<Option<Box<Exchange>>> {
    let Columns { local, column_map, .. } = &decision.columns;
    let key = job.pk_name.clone().unwrap_or_default();
    let Rows { collected, joined } = rows;
    let (name, stamp) = (&job.destination, quote(DELETED));
    if !anew {
        following.apply(destination, patience())?;
    }
    if deleted > 0 && job.condition.is_some() {
        // Whether the condition ever selected a row that was inserted and deleted since is not known: only rows of the destination count.
        let here = collected.is_in(local, &key)?;
        collected.retain(&format!("r.{stamp} IS NULL OR {here}"))?;
    }
    if decision.portion.extent != Extent::All {
        left.stamp(local, &key, DELETED)?;
    } else {
        let absent = format!("d.{stamp} IS NULL AND NOT {}", collected.holds(&key)?);
        if stamps {
            let at = decision.present.summary.truncated.clone();
            spi::run(
                &format!("UPDATE {name} d SET {stamp} = coalesce($1::timestamptz, clock_timestamp()) WHERE {absent}"),
                &[at.into()],
            )?;
        } else {
            spi::run(&format!("DELETE FROM {name} d WHERE {absent}"), &[])?;
        }
    }
    let stamped = stamped(&column_map.columns);
    let ordered = collected.rows(&stamped, &key, DELETED, !joined);
    let mut exchange = None;
    if anew {
        let rows = (stamped.as_slice(), key.as_slice(), ordered.as_str());
        exchange = Some(Box::new(collected.rewrite(destination, rows, "true", following, patience())?));
    } else {
        collected.merge_into(local, &stamped, &key, &ordered)?;
        following.finish(destination)?;
    }
    left.drop()?;
    collected.drop()?;
    Ok(exchange)
}
