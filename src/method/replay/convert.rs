//! Jobs that mimeo 1.5.1 has made: their first refresh replaces the queue on the source.

use super::state::State;
use super::wanted::{capture, members_with_triggers, storage_ids, Wanted};
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::method::load::patience;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::Legacy;

/// The objects of such a job on the source. In a snapshot that is left open.
pub fn legacy(job: &Job, source: &mut Connection, table: &SourceTable) -> Result<Legacy> {
    source.snapshot_of(table.oid)?;
    let queue = job.control.as_deref().ok_or_else(|| {
        Error::Internal(format!("refresh_config.control of \"{}\" does not name the queue", job.dest_table))
    })?;
    source.legacy(queue, table)
}

/// Replaces the queue and its trigger. Should this transaction be rolled back, the next refresh takes over what is there then.
pub fn convert(job: &Job, source: &mut Connection, table: &SourceTable) -> Result<State> {
    let shape = source.snapshot_of(table.oid)?;
    source.end_snapshot()?;
    let legacy = legacy(job, source, table)?;
    let members = source.members(table, None)?;
    let seen = source.seen(table)?;
    let capture = capture(&Wanted::of(job, &legacy.objects), source, table, &shape, &members);
    let number = legacy.number.unwrap_or(capture.number);
    source.convert(&legacy, &capture, &members, patience())?;
    let members = members_with_triggers(source, table, &legacy.objects)?;
    Ok(State {
        objects: legacy.objects,
        position: None,
        removed: number,
        system: String::new(),
        members: storage_ids(&members, source.clones_triggers(&shape)),
        filter: job.filter.clone(),
        condition: job.condition.clone(),
        copy_all: None,
        seen: Some(seen),
        renamed: Vec::new(),
    })
}
