//! Rows that are collected, and written to a heap in batches.

use super::index_builders::{self, IndexBuilders};
use crate::backend::compat::{self, unguarded};
use crate::destination::sorted::SortedIndexes;
use pgrx::pg_sys;
use std::os::raw::c_int;

/// Rows collected before they are written, at most.
const BATCH_ROWS: usize = 1000;

/// Bytes of rows collected before they are written, about.
const BATCH_BYTES: usize = 256 * 1024;

/// How rows get into a heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// This subtransaction has emptied or made it, and nobody reads it.
    Frozen,
    Ordinary,
}

/// What was written.
pub struct Written {
    pub rows: u64,
    pub indexing: Indexing,
}

/// How far the indexes of a table are whose rows are written.
#[must_use]
pub enum Indexing {
    Done,
    /// They have to be built anew.
    Missing,
    /// Workers are at it, and this transaction is in parallel mode until `finish`.
    Behind(IndexBuilders),
}

/// Which indexes of a table have its rows; the others have to be built anew.
pub enum Indexed {
    All,
    Only(Vec<pg_sys::Oid>),
}

impl Indexing {
    /// Waits for the workers.
    pub fn finish(self) -> Indexed {
        match self {
            Indexing::Done => Indexed::All,
            Indexing::Missing => Indexed::Only(Vec::new()),
            // SAFETY: the transaction that has started them, and locked the table.
            Indexing::Behind(builders) => Indexed::Only(unsafe { builders.finish() }),
        }
    }
}

/// How the indexes of a table get the rows that are written.
enum Indexes {
    /// With each batch; if there are more than one, those that can be are sorted first.
    WithRows(Option<SortedIndexes>),
    /// When all rows are there. If these are a single batch, and no constraint is deferrable, with them: for so few that costs less.
    Afterwards { immediate: bool },
    /// The single batch is in them.
    Filled,
    /// By workers, while the rows come.
    Behind(IndexBuilders),
}

/// The state of the loops. Nothing in it has a destructor that would have to run on an error: the memory contexts
/// and the executor end with the (sub)transaction.
pub(super) struct Writer {
    pub relation: pg_sys::Relation,
    manner: Manner,
    command: pg_sys::CommandId,
    /// Null at first: pages stay in shared buffers, where the index builds and the first readers find them. A table that
    /// would take more than half of them goes through a small ring of buffers from there on.
    bulk: pg_sys::BulkInsertState,
    pub written_bytes: usize,
    executor: *mut pg_sys::EState,
    pub expression: *mut pg_sys::ExprContext,
    result: *mut pg_sys::ResultRelInfo,
    constrained: bool,
    indexes: Indexes,
    /// One for each attribute.
    pub dropped: *const bool,
    /// Where a row is put before it is added.
    pub row: *mut pg_sys::TupleTableSlot,
    /// The slots of a batch; made as they are needed, with a descriptor that is not reference-counted: PostgreSQL would search
    /// a thousand references to the same one whenever it takes one more, and a unique index does that for each row.
    batch_descriptor: pg_sys::TupleDesc,
    batch: *mut *mut pg_sys::TupleTableSlot,
    made: usize,
    collected: usize,
    collected_bytes: usize,
    batch_memory: pg_sys::MemoryContext,
    pub outer: pg_sys::MemoryContext,
    written: u64,
}

/// One for each attribute.
///
/// # Safety
/// The relation is open.
unsafe fn dropped_attributes(relation: pg_sys::Relation) -> *const bool {
    // SAFETY: as the caller has promised.
    unsafe {
        let descriptor = pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att);
        let flags = pg_sys::palloc0(descriptor.len() + 1).cast::<bool>();
        for (ordinal, attribute) in descriptor.iter().enumerate() {
            flags.add(ordinal).write(attribute.attisdropped);
        }
        flags
    }
}

impl Writer {
    /// # Safety
    /// The relation is open and locked until `end`, and what is allocated lives as long.
    pub unsafe fn begin(relation: pg_sys::Relation, manner: Manner) -> Writer {
        // SAFETY: as the caller has promised.
        unsafe {
            let descriptor = (*relation).rd_att;
            let dropped = dropped_attributes(relation);
            let executor = pg_sys::CreateExecutorState();
            let result = pg_sys::palloc0(std::mem::size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(result, relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(result, false);
            let indexes = (*result).ri_NumIndices as usize;
            let immediate =
                (0..indexes).all(|index| (*(*(*(*result).ri_IndexRelationDescs.add(index))).rd_index).indimmediate);
            Writer {
                relation,
                manner,
                command: pg_sys::GetCurrentCommandId(true),
                bulk: std::ptr::null_mut(),
                written_bytes: 0,
                executor,
                expression: pg_sys::MakePerTupleExprContext(executor),
                result,
                constrained: !(*descriptor).constr.is_null(),
                indexes: match manner {
                    Manner::Ordinary => Indexes::WithRows(None),
                    Manner::Frozen => Indexes::Afterwards { immediate },
                },
                dropped,
                row: pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual),
                batch_descriptor: pg_sys::CreateTupleDescCopy(descriptor),
                batch: pg_sys::palloc0(BATCH_ROWS * std::mem::size_of::<*mut pg_sys::TupleTableSlot>()).cast(),
                made: 0,
                collected: 0,
                collected_bytes: 0,
                batch_memory: pg_sys::AllocSetContextCreateInternal(
                    pg_sys::CurrentMemoryContext,
                    c"mimeo batch".as_ptr(),
                    0,
                    8 * 1024,
                    8 * 1024 * 1024,
                ),
                outer: pg_sys::CurrentMemoryContext,
                written: 0,
            }
        }
    }

    /// Makes room for the values of another row, in memory that lasts until the next one.
    ///
    /// # Safety
    /// Without a guard: see `compat::unguarded`.
    pub unsafe fn next_row(&mut self) {
        // SAFETY: as the caller has promised.
        unsafe {
            let memory = (*self.expression).ecxt_per_tuple_memory;
            unguarded::MemoryContextReset(memory);
            pg_sys::CurrentMemoryContext = memory;
        }
    }

    /// Checks constraints on the row, and adds it to the batch as a tuple. A full batch is written.
    ///
    /// # Safety
    /// The values of `row` are set. Without a guard: see `compat::unguarded`.
    pub unsafe fn add_row(&mut self) {
        // SAFETY: as the caller has promised.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            if self.constrained {
                unguarded::ExecStoreVirtualTuple(self.row);
                unguarded::ExecConstraints(self.result, self.row, self.executor);
                // Emptied, so that the next row can be stored.
                (*self.row).tts_flags |= pg_sys::TTS_FLAG_EMPTY as u16;
                (*self.row).tts_nvalid = 0;
            }
            if self.collected == self.made {
                pg_sys::CurrentMemoryContext = self.outer;
                let slot =
                    unguarded::MakeSingleTupleTableSlot(self.batch_descriptor, &raw const pg_sys::TTSOpsHeapTuple);
                self.batch.add(self.collected).write(slot);
                self.made += 1;
            }
            pg_sys::CurrentMemoryContext = self.batch_memory;
            let tuple = unguarded::heap_form_tuple(descriptor, (*self.row).tts_values, (*self.row).tts_isnull);
            (*tuple).t_tableOid = (*self.relation).rd_id;
            unguarded::ExecStoreHeapTuple(tuple, *self.batch.add(self.collected), false);
            self.collected += 1;
            self.collected_bytes += (*tuple).t_len as usize;
            if self.collected == BATCH_ROWS || self.collected_bytes >= BATCH_BYTES {
                self.flush(false);
            }
        }
    }

    /// Writes the batch to the heap in one call, and resets its memory: it does not grow with the table. A load that is one
    /// single batch puts its rows into the indexes too: for so few that costs less than building them anew.
    ///
    /// # Safety
    /// Without a guard: see `compat::unguarded`.
    pub unsafe fn flush(&mut self, last: bool) {
        // SAFETY: as the caller has promised.
        unsafe {
            if self.collected > 0 {
                let flags = match self.manner {
                    Manner::Frozen => unguarded::INSERT_FROZEN,
                    Manner::Ordinary => 0,
                };
                pg_sys::CurrentMemoryContext = self.batch_memory;
                let count = self.collected as c_int;
                unguarded::heap_multi_insert(self.relation, self.batch, count, self.command, flags, self.bulk);
                // The WAL writer writes complete pages meanwhile; otherwise this backend would have to, once the WAL buffers are full.
                unguarded::XLogSetAsyncXactLSN(pg_sys::XactLastRecEnd);
                match &mut self.indexes {
                    Indexes::WithRows(_) => self.index_batch(!last || self.written > 0),
                    Indexes::Afterwards { immediate: true } if last && self.written == 0 => {
                        self.index_batch(false);
                        self.indexes = Indexes::Filled;
                    }
                    Indexes::Behind(builders) => {
                        let tid = |row: usize| (**self.batch.add(row)).tts_tid;
                        builders.rows_went(tid(0), tid(self.collected - 1));
                    }
                    Indexes::Afterwards { .. } | Indexes::Filled => {}
                }
                self.written += self.collected as u64;
                self.written_bytes += self.collected_bytes;
                if self.bulk.is_null() && self.written_bytes / pg_sys::BLCKSZ as usize > pg_sys::NBuffers as usize / 2 {
                    pg_sys::CurrentMemoryContext = self.outer;
                    self.bulk = unguarded::GetBulkInsertState();
                }
                // A slot may hold a copy of its row in memory of its own.
                for row in 0..self.collected {
                    let slot = *self.batch.add(row);
                    if let Some(clear) = (*(*slot).tts_ops).clear {
                        clear(slot);
                    }
                }
                self.collected = 0;
                self.collected_bytes = 0;
                unguarded::MemoryContextReset(self.batch_memory);
                let progress = pg_sys::PROGRESS_COPY_TUPLES_PROCESSED as c_int;
                unguarded::pgstat_progress_update_param(progress, self.written as i64);
                if pg_sys::InterruptPending != 0 {
                    unguarded::ProcessInterrupts();
                }
            }
            pg_sys::CurrentMemoryContext = self.outer;
            if let Indexes::WithRows(Some(sorted)) = &mut self.indexes {
                if last || sorted.is_full() {
                    sorted.insert((*self.expression).ecxt_per_tuple_memory);
                }
            }
        }
    }

    /// Inserts the rows of the batch, which have just got their TIDs, into the table's indexes; with `sorted`, the entries of
    /// B-trees are sorted first, and inserted after the last batch.
    ///
    /// # Safety
    /// Without a guard: see `compat::unguarded`.
    unsafe fn index_batch(&mut self, sorted: bool) {
        // SAFETY: as the caller has promised.
        unsafe {
            if sorted && matches!(self.indexes, Indexes::WithRows(None)) {
                pg_sys::CurrentMemoryContext = self.outer;
                self.indexes = Indexes::WithRows(Some(SortedIndexes::take_from(self.result)));
                pg_sys::CurrentMemoryContext = self.batch_memory;
            }
            for row in 0..self.collected {
                let slot = *self.batch.add(row);
                (*slot).tts_tableOid = (*self.relation).rd_id;
                unguarded::MemoryContextReset((*self.expression).ecxt_per_tuple_memory);
                (*self.expression).ecxt_scantuple = slot;
                if let Indexes::WithRows(Some(sorted)) = &mut self.indexes {
                    sorted.add(slot, self.executor);
                }
                compat::insert_index_entries(self.result, slot, self.executor);
            }
        }
    }

    /// Lets workers build indexes while more rows come.
    ///
    /// # Safety
    /// From here on nothing but the load may happen in this transaction.
    pub unsafe fn start_builders(&mut self) {
        // SAFETY: as the caller has promised.
        unsafe {
            let indexes = index_builders::buildable(self.relation, self.result);
            if !indexes.is_empty() {
                pg_sys::ExecCloseIndices(self.result);
                (*self.result).ri_NumIndices = 0;
                self.indexes = match IndexBuilders::start(self.relation, &indexes) {
                    Some(builders) => Indexes::Behind(builders),
                    None => Indexes::Afterwards { immediate: false },
                };
            }
        }
    }

    /// # Safety
    /// All rows are flushed.
    pub unsafe fn end(self) -> Written {
        // SAFETY: as the caller has promised.
        unsafe {
            let indexing = match self.indexes {
                Indexes::WithRows(sorted) => {
                    if let Some(sorted) = sorted {
                        sorted.end();
                    }
                    Indexing::Done
                }
                Indexes::Filled => Indexing::Done,
                Indexes::Afterwards { .. } if self.written == 0 => Indexing::Done,
                Indexes::Afterwards { .. } => Indexing::Missing,
                Indexes::Behind(builders) => Indexing::Behind(builders.last_row_came(self.written)),
            };
            pg_sys::ExecCloseIndices(self.result);
            for slot in 0..self.made {
                pg_sys::ExecDropSingleTupleTableSlot(*self.batch.add(slot));
            }
            pg_sys::ExecDropSingleTupleTableSlot(self.row);
            if !self.bulk.is_null() {
                pg_sys::FreeBulkInsertState(self.bulk);
            }
            pg_sys::FreeTupleDesc(self.batch_descriptor);
            pg_sys::FreeExecutorState(self.executor);
            pg_sys::MemoryContextDelete(self.batch_memory);
            Written { rows: self.written, indexing }
        }
    }
}
