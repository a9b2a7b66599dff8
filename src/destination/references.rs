//! Foreign keys from and to a local table, checked against rows that are about to replace its own.

use crate::backend::identity::{pin_settings, set_local};
use crate::backend::name::{quote, Name, Operator};
use crate::backend::ownership;
use crate::backend::relation::{self, oid_arg, Patience};
use crate::backend::spi;
use crate::destination::together::Together;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;

#[derive(Deserialize)]
struct ForeignKey {
    name: String,
    /// The referencing table; then the referenced one.
    from: Table,
    to: Table,
    to_itself: bool,
    /// Referencing column, referenced column, and the operator between them.
    columns: Vec<(String, String, Operator)>,
}

/// A table at one end of a foreign key.
#[derive(Deserialize)]
struct Table {
    #[serde(deserialize_with = "relation::oid")]
    oid: pg_sys::Oid,
    name: Name,
    /// pg_class.relkind
    kind: char,
}

impl Table {
    /// For a FROM: a foreign key does not include tables that inherit, except partitions.
    fn rows(&self) -> String {
        let only = if self.kind == 'p' { "" } else { "ONLY " };
        format!("{only}{}", self.name)
    }
}

const KEYS: &str = r"
SELECT coalesce(json_agg(json_build_object(
    'name', k.conname,
    'from', json_build_object('oid', c.oid::bigint, 'kind', c.relkind, 'name', json_build_object('schema', n.nspname, 'name', c.relname)),
    'to', json_build_object('oid', d.oid::bigint, 'kind', d.relkind, 'name', json_build_object('schema', m.nspname, 'name', d.relname)),
    'to_itself', k.conrelid = k.confrelid,
    'columns', (SELECT json_agg(json_build_array(a.attname, b.attname, json_build_array(s.nspname, o.oprname))
                    ORDER BY p.ordinal)
                  FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY p(here, there, operator, ordinal)
                  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.here
                  JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = p.there
                  JOIN pg_operator o ON o.oid = p.operator JOIN pg_namespace s ON s.oid = o.oprnamespace)
    ) ORDER BY k.conname), '[]')::pg_catalog.text
  FROM pg_constraint k
  JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class d ON d.oid = k.confrelid JOIN pg_namespace m ON m.oid = d.relnamespace
 WHERE k.contype = 'f'";

/// Checks the foreign keys of `table`, for the rows that will replace its own.
///
/// # Errors
/// ForeignKey.
pub fn check_outgoing(table: pg_sys::Oid, rows: &Name, together: &Together) -> Result<()> {
    let keys: Vec<ForeignKey> =
        spi::json(&format!("{KEYS} AND k.convalidated AND k.conrelid = $1"), &[oid_arg(table)])?.unwrap_or_default();
    for key in keys {
        let to = together.shadow_of(key.to.oid).map_or_else(|| key.to.rows(), Name::to_string);
        let rows = rows.to_string();
        if key.to_itself {
            key.check(&rows, &rows)?;
        } else {
            of_others(&[key.to.oid], || key.check(&rows, &to))?;
        }
    }
    Ok(())
}

/// Checks the foreign keys of other tables that reference `table`, against the rows that will replace its own. Those of tables that are
/// checked from their side, with all of their rows, are left out, and those that are emptied.
///
/// # Errors
/// ForeignKey.
pub fn check_incoming(table: pg_sys::Oid, rows: &Name, together: &Together, emptied: &[pg_sys::Oid]) -> Result<()> {
    let counts = |key: &&ForeignKey| !together.is_checked(key.from.oid) && !emptied.contains(&key.from.oid);
    for key in incoming(table, "k.convalidated")?.iter().filter(counts) {
        of_others(&[key.from.oid], || key.check(&key.from.rows(), &rows.to_string()))?;
    }
    Ok(())
}

/// Runs what reads tables of others, which are locked. They may belong to anybody: nothing on them must run code that is not trusted,
/// and a policy is an error rather than asked.
///
/// # Errors
/// UntrustedOwner; PostgreSQL's own for rows that a policy would decide over.
fn of_others<T>(tables: &[pg_sys::Oid], body: impl FnOnce() -> Result<T>) -> Result<T> {
    ownership::require_others(tables, false)?;
    let _pinned = pin_settings()?;
    set_local("row_security", "off")?;
    body()
}

fn incoming(table: pg_sys::Oid, which: &str) -> Result<Vec<ForeignKey>> {
    let query = format!("{KEYS} AND {which} AND k.confrelid = $1 AND k.conrelid <> $1");
    Ok(spi::json(&query, &[oid_arg(table)])?.unwrap_or_default())
}

/// Checks that the rows of `table` may be deleted and loaded again: that no foreign key would delete or change rows of other
/// tables with them. A foreign key without such an action is left to PostgreSQL, which refuses or defers.
///
/// # Errors
/// UnsupportedDestination.
pub fn require_no_actions(table: pg_sys::Oid, name: &Name, wait: Patience) -> Result<()> {
    let keys = incoming(table, "k.confdeltype IN ('c', 'n', 'd')")?;
    if keys.is_empty() {
        return Ok(());
    }
    lock(&referencing(table, false)?, wait)?;
    for key in keys {
        let query = format!("SELECT true FROM {} f WHERE {} LIMIT 1", key.from.rows(), key.is_given());
        if of_others(&[key.from.oid], || spi::is_true(&query, &[]))? {
            return Err(Error::UnsupportedDestination {
                destination: name.plain(),
                reason: format!(
                    "it can only be emptied and loaded in place, and foreign key \"{}\" would delete or change rows of \"{}\"",
                    key.name,
                    key.from.name.plain()
                ),
            });
        }
    }
    Ok(())
}

/// The tables that this one references.
fn referenced(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let found: Vec<Found> = spi::json(
        "SELECT json_agg(DISTINCT k.confrelid::bigint)::pg_catalog.text FROM pg_constraint k
          WHERE k.contype = 'f' AND k.conrelid = $1 AND k.confrelid <> $1",
        &[oid_arg(table)],
    )?
    .unwrap_or_default();
    Ok(found.into_iter().map(|found| found.0).collect())
}

/// The tables at the other ends of a table's foreign keys, and of those to it.
pub fn around(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let mut tables = referenced(table)?;
    tables.extend(referencing(table, false)?);
    Ok(tables)
}

/// Keeps others from writing to these tables, and from putting anything on them, until the end of the transaction. Readers go on.
///
/// # Errors
/// InUse.
pub fn lock(tables: &[pg_sys::Oid], wait: Patience) -> Result<()> {
    lock_in(pg_sys::ShareRowExclusiveLock, tables, wait)
}

/// All of them together, in one order.
fn lock_in(mode: u32, tables: &[pg_sys::Oid], wait: Patience) -> Result<()> {
    let mut tables = tables.to_vec();
    tables.sort_by_key(|oid| oid.to_u32());
    tables.dedup();
    if tables.is_empty() {
        return Ok(());
    }
    let name = |oid| Ok(spi::text("SELECT $1::oid::regclass::pg_catalog.text", &[oid_arg(oid)])?.unwrap_or_default());
    relation::lock_together(&tables, mode, name, wait, "locked to check foreign keys")
}

/// A DELETE or UPDATE of rows of a table may change rows of others, by the actions of their foreign keys, and the triggers of those
/// fire then: before PostgreSQL 18 as whoever has changed the first table. They must be such that nobody else's code runs; and nobody
/// makes others before the end of the transaction, while writers go on.
///
/// # Errors
/// UntrustedOwner, InUse.
pub fn trust_actions(table: pg_sys::Oid, wait: Patience) -> Result<()> {
    let found: Vec<Found> = spi::json(
        "WITH RECURSIVE found (oid) AS (
             SELECT $1
             UNION
             SELECT v.oid FROM found f
               JOIN pg_constraint k ON k.confrelid = f.oid AND k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
              CROSS JOIN LATERAL (SELECT k.conrelid UNION ALL SELECT p.relid FROM pg_partition_tree(k.conrelid) p) v (oid))
         SELECT json_agg(f.oid::bigint)::pg_catalog.text FROM found f WHERE f.oid <> $1",
        &[oid_arg(table)],
    )?
    .unwrap_or_default();
    let tables: Vec<_> = found.into_iter().map(|found| found.0).collect();
    lock_in(pg_sys::RowExclusiveLock, &tables, wait)?;
    ownership::require_others(&tables, true)
}

/// Whether foreign keys from and to a table may be checked by us, once its rows and those of the other members have come: there is nothing
/// else that its triggers would do.
///
/// `keeping`: members that keep rows which are gone on the source; actions of foreign keys have to reach these.
pub fn can_wait(table: pg_sys::Oid, company: &[pg_sys::Oid], keeping: &[pg_sys::Oid]) -> Result<bool> {
    spi::is_true(
        "WITH parts (oid) AS (SELECT $1 UNION SELECT p.relid FROM pg_partition_tree($1) p)
         SELECT EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = ANY ($2) AND k.confrelid = ANY ($2)
                           AND $1 IN (k.conrelid, k.confrelid))
            AND NOT EXISTS (SELECT FROM pg_trigger g JOIN parts p ON p.oid = g.tgrelid WHERE NOT g.tgisinternal AND g.tgenabled <> 'D')
            AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent WHERE i.inhparent = $1 AND c.relkind <> 'p')
            AND NOT EXISTS (SELECT FROM pg_constraint k JOIN parts p ON p.oid IN (k.conrelid, k.confrelid)
                             WHERE k.contype = 'f' AND k.conparentid = 0 AND p.oid <> $1)
            AND NOT EXISTS (SELECT FROM pg_rewrite w JOIN parts p ON p.oid = w.ev_class)
            AND NOT EXISTS (SELECT FROM pg_constraint k JOIN parts p ON p.oid = k.conrelid WHERE k.contype <> 'f' AND k.condeferrable)
            AND NOT EXISTS (SELECT FROM pg_constraint k JOIN parts p ON p.oid IN (k.conrelid, k.confrelid)
                             WHERE k.contype = 'f' AND NOT (k.convalidated AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)))
            AND NOT EXISTS (SELECT FROM pg_constraint k JOIN parts p ON p.oid = k.confrelid
                             WHERE k.contype = 'f' AND (k.conrelid <> ALL ($2) OR k.conrelid = ANY ($3)) AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')))
            AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND $1 IN (k.conrelid, k.confrelid) AND to_jsonb(k) ->> 'conperiod' = 'true')",
        &[oid_arg(table), company.to_vec().into(), keeping.to_vec().into()],
    )
}

/// Checks all foreign keys of a table whose rows are in place, and those of others to it.
///
/// # Errors
/// ForeignKey, UntrustedOwner, InUse.
pub fn check_in_place(table: pg_sys::Oid, name: &Name, together: &Together, wait: Patience) -> Result<()> {
    lock(&around(table)?, wait)?;
    check_outgoing(table, name, together)?;
    check_incoming(table, name, together, &[])
}

/// Whether foreign keys refer to it, or it has some.
pub fn has_any(table: pg_sys::Oid) -> Result<bool> {
    spi::is_true(
        "SELECT true FROM pg_constraint k WHERE k.contype = 'f' AND $1 IN (k.conrelid, k.confrelid) LIMIT 1",
        &[oid_arg(table)],
    )
}

/// Whether other tables refer to it.
pub fn is_referenced(table: pg_sys::Oid) -> Result<bool> {
    spi::is_true(
        "SELECT true FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = $1 LIMIT 1",
        &[oid_arg(table)],
    )
}

/// Foreign keys between these tables, or their partitions: the referencing table, and the referenced one.
pub fn between(tables: &[pg_sys::Oid]) -> Result<Vec<(pg_sys::Oid, pg_sys::Oid)>> {
    let found: Vec<(u32, u32)> = spi::json(
        "SELECT coalesce(json_agg(DISTINCT jsonb_build_array(k.conrelid::bigint, k.confrelid::bigint)), '[]')::pg_catalog.text
           FROM pg_constraint k
          WHERE k.contype = 'f' AND k.conrelid = ANY ($1) AND k.confrelid = ANY ($1) AND k.conrelid <> k.confrelid",
        &[tables.to_vec().into()],
    )?
    .unwrap_or_default();
    Ok(found.into_iter().map(|(from, to)| (from.into(), to.into())).collect())
}

#[derive(Deserialize)]
struct Found(#[serde(deserialize_with = "relation::oid")] pg_sys::Oid);

/// The tables that refer to it, directly or by others that refer to it, without those of a group: these are emptied with it.
pub fn emptied_with(table: pg_sys::Oid, company: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>> {
    let found: Vec<Found> = spi::json(
        "WITH RECURSIVE found(oid) AS (
             SELECT $1
             UNION
             SELECT k.conrelid FROM pg_constraint k JOIN found f ON k.confrelid = f.oid WHERE k.contype = 'f' AND k.conrelid <> ALL ($2))
         SELECT coalesce(json_agg(f.oid::bigint), '[]')::pg_catalog.text FROM found f WHERE f.oid <> $1",
        &[oid_arg(table), company.to_vec().into()],
    )?
    .unwrap_or_default();
    Ok(found.into_iter().map(|found| found.0).collect())
}

/// The tables that TRUNCATE … CASCADE empties too.
pub fn all_referencing(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    referencing(table, true)
}

fn referencing(table: pg_sys::Oid, indirectly: bool) -> Result<Vec<pg_sys::Oid>> {
    let found: Vec<Found> = spi::json(
        "WITH RECURSIVE found(oid, depth) AS (
             SELECT $1, 0
             UNION
             SELECT k.conrelid, 1 FROM pg_constraint k JOIN found f ON k.confrelid = f.oid
              WHERE k.contype = 'f' AND ($2 OR f.oid = $1))
         SELECT coalesce(json_agg(DISTINCT f.oid::bigint), '[]')::pg_catalog.text FROM found f WHERE f.oid <> $1",
        &[oid_arg(table), indirectly.into()],
    )?
    .unwrap_or_default();
    Ok(found.into_iter().map(|found| found.0).collect())
}

impl ForeignKey {
    /// The condition that a row `f` of the referencing table has a reference.
    fn is_given(&self) -> String {
        let given: Vec<_> = self.columns.iter().map(|(from, _, _)| format!("f.{} IS NOT NULL", quote(from))).collect();
        given.join(" AND ")
    }

    /// `from` and `to` stand in a FROM.
    fn check(&self, from: &str, to: &str) -> Result<()> {
        let same: Vec<_> = self
            .columns
            .iter()
            .map(|(from, to, operator)| format!("t.{} {operator} f.{}", quote(to), quote(from)))
            .collect();
        let violated = spi::is_true(
            &format!(
                "SELECT true FROM {from} f WHERE {} AND NOT EXISTS (SELECT FROM {to} t WHERE {}) LIMIT 1",
                self.is_given(),
                same.join(" AND ")
            ),
            &[],
        )?;
        if !violated {
            return Ok(());
        }
        Err(Error::ForeignKey {
            table: self.from.name.plain(),
            constraint: self.name.clone(),
            destination: self.to.name.plain(),
        })
    }
}
