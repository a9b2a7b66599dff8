//! The rows of a local query, straight to a heap.

use super::writer::{Manner, Writer};
use crate::backend::compat::unguarded;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use pgrx::spi::Spi;
use std::ffi::CString;
use std::os::raw::c_int;

/// Writes the rows that a query returns, whose columns are those of the table, in their order.
pub fn write_query(table: pg_sys::Oid, query: &str) -> Result<u64> {
    let query = CString::new(query).map_err(|_| Error::Internal("a NUL byte in a query".to_string()))?;
    // SAFETY: the relation is locked by this transaction, and stays open while the query runs; SPI is connected.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        let writer = Writer::begin(relation, Manner::Frozen);
        let mut receiver = Receiver {
            functions: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(start_up),
                rShutdown: Some(shut_down),
                rDestroy: Some(shut_down),
                mydest: pg_sys::CommandDest::DestTransientRel,
            },
            writer,
            same_types: false,
        };
        let to = &raw mut receiver;
        let ended = Spi::connect_mut(|_| {
            let options =
                pg_sys::SPIExecuteOptions { dest: &raw mut (*to).functions, ..pg_sys::SPIExecuteOptions::default() };
            pg_sys::SPI_execute_extended(query.as_ptr(), &options)
        });
        if ended != pg_sys::SPI_OK_SELECT as c_int || !receiver.same_types {
            return Err(Error::Internal(format!("a query that should fill a table ended with {ended}")));
        }
        pg_sys::ffi::pg_guard_ffi_boundary(|| (*to).writer.flush(true));
        let written = receiver.writer.end().rows;
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        Ok(written)
    }
}

/// Where the executor sends the rows of a query.
#[repr(C)]
struct Receiver {
    /// The first field: PostgreSQL knows the receiver by a pointer to it.
    functions: pg_sys::DestReceiver,
    writer: Writer,
    /// The query's columns have the types of the table's.
    same_types: bool,
}

/// Adds a row. The executor calls it without a guard, so nothing in it may own anything or panic.
///
/// # Safety
/// The executor calls it, with a receiver that `write_query` has made.
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, to: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: as the caller has promised.
    unsafe {
        if !(*to.cast::<Receiver>()).same_types {
            return false;
        }
        let writer = &mut (*to.cast::<Receiver>()).writer;
        let descriptor = (*writer.relation).rd_att;
        let context = pg_sys::CurrentMemoryContext;
        writer.next_row();
        let wanted = (*(*slot).tts_tupleDescriptor).natts;
        if i32::from((*slot).tts_nvalid) < wanted {
            unguarded::slot_getsomeattrs_int(slot, wanted);
        }
        let mut from = 0;
        for ordinal in 0..(*descriptor).natts as usize {
            if *writer.dropped.add(ordinal) {
                (*writer.row).tts_isnull.add(ordinal).write(true);
                continue;
            }
            (*writer.row).tts_values.add(ordinal).write((*slot).tts_values.add(from).read());
            (*writer.row).tts_isnull.add(ordinal).write((*slot).tts_isnull.add(from).read());
            from += 1;
        }
        writer.add_row();
        pg_sys::CurrentMemoryContext = context;
        true
    }
}

/// # Safety
/// The executor calls it, with a receiver that `write_query` has made.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn start_up(to: *mut pg_sys::DestReceiver, _operation: c_int, descriptor: pg_sys::TupleDesc) {
    // SAFETY: as the caller has promised.
    unsafe {
        let to = &mut *to.cast::<Receiver>();
        to.same_types = has_types_of(descriptor, to.writer.relation);
    }
}

/// # Safety
/// The executor calls it.
unsafe extern "C-unwind" fn shut_down(_: *mut pg_sys::DestReceiver) {}

/// # Safety
/// The relation is open.
unsafe fn has_types_of(descriptor: pg_sys::TupleDesc, relation: pg_sys::Relation) -> bool {
    // SAFETY: as the caller has promised.
    unsafe {
        let given = pgrx::PgTupleDesc::from_pg_copy(descriptor);
        let wanted = pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att);
        given.iter().map(|a| a.atttypid).eq(wanted.iter().filter(|a| !a.attisdropped).map(|a| a.atttypid))
    }
}
