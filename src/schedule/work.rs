//! One job after the other, each in a transaction of its own.

use super::due::{self, Due};
use super::tasks::{Fate, Outcome, Tasks};
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::backend::worker::TransactionControl;
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::history;
use crate::job::lock::{self, Wait};
use crate::job::record::Status;
use crate::job::run::watch;
use crate::method::{dispatch, group};
use crate::source::connection_cache::sharing;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};

/// Works at the jobs in this process alone.
pub fn alone(catalog: &Catalog, jobs: &[Due], limit: u32, transactions: TransactionControl) -> Result<Outcome> {
    let (next, begun) = (AtomicU32::new(0), AtomicU32::new(0));
    let fates: Vec<_> = jobs.iter().map(|_| AtomicU8::new(Fate::Open as u8)).collect();
    let tasks = Tasks { jobs, next: &next, begun: &begun, limit, fates: &fates };
    let failed = work_through(catalog, &tasks, transactions)?;
    Ok(Outcome { failed, begun: begun.load(Ordering::SeqCst) as usize })
}

/// Takes one job after the other until none is left; which have failed, and why.
///
/// # Errors
/// What ends the call, and not only one job.
pub fn work_through(
    catalog: &Catalog,
    tasks: &Tasks<'_>,
    transactions: TransactionControl,
) -> Result<Vec<(String, String)>> {
    let mut failed = Vec::new();
    sharing(|| {
        while let Some((index, due)) = tasks.take() {
            let (fate, why) = in_own_memory(|| run_one(catalog, tasks, due, transactions))?;
            failed.extend(why.map(|why| (due.name(), why)));
            tasks.settle(index, fate);
        }
        Ok(failed)
    })
}

/// Runs one job, or group, and commits; what became of it, and why it failed.
fn run_one(
    catalog: &Catalog,
    tasks: &Tasks<'_>,
    due: &Due,
    transactions: TransactionControl,
) -> Result<(Fate, Option<String>)> {
    let free = spi::with_snapshot(|| match &due.group {
        Some(group) => Ok(group::lock_all(&catalog.group(group)?, Wait::Not)?.is_none()),
        None => lock::take(&due.dest_table, Wait::Not),
    });
    // In a snapshot that is newer than the lock: another call may have run it just before.
    if !free? || !spi::with_snapshot(|| due::is_due(catalog, due))? || !tasks.begin() {
        transactions.commit()?;
        return Ok((Fate::Passed, None));
    }
    let (outcome, records) = watch(|| {
        attempt(|| {
            spi::with_snapshot(|| {
                match &due.group {
                    Some(group) => group::refresh(group, Wait::Not, false)?,
                    None => dispatch::refresh(&due.kind, &due.dest_table)?,
                }
                // Constraints that the commit would check fail here, as a failure of this job.
                spi::run("SET CONSTRAINTS ALL IMMEDIATE", &[])
            })
        })
    });
    let error = match outcome {
        Ok(_) => {
            if let Some(record) = records.iter().find(|record| record.status == Status::Critical) {
                let why = record.reason.clone().unwrap_or_default();
                transactions.commit()?;
                return Ok((Fate::Failed, Some(why)));
            }
            match transactions.commit() {
                Ok(()) => return Ok((Fate::Done, None)),
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    let mut records: Vec<_> = records.into_iter().filter(|record| record.error.is_some()).collect();
    spi::with_snapshot(|| {
        if records.is_empty() {
            records = due.failed(catalog, &error)?;
        }
        records.iter().try_for_each(|record| history::write(record, catalog))
    })?;
    transactions.commit()?;
    // The call itself is to end; of a worker, only this job was.
    if error.is_cancel() && transactions == TransactionControl::Procedure {
        return Err(error);
    }
    Ok((Fate::Failed, Some(error.to_string())))
}

/// Runs `body` in a memory context that is deleted afterwards: a call may run many jobs.
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
        // The context of a transaction may have been deleted with it, and another one created.
        pg_sys::MemoryContextSwitchTo(if of_transaction { pg_sys::TopTransactionContext } else { before });
        pg_sys::MemoryContextDelete(context);
        outcome
    }
}
