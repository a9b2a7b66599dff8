//! Index entries of many rows, put into their indexes in the order of the index.
//!
//! Rows come in the order of the source, so each of their entries would go to another page of a large index. Sorted first,
//! neighbours go to the same page one after the other, which is found in the processor's caches.

use crate::backend::compat::{self, unguarded};
use pgrx::pg_sys;
use std::os::raw::c_int;

const MOST_COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;

#[derive(Clone, Copy)]
struct One {
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    sort: *mut pg_sys::Tuplesortstate,
}

/// The B-trees of a table among the indexes that its executor state has open. Nothing in it has a destructor, and nothing but
/// `end` may be called without a guard around it.
pub struct SortedIndexes {
    heap: pg_sys::Relation,
    /// In memory of PostgreSQL's.
    indexes: *mut One,
    count: usize,
    rows: usize,
}

/// Rows whose entries are sorted together. More would lie closer together in the index, but while entries are inserted the
/// source reads on.
const ROWS: usize = 32_768;

impl SortedIndexes {
    /// Takes the B-trees that are not partial out of `result`, which keeps the rest. What is allocated lives in the current
    /// memory context.
    ///
    /// # Safety
    /// The table and its indexes are open until `end`.
    pub unsafe fn take_from(result: *mut pg_sys::ResultRelInfo) -> SortedIndexes {
        // SAFETY: as the caller has promised.
        unsafe {
            let heap = (*result).ri_RelationDesc;
            let all = (*result).ri_NumIndices as usize;
            let indexes = unguarded::palloc0((all + 1) * std::mem::size_of::<One>()).cast::<One>();
            let mut count = 0;
            let mut kept = 0;
            for ordinal in 0..all {
                let index = *(*result).ri_IndexRelationDescs.add(ordinal);
                let info = *(*result).ri_IndexRelationInfo.add(ordinal);
                let tree = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID;
                if tree
                    && (*info).ii_Predicate.is_null()
                    && (*info).ii_ExclusionOps.is_null()
                    && (*info).ii_ReadyForInserts
                {
                    indexes.add(count).write(One { index, info, sort: std::ptr::null_mut() });
                    count += 1;
                } else {
                    *(*result).ri_IndexRelationDescs.add(kept) = index;
                    *(*result).ri_IndexRelationInfo.add(kept) = info;
                    kept += 1;
                }
            }
            (*result).ri_NumIndices = kept as c_int;
            let memory = (pg_sys::maintenance_work_mem / (count.max(1) as c_int)).max(64);
            for ordinal in 0..count {
                let one = &mut *indexes.add(ordinal);
                one.sort = compat::begin_index_sort(heap, one.index, memory);
            }
            SortedIndexes { heap, indexes, count, rows: 0 }
        }
    }

    /// Collects the entries of a row, which has its TID in the table. The executor's scan tuple is the slot.
    ///
    /// # Safety
    /// The row has its TID in the table. Without a guard: see `compat::unguarded`.
    pub unsafe fn add(&mut self, slot: *mut pg_sys::TupleTableSlot, executor: *mut pg_sys::EState) {
        // SAFETY: as the caller has promised.
        unsafe {
            let mut values = [pg_sys::Datum::null(); MOST_COLUMNS];
            let mut nulls = [false; MOST_COLUMNS];
            self.rows += 1;
            for ordinal in 0..self.count {
                let one = &*self.indexes.add(ordinal);
                unguarded::FormIndexDatum(one.info, slot, executor, values.as_mut_ptr(), nulls.as_mut_ptr());
                let row = &raw mut (*slot).tts_tid;
                unguarded::tuplesort_putindextuplevalues(
                    one.sort,
                    one.index,
                    row,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
            }
        }
    }

    pub fn is_full(&self) -> bool {
        self.rows >= ROWS
    }

    /// Puts all entries into their indexes. Uniqueness is checked as ever. `memory` is reset after each.
    ///
    /// # Safety
    /// Without a guard: see `compat::unguarded`.
    pub unsafe fn insert(&mut self, memory: pg_sys::MemoryContext) {
        // SAFETY: as the caller has promised.
        unsafe {
            let outer = pg_sys::CurrentMemoryContext;
            self.rows = 0;
            let mut values = [pg_sys::Datum::null(); MOST_COLUMNS];
            let mut nulls = [false; MOST_COLUMNS];
            for ordinal in 0..self.count {
                let one = &*self.indexes.add(ordinal);
                let unique = if (*(*one.index).rd_index).indisunique {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                } else {
                    pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                };
                unguarded::tuplesort_performsort(one.sort);
                loop {
                    let tuple = unguarded::tuplesort_getindextuple(one.sort, true);
                    if tuple.is_null() {
                        break;
                    }
                    unguarded::MemoryContextReset(memory);
                    pg_sys::CurrentMemoryContext = memory;
                    unguarded::index_deform_tuple(tuple, (*one.index).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
                    let row = &raw mut (*tuple).t_tid;
                    unguarded::index_insert(
                        one.index,
                        values.as_mut_ptr(),
                        nulls.as_mut_ptr(),
                        row,
                        self.heap,
                        unique,
                        false,
                        one.info,
                    );
                    pg_sys::CurrentMemoryContext = outer;
                    if pg_sys::InterruptPending != 0 {
                        unguarded::ProcessInterrupts();
                    }
                }
                unguarded::tuplesort_reset(one.sort);
            }
        }
    }

    /// Closes the indexes and frees what the sorts hold.
    ///
    /// # Safety
    /// Nothing is inserted any more.
    pub unsafe fn end(self) {
        // SAFETY: as the caller has promised.
        unsafe {
            for ordinal in 0..self.count {
                let one = &*self.indexes.add(ordinal);
                pg_sys::tuplesort_end(one.sort);
                pg_sys::index_close(one.index, pg_sys::RowExclusiveLock as i32);
            }
        }
    }
}
