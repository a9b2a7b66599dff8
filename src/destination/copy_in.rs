//! Rows into a local table, out of a stream of COPY data.
//!
//! COPY's own parser (BeginCopyFrom, NextCopyFrom) reads the stream through a callback. Into a plain table that
//! nobody reads, the rows are written straight to the heap: frozen, so that they are visible to every snapshot as
//! soon as the view shows them, and without indexes, which are built afterwards. Any other table gets them through
//! CopyFrom, with its triggers, partitions and indexes.

use crate::backend::interrupts;
use crate::error::{Error, Result};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{pg_guard, pg_sys, PgLogLevel};
use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::raw::{c_int, c_void};

/// Where the stream comes from: fills the buffer with at least so many bytes, or fewer at the end.
pub type Reader<'a> = dyn FnMut(&mut [u8], usize) -> Result<usize> + 'a;

/// Rows collected before they are written, at most.
const BATCH_ROWS: usize = 1000;
/// Bytes of rows collected before they are written, about.
const BATCH_BYTES: usize = 256 * 1024;

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

/// Loads the stream into these columns of a table that this subtransaction has emptied, and that nobody reads before
/// it ends. The rest of the columns get their defaults. Returns the number of rows.
pub fn load_emptied(oid: pg_sys::Oid, columns: &[String], binary: bool, reader: &mut Reader<'_>) -> Result<u64> {
    let _registered = Registered::new(reader);
    // SAFETY: the calls follow what COPY FROM itself does, on a relation that stays open and locked; an error
    // unwinds to the end of the (sub)transaction, which closes all of it.
    unsafe {
        let relation = pg_sys::table_open(oid, pg_sys::RowExclusiveLock as i32);
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
            column_list(columns)?,
            options(binary)?,
        );
        let rows = if takes_frozen_rows(relation) {
            write_frozen(relation, copy)
        } else {
            pg_sys::CopyFrom(copy)
        };
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(parse_state);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Ok(rows)
    }
}

/// A plain heap without triggers and without generated columns: nothing but the rows has to happen.
unsafe fn takes_frozen_rows(relation: pg_sys::Relation) -> bool {
    let descriptor = (*relation).rd_att;
    let constraints = (*descriptor).constr;
    (*(*relation).rd_rel).relkind == pg_sys::RELKIND_RELATION as std::os::raw::c_char
        && (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine()
        && (*relation).trigdesc.is_null()
        && (constraints.is_null() || !(*constraints).has_generated_stored)
}

/// Reads rows until the stream ends, and writes them in batches.
///
/// 1. NextCopyFrom fills a virtual slot, and constraints (NOT NULL, CHECK) are checked on it.
/// 2. The row becomes a tuple in the batch's memory.
/// 3. A full batch goes to the heap in one call, and its memory is reset: it does not grow with the table.
unsafe fn write_frozen(relation: pg_sys::Relation, copy: pg_sys::CopyFromState) -> u64 {
    let descriptor = (*relation).rd_att;
    let command = pg_sys::GetCurrentCommandId(true);
    let flags = (pg_sys::HEAP_INSERT_FROZEN | pg_sys::HEAP_INSERT_SKIP_FSM) as c_int;
    let bulk = pg_sys::GetBulkInsertState();
    let executor = pg_sys::CreateExecutorState();
    let expression = pg_sys::MakePerTupleExprContext(executor);
    let row_memory = (*expression).ecxt_per_tuple_memory;
    let batch_memory = pg_sys::AllocSetContextCreateInternal(
        pg_sys::CurrentMemoryContext,
        c"mimeo batch".as_ptr(),
        0,
        8 * 1024,
        8 * 1024 * 1024,
    );
    let result = pg_sys::palloc0(std::mem::size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
    (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
    pg_sys::InitResultRelInfo(result, relation, 0, std::ptr::null_mut(), 0);
    let constrained = !(*descriptor).constr.is_null();

    let row = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
    let mut batch: Vec<*mut pg_sys::TupleTableSlot> = (0..BATCH_ROWS)
        .map(|_| pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple))
        .collect();
    let mut collected = 0;
    let mut collected_bytes = 0;
    let mut written = 0u64;
    loop {
        pg_sys::MemoryContextReset(row_memory);
        let outer = pg_sys::MemoryContextSwitchTo(row_memory);
        let more = pg_sys::NextCopyFrom(copy, expression, (*row).tts_values, (*row).tts_isnull);
        if more {
            if constrained {
                pg_sys::ExecStoreVirtualTuple(row);
                pg_sys::ExecConstraints(result, row, executor);
            }
            pg_sys::MemoryContextSwitchTo(batch_memory);
            let tuple = pg_sys::heap_form_tuple(descriptor, (*row).tts_values, (*row).tts_isnull);
            (*tuple).t_tableOid = (*relation).rd_id;
            pg_sys::ExecStoreHeapTuple(tuple, batch[collected], false);
            collected += 1;
            collected_bytes += (*tuple).t_len as usize;
            if constrained {
                // Emptied, so that the next row can be stored.
                (*row).tts_flags |= pg_sys::TTS_FLAG_EMPTY as u16;
                (*row).tts_nvalid = 0;
            }
        }
        if collected > 0 && (!more || collected == BATCH_ROWS || collected_bytes >= BATCH_BYTES) {
            pg_sys::MemoryContextSwitchTo(batch_memory);
            pg_sys::heap_multi_insert(relation, batch.as_mut_ptr(), collected as c_int, command, flags, bulk);
            for &slot in &batch[..collected] {
                pg_sys::ExecClearTuple(slot);
            }
            written += collected as u64;
            (collected, collected_bytes) = (0, 0);
            pg_sys::MemoryContextReset(batch_memory);
            pg_sys::pgstat_progress_update_param(pg_sys::PROGRESS_COPY_TUPLES_PROCESSED as c_int, written as i64);
            interrupts::check();
        }
        pg_sys::MemoryContextSwitchTo(outer);
        if !more {
            break;
        }
    }

    for slot in batch {
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
    pg_sys::ExecDropSingleTupleTableSlot(row);
    pg_sys::FreeBulkInsertState(bulk);
    pg_sys::FreeExecutorState(executor);
    pg_sys::MemoryContextDelete(batch_memory);
    written
}

unsafe fn column_list(columns: &[String]) -> Result<*mut pg_sys::List> {
    let mut list = std::ptr::null_mut();
    for column in columns {
        list = pg_sys::lappend(list, string_node(column)?.cast());
    }
    Ok(list)
}

/// The format, and the encoding: what arrives is in this database's encoding already.
unsafe fn options(binary: bool) -> Result<*mut pg_sys::List> {
    let encoding = CStr::from_ptr(pg_sys::GetDatabaseEncodingName()).to_string_lossy().to_string();
    let mut list = std::ptr::null_mut();
    for (option, value) in [("format", if binary { "binary" } else { "text" }), ("encoding", encoding.as_str())] {
        let option = CString::new(option).unwrap_or_default();
        let element = pg_sys::makeDefElem(pg_sys::pstrdup(option.as_ptr()), string_node(value)?.cast(), -1);
        list = pg_sys::lappend(list, element.cast());
    }
    Ok(list)
}

unsafe fn string_node(text: &str) -> Result<*mut pg_sys::Node> {
    let text = CString::new(text).map_err(|_| Error::InvalidName(text.to_string()))?;
    Ok(pg_sys::makeString(pg_sys::pstrdup(text.as_ptr())).cast())
}
