//! dml and logdel: triggers on the source queue the keys that change, and a refresh replays them.
//!
//! Exactly once: a refresh reads, in one snapshot of the source, the queue and the rows that its keys have now, applies them
//! here, and stores that snapshot and the last row of the queue with the data, in one transaction. Nothing is removed from the
//! queue yet. The next refresh removes what the stored snapshot saw, and only then goes on.

mod convert;
mod destroy;
mod make;
mod refresh;

pub use destroy::destroy;
pub use make::{make, Request};
pub use refresh::plan::plan;
pub use refresh::{refresh, Options};

use crate::backend::identity::system;
use crate::backend::name::Name;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::method::Method;
use crate::shape::Shape;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::{kept, Capture, Found, Member, Objects};
use crate::source::seen::Seen;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// In a logdel destination: when the row was deleted on the source; NULL as long as it lives.
pub(crate) const DELETED: &str = "mimeo_source_deleted";

/// What a job remembers from run to run, in refresh_config.state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    objects: Objects,
    /// What the last refresh has applied.
    #[serde(default)]
    position: Option<Position>,
    /// The position whose rows were removed from the queue last, as far as is committed here.
    #[serde(default)]
    removed: i64,
    /// The source cluster.
    #[serde(default)]
    system: String,
    /// `Member::place` of the source table and of what belongs to it.
    #[serde(default)]
    members: Vec<(u32, u32, u32)>,
    /// What was copied so far; the triggers are made for it.
    #[serde(default)]
    filter: Option<Vec<String>>,
    #[serde(default)]
    condition: Option<String>,
    /// All rows have to be copied next time, and why.
    #[serde(default)]
    copy_all: Option<String>,
    /// The source's columns when the last refresh read them. None of a job of an older release.
    #[serde(default)]
    seen: Option<Seen>,
}

/// Up to where a queue was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Position {
    /// Tells it from all others.
    number: i64,
    /// Of the source, as pg_current_snapshot() gave it.
    snapshot: String,
    /// mimeo_seq of the last row that was applied.
    last: i64,
    /// The transaction here that applied it: as long as that has not committed, nothing may be removed on the source.
    transaction: u64,
    /// It has been removed there already, or there was nothing.
    removed: bool,
}

impl State {
    /// None of a job that 1.5.1 has made, and nobody has refreshed since.
    fn find(job: &Job) -> Result<Option<State>> {
        if job.remembers_nothing() {
            return Ok(None);
        }
        let state = serde_json::from_value(job.state.clone()).map_err(|_| {
            Error::Internal(format!("the state of {} in refresh_config cannot be read", job.dest_table))
        })?;
        Ok(Some(state))
    }
}

/// A queue, and up to where it is applied here without having been removed there: mimeo_seq, and the snapshot; and whether it is still one
/// of 2.1.
pub type Queue = (Name, Option<(i64, String)>, bool);

/// That of a job; None if the next refresh copies all rows, whatever is queued. In the open snapshot, with the pinned search_path.
pub fn queue_of(job: &Job, source: &mut Connection, table: &SourceTable, shape: &Shape) -> Result<Option<Queue>> {
    // None of a job that 1.5.1 has made, and nobody has refreshed since.
    let Some(state) = State::find(job)? else { return Ok(None) };
    if state.copy_all.is_some() || state.filter != job.filter || state.condition != job.condition {
        return Ok(None);
    }
    let members = source.members(table, Some(&state.objects))?;
    let known: HashSet<_> = state.members.iter().copied().collect();
    let now: HashSet<_> = places(&members, source.clones_triggers(shape)).into_iter().collect();
    if known != now {
        return Ok(None);
    }
    let applied = state.position.filter(|position| !position.removed);
    let summary = source.summary(&state.objects, job.pk_name.as_ref().map_or(1, Vec::len), false, None)?;
    if summary.is_stopped() || summary.was_full {
        return Ok(None);
    }
    let typed = matches!(summary.form(), Found::Typed(..));
    Ok(Some((state.objects.queue, applied.map(|position| (position.last, position.snapshot)), typed)))
}

/// The columns whose changes count, if not all do: what a condition looks at may be more than what is copied.
fn compared<'a>(filter: Option<&'a [String]>, condition: Option<&str>) -> Option<&'a [String]> {
    filter.filter(|_| condition.is_none())
}

/// Whether the catalog is that of a release that does not know today's queues: its package may be about to be put back.
fn is_older(catalog: &Catalog) -> bool {
    ["2.0.0", "2.1.0"].contains(&catalog.version())
}

/// As `State::members` holds them.
fn places(members: &[Member], cloned: bool) -> Vec<(u32, u32, u32)> {
    members.iter().map(|member| member.place(cloned)).collect()
}

/// The tables that belong to a source, now that the job's triggers are there. Ends the snapshot.
fn members_with_triggers(source: &mut Connection, table: &SourceTable, objects: &Objects) -> Result<Vec<Member>> {
    source.snapshot_of(table.oid)?;
    let members = source.members(table, Some(objects))?;
    source.end_snapshot()?;
    Ok(members)
}

/// What a job wants to have queued.
struct Wanted<'a> {
    method: Method,
    key: &'a [String],
    filter: Option<&'a [String]>,
    condition: Option<&'a str>,
    destination: &'a str,
    max_size: Option<i64>,
    objects: &'a Objects,
}

impl Wanted<'_> {
    fn of<'a>(method: Method, job: &'a Job, objects: &'a Objects) -> Wanted<'a> {
        Wanted {
            method,
            key: job.pk_name.as_deref().unwrap_or_default(),
            filter: job.filter.as_deref(),
            condition: job.condition.as_deref(),
            destination: &job.dest_table,
            max_size: job.max_queue_size,
            objects,
        }
    }
}

/// What is to be queued for a job.
fn capture<'a>(
    wanted: &Wanted<'a>,
    source: &Connection,
    table: &'a SourceTable,
    shape: &'a Shape,
    members: &[Member],
) -> Capture<'a> {
    let rows = shape.kind == 'p' || members.first().is_some_and(Member::is_child);
    let keeps_rows = wanted.method == Method::Logdel;
    Capture {
        table,
        shape,
        key: wanted.key,
        compared: compared(wanted.filter, wanted.condition),
        keeps_rows,
        kept: if keeps_rows { kept(&shape.columns, wanted.filter) } else { Vec::new() },
        all: wanted.filter.is_none(),
        destination: wanted.destination,
        rows,
        cloned: source.clones_triggers(shape),
        server: source.server(),
        apart: !rows && wanted.objects.has_room(),
        // SAFETY: reads the clock.
        number: unsafe { pg_sys::GetCurrentTimestamp() },
        max_size: wanted.max_size,
        typed: false,
    }
}

/// Up to where the WAL of this server has been written.
fn end_of_wal() -> u64 {
    // SAFETY: reads a position and a setting.
    let (end, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64) };
    // Behind the header of a page that nothing has been written to yet.
    match (end % segment, end % u64::from(pg_sys::XLOG_BLCKSZ)) {
        (40, _) => end - 40,
        (_, 24) => end - 24,
        _ => end,
    }
}

/// This database among all: its cluster and its OID.
fn this_database() -> String {
    // SAFETY: reads a variable.
    format!("{}/{}", system(), unsafe { pg_sys::MyDatabaseId }.to_u32())
}

fn current_transaction() -> u64 {
    // SAFETY: assigns a transaction id if there is none yet.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}
