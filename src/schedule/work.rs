//! One job after the other, each in a transaction of its own.

use super::due::{self, Due};
use super::tasks::{Fate, Outcome, Tasks};
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught, tried};
use crate::backend::worker::TransactionControl;
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::history;
use crate::job::lock::{self, Wait};
use crate::job::record::Status;
use crate::job::run::watch;
use crate::method::{dispatch, group, snapshot};
use crate::source::connection_cache::sharing;
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
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
    let mut looked = HashSet::new();
    let mut looks = false;
    sharing(|| {
        while let Some((index, due)) = tasks.take() {
            // One process of several.
            looks |= index == 0;
            let mut left = vec![(index, due)];
            while let Some((index, due)) = left.pop() {
                let (fate, why) = in_own_memory(|| run_one(catalog, tasks, due, transactions))?;
                failed.extend(why.map(|why| (due.name(), why)));
                tasks.settle(index, fate);
                // The source answers.
                if let Some(source) = due.source_of_snapshot().filter(|_| looks && fate == Fate::Done) {
                    if looked.insert(source) {
                        left.extend(skip_unchanged(catalog, tasks, source, transactions)?);
                    }
                }
            }
        }
        Ok(failed)
    })
}

/// Fewer snapshots are not worth a look of their own.
const FEW: usize = 2;

/// Of the other snapshots of a source that are due, those that are proven unchanged are recorded, many in one transaction: one look tells which
/// they are. Whatever goes wrong with that is left to the refreshes, one by one. Returns those that this process has taken, and has not
/// recorded.
fn skip_unchanged<'a>(
    catalog: &Catalog,
    tasks: &Tasks<'a>,
    source: i32,
    transactions: TransactionControl,
) -> Result<Vec<(usize, &'a Due)>> {
    let of_source =
        |(index, due): &(usize, &Due)| due.source_of_snapshot() == Some(source) && tasks.is(*index, Fate::Open);
    let open: HashMap<&str, (usize, &Due)> = tasks
        .jobs
        .iter()
        .enumerate()
        .filter(of_source)
        .map(|(index, due)| (due.dest_table.as_str(), (index, due)))
        .collect();
    if open.len() < FEW {
        return Ok(Vec::new());
    }
    let names: Vec<_> = open.keys().map(|name| name.to_string()).collect();
    let proven =
        in_own_memory(|| tried(|| spi::with_snapshot(|| snapshot::unchanged(catalog, &catalog.named(&names)?))));
    transactions.commit()?;
    let Ok(mut proven) = proven? else { return Ok(Vec::new()) };
    let mut left = Vec::new();
    while let Some(mut jobs) = proven.take(tasks.left()) {
        jobs.retain(|job| open.get(job.dest_table.as_str()).is_some_and(|(index, _)| tasks.claim_to_begin(*index)));
        let recorded =
            tried(|| spi::with_snapshot(|| proven.record(catalog, &jobs, |names| due::still(catalog, names))));
        transactions.commit()?;
        let recorded = recorded?.unwrap_or_default();
        for (index, due) in jobs.iter().filter_map(|job| open.get(job.dest_table.as_str())) {
            if recorded.contains(&due.dest_table) {
                tasks.settle(*index, Fate::Done);
            } else {
                tasks.give_back();
                left.push((*index, *due));
            }
        }
    }
    Ok(left)
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
