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

/// Where rows go.
pub struct Target<'a> {
    pub oid: pg_sys::Oid,
    /// The columns of the stream; the others get their defaults.
    pub columns: &'a [String],
    pub binary: bool,
    /// This subtransaction has emptied or made the table, and nobody reads it before it ends.
    pub emptied: bool,
}

/// What a load did.
pub struct Loaded {
    pub rows: u64,
    /// No trigger can have changed the number of rows.
    pub exact: bool,
}

/// Loads the stream into a table.
pub fn load(target: &Target<'_>, reader: &mut Reader<'_>) -> Result<Loaded> {
    let oid = target.oid;
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
            column_list(target.columns)?,
            options(target.binary)?,
        );
        let exact = (*relation).trigdesc.is_null();
        let rows = if target.emptied && takes_frozen_rows(relation) {
            write_frozen(relation, copy)
        } else {
            pg_sys::CopyFrom(copy)
        };
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(parse_state);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Ok(Loaded { rows, exact })
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

/// PostgreSQL's functions for the innermost loop, without a guard around each call: one guard is around the loop.
mod unguarded {
    use pgrx::pg_sys::{
        BulkInsertState, CommandId, CopyFromState, Datum, EState, ExprContext, HeapTuple, MemoryContext, Relation,
        ResultRelInfo, TupleDesc, TupleTableSlot, TupleTableSlotOps,
    };
    use std::os::raw::c_int;

    unsafe extern "C-unwind" {
        pub fn NextCopyFrom(
            copy: CopyFromState,
            expression: *mut ExprContext,
            values: *mut Datum,
            nulls: *mut bool,
        ) -> bool;
        pub fn ExecStoreVirtualTuple(slot: *mut TupleTableSlot) -> *mut TupleTableSlot;
        pub fn ExecConstraints(result: *mut ResultRelInfo, slot: *mut TupleTableSlot, executor: *mut EState);
        pub fn heap_form_tuple(descriptor: TupleDesc, values: *mut Datum, nulls: *mut bool) -> HeapTuple;
        pub fn ExecStoreHeapTuple(
            tuple: HeapTuple,
            slot: *mut TupleTableSlot,
            should_free: bool,
        ) -> *mut TupleTableSlot;
        pub fn MakeSingleTupleTableSlot(
            descriptor: TupleDesc,
            operations: *const TupleTableSlotOps,
        ) -> *mut TupleTableSlot;
        pub fn heap_multi_insert(
            relation: Relation,
            slots: *mut *mut TupleTableSlot,
            count: c_int,
            command: CommandId,
            options: c_int,
            bulk: BulkInsertState,
        );
        pub fn MemoryContextReset(context: MemoryContext);
        pub fn pgstat_progress_update_param(index: c_int, value: i64);
        pub fn ProcessInterrupts();
    }
}

/// What the loop works with. Nothing in it has a destructor that would have to run on an error: the memory contexts
/// and the executor end with the (sub)transaction.
struct Writer {
    relation: pg_sys::Relation,
    copy: pg_sys::CopyFromState,
    command: pg_sys::CommandId,
    bulk: pg_sys::BulkInsertState,
    executor: *mut pg_sys::EState,
    expression: *mut pg_sys::ExprContext,
    result: *mut pg_sys::ResultRelInfo,
    /// Where NextCopyFrom puts a row.
    row: *mut pg_sys::TupleTableSlot,
    /// The rows of a batch; made as they are needed.
    batch: *mut *mut pg_sys::TupleTableSlot,
    made: usize,
    batch_memory: pg_sys::MemoryContext,
    written: u64,
}

/// Reads rows until the stream ends, and writes them in batches.
unsafe fn write_frozen(relation: pg_sys::Relation, copy: pg_sys::CopyFromState) -> u64 {
    let descriptor = (*relation).rd_att;
    let executor = pg_sys::CreateExecutorState();
    let result = pg_sys::palloc0(std::mem::size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
    (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
    pg_sys::InitResultRelInfo(result, relation, 0, std::ptr::null_mut(), 0);
    let mut writer = Writer {
        relation,
        copy,
        command: pg_sys::GetCurrentCommandId(true),
        bulk: pg_sys::GetBulkInsertState(),
        executor,
        expression: pg_sys::MakePerTupleExprContext(executor),
        result,
        row: pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual),
        batch: pg_sys::palloc0(BATCH_ROWS * std::mem::size_of::<*mut pg_sys::TupleTableSlot>()).cast(),
        made: 0,
        batch_memory: pg_sys::AllocSetContextCreateInternal(
            pg_sys::CurrentMemoryContext,
            c"mimeo batch".as_ptr(),
            0,
            8 * 1024,
            8 * 1024 * 1024,
        ),
        written: 0,
    };
    let state = &raw mut writer;
    pg_sys::ffi::pg_guard_ffi_boundary(|| write_batches(&mut *state));

    for slot in 0..writer.made {
        pg_sys::ExecDropSingleTupleTableSlot(*writer.batch.add(slot));
    }
    pg_sys::ExecDropSingleTupleTableSlot(writer.row);
    pg_sys::FreeBulkInsertState(writer.bulk);
    pg_sys::FreeExecutorState(executor);
    pg_sys::MemoryContextDelete(writer.batch_memory);
    writer.written
}

/// The loop. It calls PostgreSQL without guards, so nothing in it may own anything or panic.
///
/// 1. NextCopyFrom fills a virtual slot, and constraints (NOT NULL, CHECK) are checked on it.
/// 2. The row becomes a tuple in the batch's memory.
/// 3. A full batch goes to the heap in one call, and its memory is reset: it does not grow with the table.
unsafe fn write_batches(w: &mut Writer) {
    let flags = (pg_sys::HEAP_INSERT_FROZEN | pg_sys::HEAP_INSERT_SKIP_FSM) as c_int;
    let descriptor = (*w.relation).rd_att;
    let constrained = !(*descriptor).constr.is_null();
    let row_memory = (*w.expression).ecxt_per_tuple_memory;
    let outer = pg_sys::CurrentMemoryContext;
    let mut collected = 0;
    let mut collected_bytes = 0;
    loop {
        unguarded::MemoryContextReset(row_memory);
        pg_sys::CurrentMemoryContext = row_memory;
        let more = unguarded::NextCopyFrom(w.copy, w.expression, (*w.row).tts_values, (*w.row).tts_isnull);
        if more {
            if constrained {
                unguarded::ExecStoreVirtualTuple(w.row);
                unguarded::ExecConstraints(w.result, w.row, w.executor);
                // Emptied, so that the next row can be stored.
                (*w.row).tts_flags |= pg_sys::TTS_FLAG_EMPTY as u16;
                (*w.row).tts_nvalid = 0;
            }
            if collected == w.made {
                pg_sys::CurrentMemoryContext = outer;
                let slot = unguarded::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple);
                w.batch.add(collected).write(slot);
                w.made += 1;
            }
            pg_sys::CurrentMemoryContext = w.batch_memory;
            let tuple = unguarded::heap_form_tuple(descriptor, (*w.row).tts_values, (*w.row).tts_isnull);
            (*tuple).t_tableOid = (*w.relation).rd_id;
            unguarded::ExecStoreHeapTuple(tuple, *w.batch.add(collected), false);
            collected += 1;
            collected_bytes += (*tuple).t_len as usize;
        }
        if collected > 0 && (!more || collected == BATCH_ROWS || collected_bytes >= BATCH_BYTES) {
            pg_sys::CurrentMemoryContext = w.batch_memory;
            unguarded::heap_multi_insert(w.relation, w.batch, collected as c_int, w.command, flags, w.bulk);
            w.written += collected as u64;
            (collected, collected_bytes) = (0, 0);
            unguarded::MemoryContextReset(w.batch_memory);
            unguarded::pgstat_progress_update_param(pg_sys::PROGRESS_COPY_TUPLES_PROCESSED as c_int, w.written as i64);
            if pg_sys::InterruptPending != 0 {
                unguarded::ProcessInterrupts();
            }
        }
        if !more {
            pg_sys::CurrentMemoryContext = outer;
            return;
        }
    }
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
