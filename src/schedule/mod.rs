//! Running the jobs whose turn it is, each in a transaction of its own: what CALL run_refresh, its background workers and
//! the scheduler do.

mod crew;
mod due;
mod scheduler;

pub use crew::work as work_in_crew;
pub use scheduler::{look_after, register, work_in};

use crate::backend::identity::require_writable;
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::backend::worker::Ground;
use crate::error::{Error, Result};
use crate::job::config::Catalog;
use crate::job::history::{watch, Record, Status};
use crate::job::lock::{self, Wait};
use crate::method;
use crate::source::reuse::sharing;
use due::Due;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};

/// The arguments of run_refresh.
pub struct Request<'a> {
    /// snap, table, inserter, updater, dml or logdel.
    pub method: Option<&'a str>,
    /// Jobs, at most.
    pub limit: Option<u32>,
    /// Background workers; with one, the caller runs the jobs itself.
    pub workers: u32,
}

/// CALL run_refresh: the jobs that are due, the one that waits longest first. SPI is connected for transactions.
///
/// # Errors
/// JobsFailed after the last job; InvalidArgument; what ended the call.
pub fn run(request: &Request<'_>) -> Result<()> {
    require_writable("run_refresh")?;
    let (catalog, jobs) = spi::with_snapshot(|| {
        let catalog = Catalog::find()?;
        let jobs = due::list(&catalog, request.method)?;
        Ok::<_, Error>((catalog, jobs))
    })?;
    let limit = request.limit.unwrap_or(u32::MAX);
    let failed = if request.workers > 1 && jobs.len() > 1 {
        crew::run(&catalog, &jobs, limit, request.workers)?
    } else {
        alone(&catalog, &jobs, limit, Ground::Procedure)?
    };
    failed.report()
}

/// Jobs, and who has taken which of them: the processes that work at them share this.
struct Tasks<'a> {
    jobs: &'a [Due],
    /// The index of the next job that nobody has looked at.
    next: &'a AtomicU32,
    /// How many have been begun.
    begun: &'a AtomicU32,
    limit: u32,
    /// What has become of each, a Fate.
    fates: &'a [AtomicU8],
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fate {
    /// Nobody has taken it.
    Open = 0,
    /// Somebody has, and has not said what came of it.
    Taken,
    /// Another call was running it, or just has.
    Passed,
    Done,
    Failed,
}

impl Tasks<'_> {
    /// The next job, unless there are enough.
    fn take(&self) -> Option<(usize, &Due)> {
        if self.begun.load(Ordering::SeqCst) >= self.limit {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::SeqCst) as usize;
        let due = self.jobs.get(index)?;
        self.settle(index, Fate::Taken);
        Some((index, due))
    }

    /// Whether one more job may be begun; it counts then.
    fn begin(&self) -> bool {
        self.begun
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |begun| (begun < self.limit).then_some(begun + 1))
            .is_ok()
    }

    fn settle(&self, index: usize, fate: Fate) {
        self.fates[index].store(fate as u8, Ordering::SeqCst);
    }

    fn is(&self, index: usize, fate: Fate) -> bool {
        self.fates[index].load(Ordering::SeqCst) == fate as u8
    }
}

/// What is to be said of a call when all is over.
struct Outcome {
    /// The jobs, and why.
    failed: Vec<(String, String)>,
    begun: usize,
}

impl Outcome {
    /// # Errors
    /// JobsFailed.
    fn report(self) -> Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(Error::JobsFailed { failed: self.failed, begun: self.begun })
    }
}

/// Works at the jobs in this process alone.
fn alone(catalog: &Catalog, jobs: &[Due], limit: u32, ground: Ground) -> Result<Outcome> {
    let (next, begun) = (AtomicU32::new(0), AtomicU32::new(0));
    let fates: Vec<_> = jobs.iter().map(|_| AtomicU8::new(Fate::Open as u8)).collect();
    let tasks = Tasks { jobs, next: &next, begun: &begun, limit, fates: &fates };
    let failed = work_through(catalog, &tasks, ground)?;
    Ok(Outcome { failed, begun: begun.load(Ordering::SeqCst) as usize })
}

/// Takes one job after the other until none is left; which have failed, and why.
///
/// # Errors
/// What ends the call, and not only one job.
fn work_through(catalog: &Catalog, tasks: &Tasks<'_>, ground: Ground) -> Result<Vec<(String, String)>> {
    let mut failed = Vec::new();
    sharing(|| {
        while let Some((index, due)) = tasks.take() {
            let (fate, why) = in_own_memory(|| run_one(catalog, tasks, due, ground))?;
            failed.extend(why.map(|why| (due.dest_table.clone(), why)));
            tasks.settle(index, fate);
        }
        Ok(failed)
    })
}

/// Runs one job and commits; what became of it, and why it failed.
fn run_one(catalog: &Catalog, tasks: &Tasks<'_>, due: &Due, ground: Ground) -> Result<(Fate, Option<String>)> {
    let free = spi::with_snapshot(|| lock::take(&due.dest_table, Wait::Not));
    // In a snapshot that is newer than the lock: another call may have run it just before.
    if !free? || !spi::with_snapshot(|| due::is_due(catalog, &due.dest_table))? || !tasks.begin() {
        ground.commit()?;
        return Ok((Fate::Passed, None));
    }
    let (outcome, record) = watch(|| {
        attempt(|| {
            spi::with_snapshot(|| {
                method::refresh(&due.kind, &due.dest_table)?;
                // What is left for the commit to check fails here, as this job's failure.
                spi::run("SET CONSTRAINTS ALL IMMEDIATE", &[])
            })
        })
    });
    let outcome = match outcome {
        Ok(_) => match record {
            Some(record) if record.status == Status::Critical => {
                ground.commit()?;
                return Ok((Fate::Failed, Some(record.reason.unwrap_or_default())));
            }
            _ => match ground.commit() {
                Ok(()) => return Ok((Fate::Done, None)),
                Err(error) => (error, None),
            },
        },
        Err(error) => (error, record),
    };
    let (error, record) = outcome;
    let record = record.filter(|record| record.error.is_some());
    let record = record.unwrap_or_else(|| Record::of_failure(&due.dest_table, &due.source_table, &due.kind, &error));
    spi::with_snapshot(|| record.write(catalog))?;
    ground.commit()?;
    match error {
        // The call itself is to end; of a worker, only this job was.
        Error::Cancelled(_) if ground == Ground::Procedure => Err(error),
        error => Ok((Fate::Failed, Some(error.to_string()))),
    }
}

/// Runs `body` in a memory context that goes when it is over: a call may run many jobs.
fn in_own_memory<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: a new context that lives until the end of this function, whatever transactions begin and end meanwhile.
    unsafe {
        let before = pg_sys::CurrentMemoryContext;
        let of_transaction = before == pg_sys::TopTransactionContext;
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"mimeo job".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        pg_sys::MemoryContextSwitchTo(context);
        let outcome = caught(body);
        // That of a transaction may have gone with it, and another has come.
        pg_sys::MemoryContextSwitchTo(if of_transaction { pg_sys::TopTransactionContext } else { before });
        pg_sys::MemoryContextDelete(context);
        outcome
    }
}
