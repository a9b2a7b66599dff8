//! Rows that replace those with the same key: collected in a temporary table first, then merged in one statement.

use crate::backend::compat;
use crate::backend::identity::{pin_settings, set_local, Caller, Identity};
use crate::backend::name::replace_words;
use crate::backend::name::{quote, quote_list, Name, Operator};
use crate::backend::relation::{self, oid_arg, Patience, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::caught;
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::destination::heap::{self, Indexed};
use crate::destination::shadow;
use crate::error::{Error, Result};
use crate::shape::{Column, Shape, KEY_OPERATORS};
use pgrx::pg_sys;
use std::cell::Cell;

/// Fewer rows than this are merged in any case.
const MUCH: u64 = 50_000;

/// Percentage of changed rows from which on a table is rewritten rather than merged from a temporary table.
pub const MUCH_TO_MERGE: i64 = 33;

/// The same for rows that come straight from the source, which costs less.
pub const MUCH_TO_COPY: i64 = 60;

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
    /// The columns are called as they are once `following` is applied, and have the types that they have then.
    pub fn make(destination: &Name, columns: &[String], following: &Following, caller: Caller) -> Result<Collected> {
        let number = MADE.get() + 1;
        MADE.set(number);
        let name = Name::new("pg_temp", format!("mimeo_rows_{number}"));
        {
            // A restricted role may not make temporary tables; nothing but the table's definition runs here.
            let _unrestricted = caller.unrestricted();
            let list = columns.iter().map(|column| following.model(column)).collect::<Vec<_>>().join(", ");
            spi::run(
                &format!(
                    "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {list} FROM {destination} d WITH NO DATA",
                    quote(&name.name)
                ),
                &[],
            )?;
        }
        let oid = spi::text("SELECT to_regclass($1)::oid::pg_catalog.text", &[name.to_string().into()])?
            .and_then(|oid| oid.parse::<u32>().ok())
            .ok_or_else(|| Error::Internal(format!("{name} was not made")))?;
        Ok(Collected { name, oid: oid.into() })
    }

    /// Deletes rows that `condition` does not select: it refers to them as `r`.
    pub fn retain(&self, condition: &str) -> Result<()> {
        spi::run(&format!("DELETE FROM {} r WHERE NOT ({condition})", self.name), &[])?;
        Ok(())
    }

    /// Those of the columns in which a row has NULL.
    pub fn with_nulls(&self, columns: &[String]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for column in columns {
            let query = format!("SELECT true FROM {} WHERE {} IS NULL LIMIT 1", self.name, quote(column));
            if spi::is_true(&query, &[])? {
                found.push(column.clone());
            }
        }
        Ok(found)
    }

    /// Whether there is a row with the key of `alias`, in SQL.
    pub fn holds(&self, key: &[String]) -> Result<String> {
        Ok(format!("EXISTS (SELECT FROM {} r WHERE {})", self.name, same_key(self.oid, key)?))
    }

    /// Whether a row of a destination has the key of `r`, in SQL.
    pub fn is_in(&self, destination: &Shape, key: &[String]) -> Result<String> {
        let same = same_key(self.oid, key)?;
        Ok(format!("EXISTS (SELECT FROM {} d WHERE {same})", destination.table()))
    }

    /// Replaces all rows of a destination, where they are, by `rows`.
    pub fn replace_in_place(
        &self,
        original: &Relation,
        destination: &Shape,
        (columns, rows): (&[String], &str),
        following: &Following,
        patience: Patience,
    ) -> Result<()> {
        shadow::empty_in_place(original, false, patience)?;
        following.apply(original, patience)?;
        let list = quote_list(columns.iter().map(String::as_str));
        spi::run(&format!("INSERT INTO {} ({list}) OVERRIDING SYSTEM VALUE {rows}", destination.table()), &[])?;
        following.finish(original)
    }

    /// Deletes the rows of a destination that have the same keys as those of these rows whose key holds a NULL: NULL counts as equal to NULL.
    /// They are inserted anew then.
    pub fn delete_null_keys(&self, destination: &Shape, key: &[String]) -> Result<()> {
        let unknown: Vec<_> = key.iter().map(|column| format!("{} IS NULL", quote(column))).collect();
        let unknown = unknown.join(" OR ");
        if !spi::is_true(&format!("SELECT true FROM {} WHERE {unknown} LIMIT 1", self.name), &[])? {
            return Ok(());
        }
        let same: Vec<_> = same_columns(self.oid, key)?
            .iter()
            .zip(key)
            .map(|(same, column)| format!("({same} OR d.{0} IS NULL AND r.{0} IS NULL)", quote(column)))
            .collect();
        let keys = quote_list(key.iter().map(String::as_str));
        spi::run(
            &format!(
                "DELETE FROM {} d USING (SELECT DISTINCT {keys} FROM {} WHERE {unknown}) r WHERE {}",
                destination.table(),
                self.name,
                same.join(" AND ")
            ),
            &[],
        )?;
        Ok(())
    }

    /// Whether different rows have the same key.
    pub fn shares_keys(&self, key: &[String]) -> Result<bool> {
        let keys = quote_list(key.iter().map(String::as_str));
        spi::is_true(
            &format!(
                "SELECT true FROM (SELECT ROW(r.*) AS this, lag(ROW(r.*)) OVER (PARTITION BY {keys}) AS other FROM {} r) p
                  WHERE num_nulls(p.other) = 0 AND p.this *<> p.other LIMIT 1",
                self.name
            ),
            &[],
        )
    }

    /// Deletes the rows of a destination whose keys these are.
    pub fn delete_from(&self, destination: &Shape, key: &[String]) -> Result<()> {
        let same = same_key(self.oid, key)?;
        let keys = quote_list(key.iter().map(String::as_str));
        // In the order of the key, so that an index and its table are walked through once.
        let list = format!("SELECT {keys} FROM {} ORDER BY {keys}", self.name);
        let _joining = self.joining(destination, key)?;
        spi::run(&format!("DELETE FROM {} d USING ({list}) r WHERE {same}", destination.table()), &[])?;
        Ok(())
    }

    /// As long as the result exists, a join of few rows with a large table uses the index on its key. The planner would rather
    /// read the whole table, because it takes every page access for a random one.
    fn joining(&self, destination: &Shape, key: &[String]) -> Result<Option<Identity>> {
        let few = spi::is_true(
            "SELECT true FROM pg_class d, pg_class r
              WHERE d.oid = $1 AND r.oid = $2 AND d.reltuples > 10 * r.reltuples
                AND EXISTS (SELECT FROM pg_index i
                             WHERE i.indrelid = d.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                               AND NOT EXISTS (SELECT FROM unnest(i.indkey[:i.indnkeyatts - 1]) k(attnum)
                                                 JOIN pg_attribute a ON a.attrelid = d.oid AND a.attnum = k.attnum
                                                WHERE a.attname <> ALL ($3::name[])))",
            &[oid_arg(destination.local_oid()), oid_arg(self.oid), key.to_vec().into()],
        )?;
        if !few {
            return Ok(None);
        }
        let joining = pin_settings()?;
        set_local("enable_hashjoin", "off")?;
        set_local("enable_mergejoin", "off")?;
        Ok(Some(joining))
    }

    /// Sets a column in rows of a destination to that of the collected rows with the same keys, where it is NULL.
    pub fn stamp(&self, destination: &Shape, key: &[String], column: &str) -> Result<()> {
        let same = same_key(self.oid, key)?;
        let column = quote(column);
        let _joining = self.joining(destination, key)?;
        spi::run(
            &format!(
                "UPDATE {} d SET {column} = r.{column} FROM {} r WHERE {same} AND d.{column} IS NULL",
                destination.table(),
                self.name
            ),
            &[],
        )?;
        Ok(())
    }

    /// Whether so many rows make it better to rewrite the whole table than to change them one by one: this percentage
    /// of the table, if its storage can be swapped.
    pub fn is_much(&self, destination: &Shape, rows: u64, percent: i64) -> Result<bool> {
        Ok(rows >= MUCH
            && spi::is_true(
                "SELECT c.reltuples > 0 AND $2 * 100 > c.reltuples * $3
                        AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '')
                   FROM pg_class c WHERE c.oid = $1",
                &[oid_arg(destination.local_oid()), (rows as i64).into(), percent.into()],
            )?
            && shadow::can_swap_storage(destination.local_oid())?)
    }

    /// The same as `merge_into`, by rewriting the whole table beside it: nobody else writes to it meanwhile, and
    /// readers wait only for the swap. Of the rows that are not replaced, seen as `d`, those stay that `kept` selects.
    pub fn rewrite(
        &self,
        original: &Relation,
        (columns, key, rows): (&[String], &[String], &str),
        kept: &str,
        following: &Following,
        patience: Patience,
    ) -> Result<Exchange> {
        let same = same_key(self.oid, key)?;
        let old = OldRows::of(original, following)?;
        let new = old.list(|name, value| {
            if columns.iter().any(|column| column == name) {
                return format!("r.{}", quote(name));
            }
            format!("CASE WHEN d.tableoid IS NULL THEN {value} ELSE d.{} END", quote(name))
        });
        let stays = old.list(|name, _| format!("d.{}", quote(name)));
        let query = format!(
            "SELECT {new} FROM ({rows}) r LEFT JOIN {0} d ON {same}
             UNION ALL SELECT {stays} FROM {0} d WHERE ({kept}) AND NOT EXISTS (SELECT FROM {1} r WHERE {same})",
            old.rows, self.name
        );
        write_anew(original, &query, following, patience)
    }

    /// The same without a key: these rows are added to those that are there.
    pub fn append_anew(
        &self,
        original: &Relation,
        columns: &[String],
        following: &Following,
        patience: Patience,
    ) -> Result<Exchange> {
        let old = OldRows::of(original, following)?;
        let new = old.list(|name, value| {
            if columns.iter().any(|column| column == name) {
                format!("r.{}", quote(name))
            } else {
                value.to_string()
            }
        });
        let stays = old.list(|name, _| format!("d.{}", quote(name)));
        let query = format!("SELECT {stays} FROM {} d UNION ALL SELECT {new} FROM {} r", old.rows, self.name);
        write_anew(original, &query, following, patience)
    }

    /// Adds these rows to a destination.
    pub fn append(&self, destination: &Name, columns: &[String]) -> Result<()> {
        let list = quote_list(columns.iter().map(String::as_str));
        spi::run(
            &format!("INSERT INTO {destination} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM {}", self.name),
            &[],
        )?;
        Ok(())
    }

    /// The rows, one for each key.
    pub fn rows(&self, columns: &[String], key: &[String], control: &str, unique_keys: bool) -> String {
        let list = quote_list(columns.iter().map(String::as_str));
        if unique_keys {
            return format!("SELECT {list} FROM {}", self.name);
        }
        let keys = quote_list(key.iter().map(String::as_str));
        format!("SELECT DISTINCT ON ({keys}) {list} FROM {} ORDER BY {keys}, {} DESC", self.name, quote(control))
    }

    /// Prepares the joins by key that follow.
    pub fn ready(&self, key: &[String]) -> Result<()> {
        // What sorts and hashes here is a bulk operation, like an index build.
        // SAFETY: reads a setting.
        let memory = unsafe { pg_sys::maintenance_work_mem.max(pg_sys::work_mem) };
        set_local("work_mem", &memory.to_string())?;
        let keys = quote_list(key.iter().map(String::as_str));
        spi::run(&format!("ANALYZE {} ({keys})", self.name), &[])?;
        Ok(())
    }

    /// Replaces the rows that have the same key by `rows`.
    ///
    /// 1. A destination with columns of its own, triggers or foreign keys: MERGE (before PostgreSQL 15 UPDATE and
    ///    INSERT), so that its columns keep their values, and nothing that points at a row is deleted with it.
    /// 2. Any other: DELETE and INSERT, which cost less, and which foreign tables can do.
    pub fn merge_into(&self, destination: &Shape, columns: &[String], key: &[String], rows: &str) -> Result<()> {
        let name = destination.table();
        let list = quote_list(columns.iter().map(String::as_str));
        let same = same_key(self.oid, key)?;
        if is_replaceable(destination, columns.len())? {
            self.delete_from(destination, key)?;
            spi::run(&format!("INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE {rows}"), &[])?;
            return Ok(());
        }
        let _joining = self.joining(destination, key)?;
        let changed: Vec<_> = columns
            .iter()
            // The key's too: equal values may look different.
            .filter(|name| destination.column(name).is_none_or(|own| own.identity.as_deref() != Some("a")))
            .map(|column| format!("{0} = r.{0}", quote(column)))
            .collect();
        let changed = changed.join(", ");
        let values: Vec<_> = columns.iter().map(|column| format!("r.{}", quote(column))).collect();
        let values = values.join(", ");
        if !compat::HAS_MERGE {
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

/// Changes the columns of a destination to which no rows come, with its rows written anew beside it. None if it is better to change them where
/// they are.
pub fn change_beside(
    original: &Relation,
    projected: &Shape,
    following: &Following,
    patience: Patience,
) -> Result<Option<Exchange>> {
    if following.is_empty() || !is_rewritable(projected)? || !following.goes_beside(original, 0, &[])? {
        return Ok(None);
    }
    let old = OldRows::of(original, following)?;
    let stays = old.list(|name, _| format!("d.{}", quote(name)));
    write_anew(original, &format!("SELECT {stays} FROM {} d", old.rows), following, patience).map(Some)
}

/// The rows of a destination as they are once its columns are changed.
struct OldRows {
    /// A FROM item: the columns under today's names, in today's types, and tableoid, which no column can be called.
    rows: String,
    /// In the order of the table: today's name, and what a new row has in the column if nothing is said of it.
    columns: Vec<(String, String)>,
}

impl OldRows {
    fn of(original: &Relation, following: &Following) -> Result<OldRows> {
        let all: Vec<(String, String, Option<String>)> = spi::json(
            "SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), coalesce(pg_get_expr(d.adbin, d.adrelid),
                        (SELECT format('nextval(%L::regclass)', s.objid::regclass) FROM pg_depend s
                          WHERE s.classid = 'pg_class'::regclass AND s.refclassid = 'pg_class'::regclass
                            AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype = 'i')))
                    ORDER BY a.attnum)::pg_catalog.text
               FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
              WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
            &[oid_arg(original.oid)],
        )?
        .unwrap_or_default();
        let left = following.left();
        let (mut columns, mut list) = (Vec::new(), Vec::new());
        for (own, sql_type, default) in &all {
            let name = following.after(own);
            let default = default.as_deref().filter(|_| !left.contains(&own.as_str())).unwrap_or("NULL");
            columns.push((name.to_string(), format!("CAST({default} AS {sql_type})")));
            list.push(format!("{} AS {}", following.old_value("d", own), quote(name)));
        }
        for (name, value) in following.added_columns() {
            list.push(format!("{value} AS {}", quote(name)));
            columns.push((name.to_string(), value));
        }
        let rows = format!("(SELECT {}, d.tableoid AS tableoid FROM {} d)", list.join(", "), original.name());
        Ok(OldRows { rows, columns })
    }

    /// A select list, of each column's name and what a new row has in it.
    fn list(&self, value: impl Fn(&str, &str) -> String) -> String {
        self.columns.iter().map(|(name, default)| value(name, default)).collect::<Vec<_>>().join(", ")
    }
}

/// Puts the rows of a query, which has the columns of the table in their order, in the place of all that are there.
fn write_anew(original: &Relation, query: &str, following: &Following, patience: Patience) -> Result<Exchange> {
    let name = || Ok(original.name().plain());
    relation::lock_patiently(&[original.oid], pg_sys::ShareRowExclusiveLock, name, patience, "written anew")?;
    let shadow = shadow::ShadowTable::make(original, following, patience)?;
    let names = shadow.names();
    let written = caught(|| heap::write_query(shadow.oid, query));
    written.map_err(|error| error.reworded(|text| replace_words(text, &names)))?;
    Exchange::of(shadow, &Indexed::All, false, following)
}

/// The rows of `d` and `r` have the same key, by the equality that indexes on it use. `collected` has the types of the destination.
fn same_key(collected: pg_sys::Oid, key: &[String]) -> Result<String> {
    Ok(same_columns(collected, key)?.join(" AND "))
}

fn same_columns(collected: pg_sys::Oid, key: &[String]) -> Result<Vec<String>> {
    let operators: Vec<Operator> =
        spi::json(KEY_OPERATORS, &[oid_arg(collected), key.to_vec().into()])?.unwrap_or_default();
    let same = key.iter().zip(operators).map(|(column, operator)| format!("d.{0} {operator} r.{0}", quote(column)));
    Ok(same.collect())
}

/// Whether rows may be deleted and inserted again: nothing of the destination's own depends on them.
pub fn is_replaceable(destination: &Shape, columns: usize) -> Result<bool> {
    Ok(is_plain(destination, columns)? || has_foreign_parts(destination)?)
}

/// No columns but these, and no triggers, not even those of foreign keys.
fn is_plain(destination: &Shape, columns: usize) -> Result<bool> {
    if destination.columns.len() != columns {
        return Ok(false);
    }
    spi::is_true(
        "SELECT NOT EXISTS (SELECT FROM pg_trigger g
                             WHERE g.tgrelid IN (SELECT $1 UNION ALL SELECT p.relid FROM pg_partition_tree($1) p))",
        &[oid_arg(destination.local_oid())],
    )
}

/// Whether all rows can be written again beside the existing ones.
pub fn is_rewritable(destination: &Shape) -> Result<bool> {
    let generated = |column: &Column| column.generated.as_deref().unwrap_or_default() != "";
    Ok(!destination.columns.iter().any(generated) && shadow::can_swap_storage(destination.local_oid())?)
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
