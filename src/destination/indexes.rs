//! Indexes and foreign keys of a local table: copying those of a source, and getting them out of the way of a
//! load.

use crate::backend::foreign_text::ForeignText;
use crate::backend::name::{cut_middle, quote, with_suffix, Name, MAX_BYTES};
use crate::backend::parse;
use crate::backend::relation::{self, oid_arg, Patience};
use crate::backend::spi;
use crate::backend::subtransaction::caught;
use crate::backend::trust;
use crate::destination::references;
use crate::error::{Error, Result};
use crate::shape::IndexDefinition;
use pgrx::pg_sys;
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

/// A foreign key that was taken off for a load.
#[derive(Debug, Deserialize)]
pub struct ForeignKey {
    #[serde(deserialize_with = "relation::oid")]
    to: pg_sys::Oid,
    name: String,
    definition: String,
    comment: Option<String>,
}

/// Drops the foreign keys of a table that point elsewhere: rows that are written past the executor fire no
/// triggers. `restore_foreign_keys` puts them back, and checks all rows in one query.
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

/// Puts foreign keys back. PostgreSQL reads the tables that they point at to check them, so these must be such that nobody else's code
/// runs with it.
///
/// # Errors
/// Stranger; a foreign key violation of PostgreSQL's.
pub fn restore_foreign_keys(table: &Name, keys: &[ForeignKey], wait: Patience) -> Result<()> {
    for key in keys {
        references::lock(&[key.to], wait)?;
        trust::require_others(&[key.to], false)?;
        let name = quote(&key.name);
        spi::run(&format!("ALTER TABLE ONLY {table} ADD CONSTRAINT {name} {}", key.definition), &[])?;
        if let Some(comment) = &key.comment {
            let comment = crate::backend::name::literal(comment);
            spi::run(&format!("COMMENT ON CONSTRAINT {name} ON {table} IS {comment}"), &[])?;
        }
    }
    Ok(())
}

/// The name of a copied index: `prefix` and the source's index name, in which the source table's name becomes the
/// local one's. A primary key is called `<table>_<column>_…_pk`.
pub fn copied_name(index: &IndexDefinition, source_table: &str, table: &str, prefix: &str) -> String {
    if index.primary {
        return with_suffix(&format!("{table}_{}", index.columns.join("_")), "_pk");
    }
    let name = format!("{prefix}{}", index.name.replace(source_table, table));
    cut_middle(&name, MAX_BYTES)
}

/// Copies an index of a source to a local table, unless it has one of that name already. The definition that the
/// source gave is parsed, and only the table and the name in it are replaced, so that no text of a source is run.
///
/// # Errors
/// Index, with the reason, if it cannot be made here.
pub fn copy(index: &IndexDefinition, table: &Name, table_oid: pg_sys::Oid, name: &str) -> Result<()> {
    if let Some(existing) = relation::find(&table.sibling(name))? {
        let ours = spi::is_true(
            "SELECT true FROM pg_index x WHERE x.indexrelid = $1 AND x.indrelid = $2",
            &[oid_arg(existing.oid), oid_arg(table_oid)],
        )?;
        if ours {
            return Ok(());
        }
        return copy(index, table, table_oid, &free_name(table, name)?);
    }
    let made = caught(|| {
        create_from_source(&index.definition, table, table_oid, name)?;
        if index.primary {
            let name = quote(name);
            spi::run(&format!("ALTER TABLE {table} ADD CONSTRAINT {name} PRIMARY KEY USING INDEX {name}"), &[])?;
        }
        Ok(())
    });
    made.map_err(|error| match error {
        Error::Cancelled(_) => error,
        _ => Error::Index { index: index.name.clone(), table: table.plain(), report: error.report() },
    })
}

/// `name` with a number that makes it free in the table's schema.
fn free_name(table: &Name, name: &str) -> Result<String> {
    for number in 1.. {
        let candidate = with_suffix(name, &format!("_{number}"));
        if relation::find(&table.sibling(&candidate))?.is_none() {
            return Ok(candidate);
        }
    }
    unreachable!("the numbers do not end")
}

/// Makes an index by the CREATE INDEX that a source's pg_get_indexdef gave, with another table and name. What it calls is looked at
/// first.
fn create_from_source(definition: &ForeignText, table: &Name, table_oid: pg_sys::Oid, name: &str) -> Result<()> {
    let statement = parse::definition(definition)?;
    // SAFETY: the parser's node, whose kind `renamed` has checked.
    unsafe {
        let create = renamed(statement, table, name)?;
        trust::require_index(table_oid, create)?;
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
