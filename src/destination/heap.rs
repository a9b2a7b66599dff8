//! Rows written straight to a heap, in batches. Into one that nobody reads they go without indexes, and frozen, so that
//! they are visible to every snapshot as soon as a view shows them, and leave no work to VACUUM; into any other as COPY
//! would put them, with its indexes.

mod copied;
mod index_builders;
mod query;
mod writer;

pub use copied::{write_binary, write_parsed};
pub use index_builders::work as build_behind;
pub use query::write_query;
pub use writer::{Indexed, Indexing, Manner, Written};

use pgrx::pg_sys;

/// A plain heap without triggers and without generated columns, which is no partition and has no constraint that is
/// checked later: nothing but the rows and their index entries has to be written.
///
/// # Safety
/// The relation is open.
pub unsafe fn takes(relation: pg_sys::Relation, manner: Manner) -> bool {
    // SAFETY: as the caller has promised.
    unsafe {
        let constraints = (*(*relation).rd_att).constr;
        if manner == Manner::Ordinary && ((*(*relation).rd_rel).relispartition || !has_immediate_indexes(relation)) {
            return false;
        }
        (*(*relation).rd_rel).relkind == pg_sys::RELKIND_RELATION as std::os::raw::c_char
            && (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine()
            && (*relation).trigdesc.is_null()
            && (constraints.is_null() || !(*constraints).has_generated_stored)
    }
}

/// Whether rows go straight into a table that is empty.
pub fn takes_frozen(oid: pg_sys::Oid) -> bool {
    // SAFETY: opens the relation, and closes it.
    unsafe {
        let relation = pg_sys::table_open(oid, pg_sys::AccessShareLock as i32);
        let takes = takes(relation, Manner::Frozen);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        takes
    }
}

/// # Safety
/// The relation is open.
unsafe fn has_immediate_indexes(relation: pg_sys::Relation) -> bool {
    // SAFETY: as the caller has promised.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        pgrx::PgList::<pg_sys::Oid>::from_pg(list).iter_oid().all(|oid| {
            let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
            let immediate = (*(*index).rd_index).indimmediate;
            pg_sys::index_close(index, pg_sys::NoLock as i32);
            immediate
        })
    }
}
