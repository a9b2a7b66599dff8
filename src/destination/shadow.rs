//! Replacing all rows of a table while it is read.
//!
//! A plain table gets them through a shadow table: a table of the same physical form beside it, with the same checks and
//! indexes, is loaded first; then the storage of the two is swapped, which is all that readers ever wait for. The table
//! itself stays: its OID, grants, views, triggers, foreign keys. Any other table (partitioned, published, with
//! triggers that want to see the rows) is emptied and loaded in place.

use crate::backend::identity::{keeps_its_snapshot, set_local};
use crate::backend::name::{literal, quote, Name};
use crate::backend::ownership;
use crate::backend::relation::{self, oid_arg, Patience, Relation};
use crate::backend::spi;
use crate::destination::following::Following;
use crate::destination::heap;
use crate::destination::indexes;
use crate::destination::references;
use crate::destination::statistics;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A table of the same physical form as the original, beside it.
pub struct ShadowTable {
    pub(super) original: Relation,
    pub name: Name,
    pub oid: pg_sys::Oid,
    /// A part of all its names.
    tag: u32,
    /// The original's.
    indexes: Vec<Index>,
    /// Indexes of the original, and their copies.
    pub(super) pairs: Vec<(pg_sys::Oid, pg_sys::Oid)>,
    /// Extended statistics of the original, and their copies.
    pub(super) statistics: Vec<(pg_sys::Oid, pg_sys::Oid)>,
}

/// An index of the original.
#[derive(Deserialize)]
pub(super) struct Index {
    #[serde(deserialize_with = "relation::oid")]
    oid: pg_sys::Oid,
    name: String,
    definition: String,
    /// Of an exclusion constraint, or a key WITHOUT OVERLAPS.
    exclusion: Option<String>,
    tablespace: Option<String>,
}

const INDEXES: &str = r"
SELECT json_agg(json_build_object('oid', x.indexrelid::bigint, 'name', c.relname,
            'definition', pg_get_indexdef(x.indexrelid),
            'exclusion', CASE WHEN x.indisexclusion THEN (SELECT pg_get_constraintdef(k.oid)
                FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('x', 'p', 'u')) END,
            'tablespace', (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace))
        ORDER BY x.indisprimary DESC, x.indexrelid)::pg_catalog.text
  FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = $1";

#[derive(Deserialize)]
struct Column {
    name: String,
    dropped: bool,
    sql_type: Option<String>,
    collation: Option<String>,
    not_null: bool,
    generated: bool,
    /// Of a generated column its expression, else the default.
    expression: Option<String>,
    /// The sequence of an identity column.
    identity: Option<String>,
}

#[derive(Deserialize)]
struct Form {
    unlogged: bool,
    tablespace: Option<String>,
    columns: Vec<Column>,
    /// Definitions of CHECK constraints, and the partition's own, which is called as the shadow table.
    checks: Vec<String>,
}

/// $1: the original, $2: the name of its shadow table.
const FORM: &str = r"
SELECT json_build_object(
    'unlogged', c.relpersistence = 'u',
    'tablespace', (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace),
    'columns', (SELECT json_agg(json_build_object(
            'name', a.attname, 'dropped', a.attisdropped,
            'sql_type', CASE WHEN NOT a.attisdropped THEN format_type(a.atttypid, a.atttypmod) END,
            'collation', (SELECT format('%I.%I', n.nspname, o.collname) FROM pg_collation o
                            JOIN pg_namespace n ON n.oid = o.collnamespace JOIN pg_type t ON t.oid = a.atttypid
                           WHERE o.oid = a.attcollation AND a.attcollation <> t.typcollation),
            'not_null', a.attnotnull, 'generated', a.attgenerated <> '',
            'expression', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                            WHERE d.adrelid = c.oid AND d.adnum = a.attnum),
            'identity', CASE WHEN a.attidentity <> '' THEN (
                SELECT d.objid::regclass::pg_catalog.text FROM pg_depend d
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                   AND d.refobjid = c.oid AND d.refobjsubid = a.attnum AND d.deptype = 'i') END
        ) ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
    'checks', (SELECT coalesce(json_agg(k.definition), '[]') FROM (
            SELECT format('CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)) AS definition FROM pg_constraint k
             WHERE k.conrelid = c.oid AND k.contype = 'c'
            UNION ALL SELECT format('CONSTRAINT %I CHECK (%s)', $2::pg_catalog.text, pg_get_partition_constraintdef(c.oid))
             WHERE pg_get_partition_constraintdef(c.oid) IS NOT NULL) k))::pg_catalog.text
  FROM pg_class c WHERE c.oid = $1";

/// Why the storage of a table cannot be swapped; None for a plain heap that nobody follows row by row.
pub fn obstacle(destination: pg_sys::Oid) -> Result<Option<String>> {
    // What such a transaction sees of the catalogs and of the rows may be out of date.
    if keeps_its_snapshot() {
        return Ok(Some("the transaction keeps one snapshot".to_string()));
    }
    spi::text(
        "SELECT CASE
                WHEN c.relkind <> 'r' OR c.relpersistence NOT IN ('p', 'u')
                     OR c.relam <> (SELECT m.oid FROM pg_am m WHERE m.amname = 'heap') THEN 'it is not a plain table'
                WHEN NOT has_schema_privilege(c.relnamespace, 'CREATE') THEN 'its owner may not make tables in its schema'
                WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D')
                THEN 'it has triggers'
                WHEN EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND NOT (x.indisvalid AND x.indisready AND x.indislive))
                THEN 'it has an invalid index'
                WHEN EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) THEN 'other tables inherit from it'
                WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = c.oid AND k.conparentid <> 0)
                THEN 'a partitioned table refers to it'
                -- Keys of a PERIOD (PostgreSQL 18) may find what they point at in several rows.
                WHEN EXISTS (SELECT FROM pg_constraint k
                              WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid) AND to_jsonb(k) ->> 'conperiod' = 'true')
                THEN 'it has a foreign key with PERIOD'
                WHEN EXISTS (SELECT FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
                              WHERE n.oid = c.relnamespace AND p.tablename = c.relname) THEN 'it is published'
                -- What reads such a slot takes the rows to be those of another table. That of a publication knows its tables, and that of
                -- REPACK (PostgreSQL 19) only its own, which nobody else can lock exclusively meanwhile.
                WHEN EXISTS (SELECT FROM pg_replication_slots s
                              WHERE s.slot_type = 'logical' AND s.database = current_database() AND s.plugin NOT IN ('pgoutput', 'pgrepack'))
                THEN 'a logical replication slot decodes what is written in this database'
                END
           FROM pg_class c WHERE c.oid = $1",
        &[oid_arg(destination)],
    )
}

/// Whether the storage of a table can be swapped.
pub fn can_swap_storage(destination: pg_sys::Oid) -> Result<bool> {
    Ok(obstacle(destination)?.is_none())
}

/// Until the end of the transaction nobody changes the form of a table, which can be read and written all the time.
///
/// # Errors
/// InUse.
pub fn lock_form(oid: pg_sys::Oid, name: &Name, patience: Patience) -> Result<()> {
    relation::lock_patiently(&[oid], pg_sys::ShareUpdateExclusiveLock, || Ok(name.plain()), patience, "refreshed")
}

/// The name of the shadow of a table or an index with this OID. Nobody else can know `tag` before: a table of that name would be
/// in the way.
fn shadow_name(original: pg_sys::Oid, tag: u32) -> String {
    format!("mimeo_{}_{tag:08x}", original.to_u32())
}

/// A number that cannot be guessed.
fn random_tag() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

impl ShadowTable {
    /// Makes it, empty, with the columns that the original has once `following` is applied; nothing is renamed in it. Until the end of the transaction nobody changes the form of the original, which can be read
    /// and written all the time.
    pub fn make(original: &Relation, following: &Following, patience: Patience) -> Result<ShadowTable> {
        lock_form(original.oid, &original.name(), patience)?;
        let tag = random_tag();
        let name = original.name().sibling(shadow_name(original.oid, tag));
        let form: Form = spi::json(FORM, &[oid_arg(original.oid), name.name.as_str().into()])?
            .ok_or_else(|| Error::Internal(format!("{} is gone", original.name().plain())))?;
        let columns: Vec<_> = form.columns.iter().map(Column::definition).collect();
        let checks: Vec<_> = form.checks.iter().map(String::as_str).collect();
        let list = columns.iter().map(String::as_str).chain(checks).collect::<Vec<_>>().join(", ");
        let kind = if form.unlogged { "UNLOGGED TABLE" } else { "TABLE" };
        let options = relation::table_options(original.oid)?;
        let tablespace = form.tablespace.map(|name| format!(" TABLESPACE {}", quote(&name))).unwrap_or_default();
        spi::run(&format!("CREATE {kind} {name} ({list}) USING heap{options}{tablespace}"), &[])?;
        for column in form.columns.iter().filter(|column| column.dropped) {
            spi::run(&format!("ALTER TABLE {name} DROP COLUMN {}", quote(&column.name)), &[])?;
        }
        let made = relation::find(&name)?.ok_or_else(|| Error::Internal(format!("{name} was not made")))?;
        for change in storage_of_columns(original.oid)? {
            spi::run(&format!("ALTER TABLE {name} {change}"), &[])?;
        }
        let statistics = statistics::copy_extended(original.oid, &name)?;
        following.alter(&name, false)?;
        let indexes = spi::json(INDEXES, &[oid_arg(original.oid)])?.unwrap_or_default();
        Ok(ShadowTable { original: original.clone(), name, oid: made.oid, tag, indexes, pairs: Vec::new(), statistics })
    }

    /// Pairs of names, for errors: those of the shadow table and its indexes, and those of the original, which users know.
    pub fn names(&self) -> Vec<(String, String)> {
        let indexes = self.indexes.iter().map(|index| (shadow_name(index.oid, self.tag), index.name.clone()));
        indexes.chain([(self.name.name.clone(), self.original.name().name)]).collect()
    }

    /// Creates its indexes before the rows come, if they can be built behind the load, or afterwards. An exclusion constraint
    /// always comes later: it may bring a trigger.
    pub fn index_early(&mut self) -> Result<()> {
        if !heap::takes_frozen(self.oid) {
            return Ok(());
        }
        self.make_indexes(|index| index.exclusion.is_none())
    }

    /// Those of the original's indexes that are `wanted`, and not there yet, made on the shadow table.
    pub(super) fn make_indexes(&mut self, wanted: impl Fn(&Index) -> bool) -> Result<()> {
        let (wanted, left): (Vec<_>, _) = std::mem::take(&mut self.indexes).into_iter().partition(wanted);
        self.indexes = left;
        for original in wanted {
            let name = shadow_name(original.oid, self.tag);
            set_local("default_tablespace", original.tablespace.as_deref().unwrap_or_default())?;
            match original.exclusion {
                Some(definition) => {
                    spi::run(&format!("ALTER TABLE {} ADD CONSTRAINT {} {definition}", self.name, quote(&name)), &[])?;
                }
                None => indexes::create_like(&original.definition, &self.name, &name)?,
            }
            let copy = relation::find(&self.name.sibling(&name))?
                .ok_or_else(|| Error::Internal(format!("index {name} was not made")))?;
            for change in storage_of_columns(original.oid)? {
                spi::run(&format!("ALTER INDEX {} {change}", copy.name()), &[])?;
            }
            self.pairs.push((original.oid, copy.oid));
        }
        set_local("default_tablespace", "")
    }
}

/// Storage, compression, statistics targets and options of the columns of a table, where they were set, as clauses of ALTER TABLE. Of an
/// index, whose columns are numbered, only the statistics targets.
fn storage_of_columns(oid: pg_sys::Oid) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Set {
        column: String,
        number: i16,
        index: bool,
        storage: Option<String>,
        compression: Option<String>,
        statistics: Option<i32>,
        options: Vec<(String, String)>,
    }
    let found: Vec<Set> = spi::json(
        "SELECT json_agg(json_build_object('column', a.attname, 'number', a.attnum, 'index', c.relkind IN ('i', 'I'),
                    'storage', CASE WHEN a.attstorage <> t.typstorage AND c.relkind NOT IN ('i', 'I') THEN CASE a.attstorage
                        WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
                    'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
                    'statistics', CASE WHEN (to_jsonb(a) ->> 'attstattarget')::int >= 0 THEN (to_jsonb(a) ->> 'attstattarget')::int END,
                    'options', (SELECT coalesce(json_agg(json_build_array(o.option_name, o.option_value)), '[]')
                                  FROM pg_options_to_table(CASE WHEN c.relkind NOT IN ('i', 'I') THEN a.attoptions END) o)) ORDER BY a.attnum)::pg_catalog.text
           FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
          WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
        &[oid_arg(oid)],
    )?
    .unwrap_or_default();
    let mut changes = Vec::new();
    for Set { column, number, index, storage, compression, statistics, options } in found {
        let which = if index { number.to_string() } else { quote(&column) };
        let mut change = |what: String| changes.push(format!("ALTER COLUMN {which} SET {what}"));
        if let Some(storage) = storage {
            change(format!("STORAGE {storage}"));
        }
        if let Some(compression) = compression.filter(|_| !index) {
            change(format!("COMPRESSION {compression}"));
        }
        if let Some(statistics) = statistics {
            change(format!("STATISTICS {statistics}"));
        }
        if !options.is_empty() {
            let list: Vec<_> =
                options.iter().map(|(name, value)| format!("{} = {}", quote(name), literal(value))).collect();
            change(format!("({})", list.join(", ")));
        }
    }
    Ok(changes)
}

impl Column {
    fn definition(&self) -> String {
        let name = quote(&self.name);
        if self.dropped {
            // A dropped column: created and dropped here too, so that the attribute numbers are the same; its type does not matter.
            return format!("{name} integer");
        }
        let mut text = format!("{name} {}", self.sql_type.as_deref().unwrap_or_default());
        if let Some(collation) = &self.collation {
            text.push_str(&format!(" COLLATE {collation}"));
        }
        if self.not_null {
            text.push_str(" NOT NULL");
        }
        match (&self.expression, &self.identity) {
            (Some(expression), _) if self.generated => {
                text.push_str(&format!(" GENERATED ALWAYS AS ({expression}) STORED"));
            }
            (Some(expression), _) => text.push_str(&format!(" DEFAULT {expression}")),
            (None, Some(sequence)) => {
                text.push_str(&format!(" DEFAULT nextval({}::regclass)", literal(sequence)));
            }
            (None, None) => {}
        }
        text
    }
}

/// Empties a table whose storage cannot be swapped, for a load in place. Readers see the old rows until the end of the
/// transaction, unless `cascade` empties the referencing tables too.
///
/// # Errors
/// UnsupportedDestination, if that would delete or change rows of other tables.
pub fn empty_in_place(destination: &Relation, cascade: bool, patience: Patience) -> Result<()> {
    let name = destination.name();
    if !cascade {
        references::require_no_actions(destination.oid, &name, patience)?;
    }
    if cascade {
        let others = references::all_referencing(destination.oid)?;
        references::lock(&others, patience)?;
        ownership::require_others(&others, true)?;
    }
    let statement = if cascade { format!("TRUNCATE {name} CASCADE") } else { format!("DELETE FROM {name}") };
    spi::run(&statement, &[])?;
    Ok(())
}
