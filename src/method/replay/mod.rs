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
use crate::source::queue::{Capture, Member, Objects};
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

/// A queue, and up to where it is applied here without having been removed there: mimeo_seq, and the snapshot.
pub type Queue = (Name, Option<(i64, String)>);

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
    Ok(Some((state.objects.queue, applied.map(|position| (position.last, position.snapshot)))))
}

/// The columns whose changes count, if not all do: what a condition looks at may be more than what is copied.
fn compared<'a>(filter: Option<&'a [String]>, condition: Option<&str>) -> Option<&'a [String]> {
    filter.filter(|_| condition.is_none())
}

/// Whether functions may be apart: before the package of 2.0 is put back, its own form is made of what is there.
fn may_be_apart(catalog: &Catalog, objects: &Objects) -> bool {
    catalog.version() != "2.0.0" && objects.has_room()
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

/// What is to be queued for a job.
#[allow(clippy::too_many_arguments)]
fn capture<'a>(
    method: Method,
    source: &Connection,
    table: &'a SourceTable,
    shape: &'a Shape,
    members: &[Member],
    key: &'a [String],
    compared: Option<&'a [String]>,
    destination: &'a str,
    may_be_apart: bool,
) -> Capture<'a> {
    let rows = shape.kind == 'p' || members.first().is_some_and(Member::is_child);
    Capture {
        table,
        shape,
        key,
        compared,
        keeps_rows: method == Method::Logdel,
        destination,
        rows,
        cloned: source.clones_triggers(shape),
        server: source.server(),
        apart: !rows && may_be_apart,
        // SAFETY: reads the clock.
        number: unsafe { pg_sys::GetCurrentTimestamp() },
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
