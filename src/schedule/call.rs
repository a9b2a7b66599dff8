//! CALL run_refresh.

use super::work::alone;
use super::{due, worker_pool};
use crate::backend::identity::require_writable;
use crate::backend::spi;
use crate::backend::worker::TransactionControl;
use crate::error::{Error, Result};
use crate::job::config::Catalog;

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
        worker_pool::run(&catalog, &jobs, limit, request.workers)?
    } else {
        alone(&catalog, &jobs, limit, TransactionControl::Procedure)?
    };
    failed.report()
}
