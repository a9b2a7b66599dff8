//! Background workers that this backend starts, and the shared memory in which they find their orders.

use crate::backend::compat;
use crate::backend::interrupts;
use crate::backend::subtransaction::caught;
use crate::error::{Error, Result};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::{pg_sys, IntoDatum};
use std::sync::atomic::{AtomicU32, AtomicU8};
use std::time::{Duration, Instant};

/// Shared memory that a worker is started with: a text, and cells that both sides read and write. It lasts as long as one
/// of them holds it.
pub struct WorkerMessage {
    segment: *mut pg_sys::dsm_segment,
}

/// What precedes the cells and the text.
#[repr(C)]
struct Header {
    counters: [AtomicU32; 2],
    cells: u32,
    text: u32,
}

impl WorkerMessage {
    /// # Errors
    /// Postgres, if there is no shared memory left.
    pub fn write(text: &str, cells: usize) -> Result<WorkerMessage> {
        let size = size_of::<Header>() + cells + text.len();
        caught(|| {
            // SAFETY: a new segment of that size, which nobody else knows yet; it starts on a page.
            unsafe {
                let segment = pg_sys::dsm_create(size, 0);
                pg_sys::dsm_pin_mapping(segment);
                let start = pg_sys::dsm_segment_address(segment).cast::<u8>();
                std::ptr::write_bytes(start, 0, size);
                let header = start.cast::<Header>();
                (*header).cells = cells as u32;
                (*header).text = text.len() as u32;
                std::ptr::copy_nonoverlapping(text.as_ptr(), start.add(size_of::<Header>() + cells), text.len());
                Ok(WorkerMessage { segment })
            }
        })
    }

    /// What a worker was started with; None if its writer has gone.
    pub fn open(handle: u32) -> Option<WorkerMessage> {
        // SAFETY: the result is null or a segment that WorkerMessage::write has made.
        let segment = unsafe { pg_sys::dsm_attach(handle) };
        // Not then_some: it would make a message without a segment, and drop it.
        (!segment.is_null()).then(|| WorkerMessage { segment })
    }

    fn header(&self) -> &Header {
        // SAFETY: every segment begins with a header, and is mapped as long as self.
        unsafe { &*pg_sys::dsm_segment_address(self.segment).cast::<Header>() }
    }

    /// Zero at first.
    pub fn counter(&self, index: usize) -> &AtomicU32 {
        &self.header().counters[index]
    }

    /// Zero at first.
    pub fn cells(&self) -> &[AtomicU8] {
        let header = self.header();
        // SAFETY: the cells follow the header; an AtomicU8 is a byte.
        unsafe {
            let first = std::ptr::from_ref(header).add(1).cast::<AtomicU8>();
            std::slice::from_raw_parts(first, header.cells as usize)
        }
    }

    pub fn text(&self) -> Result<&str> {
        let header = self.header();
        // SAFETY: the text follows the cells, and nobody writes to it any more.
        let bytes = unsafe {
            let first = std::ptr::from_ref(header).add(1).cast::<u8>().add(header.cells as usize);
            std::slice::from_raw_parts(first, header.text as usize)
        };
        std::str::from_utf8(bytes).map_err(|_| Error::Internal("a worker's orders are no text".to_string()))
    }

    fn handle(&self) -> u32 {
        // SAFETY: the segment is mapped as long as self.
        unsafe { pg_sys::dsm_segment_handle(self.segment) }
    }
}

impl Drop for WorkerMessage {
    fn drop(&mut self) {
        // While an error unwinds, the memory stays mapped until the backend ends.
        if !std::thread::panicking() {
            // SAFETY: mapped once, and nothing of it is used after this.
            unsafe { pg_sys::dsm_detach(self.segment) };
        }
    }
}

/// A worker that was started.
pub struct Worker(DynamicBackgroundWorker);

impl Worker {
    /// Starts `function` of this library in a process of its own, with a number as argument.
    /// None if max_worker_processes allows no more.
    pub fn start(function: &str, name: &str, argument: u32) -> Option<Worker> {
        Worker::start_for(function, name, argument, "")
    }

    /// The same, with a purpose of up to 127 bytes.
    pub fn start_for(function: &str, name: &str, argument: u32, purpose: &str) -> Option<Worker> {
        // SAFETY: reads a constant of this process; the handle has to outlive the transaction.
        let (own_pid, context) =
            unsafe { (pg_sys::MyProcPid, pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext)) };
        let worker = BackgroundWorkerBuilder::new(name)
            .set_type("mimeo worker")
            .set_library("mimeo")
            .set_function(function)
            .set_argument(i64::from(argument).into_datum())
            .set_extra(purpose)
            .set_notify_pid(own_pid)
            .set_restart_time(None)
            .enable_spi_access()
            .load_dynamic();
        // SAFETY: as it was.
        unsafe { pg_sys::MemoryContextSwitchTo(context) };
        worker.ok().map(Worker)
    }

    pub fn start_with(function: &str, name: &str, message: &WorkerMessage) -> Option<Worker> {
        Worker::start(function, name, message.handle())
    }

    pub fn is_over(&self) -> bool {
        matches!(self.0.pid(), Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied))
    }

    pub fn terminate(self) {
        let _ = self.0.terminate();
    }
}

/// Waits until all of them have ended, or the time limit is over; whether they have. It raises the error if the query is cancelled.
pub fn wait_for(workers: &[Worker], limit: Option<Duration>) -> bool {
    let start = Instant::now();
    loop {
        if workers.iter().all(Worker::is_over) {
            return true;
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            return false;
        }
        interrupts::nap(Duration::from_millis(100));
    }
}

/// What a worker does first: it can be terminated and cancelled as every backend. Connected to no database yet.
pub fn prepare() {
    // SAFETY: the handlers of a normal backend; signals are still blocked.
    unsafe {
        compat::handle_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The purpose that was given to Worker::start_for.
pub fn purpose() -> String {
    BackgroundWorker::get_extra().to_string()
}

/// Connects a worker to a database as one of its roles; None is the superuser that made the cluster.
pub fn connect(database: pg_sys::Oid, role: Option<pg_sys::Oid>) {
    let role = role.unwrap_or(pg_sys::InvalidOid);
    // SAFETY: called once in the life of a worker; what is refused ends it.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, role, 0) };
    if role == pg_sys::InvalidOid {
        // The worker is a superuser then, and must not find objects that others have put into their schemas.
        // SAFETY: sets a setting as SET does; the strings are constants.
        unsafe {
            pg_sys::SetConfigOption(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
}

/// Runs `body` where transactions can be ended: connected to SPI, outside of a transaction block.
///
/// # Errors
/// InTransaction.
pub fn in_procedure(
    call: pg_sys::FunctionCallInfo,
    procedure: &'static str,
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // SAFETY: PostgreSQL passes a CallContext to what CALL runs; an error ends the connection to SPI as the transaction.
    unsafe {
        let context = (*call).context;
        let can_commit = !context.is_null()
            && (*context).type_ == pg_sys::NodeTag::T_CallContext
            && !(*context.cast::<pg_sys::CallContext>()).atomic;
        if !can_commit {
            return Err(Error::InTransaction(procedure));
        }
        pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32);
        body()?;
        pg_sys::SPI_finish();
    }
    Ok(())
}

/// How a process that runs several transactions after each other ends one and begins the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionControl {
    /// A procedure that CALL runs outside of a transaction block, connected to SPI.
    Procedure,
    /// A worker.
    Worker,
}

impl TransactionControl {
    /// Begins the first transaction.
    pub fn begin(self) {
        if self == TransactionControl::Worker {
            // SAFETY: no transaction is open.
            unsafe {
                pg_sys::SetCurrentStatementStartTimestamp();
                pg_sys::StartTransactionCommand();
            }
        }
    }

    /// Commits, and begins the next transaction, whatever the commit says.
    ///
    /// # Errors
    /// Postgres: a deferred constraint, for one; the transaction is rolled back then.
    pub fn commit(self) -> Result<()> {
        match self {
            TransactionControl::Procedure => caught(|| {
                // SAFETY: SPI is connected for transactions, and begins the next one itself.
                unsafe { pg_sys::SPI_commit() };
                Ok(())
            }),
            TransactionControl::Worker => {
                let outcome = caught(|| {
                    // SAFETY: a transaction is open.
                    unsafe { pg_sys::CommitTransactionCommand() };
                    Ok(())
                });
                if outcome.is_err() {
                    // SAFETY: what every main loop does after an error.
                    unsafe { pg_sys::AbortCurrentTransaction() };
                }
                self.begin();
                outcome
            }
        }
    }

    /// Ends the last transaction.
    pub fn end(self) {
        if self == TransactionControl::Worker {
            // SAFETY: a transaction is open; and its statistics are reported before the process ends.
            unsafe {
                pg_sys::CommitTransactionCommand();
                pg_sys::pgstat_report_stat(true);
            }
        }
    }
}
