//! Going through jobs and their sources, one after the other: trouble with one of them is no reason to leave out the next.

use crate::backend::identity::read_the_latest;
use crate::backend::relation::{self, Relation};
use crate::backend::subtransaction::attempt;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::method::connecting::connect;
use crate::method::rights::require_configured;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use pgrx::{pg_sys, warning};
use std::collections::BTreeMap;

/// Whether an error is one of the source, or of the connection to it, and not of this server: a monitor goes on to the next source then.
pub fn is_of_source(error: &Error) -> bool {
    matches!(
        error.kind(),
        Error::Unreachable { .. }
            | Error::ConnectionLost { .. }
            | Error::PasswordRequired(_)
            | Error::InvalidSource { .. }
            | Error::ForeignServer { .. }
            | Error::UserMapping { .. }
            | Error::OldSource { .. }
            | Error::SourcePrivilege { .. }
            | Error::SourceTableMissing { .. }
            | Error::Remote { .. }
    )
}

/// Connects to a source and runs `body`. With `alone`, trouble with the source is an error, else a warning.
pub fn on_source(
    catalog: &Catalog,
    data_source_id: i32,
    owner: pg_sys::Oid,
    function: &str,
    alone: bool,
    body: impl FnOnce(&mut Connection) -> Result<()>,
) -> Result<()> {
    let outcome = attempt(|| {
        let mut source = connect(catalog, data_source_id, owner, function)?;
        body(&mut source)
    });
    match outcome {
        Err(error) if !alone && is_of_source(&error) => {
            warning!("data source {data_source_id} is left out: {}", error.report().message);
            Ok(())
        }
        outcome => outcome,
    }
}

/// Runs `body` for each of these jobs and its destination, over one connection for each source and owner of destinations. A table
/// that is gone, on either side, or cannot be read is a warning, and so is trouble with a source, unless it is `alone`.
pub fn for_each_job(
    catalog: &Catalog,
    jobs: Vec<Job>,
    function: &str,
    alone: bool,
    mut body: impl FnMut(&mut Connection, &Job, &Relation, &SourceTable) -> Result<()>,
) -> Result<()> {
    let mut groups: BTreeMap<(i32, u32), Vec<(Job, Relation)>> = BTreeMap::new();
    for job in jobs {
        match relation::find(&job.destination)? {
            Some(destination) => {
                if let Err(error) = require_configured(catalog, &job, destination.owner) {
                    warning!("\"{}\" is left out: {error}", job.dest_table);
                    continue;
                }
                let group = (job.data_source_id, destination.owner.to_u32());
                groups.entry(group).or_default().push((job, destination));
            }
            None => warning!("\"{}\" is left out: it does not exist on the destination", job.dest_table),
        }
    }
    for ((data_source_id, owner), members) in groups {
        on_source(catalog, data_source_id, owner.into(), function, alone, |source| {
            for (job, destination) in &members {
                let outcome =
                    source.find_table(&job.source_table).and_then(|table| body(source, job, destination, &table));
                match outcome {
                    Err(error @ (Error::SourceTableMissing { .. } | Error::Remote { .. })) => {
                        warning!("\"{}\" is left out: {}", job.dest_table, error.report().message);
                        source.roll_back()?;
                    }
                    outcome => outcome?,
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The jobs of one source, or of all of them.
///
/// # Errors
/// UnknownSource.
pub fn jobs(data_source_id: Option<i32>) -> Result<(Catalog, Vec<Job>)> {
    read_the_latest();
    let catalog = Catalog::find()?;
    if let Some(id) = data_source_id {
        catalog.require_source(id)?;
    }
    let mut jobs = catalog.jobs()?;
    jobs.retain(|job| data_source_id.is_none_or(|id| id == job.data_source_id));
    Ok((catalog, jobs))
}
