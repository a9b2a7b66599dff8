//! The parts of an error of PostgreSQL that pgrx drops when it passes the error on: CONTEXT, and the names of schema, table, column, type
//! and constraint.
//!
//! When PostgreSQL reports an error, it calls the callbacks of error_context_stack, the innermost first. `Watch` is such a callback, and
//! saves what is known by then; the callbacks outside of it add their lines when the error is raised again.

use crate::backend::compat::unguarded::{
    err_generic_string, errcode, errcontext_msg, geterrcode, CopyErrorData, FreeErrorData,
};
use crate::error::{ErrorLocation, SqlState};
use pgrx::{pg_sys, PgLogLevel};
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr;

/// An error that a callback has seen.
#[derive(Debug, PartialEq)]
struct Seen {
    sqlstate: SqlState,
    message: String,
    location: ErrorLocation,
}

thread_local! {
    /// The last error that was watched.
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    /// What is to be added to the error with this message.
    static KNOWN: RefCell<Option<Seen>> = const { RefCell::new(None) };
    /// The callback that adds it. Allocated once and never freed: it may stay in the list until our caller takes it off.
    static ADDER: Cell<*mut pg_sys::ErrorContextCallback> = const { Cell::new(ptr::null_mut()) };
}

/// As long as it exists, errors are saved.
pub struct Watch(Box<pg_sys::ErrorContextCallback>);

impl Watch {
    pub fn begin() -> Watch {
        // SAFETY: the list of this process; the entry lives as long as it is in it, for Drop takes it out.
        unsafe {
            let mut entry = Box::new(pg_sys::ErrorContextCallback {
                previous: pg_sys::error_context_stack,
                callback: Some(note),
                arg: ptr::null_mut(),
            });
            pg_sys::error_context_stack = &raw mut *entry;
            Watch(entry)
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: as above. Callbacks that were pushed later are gone: taken off, or jumped over by an error.
        unsafe { pg_sys::error_context_stack = self.0.previous };
    }
}

/// SQLSTATE and location of a caught error, found by its message. pgrx knows PostgreSQL's own SQLSTATEs only.
pub fn take(message: &str) -> Option<(SqlState, ErrorLocation)> {
    KNOWN.set(None);
    SEEN.take().filter(|seen| seen.message == message).map(|seen| (seen.sqlstate, seen.location))
}

/// An error with this message is about to be raised: it gets this SQLSTATE and this location.
pub fn add(message: &str, sqlstate: SqlState, location: ErrorLocation) {
    KNOWN.set(Some(Seen { sqlstate, message: message.to_string(), location }));
    if ADDER.get().is_null() {
        let entry =
            pg_sys::ErrorContextCallback { previous: ptr::null_mut(), callback: Some(add_known), arg: ptr::null_mut() };
        ADDER.set(Box::into_raw(Box::new(entry)));
    }
    // SAFETY: the list of this process, whose entries are alive; this one always is. It is in the list once at most.
    unsafe {
        let mut entry = pg_sys::error_context_stack;
        while !entry.is_null() && entry != ADDER.get() {
            entry = (*entry).previous;
        }
        if entry.is_null() {
            (*ADDER.get()).previous = pg_sys::error_context_stack;
            pg_sys::error_context_stack = ADDER.get();
        }
    }
}

/// What is being reported, if it is an error.
///
/// # Safety
/// To be called from a callback of PostgreSQL's list.
unsafe fn current() -> Option<Seen> {
    // SAFETY: as the caller has promised.
    unsafe {
        // SQLSTATE classes of success and warnings, which are skipped at once: a trigger may raise a million notices.
        const QUIET: [c_int; 3] = [0, 1 << 6, 2 << 6];
        if QUIET.contains(&(geterrcode() & 0xfff)) {
            return None;
        }
        let context = pg_sys::CurrentMemoryContext;
        // The copy must not be in the context that errors are in.
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        let data = CopyErrorData();
        let text = |text: *const c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned());
        let found = ((*data).elevel >= PgLogLevel::ERROR as c_int).then(|| {
            let location = ErrorLocation {
                context: text((*data).context),
                schema: text((*data).schema_name),
                table: text((*data).table_name),
                column: text((*data).column_name),
                data_type: text((*data).datatype_name),
                constraint: text((*data).constraint_name),
            };
            Seen {
                sqlstate: SqlState::of_packed((*data).sqlerrcode),
                message: text((*data).message).unwrap_or_default(),
                location,
            }
        });
        FreeErrorData(data);
        pg_sys::CurrentMemoryContext = context;
        found
    }
}

/// # Safety
/// PostgreSQL calls it while it reports an error.
unsafe extern "C-unwind" fn note(_: *mut c_void) {
    // SAFETY: as the caller has promised.
    unsafe {
        let Some(now) = current() else { return };
        SEEN.with_borrow_mut(|seen| {
            // A Watch further out sees the same error again, with the CONTEXT between the two.
            let is_seen = seen.as_ref().is_some_and(|before| {
                let (known, location) = (&before.location, &now.location);
                (before.sqlstate, &before.message) == (now.sqlstate, &now.message)
                    && known.table == location.table
                    && location
                        .context
                        .as_deref()
                        .unwrap_or_default()
                        .starts_with(known.context.as_deref().unwrap_or_default())
            });
            if !is_seen {
                *seen = Some(now);
            }
        });
    }
}

/// # Safety
/// PostgreSQL calls it while it reports an error.
unsafe extern "C-unwind" fn add_known(_: *mut c_void) {
    // SAFETY: as the caller has promised.
    unsafe {
        let Some(now) = current() else { return };
        let Some(Seen { sqlstate, location, .. }) = KNOWN.take().filter(|known| known.message == now.message) else {
            return;
        };
        errcode(sqlstate.packed());
        let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        if let Some(context) = &location.context {
            errcontext_msg(c"%s".as_ptr(), text(context).as_ptr());
        }
        let fields = [
            (pg_sys::PG_DIAG_SCHEMA_NAME, &location.schema),
            (pg_sys::PG_DIAG_TABLE_NAME, &location.table),
            (pg_sys::PG_DIAG_COLUMN_NAME, &location.column),
            (pg_sys::PG_DIAG_DATATYPE_NAME, &location.data_type),
            (pg_sys::PG_DIAG_CONSTRAINT_NAME, &location.constraint),
        ];
        for (field, name) in fields {
            if let Some(name) = name {
                err_generic_string(field as c_int, text(name).as_ptr());
            }
        }
    }
}
