//! What a dml or logdel job wants to have on its source.

use crate::error::Result;
use crate::job::config::Job;
use crate::job::method::Method;
use crate::shape::Shape;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::{kept, Capture, Member, Objects};
use pgrx::pg_sys;

/// The columns whose changes count, if not all do: what a condition looks at may be more than what is copied.
pub fn compared<'a>(filter: Option<&'a [String]>, condition: Option<&str>) -> Option<&'a [String]> {
    filter.filter(|_| condition.is_none())
}

/// As `State::members` holds them.
pub fn storage_ids(members: &[Member], cloned: bool) -> Vec<(u32, u32, u32)> {
    members.iter().map(|member| member.storage_id(cloned)).collect()
}

/// The tables that belong to a source, now that the job's triggers are there. Ends the snapshot.
pub fn members_with_triggers(source: &mut Connection, table: &SourceTable, objects: &Objects) -> Result<Vec<Member>> {
    source.snapshot_of(table.oid)?;
    let members = source.members(table, Some(objects))?;
    source.end_snapshot()?;
    Ok(members)
}

/// What a job wants to have queued.
pub struct Wanted<'a> {
    pub method: Method,
    pub key: &'a [String],
    pub filter: Option<&'a [String]>,
    pub condition: Option<&'a str>,
    pub destination: &'a str,
    pub max_size: Option<i64>,
    pub objects: &'a Objects,
}

impl Wanted<'_> {
    pub fn of<'a>(job: &'a Job, objects: &'a Objects) -> Wanted<'a> {
        Wanted {
            method: job.method(),
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
pub fn capture<'a>(
    wanted: &Wanted<'a>,
    source: &Connection,
    table: &'a SourceTable,
    shape: &'a Shape,
    members: &[Member],
) -> Capture<'a> {
    let rows = shape.kind == 'p' || members.first().is_some_and(Member::is_child);
    let keeps_rows = wanted.method.facts().keeps_gone;
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
        by_statement: !rows && wanted.objects.has_room(),
        // SAFETY: reads the clock.
        number: unsafe { pg_sys::GetCurrentTimestamp() },
        max_size: wanted.max_size,
        typed: false,
    }
}
