//! Where PostgreSQL's versions differ, and PostgreSQL's functions as we declare them ourselves. No other file asks for a
//! version: each difference has one name and one signature here.
//!
//! The newest version is what stands first or without an attribute; `pre_pg18` holds for all before 18, and so on (features of
//! Cargo.toml, each of which brings the next). A new major is a feature `pgNN`, a `pre_pgNN` for the older ones, and whatever
//! the compiler then finds in this file.

use pgrx::pg_sys;
#[cfg(feature = "pre_pg15")]
use std::os::raw::c_char;

/// Whether there is a MERGE statement.
pub const HAS_MERGE: bool = cfg!(not(feature = "pre_pg15"));

/// Whether pg_stat_force_next_flush() exists, which makes this backend report its counters at the end of the transaction.
pub const HAS_COUNTER_FLUSH: bool = cfg!(not(feature = "pre_pg15"));

/// The syscache of pg_class by OID, for SearchSysCacheCopy().
#[cfg(not(feature = "pre_pg19"))]
pub const RELOID: i32 = pg_sys::SysCacheIdentifier::RELOID;
#[cfg(feature = "pre_pg19")]
pub const RELOID: i32 = pg_sys::SysCacheIdentifier::RELOID as i32;

/// PostgreSQL's functions without pgrx's guard around each call: for the innermost loops, which have one guard around them, and for
/// error callbacks, during which no other jump buffer may be set.
///
/// # Safety
/// An error in them jumps past all Rust frames to the next guard: no frame in between may own anything.
pub mod unguarded {
    use pgrx::pg_sys::{
        self, BlockNumber, BulkInsertState, CommandId, ConditionVariable, CopyFromState, Datum, EState, ErrorData,
        ExprContext, FmgrInfo, ForkNumber, HeapTuple, IndexInfo, IndexStmt, IndexTuple, IndexUniqueCheck, ItemPointer,
        List, MemoryContext, Node, Oid, Relation, ResultRelInfo, ScanDirection, SortCoordinate, StringInfo,
        TableAmRoutine, TableScanDesc, TupleDesc, TupleTableSlot, TupleTableSlotOps, Tuplesortstate, XLogRecPtr,
    };
    use std::os::raw::{c_char, c_int, c_void};

    #[cfg(not(feature = "pre_pg16"))]
    type Bytes = *const c_void;
    #[cfg(feature = "pre_pg16")]
    type Bytes = *const c_char;
    #[cfg(not(feature = "pre_pg19"))]
    type HeapOptions = u32;
    #[cfg(feature = "pre_pg19")]
    type HeapOptions = c_int;
    #[cfg(not(feature = "pre_pg19"))]
    type RowAddress = *const pg_sys::ItemPointerData;
    #[cfg(feature = "pre_pg19")]
    type RowAddress = *mut pg_sys::ItemPointerData;
    #[cfg(not(feature = "pre_pg17"))]
    type Values = *const Datum;
    #[cfg(feature = "pre_pg17")]
    type Values = *mut Datum;
    #[cfg(not(feature = "pre_pg17"))]
    type Nulls = *const bool;
    #[cfg(feature = "pre_pg17")]
    type Nulls = *mut bool;

    /// Declares functions that pgrx binds too, and has the compiler compare: a declaration that does not fit the headers of the
    /// version that is built for does not compile.
    macro_rules! as_pgrx_binds_them {
        ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
            unsafe extern "C-unwind" {
                $($(#[$attribute])* pub fn $name($($argument: $type),*) $(-> $result)?;)*
            }
            $($(#[$attribute])* const _: unsafe fn($($type),*) $(-> $result)? = pg_sys::$name;)*
        };
    }

    as_pgrx_binds_them! {
        // The executor, and rows.
        fn NextCopyFrom(copy: CopyFromState, expression: *mut ExprContext, values: *mut Datum, nulls: *mut bool) -> bool;
        fn ExecStoreVirtualTuple(slot: *mut TupleTableSlot) -> *mut TupleTableSlot;
        fn ExecConstraints(result: *mut ResultRelInfo, slot: *mut TupleTableSlot, executor: *mut EState);
        fn ExecStoreHeapTuple(tuple: HeapTuple, slot: *mut TupleTableSlot, should_free: bool) -> *mut TupleTableSlot;
        fn MakeSingleTupleTableSlot(descriptor: TupleDesc, operations: *const TupleTableSlotOps) -> *mut TupleTableSlot;
        fn slot_getsomeattrs_int(slot: *mut TupleTableSlot, count: c_int);
        fn ReceiveFunctionCall(function: *mut FmgrInfo, buffer: StringInfo, parameter: Oid, typmod: i32) -> Datum;
        fn pg_verifymbstr(text: *const c_char, length: c_int, no_error: bool) -> bool;

        // The heap.
        fn heap_form_tuple(descriptor: TupleDesc, values: Values, nulls: Nulls) -> HeapTuple;
        fn heap_multi_insert(
            relation: Relation, slots: *mut *mut TupleTableSlot, count: c_int, command: CommandId, options: HeapOptions,
            bulk: BulkInsertState,
        );
        fn heap_getnext(scan: TableScanDesc, direction: ScanDirection::Type) -> HeapTuple;
        fn nocachegetattr(tuple: HeapTuple, number: c_int, descriptor: TupleDesc) -> Datum;
        fn simple_heap_delete(relation: Relation, tid: RowAddress);
        fn GetBulkInsertState() -> BulkInsertState;
        fn GetHeapamTableAmRoutine() -> *const TableAmRoutine;
        fn RelationGetNumberOfBlocksInFork(relation: Relation, fork: ForkNumber::Type) -> BlockNumber;
        fn XLogSetAsyncXactLSN(end: XLogRecPtr);

        // Indexes.
        fn FormIndexDatum(
            info: *mut IndexInfo, slot: *mut TupleTableSlot, executor: *mut EState, values: *mut Datum, nulls: *mut bool,
        );
        fn index_deform_tuple(tuple: IndexTuple, descriptor: TupleDesc, values: *mut Datum, nulls: *mut bool);
        fn index_insert(
            index: Relation, values: *mut Datum, nulls: *mut bool, tid: ItemPointer, heap: Relation,
            unique: IndexUniqueCheck::Type, unchanged: bool, info: *mut IndexInfo,
        ) -> bool;
        #[cfg(not(feature = "pre_pg19"))]
        fn ExecInsertIndexTuples(
            result: *mut ResultRelInfo, executor: *mut EState, flags: u32, slot: *mut TupleTableSlot, arbiters: *mut List,
            conflict: *mut bool,
        ) -> *mut List;
        #[cfg(all(feature = "pre_pg19", not(feature = "pre_pg16")))]
        fn ExecInsertIndexTuples(
            result: *mut ResultRelInfo, slot: *mut TupleTableSlot, executor: *mut EState, update: bool, no_error: bool,
            conflict: *mut bool, arbiters: *mut List, only_summarizing: bool,
        ) -> *mut List;
        #[cfg(feature = "pre_pg16")]
        fn ExecInsertIndexTuples(
            result: *mut ResultRelInfo, slot: *mut TupleTableSlot, executor: *mut EState, update: bool, no_error: bool,
            conflict: *mut bool, arbiters: *mut List,
        ) -> *mut List;

        // Sorting.
        #[cfg(not(feature = "pre_pg15"))]
        fn tuplesort_begin_index_btree(
            heap: Relation, index: Relation, unique: bool, nulls_not_distinct: bool, memory: c_int,
            coordinate: SortCoordinate, options: c_int,
        ) -> *mut Tuplesortstate;
        #[cfg(feature = "pre_pg15")]
        fn tuplesort_begin_index_btree(
            heap: Relation, index: Relation, unique: bool, memory: c_int, coordinate: SortCoordinate, random: bool,
        ) -> *mut Tuplesortstate;
        fn tuplesort_putindextuplevalues(
            sort: *mut Tuplesortstate, index: Relation, tid: RowAddress, values: Values, nulls: Nulls,
        );
        fn tuplesort_reset(sort: *mut Tuplesortstate);
        fn tuplesort_performsort(sort: *mut Tuplesortstate);
        fn tuplesort_putdatum(sort: *mut Tuplesortstate, value: Datum, is_null: bool);
        fn tuplesort_getindextuple(sort: *mut Tuplesortstate, forward: bool) -> IndexTuple;

        // Memory.
        fn palloc(size: usize) -> *mut c_void;
        fn palloc0(size: usize) -> *mut c_void;
        fn MemoryContextReset(context: MemoryContext);
        fn resetStringInfo(buffer: StringInfo);
        fn appendBinaryStringInfo(buffer: StringInfo, data: Bytes, length: c_int);

        // Waiting, interrupts, progress.
        fn ConditionVariablePrepareToSleep(condition: *mut ConditionVariable);
        fn ConditionVariableSleep(condition: *mut ConditionVariable, event: u32);
        #[cfg(not(feature = "pre_pg16"))]
        fn ConditionVariableCancelSleep() -> bool;
        #[cfg(feature = "pre_pg16")]
        fn ConditionVariableCancelSleep();
        fn ConditionVariableBroadcast(condition: *mut ConditionVariable);
        fn ProcessInterrupts();
        fn pgstat_progress_update_param(index: c_int, value: i64);
        #[cfg(not(feature = "pre_pg19"))]
        fn die(signal: c_int, sender: *const pg_sys::pg_signal_info);
        #[cfg(feature = "pre_pg19")]
        fn die(signal: c_int);

        // Errors.
        fn CopyErrorData() -> *mut ErrorData;
        fn FreeErrorData(data: *mut ErrorData);
        fn geterrcode() -> c_int;
        fn err_generic_string(field: c_int, text: *const c_char) -> c_int;
    }

    /// Of heap_multi_insert: frozen rows, into new pages.
    #[cfg(not(feature = "pre_pg19"))]
    pub const INSERT_FROZEN: HeapOptions = pg_sys::HEAP_INSERT_FROZEN | pg_sys::HEAP_INSERT_SKIP_FSM;
    #[cfg(feature = "pre_pg19")]
    pub const INSERT_FROZEN: HeapOptions = (pg_sys::HEAP_INSERT_FROZEN | pg_sys::HEAP_INSERT_SKIP_FSM) as c_int;

    /// A callback that visits the nodes of a tree; it returns true to stop.
    pub type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;

    // What pgrx does not bind.
    unsafe extern "C-unwind" {
        #[cfg_attr(not(feature = "pre_pg16"), link_name = "raw_expression_tree_walker_impl")]
        pub fn raw_expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
        #[cfg_attr(not(feature = "pre_pg16"), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
        pub fn transformIndexStmt(table: Oid, statement: *mut IndexStmt, text: *const c_char) -> *mut IndexStmt;
        /// A pure function, which hash indexes and hash partitions stand on.
        pub fn hash_bytes_extended(bytes: *const u8, length: c_int, seed: u64) -> u64;
        pub fn TransferPredicateLocksToHeapRelation(relation: Relation);
        pub fn errcode(code: c_int) -> c_int;
        pub fn errcontext_msg(format: *const c_char, ...) -> c_int;
    }
}

/// Puts a row into all indexes of its table that `result` has open; the executor's scan tuple is the slot.
///
/// # Safety
/// Without a guard: see `unguarded`.
pub unsafe fn insert_index_entries(
    result: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    executor: *mut pg_sys::EState,
) {
    // SAFETY: as the caller has promised.
    unsafe {
        let (conflict, arbiters) = (std::ptr::null_mut(), std::ptr::null_mut());
        #[cfg(not(feature = "pre_pg19"))]
        unguarded::ExecInsertIndexTuples(result, executor, 0, slot, arbiters, conflict);
        #[cfg(all(feature = "pre_pg19", not(feature = "pre_pg16")))]
        unguarded::ExecInsertIndexTuples(result, slot, executor, false, false, conflict, arbiters, false);
        #[cfg(feature = "pre_pg16")]
        unguarded::ExecInsertIndexTuples(result, slot, executor, false, false, conflict, arbiters);
    }
}

/// Begins a sort of the entries of a B-tree, none of which is checked for uniqueness; `memory` is in kB.
///
/// # Safety
/// Both relations stay open as long as the sort; without a guard: see `unguarded`.
pub unsafe fn begin_index_sort(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    memory: i32,
) -> *mut pg_sys::Tuplesortstate {
    // SAFETY: as the caller has promised.
    unsafe {
        let coordinate = std::ptr::null_mut();
        #[cfg(not(feature = "pre_pg15"))]
        return unguarded::tuplesort_begin_index_btree(heap, index, false, false, memory, coordinate, 0);
        #[cfg(feature = "pre_pg15")]
        unguarded::tuplesort_begin_index_btree(heap, index, false, memory, coordinate, false)
    }
}

/// Begins a sort of values of 16 bytes, by memcmp(); `memory` is in kB, and what needs more goes to temporary files.
///
/// # Safety
/// In a (sub)transaction that outlives the sort.
pub unsafe fn begin_uuid_sort(memory: i32) -> *mut pg_sys::Tuplesortstate {
    // uuid_ops
    const LESS: pg_sys::Oid = pg_sys::Oid::from_u32(2974);
    let (of, no_collation) = (pg_sys::UUIDOID, pg_sys::InvalidOid);
    // SAFETY: as the caller has promised.
    unsafe {
        #[cfg(not(feature = "pre_pg15"))]
        return pg_sys::tuplesort_begin_datum(of, LESS, no_collation, false, memory, std::ptr::null_mut(), 0);
        #[cfg(feature = "pre_pg15")]
        pg_sys::tuplesort_begin_datum(of, LESS, no_collation, false, memory, std::ptr::null_mut(), false)
    }
}

/// The next value of such a sort; it may live in the current memory context.
///
/// # Safety
/// The sort is performed.
pub unsafe fn next_uuid(sort: *mut pg_sys::Tuplesortstate) -> Option<pg_sys::Datum> {
    let (mut value, mut is_null) = (pg_sys::Datum::from(0), false);
    let no_key = std::ptr::null_mut();
    // SAFETY: as the caller has promised.
    let found = unsafe {
        #[cfg(not(feature = "pre_pg16"))]
        let found = pg_sys::tuplesort_getdatum(sort, true, false, &mut value, &mut is_null, no_key);
        #[cfg(feature = "pre_pg16")]
        let found = pg_sys::tuplesort_getdatum(sort, true, &mut value, &mut is_null, no_key);
        found
    };
    found.then_some(value)
}

/// Gives an index a new, empty file.
///
/// # Safety
/// It is open, and locked with ACCESS EXCLUSIVE.
pub unsafe fn set_new_file(index: pg_sys::Relation) {
    // SAFETY: as the caller has promised.
    unsafe {
        let persistence = (*(*index).rd_rel).relpersistence;
        #[cfg(not(feature = "pre_pg16"))]
        pg_sys::RelationSetNewRelfilenumber(index, persistence);
        #[cfg(feature = "pre_pg16")]
        pg_sys::RelationSetNewRelfilenode(index, persistence);
    }
}

/// Writes into pg_class how large a relation is: rows (or entries), and pages that are visible to all.
///
/// # Safety
/// It is open, and locked.
pub unsafe fn set_size(relation: pg_sys::Relation, rows: f64, visible: pg_sys::BlockNumber, has_indexes: bool) {
    // SAFETY: as the caller has promised.
    unsafe {
        let pages = pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM);
        let none = pg_sys::InvalidTransactionId;
        let unwanted = std::ptr::null_mut();
        #[cfg(not(feature = "pre_pg18"))]
        pg_sys::vac_update_relstats(
            relation,
            pages,
            rows,
            visible,
            visible,
            has_indexes,
            none,
            none,
            unwanted,
            unwanted,
            true,
        );
        #[cfg(all(feature = "pre_pg18", not(feature = "pre_pg15")))]
        pg_sys::vac_update_relstats(relation, pages, rows, visible, has_indexes, none, none, unwanted, unwanted, true);
        #[cfg(feature = "pre_pg15")]
        {
            let _: *mut bool = unwanted;
            pg_sys::vac_update_relstats(relation, pages, rows, visible, has_indexes, none, none, true);
        }
    }
}

/// Reports to the cumulative statistics that a table has been analyzed, and how many rows it has; none of them is dead.
///
/// # Safety
/// It is open.
pub unsafe fn report_analyze(table: pg_sys::Relation, rows: i64) {
    // SAFETY: as the caller has promised.
    unsafe {
        #[cfg(not(feature = "pre_pg18"))]
        pg_sys::pgstat_report_analyze(table, rows, 0, true, pg_sys::GetCurrentTimestamp());
        #[cfg(feature = "pre_pg18")]
        pg_sys::pgstat_report_analyze(table, rows, 0, true);
    }
}

/// Swaps relallfrozen of two rows of pg_class.
pub fn swap_all_frozen(a: &mut pg_sys::FormData_pg_class, b: &mut pg_sys::FormData_pg_class) {
    #[cfg(not(feature = "pre_pg18"))]
    std::mem::swap(&mut a.relallfrozen, &mut b.relallfrozen);
    #[cfg(feature = "pre_pg18")]
    let _ = (a, b);
}

/// After the storage of two relations was swapped: otherwise the relcache entry of each would keep a pointer to the other's open file.
/// From 17 on the relation cache closes them itself.
///
/// # Safety
/// The relation is locked.
pub unsafe fn forget_open_file(relation: pg_sys::Oid) {
    #[cfg(feature = "pre_pg17")]
    // SAFETY: as the caller has promised.
    unsafe {
        pg_sys::RelationCloseSmgrByOid(relation);
    }
    #[cfg(not(feature = "pre_pg17"))]
    let _ = relation;
}

/// Under wal_level = minimal the commit syncs the files that are new in this transaction, and the relcache entries say
/// which these are. The first relation's file is new from now on; the second's is what the first's was.
///
/// # Safety
/// Both are open, and locked with ACCESS EXCLUSIVE.
pub unsafe fn mark_file_as_new(first: pg_sys::Relation, second: pg_sys::Relation) {
    // SAFETY: as the caller has promised.
    unsafe {
        (*second).rd_createSubid = (*first).rd_createSubid;
        #[cfg(not(feature = "pre_pg16"))]
        {
            (*second).rd_newRelfilelocatorSubid = (*first).rd_newRelfilelocatorSubid;
            (*second).rd_firstRelfilelocatorSubid = (*first).rd_firstRelfilelocatorSubid;
            pg_sys::RelationAssumeNewRelfilelocator(first);
        }
        #[cfg(feature = "pre_pg16")]
        {
            (*second).rd_newRelfilenodeSubid = (*first).rd_newRelfilenodeSubid;
            (*second).rd_firstRelfilenodeSubid = (*first).rd_firstRelfilenodeSubid;
            pg_sys::RelationAssumeNewRelfilenode(first);
        }
    }
}

/// Lets SIGTERM end this process as it ends any backend.
///
/// # Safety
/// In a background worker, whose signals are still blocked.
pub unsafe fn handle_sigterm() {
    // SAFETY: as the caller has promised.
    unsafe {
        #[cfg(not(feature = "pre_pg18"))]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(unguarded::die));
        #[cfg(feature = "pre_pg18")]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(unguarded::die));
    }
}

/// Makes PostgreSQL refuse settings `mimeo.…` that are not defined.
pub fn reserve_settings() {
    #[cfg(not(feature = "pre_pg15"))]
    // SAFETY: called while the library is loaded, after its last setting; the name is a constant.
    unsafe {
        pg_sys::MarkGUCPrefixReserved(c"mimeo".as_ptr());
    }
}

/// The value of an A_Const node of the parser; None if it is not an integer.
///
/// # Safety
/// A node of that kind.
pub unsafe fn integer_value(constant: *mut pg_sys::A_Const) -> Option<i32> {
    // SAFETY: as the caller has promised.
    unsafe {
        #[cfg(not(feature = "pre_pg15"))]
        return (!(*constant).isnull && (*constant).val.node.type_ == pg_sys::NodeTag::T_Integer)
            .then(|| (*constant).val.ival.ival);
        #[cfg(feature = "pre_pg15")]
        return ((*constant).val.type_ == pg_sys::NodeTag::T_Integer).then(|| (*constant).val.val.ival);
    }
}

/// Gives a constant of the parser's that is a string another text.
///
/// # Safety
/// A node of that kind; `text` lives as long as it.
pub unsafe fn set_constant(constant: *mut pg_sys::Node, text: *mut std::os::raw::c_char) {
    // SAFETY: as the caller has promised.
    unsafe {
        let constant = constant.cast::<pg_sys::A_Const>();
        #[cfg(not(feature = "pre_pg15"))]
        {
            (*constant).val.sval.sval = text;
        }
        #[cfg(feature = "pre_pg15")]
        {
            (*constant).val.val.str_ = text;
        }
    }
}

/// The text of a String node of the parser.
///
/// # Safety
/// A node of that kind.
#[cfg(not(feature = "pre_pg15"))]
pub unsafe fn string_value(node: *mut pg_sys::Node) -> *const std::os::raw::c_char {
    // SAFETY: as the caller has promised.
    unsafe { (*node.cast::<pg_sys::String>()).sval }
}

/// The text of a String node of the parser.
///
/// # Safety
/// A node of that kind.
#[cfg(feature = "pre_pg15")]
pub unsafe fn string_value(node: *mut pg_sys::Node) -> *const c_char {
    // SAFETY: as the caller has promised.
    unsafe { (*node.cast::<pg_sys::Value>()).val.str_ }
}

/// Takes NULLS NOT DISTINCT off an index that is not to be unique.
pub fn restrict_nulls_not_distinct(create: &mut pg_sys::IndexStmt, unique: bool) {
    #[cfg(not(feature = "pre_pg15"))]
    {
        create.nulls_not_distinct &= unique;
    }
    #[cfg(feature = "pre_pg15")]
    let _ = (create, unique);
}
