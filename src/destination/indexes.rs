//! Indexes and foreign keys of a local table: copying those of a source, and dropping and rebuilding them around a
//! load.

use crate::backend::compat;
use crate::backend::foreign_text::ForeignText;
use crate::backend::name::{cut_middle, quote, replace_part, with_suffix, Name, MAX_BYTES};
use crate::backend::ownership;
use crate::backend::parse;
use crate::backend::relation::{self, oid_arg, Patience};
use crate::backend::spi;
use crate::backend::subtransaction::{caught, tried};
use crate::destination::references;
use crate::error::{told, Error, Result};
use crate::shape::IndexDefinition;
use pgrx::pg_sys;
use pgrx::PgSqlErrorCode;
use serde::Deserialize;
use std::ffi::CString;

/// Rebuilds the indexes of a table whose rows were written without them, but for those that are `built` already. Their
/// definitions, names, comments and constraints stay as they are; uniqueness and exclusion are checked.
pub fn rebuild(oid: pg_sys::Oid, built: &[pg_sys::Oid]) -> Result<()> {
    let indexes: Option<Vec<(u32, String, String)>> = spi::json(
        "SELECT json_agg(json_build_array(c.oid::bigint, n.nspname, c.relname) ORDER BY x.indisprimary DESC, c.oid)::pg_catalog.text
           FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE x.indrelid = $1",
        &[oid_arg(oid)],
    )?;
    for (index, schema, name) in indexes.unwrap_or_default() {
        if built.contains(&index.into()) {
            continue;
        }
        spi::run(&format!("REINDEX INDEX {}", Name::new(schema, name)), &[])?;
    }
    Ok(())
}

/// A foreign key that was dropped for a load.
#[derive(Debug, Deserialize)]
pub struct ForeignKey {
    #[serde(deserialize_with = "relation::oid")]
    pub to: pg_sys::Oid,
    name: String,
    definition: String,
    comment: Option<String>,
}

/// Drops the foreign keys of a table to other tables: rows that are written past the executor fire no
/// triggers. `restore_foreign_keys` adds them again, and checks all rows in one query.
pub fn take_foreign_keys_off(table: &Name, oid: pg_sys::Oid) -> Result<Vec<ForeignKey>> {
    let keys: Vec<ForeignKey> = spi::json(
        "SELECT json_agg(json_build_object('to', k.confrelid::bigint, 'name', k.conname, 'definition', pg_get_constraintdef(k.oid),
                    'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname)::pg_catalog.text
           FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'f'",
        &[oid_arg(oid)],
    )?
    .unwrap_or_default();
    for key in &keys {
        spi::run(&format!("ALTER TABLE ONLY {table} DROP CONSTRAINT {}", quote(&key.name)), &[])?;
    }
    Ok(keys)
}

/// Adds foreign keys again. PostgreSQL reads the referenced tables to check them, so no code of an untrusted role may run when these are
/// read.
///
/// # Errors
/// UntrustedOwner; a foreign key violation of PostgreSQL's.
pub fn restore_foreign_keys(table: &Name, keys: &[ForeignKey], wait: Patience) -> Result<()> {
    for key in keys {
        references::lock(&[key.to], wait)?;
        ownership::require_others(&[key.to], false)?;
        let name = quote(&key.name);
        spi::run(&format!("ALTER TABLE ONLY {table} ADD CONSTRAINT {name} {}", key.definition), &[])?;
        if let Some(comment) = &key.comment {
            let comment = crate::backend::name::literal(comment);
            spi::run(&format!("COMMENT ON CONSTRAINT {name} ON {table} IS {comment}"), &[])?;
        }
    }
    Ok(())
}

/// Where the indexes of a source are copied to.
pub struct IndexTarget<'a> {
    /// Of the source table, without its schema.
    pub source_table: &'a str,
    pub table: &'a Name,
    pub oid: pg_sys::Oid,
    /// What the names of the copies begin with.
    pub prefix: &'a str,
}

impl IndexTarget<'_> {
    /// The name of a copied index: the prefix and the source's index name, in which the source table's name becomes the
    /// local one's. A primary key is called `<table>_<column>_…_pk`.
    fn name_of(&self, index: &IndexDefinition) -> String {
        self.name_by(index, |name| replace_part(name, self.source_table, &self.table.name))
    }

    /// The one that releases before 2.2 gave: they replaced the table's name in the midst of words, too.
    fn former_name_of(&self, index: &IndexDefinition) -> String {
        self.name_by(index, |name| name.replace(self.source_table, &self.table.name))
    }

    fn name_by(&self, index: &IndexDefinition, replace: impl Fn(&str) -> String) -> String {
        if index.primary {
            return with_suffix(&format!("{}_{}", self.table.name, index.columns.join("_")), "_pk");
        }
        cut_middle(&format!("{}{}", self.prefix, replace(&index.name)), MAX_BYTES)
    }

    fn is_on_table(&self, name: &str) -> Result<bool> {
        let Some(existing) = relation::find(&self.table.sibling(name))? else { return Ok(false) };
        spi::is_true(
            "SELECT true FROM pg_index x WHERE x.indexrelid = $1 AND x.indrelid = $2",
            &[oid_arg(existing.oid), oid_arg(self.oid)],
        )
    }
}

/// The primary key that a table has.
#[derive(Deserialize)]
struct PrimaryKey {
    name: String,
    columns: Vec<String>,
}

impl PrimaryKey {
    fn of(table: pg_sys::Oid) -> Result<Option<PrimaryKey>> {
        spi::json(
            "SELECT json_build_object('name', k.conname, 'columns', (
                        SELECT json_agg(a.attname ORDER BY c.ordinal) FROM unnest(k.conkey) WITH ORDINALITY c (number, ordinal)
                          JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.number))::pg_catalog.text
               FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'p'",
            &[oid_arg(table)],
        )
    }
}

/// An index that was not created: its name on the source, the reason, and the statement that creates it once what it needs exists.
pub struct LeftOut {
    pub index: String,
    pub reason: String,
    pub statement: Option<String>,
}

impl LeftOut {
    /// For a WARNING.
    pub fn text(&self) -> String {
        let later = self.statement.as_ref().map(|statement| format!(". Later: {statement}")).unwrap_or_default();
        told(format!(
            "index \"{}\" is left out, because it cannot be created on the destination: {}{later}",
            self.index, self.reason
        ))
    }
}

/// Copies indexes of a source to a local table, but for those that it has already. The data comes first: an index that cannot be created is
/// left out, unless it is the key's. Where the table keeps rows that are gone on the source (`kept_by` is the key that they are found by), no
/// other index is unique: such indexes are created as non-unique ones, whose names are returned, too.
///
/// # Errors
/// Index, with the reason, if that of the key cannot be created.
pub fn copy_all<'a>(
    indexes: impl IntoIterator<Item = &'a IndexDefinition>,
    key: Option<&IndexDefinition>,
    target: &IndexTarget<'_>,
    kept_by: Option<&[String]>,
) -> Result<(Vec<LeftOut>, Vec<String>)> {
    let (mut left_out, mut plain) = (Vec::new(), Vec::new());
    for index in indexes {
        let index = &match kept_by {
            Some(key) if index.unique && !follows_from(key, index) => {
                plain.push(index.name.clone());
                IndexDefinition { unique: false, primary: false, ..index.clone() }
            }
            _ => index.clone(),
        };
        let name = target.name_of(index);
        if target.is_on_table(&name)? || target.is_on_table(&target.former_name_of(index))? {
            continue;
        }
        let present = if index.primary { PrimaryKey::of(target.oid)? } else { None };
        if present.as_ref().is_some_and(|present| present.columns == index.columns) {
            // Its columns have been renamed, and it has not.
            continue;
        }
        if present.is_none() && (index.primary || key.is_some_and(|key| key.name == index.name)) {
            copy(index, target, &name)?;
            continue;
        }
        let replaced = tried(|| {
            if let Some(present) = present {
                spi::run(&format!("ALTER TABLE {} DROP CONSTRAINT {}", target.table, quote(&present.name)), &[])?;
            }
            copy(index, target, &name)
        })?;
        if let Err(error) = replaced {
            let report = match error {
                Error::Index { report, .. } => report,
                other => other.report(),
            };
            let reason = report.message;
            // Nobody should run by hand what was refused because it reaches code of an untrusted role, or is not a harmless definition.
            let refused = report.sqlstate.is_any_of(&[
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
                PgSqlErrorCode::ERRCODE_INVALID_OBJECT_DEFINITION,
            ]);
            let statement = if refused { None } else { statement_here(index, target.table, &name)? };
            left_out.push(LeftOut { index: index.name.clone(), reason, statement });
        }
    }
    Ok((left_out, plain))
}

/// Whether a unique index is one as long as no two rows have the same values in these columns.
fn follows_from(key: &[String], index: &IndexDefinition) -> bool {
    !key.is_empty() && key.iter().all(|column| index.columns.contains(column))
}

/// Copies one index. The definition that the source gave is parsed, and only the table and the name in it are replaced, so that no text of a
/// source is run.
///
/// # Errors
/// Index.
fn copy(index: &IndexDefinition, target: &IndexTarget<'_>, name: &str) -> Result<()> {
    let table = target.table;
    let name = &free_name(table, name)?;
    let made = caught(|| {
        create_from_source(&index.definition, table, target.oid, name, index.unique)?;
        if index.primary {
            let name = quote(name);
            spi::run(&format!("ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {name}"), &[])?;
        }
        Ok(())
    });
    made.map_err(|error| {
        if error.is_cancel() {
            return error;
        }
        Error::Index { index: index.name.clone(), table: table.plain(), report: error.report() }
    })
}

/// What the source says of an index, with another table and name, for a message; None if that is not one CREATE INDEX.
///
/// # Errors
/// Cancelled.
fn statement_here(index: &IndexDefinition, table: &Name, name: &str) -> Result<Option<String>> {
    if tried(|| parse::definition(&index.definition).map(|_| ()))?.is_err() {
        return Ok(None);
    }
    let text = index.definition.for_message();
    // Names that hold a blank stand in quotes.
    let mut quoted = false;
    let rest = text.char_indices().find_map(|(at, message)| {
        quoted ^= message == '"';
        (!quoted && text[at..].starts_with(" USING ")).then(|| &text[at..])
    });
    let unique = if index.unique { "UNIQUE " } else { "" };
    Ok(rest.map(|rest| format!("CREATE {unique}INDEX {} ON {table}{rest};", quote(name))))
}

/// `name`, with a number if it is taken in the table's schema.
fn free_name(table: &Name, name: &str) -> Result<String> {
    if relation::find(&table.sibling(name))?.is_none() {
        return Ok(name.to_string());
    }
    for number in 1.. {
        let candidate = with_suffix(name, &format!("_{number}"));
        if relation::find(&table.sibling(&candidate))?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("the numbers do not end")
}

/// Makes an index by the CREATE INDEX that a source's pg_get_indexdef gave, with another table and name. What it calls is checked
/// first.
fn create_from_source(
    definition: &ForeignText,
    table: &Name,
    table_oid: pg_sys::Oid,
    name: &str,
    unique: bool,
) -> Result<()> {
    let statement = parse::definition(definition)?;
    // SAFETY: the parser's node, whose kind `renamed` has checked.
    unsafe {
        let create = renamed(statement, table, name)?;
        (*create).unique &= unique;
        compat::restrict_nulls_not_distinct(&mut *create, unique);
        ownership::require_index(table_oid, create)?;
    }
    // PostgreSQL shows this text where it shows a statement.
    parse::run(statement, &format!("CREATE INDEX {} ON {table}", quote(name)))
}

/// Makes an index by the CREATE INDEX that pg_get_indexdef gave here, with another table and name.
pub fn create_like(definition: &str, table: &Name, name: &str) -> Result<()> {
    let statement = parse::statement(definition)?;
    // SAFETY: the parser's node.
    unsafe { renamed(statement, table, name)? };
    parse::run(statement, definition)
}

/// # Safety
/// A statement of the parser's.
unsafe fn renamed(statement: *mut pg_sys::Node, table: &Name, name: &str) -> Result<*mut pg_sys::IndexStmt> {
    // SAFETY: as the caller has promised.
    unsafe {
        let copy = |text: &str| -> Result<*mut std::os::raw::c_char> {
            let text = CString::new(text).map_err(|_| Error::InvalidName(text.to_string()))?;
            Ok(pg_sys::pstrdup(text.as_ptr()))
        };
        if (*statement).type_ != pg_sys::NodeTag::T_IndexStmt {
            return Err(Error::Definition("it is not a CREATE INDEX".to_string()));
        }
        let create = statement.cast::<pg_sys::IndexStmt>();
        (*create).relation = pg_sys::makeRangeVar(copy(&table.schema)?, copy(&table.name)?, -1);
        (*create).idxname = copy(name)?;
        (*create).tableSpace = std::ptr::null_mut();
        (*create).concurrent = false;
        (*create).if_not_exists = false;
        Ok(create)
    }
}
