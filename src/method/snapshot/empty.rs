//! Emptying the twin that was live. Removing the files of a large one takes the file system a while, which nobody has to
//! wait for: a background worker does it after the commit. Where none can be had, the next refresh does.

use super::state::State;
use crate::backend::identity::{act_as, pin_settings};
use crate::backend::ownership;
use crate::backend::relation::lock_if_free;
use crate::backend::spi;
use crate::backend::worker::{self, TransactionControl, Worker};
use crate::destination::table;
use crate::destination::twins::Twins;
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::lock::{self, Wait};
use crate::job::method::Method;
use crate::method::rights::require_configured;
use crate::method::running::require_method;
use pgrx::{pg_sys, register_xact_callback, PgXactCallbackEvent};

/// Bytes from which on a twin is large.
pub const LARGE: u64 = 32 << 20;

/// Lets a worker empty the idle twin of a job once this transaction is committed.
pub fn after_commit(dest_table: &str) {
    // What can be passed to a worker (BGW_EXTRALEN, with a NUL at its end).
    if dest_table.len() >= 128 {
        return;
    }
    let dest_table = dest_table.to_string();
    // SAFETY: reads a variable.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    register_xact_callback(PgXactCallbackEvent::Commit, move || {
        let _ = Worker::start_for("mimeo_empty_twin", "mimeo empty twin", database, &dest_table);
    });
}

/// The main function of the worker.
pub fn work(database: u32) -> Result<()> {
    worker::prepare();
    let dest_table = worker::purpose();
    worker::connect(pg_sys::Oid::from(database), None);
    TransactionControl::Worker.begin();
    spi::with_snapshot(|| empty(&dest_table))?;
    TransactionControl::Worker.end();
    Ok(())
}

/// Does nothing if the job is being refreshed, has gone, or was not swapped after all.
fn empty(dest_table: &str) -> Result<()> {
    let Some(catalog) = Catalog::look()? else { return Ok(()) };
    // The transaction that started this worker may be about to release the lock.
    if !lock::take(dest_table, Wait::Seconds(2))? {
        return Ok(());
    }
    let Ok(job) = catalog.job(dest_table) else { return Ok(()) };
    require_method(&job, Method::Snapshot)?;
    let _pinned = pin_settings()?;
    let twins = Twins::find(&job.destination)?;
    require_configured(&catalog, &job, twins.owner)?;
    let state: State = serde_json::from_value(job.state).unwrap_or_default();
    if state.previous.is_some() {
        return Ok(());
    }
    let _identity = act_as(twins.owner, true)?;
    if lock_if_free(twins.idle.oid) && ownership::require_tables(&[twins.idle.oid]).is_ok() {
        table::truncate(&twins.idle.name())?;
    }
    Ok(())
}
