//! The rows of a stream of COPY data, straight to a heap.

use super::index_builders;
use super::writer::{Manner, Writer, Written};
use crate::backend::compat::unguarded;
use crate::destination::binary::{Decoder, Next};
use crate::destination::stream::{self, Reader};
use crate::error::Result;
use pgrx::pg_sys;
use std::os::raw::c_int;

/// Bytes of the stream that are decoded at a time, about; a larger field makes the buffer grow.
const CHUNK: usize = 256 * 1024;

/// A row comes in a message of less than 1 GB.
const LARGEST_ROW: usize = 1 << 30;

/// Writes the rows that COPY's parser finds.
///
/// # Safety
/// The relation is open and locked, and `copy` reads into it.
pub unsafe fn write_parsed(relation: pg_sys::Relation, copy: pg_sys::CopyFromState) -> Written {
    // SAFETY: as the caller has promised.
    unsafe {
        let mut writer = Writer::begin(relation, Manner::Frozen);
        let w = &raw mut writer;
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            let w = &mut *w;
            w.next_row();
            while unguarded::NextCopyFrom(copy, w.expression, (*w.row).tts_values, (*w.row).tts_isnull) {
                w.add_row();
                w.next_row();
            }
            w.flush(true);
        });
        writer.end()
    }
}

/// Writes the rows of a stream in COPY's binary format.
///
/// The stream is read outside of the guard, for reading may raise Rust's own errors; what has come is decoded and
/// written inside.
///
/// # Safety
/// The relation is open and locked.
pub unsafe fn write_binary(
    relation: pg_sys::Relation,
    manner: Manner,
    mut decoder: Decoder,
    reader: &mut Reader<'_>,
) -> Result<Written> {
    // SAFETY: as the caller has promised.
    unsafe {
        show_progress(relation);
        let mut writer = Writer::begin(relation, manner);
        let (w, d) = (&raw mut writer, &raw mut decoder);
        let mut may_have_builders = manner == Manner::Frozen;
        stream::decode(reader, CHUNK, LARGEST_ROW, |data, came| {
            let decoded = pg_sys::ffi::pg_guard_ffi_boundary(|| write_rows(&mut *w, &mut *d, data));
            pg_sys::pgstat_progress_update_param(pg_sys::PROGRESS_COPY_BYTES_PROCESSED as c_int, came as i64);
            if may_have_builders && (*w).written_bytes >= index_builders::WORTH_IT {
                may_have_builders = false;
                (*w).start_builders();
            }
            decoded
        })?;
        let w = &raw mut writer;
        pg_sys::ffi::pg_guard_ffi_boundary(|| (*w).flush(true));
        pg_sys::pgstat_progress_end_command();
        Ok(writer.end())
    }
}

/// Shows the load in pg_stat_progress_copy, as COPY itself does.
///
/// # Safety
/// The relation is open.
unsafe fn show_progress(relation: pg_sys::Relation) {
    // SAFETY: as the caller has promised.
    unsafe {
        pg_sys::pgstat_progress_start_command(pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY, (*relation).rd_id);
        for (index, value) in [
            (pg_sys::PROGRESS_COPY_COMMAND, pg_sys::PROGRESS_COPY_COMMAND_FROM),
            (pg_sys::PROGRESS_COPY_TYPE, pg_sys::PROGRESS_COPY_TYPE_CALLBACK),
        ] {
            pg_sys::pgstat_progress_update_param(index as c_int, i64::from(value));
        }
    }
}

/// Decodes and adds the rows that are complete in `data`; what stopped it, and the bytes that are done with. Nothing here
/// may own anything or panic.
///
/// # Safety
/// Without a guard: see `compat::unguarded`.
unsafe fn write_rows(w: &mut Writer, decoder: &mut Decoder, data: &[u8]) -> (Next, usize) {
    // SAFETY: as the caller has promised.
    unsafe {
        let mut at = 0;
        loop {
            w.next_row();
            let next = decoder.row(data, &mut at, (*w.row).tts_values, (*w.row).tts_isnull);
            if !matches!(next, Next::Row) {
                pg_sys::CurrentMemoryContext = w.outer;
                return (next, at);
            }
            w.add_row();
        }
    }
}
