//! Rows into a local table, out of a stream of COPY data.
//!
//! Into a plain table the rows are written straight to the heap (`heap`). Any other table gets them through COPY itself
//! (BeginCopyFrom, CopyFrom), which reads the stream through a callback, with its triggers and partitions.

use crate::backend::interrupts;
use crate::destination::binary::Decoder;
use crate::destination::heap::{self, Indexing, Manner, Written};
use crate::destination::stream::Reader;
use crate::error::{Error, Result};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_guard, pg_sys, PgLogLevel};
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::raw::{c_int, c_void};

thread_local! {
    /// COPY's callback has no argument of its own. A stack, for a trigger may start another load.
    static READERS: RefCell<Vec<*mut Reader<'static>>> = const { RefCell::new(Vec::new()) };
}

struct Registered;

impl Registered {
    fn new(reader: &mut Reader<'_>) -> Registered {
        // SAFETY: only the lifetime changes; Drop takes the pointer off before the borrow ends.
        let reader = unsafe { std::mem::transmute::<*mut Reader<'_>, *mut Reader<'static>>(reader) };
        READERS.with_borrow_mut(|readers| readers.push(reader));
        Registered
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        READERS.with_borrow_mut(|readers| readers.pop());
    }
}

/// # Safety
/// COPY calls it, with a buffer of at_most bytes.
#[pg_guard]
unsafe extern "C-unwind" fn read_stream(buffer: *mut c_void, at_least: c_int, at_most: c_int) -> c_int {
    interrupts::check();
    let reader = READERS.with_borrow(|readers| readers.last().copied());
    // SAFETY: COPY gives a buffer of at_most bytes; the reader is registered while COPY runs.
    let outcome = unsafe {
        let buffer = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), at_most as usize);
        reader.map(|reader| (*reader)(buffer, at_least as usize))
    };
    match outcome {
        Some(Ok(filled)) => filled as c_int,
        Some(Err(error)) => {
            ErrorReport::from(error).report(PgLogLevel::ERROR);
            0
        }
        None => 0,
    }
}

/// Where rows go.
pub struct Target<'a> {
    pub oid: pg_sys::Oid,
    /// The columns of the stream; the others get their defaults.
    pub columns: &'a [String],
    pub binary: bool,
    /// This subtransaction has emptied or made the table, and nobody reads it before it ends.
    pub emptied: bool,
}

/// Whether the binary format can be read in this session: receive functions take text to be in the client's encoding.
pub fn reads_binary() -> bool {
    // SAFETY: reads two variables.
    unsafe { pg_sys::pg_get_client_encoding() == pg_sys::GetDatabaseEncoding() }
}

/// What a load did.
pub struct Loaded {
    pub rows: u64,
    /// Whether no trigger can have changed the number of rows.
    pub exact: bool,
    pub indexing: Indexing,
}

/// Loads the stream into a table.
pub fn load(target: &Target<'_>, reader: &mut Reader<'_>) -> Result<Loaded> {
    // SAFETY: opens and locks the relation, which stays open and locked; an error unwinds to the end of the
    // (sub)transaction, which closes it.
    unsafe {
        let relation = pg_sys::table_open(target.oid, pg_sys::RowExclusiveLock as i32);
        let exact = (*relation).trigdesc.is_null();
        let manner = if target.emptied { Manner::Frozen } else { Manner::Ordinary };
        let straight = heap::takes(relation, manner);
        let decoder = if straight && target.binary { Decoder::of(relation, target.columns) } else { None };
        let Written { rows, indexing } = match decoder {
            Some(decoder) => heap::write_binary(relation, manner, decoder, reader)?,
            None => copy_from(relation, target, straight && target.emptied, reader)?,
        };
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Ok(Loaded { rows, exact, indexing })
    }
}

/// By COPY's own parser, and into the table by COPY itself, or straight to the heap.
///
/// # Safety
/// The relation is open and locked.
unsafe fn copy_from(
    relation: pg_sys::Relation,
    target: &Target<'_>,
    frozen: bool,
    reader: &mut Reader<'_>,
) -> Result<Written> {
    // SAFETY: as the caller has promised.
    unsafe {
        let _registered = Registered::new(reader);
        let parse_state = pg_sys::make_parsestate(std::ptr::null_mut());
        pg_sys::addRangeTableEntryForRelation(
            parse_state,
            relation,
            pg_sys::RowExclusiveLock as i32,
            std::ptr::null_mut(),
            false,
            false,
        );
        let copy = pg_sys::BeginCopyFrom(
            parse_state,
            relation,
            std::ptr::null_mut(),
            std::ptr::null(),
            false,
            Some(read_stream),
            column_list(target.columns)?,
            options(target.binary)?,
        );
        let written = if frozen {
            heap::write_parsed(relation, copy)
        } else {
            Written { rows: pg_sys::CopyFrom(copy), indexing: Indexing::Done }
        };
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(parse_state);
        Ok(written)
    }
}

fn column_list(columns: &[String]) -> Result<*mut pg_sys::List> {
    // SAFETY: makes nodes in the current memory context.
    unsafe {
        let mut list = std::ptr::null_mut();
        for column in columns {
            list = pg_sys::lappend(list, string_node(column)?.cast());
        }
        Ok(list)
    }
}

/// The format, and the encoding: what arrives is in this database's encoding already.
fn options(binary: bool) -> Result<*mut pg_sys::List> {
    // SAFETY: makes nodes in the current memory context.
    unsafe {
        let encoding = CStr::from_ptr(pg_sys::GetDatabaseEncodingName()).to_string_lossy().to_string();
        let mut list = std::ptr::null_mut();
        for (option, value) in [("format", if binary { "binary" } else { "text" }), ("encoding", encoding.as_str())] {
            let option = CString::new(option).unwrap_or_default();
            let element = pg_sys::makeDefElem(pg_sys::pstrdup(option.as_ptr()), string_node(value)?.cast(), -1);
            list = pg_sys::lappend(list, element.cast());
        }
        Ok(list)
    }
}

fn string_node(text: &str) -> Result<*mut pg_sys::Node> {
    // SAFETY: makes a node in the current memory context; the text ends with NUL.
    unsafe {
        let text = CString::new(text).map_err(|_| Error::InvalidName(text.to_string()))?;
        Ok(pg_sys::makeString(pg_sys::pstrdup(text.as_ptr())).cast())
    }
}
