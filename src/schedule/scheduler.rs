//! The scheduler: with shared_preload_libraries = 'mimeo', one process that starts a worker in each of mimeo.databases every
//! mimeo.naptime. A worker does what CALL run_refresh does, and ends: nothing keeps a database from being dropped.

use super::due;
use super::work::alone;
use crate::backend::name::split_list;
use crate::backend::spi;
use crate::backend::worker::{self, TransactionControl, Worker};
use crate::error::{Error, Result};
use crate::job::config::Catalog;
use crate::settings;
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::{log, pg_sys, warning};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// Lets the postmaster start the scheduler, now, after a recovery, after a promotion, and again when it has died.
pub fn register() {
    BackgroundWorkerBuilder::new("mimeo scheduler")
        .set_type("mimeo scheduler")
        .set_library("mimeo")
        .set_function("mimeo_scheduler")
        .set_restart_time(Some(Duration::from_secs(5)))
        .enable_spi_access()
        .load();
}

/// The main function of the scheduler.
pub fn look_after() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // To no database: it only looks their names up.
    BackgroundWorker::connect_worker_to_spi(None, None);
    let mut rounds: BTreeMap<u32, Vec<Worker>> = BTreeMap::new();
    let mut missing: BTreeSet<String> = BTreeSet::new();
    loop {
        let begun = Instant::now();
        let databases = open_databases();
        for name in split_list(&settings::databases()) {
            match databases.get(&name) {
                Some(&oid) => {
                    missing.remove(&name);
                    start_round(oid, &name, rounds.entry(oid).or_default());
                }
                None => {
                    if missing.insert(name.clone()) {
                        warning!("mimeo scheduler: there is no database \"{name}\" that allows connections");
                    }
                }
            }
        }
        while let Some(left) = settings::naptime().checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            // It returns early when a worker ends.
            if !BackgroundWorker::wait_latch(Some(left.max(Duration::from_millis(1)))) {
                return;
            }
            if BackgroundWorker::sighup_received() {
                // SAFETY: what every process does at a reload.
                unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            }
        }
    }
}

/// The databases that take connections, by name. As the autovacuum launcher reads them: a process without a database has no
/// indexes to look anything up in.
fn open_databases() -> BTreeMap<String, u32> {
    let mut databases = BTreeMap::new();
    // SAFETY: a transaction around a scan of a shared catalog; the rows are read while the scan holds them.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let header = (*tuple).t_data;
            let form = header.cast::<u8>().add((*header).t_hoff as usize).cast::<pg_sys::FormData_pg_database>();
            if (*form).datallowconn {
                let name = CStr::from_ptr((*form).datname.data.as_ptr()).to_string_lossy().into_owned();
                databases.insert(name, (*form).oid.to_u32());
            }
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pg_sys::CommitTransactionCommand();
    }
    databases
}

/// Starts a worker, unless enough of them are running.
fn start_round(database: u32, name: &str, running: &mut Vec<Worker>) {
    running.retain(|worker| !worker.is_over());
    if running.len() >= settings::max_workers() {
        return;
    }
    match Worker::start("mimeo_run_due_jobs", &format!("mimeo jobs of {name}"), database) {
        Some(worker) => running.push(worker),
        None => warning!("mimeo scheduler: no background worker is left (max_worker_processes)"),
    }
}

/// The main function of a worker of the scheduler: runs what is due in one database. No error if the extension is not there.
pub fn work_in(database: u32) -> Result<()> {
    worker::prepare();
    worker::connect(pg_sys::Oid::from(database), None);
    let transactions = TransactionControl::Worker;
    transactions.begin();
    let found = spi::with_snapshot(|| {
        let Some(catalog) = Catalog::look()? else { return Ok(None) };
        // As the role that created the extension, from here to the end of the process.
        // SAFETY: this process began as the superuser that made the cluster.
        unsafe {
            let role = catalog.created_by();
            pg_sys::SetSessionAuthorization(role, pg_sys::superuser_arg(role));
        }
        let jobs = due::list(&catalog, None)?;
        Ok::<_, Error>(Some((catalog, jobs)))
    })?;
    transactions.commit()?;
    if let Some((catalog, jobs)) = found {
        let outcome = alone(&catalog, &jobs, u32::MAX, transactions)?;
        if let Err(error) = outcome.report() {
            log!("mimeo scheduler: {error}");
        }
    }
    transactions.end();
    Ok(())
}
