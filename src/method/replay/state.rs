//! What a dml or logdel job remembers from run to run.

use super::wanted::storage_ids;
use crate::backend::identity::system;
use crate::backend::name::Name;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::shape::Shape;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::{Found, Objects};
use crate::source::seen::Seen;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What a job remembers from run to run, in refresh_config.state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub objects: Objects,
    /// What the last refresh has applied.
    #[serde(default)]
    pub position: Option<Position>,
    /// The position whose rows were removed from the queue last, as far as is committed here.
    #[serde(default)]
    pub removed: i64,
    /// The source cluster.
    #[serde(default)]
    pub system: String,
    /// `Member::storage_id` of the source table and of what belongs to it.
    #[serde(default)]
    pub members: Vec<(u32, u32, u32)>,
    /// What was copied so far; the triggers are made for it.
    #[serde(default)]
    pub filter: Option<Vec<String>>,
    #[serde(default)]
    pub condition: Option<String>,
    /// All rows have to be copied next time, and why.
    #[serde(default)]
    pub copy_all: Option<String>,
    /// The source's columns when the last refresh read them. None of a job of an older release.
    #[serde(default)]
    pub seen: Option<Seen>,
    /// Old names of columns, and those of today, under which rows that wait in the queue may have values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renamed: Vec<(String, String)>,
}

/// Up to where a queue was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Identifies it.
    pub number: i64,
    /// Of the source, as pg_current_snapshot() gave it.
    pub snapshot: String,
    /// mimeo_seq of the last row that was applied.
    pub last: i64,
    /// The transaction here that applied it: as long as that has not committed, nothing may be removed on the source.
    pub transaction: u64,
    /// It has been removed there already, or there was nothing.
    pub removed: bool,
}

impl State {
    /// None of a job that 1.5.1 has made, and nobody has refreshed since.
    pub fn find(job: &Job) -> Result<Option<State>> {
        if job.remembers_nothing() {
            return Ok(None);
        }
        let mut state: State = serde_json::from_value(job.state.clone()).map_err(|_| {
            Error::Internal(format!("the state of \"{}\" in refresh_config cannot be read", job.dest_table))
        })?;
        if let Some(renamed) = &job.renamed {
            // The same columns, as they are called now.
            state.filter = state.filter.map(|filter| renamed.list(&filter));
        }
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
    let now: HashSet<_> = storage_ids(&members, source.clones_triggers(shape)).into_iter().collect();
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

/// Whether the catalog is that of a release that does not know today's queues: its package may be about to be put back.
pub fn is_older(catalog: &Catalog) -> bool {
    ["2.0.0", "2.1.0"].contains(&catalog.version())
}

/// Up to where the WAL of this server has been written.
pub fn end_of_wal() -> u64 {
    // SAFETY: reads a position and a setting.
    let (end, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64) };
    // Behind the header of a page that nothing has been written to yet.
    match (end % segment, end % u64::from(pg_sys::XLOG_BLCKSZ)) {
        (40, _) => end - 40,
        (_, 24) => end - 24,
        _ => end,
    }
}

/// Identifies this database: its cluster and its OID.
pub fn this_database() -> String {
    // SAFETY: reads a variable.
    format!("{}/{}", system(), unsafe { pg_sys::MyDatabaseId }.to_u32())
}

pub fn current_transaction() -> u64 {
    // SAFETY: assigns a transaction id if there is none yet.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}
