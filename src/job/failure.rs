//! Failures of runs whose transaction will be rolled back: a worker writes them into run_history.

use crate::backend::identity::set_local;
use crate::backend::spi;
use crate::backend::subtransaction::attempt;
use crate::backend::worker::{self, TransactionControl, Worker, WorkerMessage};
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::history;
use crate::job::record::RunRecord;
use pgrx::{log, pg_sys};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the worker is told.
#[derive(Serialize, Deserialize)]
struct Order {
    database: u32,
    records: Vec<RunRecord>,
}

/// Lets a worker write records, and waits for it: a few milliseconds. A failure of that only goes to the log, because the caller has
/// an error of its own to report.
pub fn deliver(records: &[RunRecord]) {
    let delivered = attempt(|| {
        let run_by = spi::text("SELECT session_user::pg_catalog.text", &[])?;
        let records = records.iter().map(|record| RunRecord { run_by: run_by.clone(), ..record.clone() }).collect();
        // SAFETY: reads a variable.
        let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let order = Order { database, records };
        let message = WorkerMessage::write(&serde_json::to_string(&order)?, 0)?;
        let Some(worker) = Worker::start_with("mimeo_record_failure", "mimeo history", &message) else {
            return Ok(Some("no background worker is left (max_worker_processes)"));
        };
        let over = worker::wait_for(&[worker], Some(Duration::from_secs(5)));
        Ok((!over).then_some("its background worker did not end within 5 s"))
    });
    let why = match delivered {
        Ok(None) => return,
        Ok(Some(why)) => why.to_string(),
        Err(error) => error.to_string(),
    };
    for record in records {
        log!("mimeo: the failure of \"{}\" could not be recorded: {why}", record.dest_table);
    }
}

/// The main function of the worker.
pub fn record(handle: u32) -> Result<()> {
    worker::prepare();
    let Some(message) = WorkerMessage::open(handle) else { return Ok(()) };
    let order: Order = serde_json::from_str(message.text()?)?;
    worker::connect(pg_sys::Oid::from(order.database), None);
    TransactionControl::Worker.begin();
    spi::with_snapshot(|| {
        // The caller, who waits for this worker, may hold locks that it wants.
        set_local("lock_timeout", "3s")?;
        let catalog = Catalog::find()?;
        order.records.iter().try_for_each(|record| history::write(record, &catalog))
    })?;
    TransactionControl::Worker.end();
    Ok(())
}
