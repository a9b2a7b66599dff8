//! Emptying the twin that was live. Removing the files of a large one takes the file system a while, which nobody has to
//! wait for: a background worker does it after the commit. Where none can be had, the next refresh does.

use super::state::State;
use crate::backend::identity::{act_as, pin_settings, read_the_latest};
use crate::backend::ownership;
use crate::backend::relation::{lock_exclusively, Patience};
use crate::backend::spi;
use crate::backend::subtransaction::tried;
use crate::backend::worker::{self, TransactionControl, Worker};
use crate::destination::table;
use crate::destination::twins::Twins;
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::method::Method;
use crate::method::load::patience;
use crate::method::rights::require_configured;
use crate::method::running::require_method;
use pgrx::{log, pg_sys, register_xact_callback, PgXactCallbackEvent};
use std::time::Duration;

/// Bytes from which on a twin is large.
pub const LARGE: u64 = 32 << 20;

/// Lets a worker empty the idle twin of a job once this transaction is committed.
pub fn after_commit(dest_table: &str) {
    start_after_commit(format!("{JOB}{dest_table}"));
}

/// The same for all snapshots of a group, one after the other.
pub fn after_commit_of_group(group: &str) {
    start_after_commit(format!("{GROUP}{group}"));
}

/// What the name of a job, or of a group, stands behind.
const JOB: char = 'j';
const GROUP: char = 'g';

fn start_after_commit(purpose: String) {
    // What can be passed to a worker (BGW_EXTRALEN, with a NUL at its end).
    if purpose.len() >= 128 {
        return;
    }
    // SAFETY: reads a variable.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    register_xact_callback(PgXactCallbackEvent::Commit, move || {
        let _ = Worker::start_for("mimeo_empty_twin", "mimeo empty twin", database, &purpose);
    });
}

/// The main function of the worker.
pub fn work(database: u32) -> Result<()> {
    worker::prepare();
    let purpose = worker::purpose();
    worker::connect(pg_sys::Oid::from(database), None);
    let transactions = TransactionControl::Worker;
    transactions.begin();
    let jobs = match purpose.strip_prefix(GROUP) {
        Some(group) => spi::with_snapshot(|| snapshots_of(group))?,
        None => purpose.strip_prefix(JOB).map(str::to_string).into_iter().collect(),
    };
    for dest_table in jobs {
        if let Err(error) = tried(|| spi::with_snapshot(|| empty(&dest_table)))? {
            log!("mimeo: the idle twin of \"{dest_table}\" is not emptied: {error}");
        }
        transactions.commit()?;
    }
    transactions.end();
    Ok(())
}

/// The snapshots of a group.
fn snapshots_of(group: &str) -> Result<Vec<String>> {
    let Some(catalog) = Catalog::look()? else { return Ok(Vec::new()) };
    let jobs = catalog.group(group)?;
    Ok(jobs.into_iter().filter(|job| job.method() == Method::Snapshot).map(|job| job.dest_table).collect())
}

/// Does nothing if the job has gone, or was not swapped after all. It does not take the lock of the job, which would keep a refresh from beginning:
/// that of the idle twin is enough, for nobody shows a twin that is locked, or fills it.
fn empty(dest_table: &str) -> Result<()> {
    read_the_latest();
    let Some(catalog) = Catalog::look()? else { return Ok(()) };
    let Ok(job) = catalog.job(dest_table) else { return Ok(()) };
    require_method(&job, Method::Snapshot)?;
    let idle = {
        let _pinned = pin_settings()?;
        let twins = Twins::find(&job.destination)?;
        // The transaction that started this worker may be about to release its locks.
        let wait = Patience { give_up: Duration::from_secs(2), ..patience() };
        if lock_exclusively(&[twins.idle.oid], &twins.idle.name(), wait, "emptied").is_err() {
            return Ok(());
        }
        twins.idle.oid
    };
    // What was committed before the lock was had.
    let Ok(job) = catalog.job(dest_table) else { return Ok(()) };
    let twins = {
        let _pinned = pin_settings()?;
        Twins::find(&job.destination)?
    };
    require_configured(&catalog, &job, twins.owner)?;
    let state: State = serde_json::from_value(job.state).unwrap_or_default();
    if state.previous.is_some() || twins.idle.oid != idle {
        return Ok(());
    }
    let _identity = act_as(twins.owner, true)?;
    if ownership::require_tables(&[twins.idle.oid]).is_ok() {
        table::truncate(&twins.idle.name())?;
    }
    Ok(())
}
