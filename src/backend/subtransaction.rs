//! Running a step that may fail without failing the transaction.

use crate::backend::context::Watch;
use crate::error::{Error, Result};
use pgrx::{pg_sys, PgTryBuilder};
use std::panic::AssertUnwindSafe;

/// Runs `body` in a subtransaction: kept if it succeeds, rolled back if it returns an error or PostgreSQL
/// raises one, which then is the result.
pub fn attempt<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: the context and the owner are those of the enclosing (sub)transaction, which outlives this one.
    let (context, owner) = unsafe { (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner) };
    // SAFETY: called inside a transaction, as every SQL function is.
    unsafe {
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        // SPI gives queries of a (sub)transaction without an id the old snapshot: see read_the_latest.
        if pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId {
            pg_sys::GetCurrentTransactionId();
        }
    }
    let outcome = caught(body);
    // SAFETY: ends the subtransaction begun above, and restores what PostgreSQL's own PG_TRY users restore.
    unsafe {
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

/// The same for a step that may fail without ending the call: the inner result is that of the step.
///
/// # Errors
/// Cancelled: the whole call is to end.
pub fn tried<T>(body: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    match attempt(body) {
        Err(error) if error.is_cancel() => Err(error),
        outcome => Ok(outcome),
    }
}

/// Runs `body` and converts an error that PostgreSQL raises in it to a result. Nothing is rolled back: the
/// caller has to raise it again.
pub fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let _watch = Watch::begin();
    PgTryBuilder::new(AssertUnwindSafe(body)).catch_others(|error| Err(Error::from(error))).execute()
}
