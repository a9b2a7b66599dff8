//! Indexes that are built while the rows of their table still come.
//!
//! Parallel workers of this transaction each build one index, by PostgreSQL's own code. Where that scans the table, the scan
//! follows the load: it reads the pages that are full, and waits for more. When the last row has come, most of the entries are
//! read and sorted. Each build may use maintenance_work_mem, as any other. Only what needs no code of users takes part:
//! B-trees on columns, of a table without checks.

use crate::backend::compat::{self, unguarded};
use crate::backend::interrupts;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bytes of rows from which on it is worth starting workers.
pub const WORTH_IT: usize = 8 << 20;
/// Pages that are read at a time.
const STEP: u32 = 256;
const KEY: u64 = 1;
/// More indexes than that are built afterwards.
const MOST: usize = 32;
/// Instead of the number of full pages: no more will come.
const ALL: u32 = u32::MAX;

#[repr(C)]
struct One {
    oid: pg_sys::Oid,
    built: AtomicBool,
    rows: f64,
    entries: f64,
}

/// What leader and workers share.
#[repr(C)]
struct Shared {
    table: pg_sys::Oid,
    count: u32,
    /// The next index that nobody builds yet.
    next: AtomicU32,
    /// Pages that no row will be added to any more, from the first on.
    full: AtomicU32,
    more: pg_sys::ConditionVariable,
    indexes: [One; MOST],
}

/// A load that is followed. Nothing in it has a destructor: on an error the end of the subtransaction stops the workers.
pub struct IndexBuilders {
    context: *mut pg_sys::ParallelContext,
    shared: *mut Shared,
    full: u32,
    /// Rows have always gone to the last page, or behind it.
    in_order: bool,
    rows: u64,
}

/// The indexes of a table that can be built so, out of those that its executor state has open.
///
/// # Safety
/// The relation is open, and `result` its own.
pub unsafe fn buildable(relation: pg_sys::Relation, result: *mut pg_sys::ResultRelInfo) -> Vec<pg_sys::Oid> {
    // SAFETY: as the caller has promised.
    unsafe {
        let constraints = (*(*relation).rd_att).constr;
        let plain = (*(*relation).rd_rel).relpersistence == pg_sys::RELPERSISTENCE_PERMANENT as std::os::raw::c_char
            && (constraints.is_null() || (*constraints).num_check == 0)
            && pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att)
                .iter()
                .filter(|attribute| !attribute.attisdropped)
                .all(|attribute| is_plain_type(attribute.atttypid));
        if !plain {
            return Vec::new();
        }
        (0..(*result).ri_NumIndices as usize)
            .map(|ordinal| {
                (*(*result).ri_IndexRelationDescs.add(ordinal), *(*result).ri_IndexRelationInfo.add(ordinal))
            })
            .filter(|(index, info)| {
                let form = (**index).rd_index;
                (*(**index).rd_rel).relam == pg_sys::BTREE_AM_OID
                    && (**info).ii_Expressions.is_null()
                    && (**info).ii_Predicate.is_null()
                    && (**info).ii_ExclusionOps.is_null()
                    && (*form).indisvalid
                    && (*form).indisready
                    && !(*form).indcheckxmin
                    && (0..(*form).indnkeyatts as usize).all(|key| is_built_in(*(**index).rd_opfamily.add(key)))
            })
            .map(|(index, _)| (*index).rd_id)
            .take(MOST)
            .collect()
    }
}

/// Whether values of it are read without code of users, such as the checks of a domain.
fn is_plain_type(oid: pg_sys::Oid) -> bool {
    // SAFETY: asks the type cache.
    unsafe {
        let kind = pg_sys::get_typtype(oid) as u8;
        kind == pg_sys::TYPTYPE_ENUM || (is_built_in(oid) && kind != pg_sys::TYPTYPE_DOMAIN)
    }
}

fn is_built_in(oid: pg_sys::Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}

impl IndexBuilders {
    /// Empties the indexes and starts workers that build them; None if there are no workers to be had, and then the indexes
    /// have to be built afterwards. From here to `finish` this transaction is in parallel mode: nothing but the load may happen.
    ///
    /// # Safety
    /// The relation is open, locked, and its indexes are closed; the transaction does nothing but load it until `finish`.
    pub unsafe fn start(relation: pg_sys::Relation, indexes: &[pg_sys::Oid]) -> Option<IndexBuilders> {
        // SAFETY: as the caller has promised.
        unsafe {
            // An index that PostgreSQL builds is the work of so many workers and of the session, which is busy here.
            let workers = match pg_sys::max_parallel_maintenance_workers {
                1.. => indexes.len().min(pg_sys::max_parallel_maintenance_workers as usize + 1),
                _ => 0,
            };
            if workers == 0 || pg_sys::IsInParallelMode() {
                return None;
            }
            for oid in indexes {
                let index = pg_sys::index_open(*oid, pg_sys::AccessExclusiveLock as i32);
                compat::set_new_file(index);
                pg_sys::index_close(index, pg_sys::NoLock as i32);
            }
            pg_sys::CommandCounterIncrement();

            pg_sys::EnterParallelMode();
            let context = pg_sys::CreateParallelContext(
                c"mimeo".as_ptr(),
                c"mimeo_build_indexes".as_ptr(),
                workers as std::os::raw::c_int,
            );
            let size = std::mem::size_of::<Shared>();
            // Chunks begin at such addresses.
            (*context).estimator.space_for_chunks += size.next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
            (*context).estimator.number_of_keys += 1;
            pg_sys::InitializeParallelDSM(context);
            let shared = pg_sys::shm_toc_allocate((*context).toc, size).cast::<Shared>();
            std::ptr::write_bytes(shared.cast::<u8>(), 0, size);
            (*shared).table = (*relation).rd_id;
            (*shared).count = indexes.len() as u32;
            for (ordinal, oid) in indexes.iter().enumerate() {
                (*shared).indexes[ordinal].oid = *oid;
            }
            pg_sys::ConditionVariableInit(&raw mut (*shared).more);
            pg_sys::shm_toc_insert((*context).toc, KEY, shared.cast());
            pg_sys::LaunchParallelWorkers(context);
            let builders = IndexBuilders { context, shared, full: 0, in_order: true, rows: 0 };
            if (*context).nworkers_launched == 0 {
                builders.leave();
                return None;
            }
            // One that cannot be started is an error now, and not when all rows have come.
            pg_sys::WaitForParallelWorkersToAttach(context);
            Some(builders)
        }
    }

    /// Tells the workers to which pages the rows of a batch have gone. It does not raise errors.
    ///
    /// # Safety
    /// Between `start` and `last_row_came`. Without a guard: see `compat::unguarded`.
    pub unsafe fn rows_went(&mut self, first: pg_sys::ItemPointerData, last: pg_sys::ItemPointerData) {
        // SAFETY: as the caller has promised.
        unsafe {
            let block =
                |tid: pg_sys::ItemPointerData| u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo);
            self.in_order &= block(first) >= self.full && block(last) >= block(first);
            if block(last) >= self.full + STEP {
                self.full = block(last);
                self.tell(self.full);
            }
        }
    }

    /// # Safety
    /// The shared memory is mapped.
    unsafe fn tell(&self, full: u32) {
        // SAFETY: as the caller has promised.
        unsafe {
            (*self.shared).full.store(full, Ordering::Release);
            unguarded::ConditionVariableBroadcast(&raw mut (*self.shared).more);
        }
    }

    /// # Safety
    /// All rows are written.
    pub unsafe fn last_row_came(self, rows: u64) -> IndexBuilders {
        // SAFETY: as the caller has promised.
        unsafe {
            self.tell(ALL);
            IndexBuilders { rows, ..self }
        }
    }

    /// When all rows are there: builds what no worker has begun, waits for the workers, and returns the indexes that are built.
    ///
    /// # Safety
    /// In the transaction that has started them, with the table locked.
    pub unsafe fn finish(self) -> Vec<pg_sys::Oid> {
        // SAFETY: as the caller has promised.
        unsafe {
            let relation = pg_sys::table_open((*self.shared).table, pg_sys::NoLock as i32);
            work_on(self.shared, relation);
            pg_sys::WaitForParallelWorkersToFinish(self.context);
            let results: Vec<_> = (0..(*self.shared).count as usize)
                .map(|ordinal| {
                    let one = &(*self.shared).indexes[ordinal];
                    (one.oid, one.built.load(Ordering::Acquire), one.rows, one.entries)
                })
                .collect();
            let (in_order, rows) = (self.in_order, self.rows as f64);
            self.leave();
            interrupts::check();
            // This should always hold; otherwise they are built again.
            let complete = in_order && results.iter().all(|(_, built, found, _)| *built && *found == rows);
            if complete {
                let mut visible = 0;
                pg_sys::visibilitymap_count(relation, &mut visible, std::ptr::null_mut());
                compat::set_size(relation, rows, visible, true);
                for (oid, _, _, entries) in &results {
                    let index = pg_sys::index_open(*oid, pg_sys::NoLock as i32);
                    compat::set_size(index, *entries, 0, false);
                    pg_sys::index_close(index, pg_sys::NoLock as i32);
                }
                pg_sys::CommandCounterIncrement();
            }
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            results.into_iter().filter(|_| complete).map(|(oid, ..)| oid).collect()
        }
    }

    /// # Safety
    /// No worker is needed any more.
    unsafe fn leave(self) {
        // SAFETY: as the caller has promised.
        unsafe {
            pg_sys::DestroyParallelContext(self.context);
            pg_sys::ExitParallelMode();
        }
    }
}

/// The main function of a worker.
///
/// # Safety
/// In a parallel worker, with what its leader has given.
pub unsafe fn work(contents: *mut pg_sys::shm_toc) {
    // SAFETY: as the caller has promised.
    unsafe {
        let shared = pg_sys::shm_toc_lookup(contents, KEY, false).cast::<Shared>();
        let relation = pg_sys::table_open((*shared).table, pg_sys::AccessShareLock as i32);
        work_on(shared, relation);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

/// Builds one index after the other, as long as there are some that nobody builds.
///
/// # Safety
/// The relation is open, and the shared memory mapped.
unsafe fn work_on(shared: *mut Shared, relation: pg_sys::Relation) {
    // SAFETY: as the caller has promised.
    unsafe {
        loop {
            let ordinal = (*shared).next.fetch_add(1, Ordering::AcqRel);
            if ordinal >= (*shared).count {
                return;
            }
            let one = &raw mut (*shared).indexes[ordinal as usize];
            let index = pg_sys::index_open((*one).oid, pg_sys::RowExclusiveLock as i32);
            let info = pg_sys::BuildIndexInfo(index);
            let behind = (*shared).full.load(Ordering::Acquire) != ALL;
            let _scan = behind.then(|| ScanBehind::begin(shared, relation));
            let Some(build) = (*(*index).rd_indam).ambuild else { return };
            let result = pg_sys::ffi::pg_guard_ffi_boundary(|| build(relation, index, info));
            (*one).rows = (*result).heap_tuples;
            (*one).entries = (*result).index_tuples;
            (*one).built.store(true, Ordering::Release);
            pg_sys::index_close(index, pg_sys::NoLock as i32);
        }
    }
}

thread_local! {
    static FOLLOWED: Cell<*mut Shared> = const { Cell::new(std::ptr::null_mut()) };
}

/// As long as it lasts, a scan of the table for an index build follows the load.
struct ScanBehind {
    relation: pg_sys::Relation,
    before: *const pg_sys::TableAmRoutine,
}

impl ScanBehind {
    /// # Safety
    /// The relation stays open as long as this, and `shared` as long as the transaction.
    unsafe fn begin(shared: *mut Shared, relation: pg_sys::Relation) -> ScanBehind {
        // SAFETY: as the caller has promised.
        unsafe {
            FOLLOWED.set(shared);
            let before = (*relation).rd_tableam;
            let mut routine = *before;
            routine.index_build_range_scan = Some(scan_behind);
            let copy = pg_sys::palloc(std::mem::size_of::<pg_sys::TableAmRoutine>()).cast::<pg_sys::TableAmRoutine>();
            copy.write(routine);
            (*relation).rd_tableam = copy;
            ScanBehind { relation, before }
        }
    }
}

impl Drop for ScanBehind {
    fn drop(&mut self) {
        FOLLOWED.set(std::ptr::null_mut());
        // SAFETY: the relation is open; also while an error unwinds, for its entry goes with the transaction.
        unsafe { (*self.relation).rd_tableam = self.before };
    }
}

/// The heap's own scan for index builds, in pieces, behind the load. PostgreSQL calls it without a guard, so nothing in it may
/// own anything or panic.
///
/// # Safety
/// An index method calls it, for the table that `ScanBehind` was begun for.
unsafe extern "C-unwind" fn scan_behind(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    _allow_sync: bool,
    any_visible: bool,
    _progress: bool,
    _start: pg_sys::BlockNumber,
    _count: pg_sys::BlockNumber,
    callback: pg_sys::IndexBuildCallback,
    state: *mut c_void,
    _scan: pg_sys::TableScanDesc,
) -> f64 {
    // SAFETY: as the caller has promised.
    unsafe {
        let heap = unguarded::GetHeapamTableAmRoutine();
        (*table).rd_tableam = heap;
        let shared = FOLLOWED.get();
        let (Some(scan), false) = ((*heap).index_build_range_scan, shared.is_null()) else { return -1.0 };
        let (mut at, mut rows) = (0, 0.0);
        loop {
            let mut full = (*shared).full.load(Ordering::Acquire);
            if full < u32::saturating_add(at, STEP) {
                unguarded::ConditionVariablePrepareToSleep(&raw mut (*shared).more);
                loop {
                    full = (*shared).full.load(Ordering::Acquire);
                    if full >= u32::saturating_add(at, STEP) {
                        break;
                    }
                    unguarded::ConditionVariableSleep(&raw mut (*shared).more, pg_sys::PG_WAIT_EXTENSION);
                }
                unguarded::ConditionVariableCancelSleep();
            }
            let until = if full == ALL {
                unguarded::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM)
            } else {
                full
            };
            if until > at {
                let none = std::ptr::null_mut();
                rows += scan(table, index, info, false, any_visible, false, at, until - at, callback, state, none);
                at = until;
            }
            if full == ALL {
                return rows;
            }
        }
    }
}
