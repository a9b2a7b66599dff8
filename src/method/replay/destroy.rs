//! dml_destroyer and logdel_destroyer.

use super::convert::legacy;
use super::state::{this_database, State};
use crate::backend::identity::{pin_settings, require_writable};
use crate::backend::name::{quote, Name};
use crate::backend::relation::{self, Relation};
use crate::backend::spi;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::lock::{self, Wait};
use crate::job::method::Method;
use crate::method::connecting::connect;
use crate::method::load::patience;
use crate::method::rights::{require_owner, require_responsible};
use crate::method::running::{about, require_method};
use crate::source::connection::Connection;
use pgrx::notice;
use pgrx::PgSqlErrorCode;

/// Ends a job: triggers, functions and queue on the source are dropped, in one transaction there, unless `keep_source` leaves them to another copy of
/// the job. The destination stays as it is, or is dropped without `keep`. Everything here is done first, so that only the commit is left once
/// the source has changed.
pub fn destroy(method: Method, destination: &str, keep: bool, keep_source: bool, debug: bool) -> Result<()> {
    require_writable(method.facts().destroyer)?;
    let catalog = Catalog::find()?;
    let job = catalog.job(destination)?;
    let name = job.destination.clone();
    require_method(&job, method)?;
    lock::take(&job.dest_table, Wait::Unlimited)?;
    about(&format!("Destroying {} \"{}\".", method.name(), job.dest_table), || {
        let pinned = pin_settings()?;
        let existing = relation::find(&name)?;
        let owner = match &existing {
            Some(existing) => {
                require_owner(existing)?;
                existing.owner
            }
            None => {
                require_responsible(&job)?;
                crate::backend::identity::current_role()
            }
        };
        if keep_source {
            return end_here(&catalog, &job, &name, existing, keep, debug);
        }
        drop(pinned);
        let mut source = connect(&catalog, job.data_source_id, owner, &job.dest_table)?;
        let state = State::find(&job)?;
        let objects = match &state {
            Some(state) => state.objects.clone(),
            None => {
                let table = source.find_table(&job.source_table)?;
                let legacy = legacy(&job, &mut source, &table)?;
                source.end_snapshot()?;
                legacy.objects
            }
        };
        let objects = &objects;
        source.require_own(objects, &job.dest_table)?;
        if let Some(state) = &state {
            require_last_user(&mut source, state, &job)?;
        }
        source.require_droppable(objects, &job.source_table)?;

        let _pinned = pin_settings()?;
        end_here(&catalog, &job, &name, existing, keep, debug)?;
        source.change_source(&objects.removal(), patience(), "removing the queue and its triggers").map_err(|error| {
            if error.sqlstate() != PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE {
                return error;
            }
            Error::TriggerOwner {
                table: job.source_table.clone(),
                fix: format!("{} -- as the owner of function {}", objects.removal(), quote(&objects.function.name)),
            }
        })
    })
}

/// Ends the job in this database.
fn end_here(
    catalog: &Catalog,
    job: &Job,
    name: &Name,
    existing: Option<Relation>,
    keep: bool,
    debug: bool,
) -> Result<()> {
    match existing {
        None => notice!("\"{}\" does not exist any more, only the job is removed", job.dest_table),
        Some(existing) if !keep => {
            let kind = if existing.kind == 'f' { "FOREIGN TABLE" } else { "TABLE" };
            spi::run(&format!("DROP {kind} {name}"), &[])?;
        }
        Some(_) => {}
    }
    catalog.delete(&job.dest_table)?;
    if debug {
        notice!("\"{}\": the job is removed, the table is {}", name.plain(), if keep { "kept" } else { "dropped" });
    }
    Ok(())
}

/// Refuses to drop a queue that another copy of the job has used last, in a database of which this one is a copy, or that is a copy of this.
///
/// # Errors
/// QueueOfAnother.
fn require_last_user(source: &mut Connection, state: &State, job: &Job) -> Result<()> {
    let queue = &state.objects.queue;
    if source.last_user(queue)?.is_none_or(|user| user == this_database()) {
        return Ok(());
    }
    Err(Error::QueueOfAnother {
        queue: queue.plain(),
        source_label: source.label().to_string(),
        destination: job.dest_table.clone(),
    })
}
