//! run_refresh with several background workers: all of them take jobs from one list in shared memory.

use super::due::Due;
use super::tasks::{Fate, Outcome, Tasks};
use super::work::work_through;
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::backend::worker::{self, TransactionControl, Worker, WorkerMessage};
use crate::error::{Error, Report, Result};
use crate::job::config::Catalog;
use crate::job::history;
use pgrx::pg_sys;
use pgrx::PgSqlErrorCode;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// What a worker is told.
#[derive(Serialize, Deserialize)]
struct Orders {
    database: u32,
    session_user: u32,
    /// Settings that were changed in the session since it began, its role among them.
    settings: Vec<(String, String)>,
    jobs: Vec<Due>,
    limit: u32,
}

impl Orders {
    /// The shared part lies in the message that they came with.
    fn tasks<'a>(&'a self, message: &'a WorkerMessage) -> Tasks<'a> {
        Tasks {
            jobs: &self.jobs,
            next: message.counter(0),
            begun: message.counter(1),
            limit: self.limit,
            fates: message.cells(),
        }
    }
}

/// Settings that a worker has to have as the caller has them.
const SESSION_SETTINGS: &str = "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(name, setting)
           ORDER BY name OPERATOR(pg_catalog.=) 'role'), '[]')::pg_catalog.text
      FROM pg_catalog.pg_settings
     WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) 'statement_timeout'
       AND (context OPERATOR(pg_catalog.=) 'user' OR context OPERATOR(pg_catalog.=) 'superuser')";

/// Starts up to `workers` workers and waits for them. Jobs that they leave are run by this process.
///
/// # Errors
/// What ended the call: the workers are terminated then.
pub fn run(catalog: &Catalog, jobs: &[Due], limit: u32, workers: u32) -> Result<Outcome> {
    // SAFETY: reads variables of this backend.
    let (database, session_user, role) =
        unsafe { (pg_sys::MyDatabaseId, pg_sys::GetSessionUserId(), pg_sys::GetUserId()) };
    let mut settings: Vec<(String, String)> =
        spi::with_snapshot(|| spi::json(SESSION_SETTINGS, &[]))?.unwrap_or_default();
    settings.retain(|(name, _)| name != "role");
    if role != session_user {
        let name = spi::with_snapshot(|| spi::text("SELECT current_user::pg_catalog.text", &[]))?;
        settings.extend(name.map(|name| ("role".to_string(), name)));
    }
    let orders = Orders {
        database: database.to_u32(),
        session_user: session_user.to_u32(),
        settings,
        jobs: jobs.to_vec(),
        limit,
    };
    let message = WorkerMessage::write(&serde_json::to_string(&orders)?, jobs.len())?;
    // No transaction of this session is to hold back vacuum while the others work.
    TransactionControl::Procedure.commit()?;
    let wanted = workers.min(jobs.len() as u32);
    let worker_pool: Vec<_> =
        (0..wanted).map_while(|_| Worker::start_with("mimeo_run_jobs", "mimeo jobs", &message)).collect();
    let waited = caught(|| {
        worker::wait_for(&worker_pool, None);
        Ok(())
    });
    if let Err(error) = waited {
        worker_pool.into_iter().for_each(Worker::terminate);
        return Err(error);
    }

    let tasks = orders.tasks(&message);
    // A worker that was killed leaves its job behind.
    for (index, due) in jobs.iter().enumerate() {
        if tasks.is(index, Fate::Taken) {
            tasks.settle(index, Fate::Failed);
            spi::with_snapshot(|| {
                let records = due.failed(catalog, &abandoned())?;
                records.iter().try_for_each(|record| history::write(record, catalog))
            })?;
            TransactionControl::Procedure.commit()?;
        }
    }
    // Where no worker could be started, all is still to be done.
    work_through(catalog, &tasks, TransactionControl::Procedure)?;
    let mut failed = Vec::new();
    for (index, due) in jobs.iter().enumerate() {
        if tasks.is(index, Fate::Failed) {
            failed.push((due.name(), last_error(catalog, due)?));
        }
    }
    Ok(Outcome { failed, begun: tasks.begun.load(Ordering::SeqCst) as usize })
}

fn abandoned() -> Error {
    let message = "its background worker was ended before the job was done".to_string();
    Error::Postgres(Report { sqlstate: PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN.into(), message, ..Report::default() })
}

/// The first line of the error in a job's last failed run; of a group, that of the member that had failed.
fn last_error(catalog: &Catalog, due: &Due) -> Result<String> {
    spi::with_snapshot(|| {
        let _identity = catalog.act_as_owner()?;
        let history = catalog.table("run_history");
        let (of, name) = match &due.group {
            Some(group) => ("refresh_group = $1 AND started >= now() - interval '1 day' AND error NOT LIKE 'taken back with group %'", group),
            None => ("dest_table = $1", &due.dest_table),
        };
        let text = spi::text(
            &format!(
                "SELECT split_part(coalesce(error, reason, ''), E'\\n', 1) FROM {history}
                  WHERE {of} AND status = 'critical' ORDER BY run_id DESC LIMIT 1"
            ),
            &[name.as_str().into()],
        )?;
        Ok(text.unwrap_or_default())
    })
}

/// The main function of a worker.
pub fn work(handle: u32) -> Result<()> {
    worker::prepare();
    let Some(message) = WorkerMessage::open(handle) else { return Ok(()) };
    let orders: Orders = serde_json::from_str(message.text()?)?;
    worker::connect(pg_sys::Oid::from(orders.database), Some(pg_sys::Oid::from(orders.session_user)));
    let transactions = TransactionControl::Worker;
    transactions.begin();
    let catalog = spi::with_snapshot(|| {
        for (name, value) in &orders.settings {
            let set = attempt(|| {
                spi::run("SELECT pg_catalog.set_config($1, $2, false)", &[name.as_str().into(), value.as_str().into()])
            });
            // A setting that exists only for sessions of clients may fail in a worker. For the role that is an error: no other one may run the jobs.
            if name == "role" {
                set?;
            }
        }
        Catalog::find()
    })?;
    transactions.commit()?;
    work_through(&catalog, &orders.tasks(&message), transactions)?;
    transactions.end();
    Ok(())
}
