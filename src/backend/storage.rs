//! Swapping the storage of two relations of the same physical form, as CLUSTER does after a rewrite: their rows in
//! pg_class exchange the columns that say where the data is, and everything else about them stays.

use crate::backend::compat::{self, unguarded};
use crate::error::{Error, Result};
use pgrx::pg_sys;
use std::ffi::CString;

/// Swaps the files of two heaps, those of their TOAST tables, and those of their indexes, pair by pair; and copies
/// the statistics of the second to the first. Both heaps are locked exclusively by this transaction.
pub fn swap(first: pg_sys::Oid, second: pg_sys::Oid, indexes: &[(pg_sys::Oid, pg_sys::Oid)]) -> Result<()> {
    // SAFETY: the relations are locked, and their forms are the same: the caller made the second after the first.
    unsafe {
        for &(original, copy) in indexes {
            pg_sys::LockRelationOid(original, pg_sys::AccessExclusiveLock as i32);
            pg_sys::LockRelationOid(copy, pg_sys::AccessExclusiveLock as i32);
        }
        pg_sys::LockRelationOid(second, pg_sys::AccessExclusiveLock as i32);
        require_same_form(first, second)?;
        for &(original, copy) in indexes {
            require_same_form(original, copy)?;
        }
        if indexes.len() != index_count(first) {
            return Err(Error::Internal("the indexes of a table have changed while it was replaced".to_string()));
        }
        keep_predicate_locks(first);
        swap_rows(first, second)?;
        for &(original, copy) in indexes {
            swap_rows(original, copy)?;
        }
        pg_sys::CommandCounterIncrement();
        for (to, from) in [(first, second)].iter().chain(indexes) {
            pg_sys::RemoveStatistics(*to, 0);
            pg_sys::CopyStatistics(*from, *to);
        }
        pg_sys::CommandCounterIncrement();
        count_anew(first);
    }
    Ok(())
}

/// As CLUSTER does: predicate locks of SERIALIZABLE transactions on rows and pages become locks on the whole table, because the
/// rows have other TIDs from here on.
fn keep_predicate_locks(table: pg_sys::Oid) {
    // SAFETY: opens the relation, and closes it.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as i32);
        pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded::TransferPredicateLocksToHeapRelation(relation));
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

/// Sets the counters of live and dead rows, which autovacuum uses, by the new file, whose statistics have just been made.
fn count_anew(table: pg_sys::Oid) {
    // SAFETY: opens the relation, and closes it.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as i32);
        let rows = (*(*relation).rd_rel).reltuples.max(0.0) as i64;
        compat::report_analyze(relation, rows);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
    }
}

/// Refuses relations whose rows have different physical forms, and relations that this session is reading.
fn require_same_form(first: pg_sys::Oid, second: pg_sys::Oid) -> Result<()> {
    // SAFETY: opens both relations, and closes them.
    unsafe {
        let a = pg_sys::relation_open(first, pg_sys::NoLock as i32);
        let b = pg_sys::relation_open(second, pg_sys::NoLock as i32);
        pg_sys::CheckTableNotInUse(a, c"replace the rows of".as_ptr());
        pg_sys::CheckTableNotInUse(b, c"replace the rows of".as_ptr());
        let (left, right) =
            (pgrx::PgTupleDesc::from_pg_copy((*a).rd_att), pgrx::PgTupleDesc::from_pg_copy((*b).rd_att));
        let same = left.len() == right.len()
            && (*(*a).rd_rel).relam == (*(*b).rd_rel).relam
            && left.iter().zip(right.iter()).all(|(a, b)| {
                a.attisdropped == b.attisdropped
                    && (a.attisdropped
                        || (a.atttypid == b.atttypid && a.attlen == b.attlen && a.attalign == b.attalign))
            });
        drop((left, right));
        pg_sys::relation_close(a, pg_sys::NoLock as i32);
        pg_sys::relation_close(b, pg_sys::NoLock as i32);
        if same {
            return Ok(());
        }
        Err(Error::Internal("a table has changed while it was replaced".to_string()))
    }
}

fn index_count(table: pg_sys::Oid) -> usize {
    // SAFETY: opens the relation, and closes it.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::NoLock as i32);
        let list = pg_sys::RelationGetIndexList(relation);
        let count = pgrx::PgList::<pg_sys::Oid>::from_pg(list).len();
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        count
    }
}

/// A copy of a relation's row in pg_class.
fn pg_class_row(oid: pg_sys::Oid) -> Result<(pg_sys::HeapTuple, *mut pg_sys::FormData_pg_class)> {
    // SAFETY: a copy of a row of pg_class, which has that form.
    unsafe {
        let none = pg_sys::Datum::from(0);
        let tuple = pg_sys::SearchSysCacheCopy(compat::RELOID, oid.into(), none, none, none);
        if tuple.is_null() {
            return Err(Error::Internal(format!("relation {} is gone", oid.to_u32())));
        }
        let header = (*tuple).t_data;
        let form = header.cast::<u8>().add((*header).t_hoff as usize).cast::<pg_sys::FormData_pg_class>();
        Ok((tuple, form))
    }
}

fn swap_rows(first: pg_sys::Oid, second: pg_sys::Oid) -> Result<()> {
    // SAFETY: copies of two rows of pg_class, which have that form.
    unsafe {
        mark_as_new(first, second);
        let catalog = pg_sys::table_open(pg_sys::RelationRelationId, pg_sys::RowExclusiveLock as i32);
        let (tuple, a) = pg_class_row(first)?;
        let (other_tuple, b) = pg_class_row(second)?;
        std::mem::swap(&mut (*a).relfilenode, &mut (*b).relfilenode);
        std::mem::swap(&mut (*a).reltablespace, &mut (*b).reltablespace);
        std::mem::swap(&mut (*a).reltoastrelid, &mut (*b).reltoastrelid);
        std::mem::swap(&mut (*a).relfrozenxid, &mut (*b).relfrozenxid);
        std::mem::swap(&mut (*a).relminmxid, &mut (*b).relminmxid);
        std::mem::swap(&mut (*a).relpages, &mut (*b).relpages);
        std::mem::swap(&mut (*a).reltuples, &mut (*b).reltuples);
        std::mem::swap(&mut (*a).relallvisible, &mut (*b).relallvisible);
        compat::swap_all_frozen(&mut *a, &mut *b);
        pg_sys::CatalogTupleUpdate(catalog, &raw mut (*tuple).t_self, tuple);
        pg_sys::CatalogTupleUpdate(catalog, &raw mut (*other_tuple).t_self, other_tuple);
        let toasts = [(first, (*a).reltoastrelid), (second, (*b).reltoastrelid)];
        pg_sys::heap_freetuple(tuple);
        pg_sys::heap_freetuple(other_tuple);
        pg_sys::table_close(catalog, pg_sys::RowExclusiveLock as i32);

        // A TOAST table is dropped with the table that it depends on.
        if toasts.iter().any(|(_, toast)| *toast != pg_sys::InvalidOid) {
            for (_, toast) in toasts.iter().filter(|(_, toast)| *toast != pg_sys::InvalidOid) {
                pg_sys::deleteDependencyRecordsFor(pg_sys::RelationRelationId, *toast, false);
            }
            for (heap, toast) in toasts.iter().filter(|(_, toast)| *toast != pg_sys::InvalidOid) {
                let address =
                    |oid| pg_sys::ObjectAddress { classId: pg_sys::RelationRelationId, objectId: oid, objectSubId: 0 };
                pg_sys::recordDependencyOn(
                    &address(*toast),
                    &address(*heap),
                    pg_sys::DependencyType::DEPENDENCY_INTERNAL,
                );
            }
        }
        compat::forget_open_file(first);
        compat::forget_open_file(second);
        Ok(())
    }
}

fn mark_as_new(first: pg_sys::Oid, second: pg_sys::Oid) {
    // SAFETY: opens both relations, and closes them.
    unsafe {
        let a = pg_sys::relation_open(first, pg_sys::NoLock as i32);
        let b = pg_sys::relation_open(second, pg_sys::NoLock as i32);
        compat::mark_file_as_new(a, b);
        pg_sys::relation_close(a, pg_sys::NoLock as i32);
        pg_sys::relation_close(b, pg_sys::NoLock as i32);
    }
}

/// Gives the TOAST table that a heap got in a swap the name that PostgreSQL would have given it.
pub fn name_toast_table(heap: pg_sys::Oid) {
    // SAFETY: the heap is locked exclusively, and its TOAST table with it; the names end with NUL.
    unsafe {
        let relation = pg_sys::table_open(heap, pg_sys::NoLock as i32);
        let toast = (*(*relation).rd_rel).reltoastrelid;
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        if toast == pg_sys::InvalidOid {
            return;
        }
        let index = toast_index(toast);
        let rename = |oid, name: String, is_index| {
            if let Ok(name) = CString::new(name) {
                pg_sys::RenameRelationInternal(oid, name.as_ptr(), true, is_index);
            }
        };
        rename(toast, format!("pg_toast_{}", heap.to_u32()), false);
        if let Some(index) = index {
            rename(index, format!("pg_toast_{}_index", heap.to_u32()), true);
        }
        pg_sys::CommandCounterIncrement();
    }
}

fn toast_index(toast: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: opens the relation, and closes it.
    unsafe {
        let relation = pg_sys::table_open(toast, pg_sys::AccessShareLock as i32);
        let list = pg_sys::RelationGetIndexList(relation);
        let index = pgrx::PgList::<pg_sys::Oid>::from_pg(list).get_oid(0);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        index
    }
}
