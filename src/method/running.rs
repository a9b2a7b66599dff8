//! What all refreshers and destroyers do around the method's own part.

use crate::backend::identity::{pin_settings, read_the_latest, require_writable};
use crate::backend::interrupts;
use crate::backend::name::{literal, Name};
use crate::backend::relation::{self};
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::error::{quoted, Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::lock::{self, Wait};
use crate::job::run::Run;
use crate::method::follow::{renamed_job, told};

use crate::job::method::Method;
use crate::job::record::Status;
use crate::method::rights::{require_owner, require_responsible};
use pgrx::{notice, warning};
use std::time::Duration;

/// Refuses a job of another method.
pub fn require_method(job: &Job, wanted: Method) -> Result<()> {
    let found = job.method();
    if found == wanted {
        return Ok(());
    }
    Err(Error::WrongMethod { destination: job.dest_table.clone(), found: found.name(), wanted: wanted.name() })
}

/// The arguments that every refresher has.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub destination: &'a str,
    /// None is what the job says.
    pub jobmon: Option<bool>,
    pub lock_wait: Wait,
    pub debug: bool,
    /// It is a maker's.
    pub first: bool,
}

impl<'a> Call<'a> {
    /// As the job is configured; if another refresh of it runs, it is left to that one.
    pub fn of(destination: &'a str) -> Call<'a> {
        Call { destination, jobmon: None, lock_wait: Wait::Not, debug: false, first: false }
    }
}

/// What the refreshers of all methods do first: the job, its lock, the run. The body runs with the lock held, and
/// returns how it ended.
pub fn refresh_job(
    method: Method,
    call: &Call<'_>,
    body: impl Fn(&Catalog, &Job, &mut Run) -> Result<Status>,
) -> Result<()> {
    let function = method.facts().refresher;
    require_writable(function)?;
    read_the_latest();
    let catalog = Catalog::find()?;
    let job = catalog.job(call.destination)?;
    let name = job.destination.clone();
    require_method(&job, method)?;
    if let (Some(group), false) = (&job.refresh_group, call.first) {
        notice!(
            "\"{}\" belongs to group \"{group}\": its other tables stay as they are, refresh_group refreshes all of them",
            job.dest_table
        );
    }
    let mut run = Run::begin(&catalog.table(function), &job, call.jobmon, call.debug)?;
    if !lock::take(&job.dest_table, call.lock_wait)? {
        warning!("another refresh of \"{}\" is running, this one does nothing", job.dest_table);
        return run.end(&catalog, Status::Concurrent);
    }
    // While this call waited for the lock, the job may have been changed or destroyed.
    let job = about(&what(&job), || catalog.latest_row(&job.dest_table))?.ok_or(Error::UnknownJob(job.dest_table))?;
    let mut job = Job { destination: name, ..job };
    let mut tries = 1;
    loop {
        let mut state = None;
        let mut again = None;
        // In a subtransaction, so that a failure is rolled back before it is recorded.
        let outcome = attempt(|| {
            about(&what(&job), || {
                let outcome = caught(|| body(&catalog, &job, &mut run));
                let outcome = outcome.map_err(|error| run.explain(error).of_job(&catalog, &job));
                let status = outcome.inspect_err(|error| {
                    state = error.state().cloned();
                    again = why_again(error, tries);
                })?;
                if let Some(renamed) = &job.renamed {
                    catalog.set_columns(&job)?;
                    run.note(told(renamed));
                }
                run.end(&catalog, status)
            })
        });
        let Err(error) = outcome else { return Ok(()) };
        job.remember(run.kept());
        // Whatever is raised while it is decided how to go on, a cancel for one, is to be recorded as well.
        let renamed = attempt(|| match &again {
            Some(_) => {
                interrupts::sleep(Duration::from_secs(tries));
                Ok(None)
            }
            // The job's own columns may be called otherwise now.
            None => renamed_job(&catalog, &job, &error),
        });
        let error = match (renamed, again) {
            (Ok(Some(renamed)), _) => {
                job = renamed;
                run.begin_again("begun again, because the job's columns are called otherwise on the source now");
                continue;
            }
            (Ok(None), Some(why)) => {
                run.begin_again(&why);
                tries += 1;
                continue;
            }
            (Err(cancelled), _) if cancelled.is_cancel() => cancelled.while_doing(&what(&job)),
            _ => error,
        };
        let error = without_rows(error, &job.destination);
        run.fail(&error, state);
        return Err(error);
    }
}

/// Why all is read once more after so many tries; None if it is not.
pub(super) fn why_again(error: &Error, tries: u64) -> Option<String> {
    let what = if error.is_of_recovery() {
        "the recovery of the standby cancelled the copy"
    } else if error.is_of_rewrite() {
        "a table was written anew while it was read"
    } else if error.is_of_change() {
        "something was changed before the snapshot"
    } else {
        return None;
    };
    (tries < MOST_TRIES).then(|| match tries {
        1 => format!("begun again, because {what}"),
        _ => format!("begun again {tries} times, because {what}"),
    })
}

impl Error {
    /// The HINT for an existing job.
    pub fn of_job(self, catalog: &Catalog, job: &Job) -> Error {
        match self {
            Error::SourceTableMissing { table, source_label, .. } if table == job.source_table => {
                let config = catalog.table("refresh_config");
                let fix = Some(format!(
                    "UPDATE {config} SET source_table = '…' WHERE dest_table = {};",
                    literal(&job.dest_table)
                ));
                Error::SourceTableMissing { table, source_label, fix }
            }
            other => other,
        }
    }
}

/// What an error is told with.
pub fn what(job: &Job) -> String {
    let Job { dest_table, data_source_id, .. } = job;
    let source = quoted(&job.source_table);
    format!("Refreshing {} \"{dest_table}\" from {source} on data source {data_source_id}.", job.method().name())
}

/// How often a copy is tried that the recovery of a standby cancels.
pub const MOST_TRIES: u64 = 3;

/// Values of rows in an error are only for roles that may read the destination.
pub fn without_rows(error: Error, destination: &Name) -> Error {
    // A cancel in here must not keep the failure from being recorded.
    let readable = attempt(|| match relation::find(destination)? {
        Some(found) => {
            spi::is_true("SELECT pg_catalog.has_table_privilege($1, 'SELECT')", &[relation::oid_arg(found.oid)])
        }
        None => Ok(false),
    });
    if readable.unwrap_or(false) {
        error
    } else {
        error.without_rows()
    }
}

/// What the destroyers of the methods with a plain table as destination do. The caller must own it.
pub fn destroy_job(method: Method, destination: &str, keep: bool, debug: bool) -> Result<()> {
    require_writable(method.facts().destroyer)?;
    let catalog = Catalog::find()?;
    let job = catalog.job(destination)?;
    let name = &job.destination;
    require_method(&job, method)?;
    lock::take(&job.dest_table, Wait::Unlimited)?;
    about(&format!("Destroying {} \"{}\".", method.name(), job.dest_table), || {
        let _pinned = pin_settings()?;
        match relation::find(name)? {
            None => {
                require_responsible(&job)?;
                notice!("\"{}\" does not exist any more, only the job is removed", job.dest_table);
            }
            Some(existing) => {
                require_owner(&existing)?;
                if !keep {
                    let kind = if existing.kind == 'f' { "FOREIGN TABLE" } else { "TABLE" };
                    spi::run(&format!("DROP {kind} {name}"), &[])?;
                }
            }
        }
        catalog.delete(&job.dest_table)?;
        if debug {
            notice!("\"{}\": the job is removed, the table is {}", name.plain(), if keep { "kept" } else { "dropped" });
        }
        Ok(())
    })
}

/// Runs the body of a call so that every error also tells which job it belongs to.
pub fn about<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(body).map_err(|error| error.while_doing(what))
}
