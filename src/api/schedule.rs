//! run_refresh, and the background workers by the names under which PostgreSQL starts them.

use super::arguments::Given;
use crate::backend::worker::in_procedure;
use crate::destination::{fill, heap};
use crate::error::Error;
use crate::job::failure;
use crate::method::snapshot;
use crate::schedule::{self, Request};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{pg_getarg, FromDatum};

/// Runs every job that is due, each in a transaction of its own.
#[pg_extern(sql = r#"
CREATE PROCEDURE run_refresh(p_type text DEFAULT NULL, p_batch_limit integer DEFAULT NULL, p_jobs integer DEFAULT 1)
    LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';
"#)]
fn run_refresh(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), ErrorReport> {
    // SAFETY: PostgreSQL calls it with the three arguments that the SQL above declares.
    let (method, limit, workers) =
        unsafe { (pg_getarg::<String>(fcinfo, 0), pg_getarg::<i32>(fcinfo, 1), pg_getarg::<i32>(fcinfo, 2)) };
    let positive = |name: &str, value: i32| {
        u32::try_from(value)
            .ok()
            .filter(|value| *value > 0)
            .ok_or_else(|| Error::InvalidArgument(format!("{name} is {value}; it has to be greater than 0")))
    };
    let request = Request {
        method: method.as_deref(),
        limit: limit.map(|limit| positive("p_batch_limit", limit)).transpose()?,
        workers: positive("p_jobs", workers.given("p_jobs")?)?,
    };
    in_procedure(fcinfo, "run_refresh", || schedule::run(&request))?;
    Ok(())
}

/// The argument that a worker was started with.
fn argument(datum: pg_sys::Datum) -> u32 {
    // SAFETY: a bigint, passed by value.
    unsafe { i64::from_datum(datum, false) }.unwrap_or(0) as u32
}

/// A worker's error goes to the log, and ends it.
fn finish(outcome: crate::error::Result<()>) {
    if let Err(error) = outcome {
        ErrorReport::from(error).report(PgLogLevel::ERROR);
    }
}

/// Writes the failure of a direct call into run_history.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn mimeo_record_failure(order: pg_sys::Datum) {
    finish(failure::record(argument(order)));
}

/// Empties the twin of a snapshot that is no longer live.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn mimeo_empty_twin(database: pg_sys::Datum) {
    finish(snapshot::empty_twin(argument(database)));
}

/// Fills materialized views that were created again.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn mimeo_fill_views(database: pg_sys::Datum) {
    finish(fill::work(argument(database)));
}

/// Builds indexes of a table that is being loaded. A parallel worker of the transaction that loads it.
///
/// # Safety
/// PostgreSQL calls it, in a parallel worker.
#[pg_guard]
#[no_mangle]
pub unsafe extern "C-unwind" fn mimeo_build_indexes(
    _segment: *mut pg_sys::dsm_segment,
    contents: *mut pg_sys::shm_toc,
) {
    // SAFETY: as the caller has promised.
    unsafe {
        heap::build_behind(contents);
    }
}

/// Runs jobs of a CALL run_refresh.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn mimeo_run_jobs(order: pg_sys::Datum) {
    finish(schedule::work_in_pool(argument(order)));
}

/// Runs what is due in one database, for the scheduler.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn mimeo_run_due_jobs(database: pg_sys::Datum) {
    finish(schedule::work_in(argument(database)));
}

/// The scheduler.
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn mimeo_scheduler(_argument: pg_sys::Datum) {
    schedule::look_after();
    // The postmaster starts a worker again that ends with 1, as after pg_terminate_backend; one that ends with 0 stays away.
    // SAFETY: ends the process in PostgreSQL's way.
    unsafe { pg_sys::proc_exit(1) };
}
