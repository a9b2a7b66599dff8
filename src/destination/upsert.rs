//! Rows that replace those with the same key: collected in a temporary table first, then merged in one statement.

use crate::backend::identity::{set_local, Identity};
use crate::backend::name::{quote, quote_list, Name};
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::{Error, Result};
use crate::shape::Shape;
use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// Two refreshes of one transaction must not share a name.
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// A temporary table with some columns of a destination.
pub struct Collected {
    name: Name,
    pub oid: pg_sys::Oid,
}

impl Collected {
    /// Makes it, empty, as the destination's owner. It goes at the end of the transaction.
    pub fn make(destination: &Name, columns: &[String], owner: &Identity) -> Result<Collected> {
        let number = MADE.get() + 1;
        MADE.set(number);
        let name = Name::new("pg_temp", format!("mimeo_rows_{number}"));
        {
            // A restricted role may not make temporary tables; nothing but the table's definition runs here.
            let _unrestricted = owner.unrestricted();
            let list = quote_list(columns.iter().map(String::as_str));
            spi::run(
                &format!(
                    "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {list} FROM {destination} WITH NO DATA",
                    quote(&name.name)
                ),
                &[],
            )?;
        }
        let oid = spi::text("SELECT to_regclass($1)::oid::text", &[name.to_string().into()])?
            .and_then(|oid| oid.parse::<u32>().ok())
            .ok_or_else(|| Error::Internal(format!("{name} was not made")))?;
        Ok(Collected { name, oid: oid.into() })
    }

    /// Puts the rows in the place of those that have the same key. With `unique_keys` a key is there once, else the
    /// row with the greatest `control` counts.
    ///
    /// 1. A destination on this server: MERGE (before PostgreSQL 15 UPDATE and INSERT). Columns that are not in
    ///    `columns` keep their values.
    /// 2. One with partitions on other servers: DELETE and INSERT, which foreign tables can do.
    pub fn merge_into(
        &self,
        destination: &Shape,
        columns: &[String],
        key: &[String],
        control: &str,
        unique_keys: bool,
    ) -> Result<()> {
        let name = destination.table();
        let list = quote_list(columns.iter().map(String::as_str));
        let keys = quote_list(key.iter().map(String::as_str));
        let same: Vec<_> = key.iter().map(|column| format!("d.{0} = r.{0}", quote(column))).collect();
        let same = same.join(" AND ");
        let rows = if unique_keys {
            format!("SELECT {list} FROM {}", self.name)
        } else {
            format!("SELECT DISTINCT ON ({keys}) {list} FROM {} ORDER BY {keys}, {} DESC", self.name, quote(control))
        };
        // What sorts and hashes here is a bulk operation, like an index build.
        // SAFETY: reads a setting.
        let memory = unsafe { pg_sys::maintenance_work_mem.max(pg_sys::work_mem) };
        set_local("work_mem", &memory.to_string())?;
        // The temporary table has no statistics, and its pages tell its size; a nested loop into a growing table would not.
        spi::run(&format!("ANALYZE {} ({keys})", self.name), &[])?;
        if has_foreign_parts(destination)? {
            spi::run(&format!("DELETE FROM {name} d USING ({rows}) r WHERE {same}"), &[])?;
            spi::run(&format!("INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE {rows}"), &[])?;
            return Ok(());
        }
        let changed: Vec<_> = columns
            .iter()
            .filter(|column| !key.contains(column))
            .map(|column| format!("{0} = r.{0}", quote(column)))
            .collect();
        let changed = changed.join(", ");
        let values: Vec<_> = columns.iter().map(|column| format!("r.{}", quote(column))).collect();
        let values = values.join(", ");
        if cfg!(feature = "pg14") {
            if !changed.is_empty() {
                spi::run(&format!("UPDATE {name} d SET {changed} FROM ({rows}) r WHERE {same}"), &[])?;
            }
            spi::run(
                &format!(
                    "INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE
                     SELECT {values} FROM ({rows}) r WHERE NOT EXISTS (SELECT FROM {name} d WHERE {same})"
                ),
                &[],
            )?;
            return Ok(());
        }
        let matched = if changed.is_empty() { "DO NOTHING".to_string() } else { format!("UPDATE SET {changed}") };
        spi::run(
            &format!(
                "MERGE INTO {name} d USING ({rows}) r ON {same} WHEN MATCHED THEN {matched}
                 WHEN NOT MATCHED THEN INSERT ({list}) OVERRIDING SYSTEM VALUE VALUES ({values})"
            ),
            &[],
        )?;
        Ok(())
    }

    pub fn drop(self) -> Result<()> {
        spi::run(&format!("DROP TABLE {}", self.name), &[])?;
        Ok(())
    }
}

fn has_foreign_parts(destination: &Shape) -> Result<bool> {
    spi::is_true(
        "SELECT true FROM pg_class c
          WHERE c.oid = $1 AND c.relkind = 'f'
             OR EXISTS (SELECT FROM pg_partition_tree($1) p JOIN pg_class l ON l.oid = p.relid
                         WHERE c.oid = $1 AND l.relkind = 'f') AND c.oid = $1",
        &[oid_arg(destination.local_oid())],
    )
}
