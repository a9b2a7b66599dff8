//! How each method makes, refreshes and destroys a job, and the steps that all of them share.

pub mod snapshot;

use crate::backend::identity::{current_role, is_superuser};
use crate::backend::name::{readings, Name};
use crate::backend::relation;
use crate::backend::subtransaction::caught;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::shape::{Column, Shape};
use crate::source::connection::{Applicant, Connection, Mapping};
use pgrx::pg_sys;

/// The methods, by the types that refresh_config.type holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Snapshot,
    Table,
    Inserter,
    Updater,
    Dml,
    Logdel,
}

impl Method {
    pub fn of(kind: &str) -> Result<Method> {
        Ok(match kind {
            "snap" => Method::Snapshot,
            "table" => Method::Table,
            "inserter_time" | "inserter_serial" => Method::Inserter,
            "updater_time" | "updater_serial" => Method::Updater,
            "dml" => Method::Dml,
            "logdel" => Method::Logdel,
            other => return Err(Error::Internal(format!("refresh_config holds a job of type {other}"))),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Method::Snapshot => "snapshot",
            Method::Table => "table",
            Method::Inserter => "inserter",
            Method::Updater => "updater",
            Method::Dml => "dml",
            Method::Logdel => "logdel",
        }
    }
}

/// Refuses a job of another method.
fn require_method(job: &Job, wanted: Method) -> Result<()> {
    let found = Method::of(&job.kind)?;
    if found == wanted {
        return Ok(());
    }
    Err(Error::WrongMethod { destination: job.dest_table.clone(), found: found.name(), wanted: wanted.name() })
}

/// Connects to a data source for a destination that `owner` owns.
fn connect(catalog: &Catalog, data_source_id: i32, owner: pg_sys::Oid, destination: &str) -> Result<Connection> {
    let mapping: Mapping = catalog.mapping(data_source_id)?;
    let trusted = is_superuser(current_role()) && is_superuser(owner);
    Connection::open(&mapping, &Applicant { owner, trusted, destination })
}

/// The columns that a job copies, in the source's order.
///
/// # Errors
/// UnknownFilterColumns; UnsupportedSource if nothing is left.
fn selected_columns(shape: &Shape, filter: Option<&[String]>, source_label: &str) -> Result<Vec<Column>> {
    let columns: Vec<Column> = match filter {
        None => shape.columns.clone(),
        Some(filter) => {
            let unknown: Vec<_> = filter.iter().filter(|name| shape.column(name).is_none()).cloned().collect();
            if !unknown.is_empty() {
                return Err(Error::UnknownFilterColumns { table: shape.table().plain(), columns: unknown });
            }
            shape.columns.iter().filter(|column| filter.contains(&column.name)).cloned().collect()
        }
    };
    if columns.is_empty() {
        return Err(Error::UnsupportedSource {
            table: shape.table().plain(),
            source_label: source_label.to_string(),
            reason: "no column is left to copy".to_string(),
        });
    }
    Ok(columns)
}

/// Where a maker puts its table: as the user wrote it, or under the source's own schema and name.
///
/// # Errors
/// SchemaMissing, NameTooLong, InvalidName.
fn new_destination(written: Option<&str>, source: &Name) -> Result<Name> {
    let Some(written) = written else {
        source.check_length()?;
        if !relation::schema_exists(&source.schema)? {
            return Err(Error::SchemaMissing(source.schema.clone()));
        }
        return Ok(source.clone());
    };
    let readings = readings(written)?;
    let mut missing = None;
    for (schema, name) in &readings {
        let Some(schema) = schema else { continue };
        let name = Name::new(schema, name);
        if relation::schema_exists(schema)? {
            name.check_length()?;
            return Ok(name);
        }
        missing.get_or_insert(name);
    }
    if let Some(name) = missing {
        name.check_length()?;
        return Err(Error::SchemaMissing(name.schema));
    }
    let (_, bare) = readings.last().cloned().ok_or_else(|| Error::InvalidName(written.to_string()))?;
    let schema = relation::creation_schema()?.ok_or_else(|| Error::SchemaMissing("public".to_string()))?;
    let name = Name::new(schema, bare);
    name.check_length()?;
    Ok(name)
}

/// Runs the body of a call so that every error also tells which job it belongs to.
fn about<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(body).map_err(|error| error.while_doing(what))
}
