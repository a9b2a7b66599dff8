//! Whether an existing table can take the rows of a source, and in which format.

use crate::backend::name::quote;
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::destination::copy_in::reads_binary;
use crate::destination::table::{self, LocalColumn};
use crate::destination::widths;
use crate::error::{Error, Result};
use crate::shape::{Column, Shape};

/// How the columns of a source go into a destination.
pub struct ColumnMap {
    /// The columns to be loaded: what the destination itself generates is left out.
    pub columns: Vec<String>,
    /// In COPY's binary format.
    pub binary: bool,
}

/// Matches columns by name. A destination may have more columns, and wider types; nothing is rounded or cut. `renamed` are the old and new names
/// of columns that have been renamed on the source.
///
/// # Errors
/// IncompatibleColumns, with the ALTER TABLE that mends it, for a column that is missing or has a type that does not take the
/// source's values; UnknownTypes, UnknownCollations.
pub fn map(destination: &Shape, source: &Shape, columns: &[Column], renamed: &[(String, String)]) -> Result<ColumnMap> {
    let mut column_map =
        ColumnMap { columns: Vec::new(), binary: obstacle_to_binary(destination, source, columns).is_none() };
    let mut reasons = Vec::new();
    let mut incompatible = Vec::new();
    for column in columns {
        match destination.column(&column.name) {
            None => {
                reasons.push(format!("column \"{}\" is missing", column.name));
                incompatible.push(column.clone());
            }
            Some(own) if own.generated.as_deref().unwrap_or_default() != "" => {}
            Some(own) if !holds((destination, own), (source, column))? => {
                reasons.push(format!(
                    "column \"{}\" is {}, but {} on the source",
                    column.name,
                    own.written.for_message(),
                    column.written.for_message()
                ));
                incompatible.push(column.clone());
            }
            Some(_) => column_map.columns.push(column.name.clone()),
        }
    }
    if incompatible.is_empty() {
        return Ok(column_map);
    }
    let name = destination.table();
    let fixes = table::localise(&incompatible, &source.table())?
        .iter()
        .map(|wanted| {
            let column = quote(&wanted.source.name);
            let old = renamed.iter().find(|(old, new)| {
                *new == wanted.source.name && destination.column(old).is_some() && source.column(old).is_none()
            });
            match destination.column(&wanted.source.name) {
                None if old.is_some() => {
                    format!("ALTER TABLE {name} RENAME COLUMN {} TO {column};", quote(old.map_or("", |(old, _)| old)))
                }
                None => format!("ALTER TABLE {name} ADD COLUMN {column} {};", wanted.sql_type),
                Some(_) => format!("ALTER TABLE {name} ALTER COLUMN {column} TYPE {};", wanted.sql_type),
            }
        })
        .collect();
    Err(Error::IncompatibleColumns { destination: name.plain(), source_table: source.table().plain(), reasons, fixes })
}

/// Why rows cannot come in COPY's binary format, if so. A column that the destination lacks is no obstacle: it is made like the
/// source's.
pub fn obstacle_to_binary(destination: &Shape, source: &Shape, columns: &[Column]) -> Option<String> {
    if !reads_binary() {
        return Some("client_encoding is not the encoding of this database".to_string());
    }
    let loaded = |column: &&Column| match destination.column(&column.name) {
        Some(own) => {
            own.generated.as_deref().unwrap_or_default() == "" && !destination.takes_binary(own, source, column)
        }
        None => !source.takes_binary(column, source, column),
    };
    let column = columns.iter().find(loaded)?;
    Some(format!(
        "the binary form of column \"{}\" ({}) may differ between the two sides",
        column.name,
        column.type_name.for_message()
    ))
}

/// Whether a column here takes every value of a column of the source as it is.
pub fn holds((destination, own): (&Shape, &Column), (source, column): (&Shape, &Column)) -> Result<bool> {
    Ok(own.generated.as_deref().unwrap_or_default() != ""
        || takes(own, column)? && widths::holds((destination, own), (source, column)))
}

/// Whether a column of the source, whose type here would be `wider`, takes every value of a column here as it is, by a cast that runs no
/// code but PostgreSQL's. A time with a zone and one without are not the same for every session.
pub fn widens(
    (destination, own): (&Shape, &Column),
    (source, column): (&Shape, &Column),
    wider: &LocalColumn,
) -> Result<bool> {
    let zoned = |name: &str| name.starts_with("timestamp") || name.starts_with("time ");
    if !own.is_of_type(column) {
        let (from, to) = (own.type_name.for_message(), column.type_name.for_message());
        let cast = spi::is_true(
            "SELECT true FROM pg_cast k
              WHERE k.castsource = $1::oid AND k.casttarget = $2::oid AND k.castcontext = 'i' AND k.castfunc < 16384",
            &[oid_arg(own.type_oid.into()), oid_arg(wider.type_oid.into())],
        )?;
        let midnight_somewhere = from == "date" && to.ends_with("with time zone");
        if !cast || zoned(&from) && zoned(&to) || midnight_somewhere {
            return Ok(false);
        }
    }
    Ok(widths::holds((source, column), (destination, own)))
}

/// The same type, or one that every value of the source's type can be assigned to without loss.
fn takes(own: &Column, source: &Column) -> Result<bool> {
    if own.is_of_type(source) {
        return Ok(true);
    }
    spi::is_true(
        "SELECT true FROM pg_cast k
          WHERE k.castsource = to_regtype($1) AND k.casttarget = $2::oid AND k.castcontext = 'i'",
        &[source.type_name.as_parameter().into(), oid_arg(own.type_oid.into())],
    )
}

/// Refuses a destination that rows cannot be loaded into as its owner.
///
/// # Errors
/// UnsupportedDestination.
pub fn require_loadable(destination: &Shape) -> Result<()> {
    let refuse = |reason: &str| {
        Err(Error::UnsupportedDestination { destination: destination.table().plain(), reason: reason.to_string() })
    };
    if !['r', 'p', 'f'].contains(&destination.kind) {
        return refuse("it is not a table");
    }
    // COPY does not know policies.
    if spi::is_true("SELECT row_security_active($1::oid)", &[oid_arg(destination.local_oid())])? {
        return refuse("row security is forced on its owner");
    }
    Ok(())
}
