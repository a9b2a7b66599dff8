//! Local tables: reading their columns, creating them, altering them to another shape, emptying them.

use crate::backend::identity::keeps_its_snapshot;
use crate::backend::name::{literal, quote, Name};
use crate::backend::named::Named;
use crate::backend::ownership;
use crate::backend::parse;
use crate::backend::relation::{self, oid_arg, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::{caught, tried};
use crate::error::{Error, Result};
use crate::shape::{Column, ColumnDefault, Difference, Shape, COLUMNS, TYPES};
use pgrx::datum::DatumWithOid;
use pgrx::PgSqlErrorCode;
use pgrx::{pg_sys, PgList, PgRelation};
use serde::Deserialize;
use std::collections::HashMap;

/// The columns of local relations, in the order of `oids`. Runs with pinned settings only.
///
/// # Errors
/// Altered, in a transaction that keeps one snapshot: that shows other columns than statements will find.
pub fn describe<const N: usize>(oids: [pg_sys::Oid; N]) -> Result<[Shape; N]> {
    describe_present(oids)?.ok_or_else(|| Error::Internal("a relation is gone".to_string()))
}

/// The same; None if one of them is gone.
pub fn describe_present<const N: usize>(oids: [pg_sys::Oid; N]) -> Result<Option<[Shape; N]>> {
    let mut shapes: Vec<Shape> = spi::json(COLUMNS, &[oids.to_vec().into()])?.unwrap_or_default();
    shapes.sort_by_key(|shape| oids.iter().position(|oid| oid.to_u32() == shape.oid));
    if keeps_its_snapshot() {
        if let Some(old) = shapes.iter().find(|shape| !is_current(shape)) {
            return Err(Error::Altered(old.table().plain()));
        }
    }
    for shape in shapes.iter_mut().filter(|shape| shape.uses_assigned_types()) {
        shape.types = spi::json(TYPES, &[oid_arg(shape.local_oid())])?.unwrap_or_default();
    }
    Ok(shapes.try_into().ok())
}

/// Whether a local relation has just these columns for statements that use it now, whatever the transaction's snapshot shows.
fn is_current(shape: &Shape) -> bool {
    // SAFETY: gives the relation as the catalogs are now, or NULL if it is gone; PgRelation lets go of it.
    let relation = unsafe { pg_sys::RelationIdGetRelation(shape.local_oid()) };
    if relation.is_null() {
        return false;
    }
    // SAFETY: as above.
    let relation = unsafe { PgRelation::from_pg_owned(relation) };
    let descriptor = relation.tuple_desc();
    let now = descriptor.iter().filter(|attribute| !attribute.attisdropped);
    now.map(|attribute| attribute.name()).eq(shape.columns.iter().map(|column| &column.name))
}

/// The local relation that a job's destination is.
///
/// # Errors
/// BrokenDestination.
pub fn find(destination: &Name) -> Result<Relation> {
    relation::find(destination)?.ok_or_else(|| Error::BrokenDestination {
        destination: destination.plain(),
        reason: "it is missing".to_string(),
        hint: "Restore it, or call the destroyer and the maker of its method again.".to_string(),
    })
}

/// The columns of a source as columns of this server: their types and collations are looked up by name.
///
/// # Errors
/// UnknownTypes, UnknownCollations, UncopyableTypes: all of them at once.
pub fn localise(columns: &[Column], table: &Name) -> Result<Vec<LocalColumn>> {
    #[derive(Deserialize)]
    struct Lookup {
        sql_type: Option<String>,
        /// Without length or precision.
        type_name: Option<String>,
        type_oid: u32,
        /// The type, or what it is an array or a domain of, has no values that mean the same on another server.
        uncopyable: bool,
        collation_exists: bool,
    }
    let wanted = serde_json::Value::from_iter(columns.iter().map(|column| {
        serde_json::json!({
            "type": column.type_name.as_parameter(), "typmod": column.typmod,
            "extension": column.extension,
            "collation_schema": column.collation.as_ref().map(|c| &c.0),
            "collation_name": column.collation.as_ref().map(|c| &c.1),
        })
    }));
    let found: Vec<Lookup> = spi::json(
        "SELECT coalesce(json_agg(json_build_object(
                    'sql_type', format_type(l.oid, w.typmod), 'type_name', format_type(l.oid, NULL),
                    'type_oid', coalesce(l.oid::bigint, 0),
                    'uncopyable', EXISTS (
                        WITH RECURSIVE inner_types(oid) AS (
                            SELECT l.oid
                            UNION SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END
                              FROM inner_types i JOIN pg_type t ON t.oid = i.oid WHERE t.typtype = 'd' OR t.typcategory = 'A')
                        SELECT FROM inner_types i JOIN pg_type t ON t.oid = i.oid
                         WHERE t.typtype = 'p' OR t.oid < 10000 AND t.typname = ANY (
                               '{pg_node_tree,pg_ndistinct,pg_dependencies,pg_mcv_list,pg_brin_bloom_summary,pg_brin_minmax_multi_summary}'::name[])),
                    'collation_exists', w.collation_name IS NULL OR EXISTS (
                        SELECT FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
                         WHERE n.nspname = w.collation_schema::name AND c.collname = w.collation_name::name
                           AND c.collencoding IN (-1, (SELECT encoding FROM pg_database
                                                        WHERE datname = current_database())))
                ) ORDER BY w.ordinal), '[]')::pg_catalog.text
           FROM ROWS FROM (json_to_recordset($1::json)
                AS (type text, typmod int, extension json, collation_schema text, collation_name text)) WITH ORDINALITY
                AS w(type, typmod, extension, collation_schema, collation_name, ordinal)
           CROSS JOIN LATERAL (SELECT coalesce(
                -- The same type of the same extension, whose schema may be another here.
                (SELECT CASE WHEN (w.extension ->> 2)::boolean THEN t.typarray ELSE t.oid END
                   FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
                   JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
                  WHERE e.extname = (w.extension ->> 0)::name AND t.typname = (w.extension ->> 1)::name),
                to_regtype(w.type)::oid) AS oid) l",
        &[DatumWithOid::from(wanted.to_string())],
    )?
    .unwrap_or_default();

    ownership::require_types(&found.iter().filter_map(|lookup| lookup.type_name.as_deref()).collect::<Vec<_>>())?;
    let (mut types, mut collations, mut uncopyable) = (Vec::new(), Vec::new(), Vec::new());
    let mut local = Vec::with_capacity(columns.len());
    for (column, lookup) in columns.iter().zip(found) {
        if !lookup.collation_exists {
            let (schema, name) = column.collation.clone().unwrap_or_default();
            collations.push(format!("{} (column \"{}\")", Name::new(schema, name), column.name));
        }
        if lookup.uncopyable {
            uncopyable.push(format!("\"{}\" ({})", column.name, column.type_name.for_message()));
        }
        match lookup.sql_type {
            Some(sql_type) => {
                local.push(LocalColumn { source: column.clone(), sql_type, type_oid: lookup.type_oid });
            }
            None => types.push(format!("{} (column \"{}\")", column.type_name.for_message(), column.name)),
        }
    }
    if !uncopyable.is_empty() {
        return Err(Error::UncopyableTypes { table: table.plain(), columns: uncopyable });
    }
    if !types.is_empty() {
        return Err(Error::UnknownTypes { table: table.plain(), types });
    }
    if !collations.is_empty() {
        return Err(Error::UnknownCollations { table: table.plain(), collations });
    }
    Ok(local)
}

/// A column of a source, for a table on this server.
#[derive(Debug, Clone)]
pub struct LocalColumn {
    pub source: Column,
    /// For DDL, as this server's format_type prints it.
    pub sql_type: String,
    /// Of this server.
    pub type_oid: u32,
}

impl LocalColumn {
    /// Name, type and collation, and NOT NULL: a replica holds generated and identity values as plain ones.
    fn definition(&self) -> String {
        let not_null = if self.source.not_null { " NOT NULL" } else { "" };
        format!("{} {}{not_null}", quote(&self.source.name), self.typed())
    }

    /// Type and collation.
    pub fn typed(&self) -> String {
        format!("{}{}", self.sql_type, self.collate())
    }

    /// ` COLLATE …`, if it is not the type's own.
    pub fn collate(&self) -> String {
        match &self.source.collation {
            Some((schema, name)) => format!(" COLLATE {}", Name::new(schema, name)),
            None => String::new(),
        }
    }
}

/// `first` are definitions of columns that stand before those of the source.
pub fn create(table: &Name, first: Vec<String>, columns: &[LocalColumn], comment: &str) -> Result<()> {
    let definitions: Vec<_> = first.into_iter().chain(columns.iter().map(LocalColumn::definition)).collect();
    spi::run(&format!("CREATE TABLE {table} ({})", definitions.join(", ")), &[])?;
    spi::run(&format!("COMMENT ON TABLE {table} IS {}", literal(comment)), &[])?;
    Ok(())
}

/// Makes a table whose columns also have the source's identity, its generated expressions, and those defaults that are
/// constants. What the source says of them is parsed, and put as such into the tree of a CREATE TABLE whose text is ours.
///
/// # Errors
/// UntrustedOwner; what PostgreSQL says of an expression.
pub fn create_with_defaults(
    table: &Name,
    columns: &[LocalColumn],
    defaults: &[ColumnDefault],
    comment: &str,
) -> Result<()> {
    // The source may send any number of them.
    let by_column: HashMap<_, _> = defaults.iter().map(|default| (default.column.as_str(), default)).collect();
    let mut expressions = Vec::new();
    let mut named = Named::default();
    let mut definitions = Vec::new();
    for column in columns {
        let default = by_column.get(column.source.name.as_str());
        let clause = match (default, column.source.identity.as_deref()) {
            (_, Some("a")) => " GENERATED ALWAYS AS IDENTITY",
            (_, Some("d")) => " GENERATED BY DEFAULT AS IDENTITY",
            (Some(default), _) => match (parse::expression(&default.expression)?, default.generated) {
                (Some(expression), generated) if generated || expression.constant => {
                    // SAFETY: a node of the parser's.
                    unsafe { named.add(expression.node)? };
                    expressions.push(expression.node);
                    // A constant that the expression will replace.
                    if generated {
                        " GENERATED ALWAYS AS (NULL) STORED"
                    } else {
                        " DEFAULT NULL"
                    }
                }
                _ => "",
            },
            _ => "",
        };
        definitions.push(format!("{}{clause}", column.definition()));
    }
    if !expressions.is_empty() {
        // The types of the columns bring implicit casts.
        named.types.extend(columns.iter().map(|column| column.type_oid));
    }
    ownership::require_names(&named)?;
    let sql = format!("CREATE TABLE {table} ({})", definitions.join(", "));
    let statement = parse::statement(&sql)?;
    // SAFETY: the tree of the statement above.
    unsafe { put_expressions(statement, expressions)? };
    parse::run(statement, &sql)?;
    ownership::require_tables(&[find(table)?.oid])?;
    spi::run(&format!("COMMENT ON TABLE {table} IS {}", literal(comment)), &[])?;
    Ok(())
}

/// Replaces the expressions of the columns of a CREATE TABLE by these, in their order.
///
/// # Safety
/// A CREATE TABLE of the parser's.
unsafe fn put_expressions(statement: *mut pg_sys::Node, expressions: Vec<*mut pg_sys::Node>) -> Result<()> {
    // SAFETY: as the caller has promised.
    unsafe {
        let mut expressions = expressions.into_iter();
        let create = statement.cast::<pg_sys::CreateStmt>();
        for column in PgList::<pg_sys::ColumnDef>::from_pg((*create).tableElts).iter_ptr() {
            for constraint in PgList::<pg_sys::Constraint>::from_pg((*column).constraints).iter_ptr() {
                let kind = (*constraint).contype;
                if [pg_sys::ConstrType::CONSTR_DEFAULT, pg_sys::ConstrType::CONSTR_GENERATED].contains(&kind) {
                    (*constraint).raw_expr =
                        expressions.next().ok_or_else(|| Error::Internal("an expression is missing".to_string()))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a table already has these columns, NOT NULL included. One that a DBA added is left alone: `before` are the
/// source's columns when the table was last brought in line.
pub fn conforms(current: &Shape, wanted: &[Column], before: &[Column]) -> bool {
    current.columns.len() == wanted.len()
        && wanted.iter().all(|source| {
            current.column(&source.name).is_some_and(|own| {
                own.same_type(source)
                    && (own.not_null == source.not_null || (own.not_null && !was_required(before, &source.name)))
            })
        })
}

fn was_required(before: &[Column], name: &str) -> bool {
    before.iter().any(|old| old.name == name && old.not_null)
}

/// Brings an empty table to these columns by ALTER TABLE, so that everything else on it stays: indexes, grants,
/// comments, storage parameters. `before` are the source's columns when it was last brought in line, which is how
/// a rename is told from a drop and an add, and a NOT NULL of the source from one that a DBA added. The order of
/// the columns stays the table's own. Returns the new shape.
pub fn conform(table: &Name, current: &Shape, wanted: &[LocalColumn], before: &[Column]) -> Result<Shape> {
    let oid = current.local_oid();
    let source_columns: Vec<Column> = wanted.iter().map(|column| column.source.clone()).collect();
    let alter = |action: String| spi::run(&format!("ALTER TABLE ONLY {table} {action}"), &[]);

    let mut columns = current.columns.clone();
    for (old, new) in Difference::between(before, &source_columns).renamed {
        let taken = columns.iter().any(|column| column.name == new);
        if let Some(column) = columns.iter_mut().find(|column| column.name == old && !taken) {
            alter(format!("RENAME COLUMN {} TO {}", quote(&old), quote(&new)))?;
            column.name = new;
        }
    }
    for column in &columns {
        if !source_columns.iter().any(|source| source.name == column.name) {
            alter(format!("DROP COLUMN {}", quote(&column.name)))?;
        }
    }
    for column in wanted {
        let name = quote(&column.source.name);
        let Some(present) = columns.iter().find(|present| present.name == column.source.name) else {
            alter(format!("ADD COLUMN {}", column.definition()))?;
            continue;
        };
        if !present.same_type(&column.source) {
            let retyped = tried(|| alter(format!("ALTER COLUMN {name} TYPE {} USING NULL", column.typed())))?;
            if retyped.is_err() {
                alter(format!("DROP COLUMN {name}"))?;
                alter(format!("ADD COLUMN {}", column.definition()))?;
                continue;
            }
        }
        let required = column.source.not_null;
        if required && !present.not_null {
            alter(format!("ALTER COLUMN {name} SET NOT NULL"))?;
        } else if !required
            && present.not_null
            && was_required(before, &column.source.name)
            && !in_primary_key(oid, &column.source)?
        {
            alter(format!("ALTER COLUMN {name} DROP NOT NULL"))?;
        }
    }
    let [shape] = describe([oid])?;
    Ok(shape)
}

fn in_primary_key(oid: pg_sys::Oid, column: &Column) -> Result<bool> {
    spi::is_true(
        "SELECT true FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey)
          WHERE x.indrelid = $1 AND x.indisprimary AND a.attname = $2::name",
        &[oid_arg(oid), column.name.as_str().into()],
    )
}

/// Whether a local relation shows these columns, in this order.
pub fn shows(relation: &Shape, columns: &[Column]) -> bool {
    relation.columns.len() == columns.len()
        && relation.columns.iter().zip(columns).all(|(own, source)| own.name == source.name && own.same_type(source))
}

/// # Errors
/// InUseHere.
pub fn truncate(table: &Name) -> Result<()> {
    let emptied = caught(|| spi::run(&format!("TRUNCATE ONLY {table}"), &[]));
    match emptied {
        Err(error) if error.sqlstate() == PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => Err(Error::InUseHere(table.plain())),
        emptied => emptied.map(|_| ()),
    }
}

pub fn analyze(table: &Name) -> Result<()> {
    spi::run(&format!("ANALYZE {table}"), &[])?;
    Ok(())
}

/// Sets the deferred constraints of a table and its partitions to immediate, until the end of the transaction: a refresh acts as the owner
/// only while it lasts, so nothing of it may be checked later.
pub fn check_at_once(oid: pg_sys::Oid) -> Result<()> {
    let deferred: Vec<(String, String)> = spi::json(
        "SELECT coalesce(json_agg(DISTINCT jsonb_build_array(n.nspname, k.conname)), '[]')::pg_catalog.text
           FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
          WHERE k.condeferred AND k.conrelid IN (SELECT $1 UNION ALL SELECT p.relid FROM pg_partition_tree($1) p)",
        &[oid_arg(oid)],
    )?
    .unwrap_or_default();
    if deferred.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = deferred.iter().map(|(schema, name)| Name::new(schema, name).to_string()).collect();
    spi::run(&format!("SET CONSTRAINTS {} IMMEDIATE", names.join(", ")), &[])?;
    Ok(())
}

/// The TOAST table of a table, if it has one.
pub fn toast_of(oid: pg_sys::Oid) -> Result<Option<pg_sys::Oid>> {
    let toast = spi::text("SELECT c.reltoastrelid::pg_catalog.text FROM pg_class c WHERE c.oid = $1", &[oid_arg(oid)])?;
    let toast = toast.and_then(|toast| toast.parse::<u32>().ok()).unwrap_or_default();
    Ok((toast != 0).then(|| toast.into()))
}

/// The file that holds the table: another one after every TRUNCATE and rewrite.
pub fn file_of(oid: pg_sys::Oid) -> Result<u32> {
    let file = spi::text("SELECT c.relfilenode::pg_catalog.text FROM pg_class c WHERE c.oid = $1", &[oid_arg(oid)])?;
    Ok(file.and_then(|file| file.parse().ok()).unwrap_or_default())
}

/// Bytes of its own data, without TOAST and indexes.
pub fn size(oid: pg_sys::Oid) -> Result<u64> {
    Ok(spi::number("SELECT pg_catalog.pg_relation_size($1)", &[oid_arg(oid)])? as u64)
}
