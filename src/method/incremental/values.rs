//! Values of a control column as text: comparing them, and writing them so that they read the same in every session.

use crate::backend::identity::{act_as, pin_settings, set_local};
use crate::backend::name::{quote, Name};
use crate::backend::ownership;
use crate::backend::relation::{lock_to_read, Relation};
use crate::backend::spi;
use crate::destination::table;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::source::bounds::{bound_type, Control, Kind, Range};
use pgrx::PgSqlErrorCode;

/// The values of one control column.
pub struct Values {
    column: String,
    /// A type of pg_catalog.
    bound_type: &'static str,
}

impl Values {
    pub fn of(control: &Control) -> Values {
        Values { column: control.name.clone(), bound_type: bound_type(&control.type_name) }
    }

    /// A value that a user wrote, as the sources read it. A time without a zone is meant in the session's TimeZone, and
    /// one with a zone, for a column that has none, is converted to it.
    ///
    /// # Errors
    /// InvalidArgument, with the name of the argument.
    pub fn read(&self, text: &str, what: &str) -> Result<String> {
        let expression = match self.bound_type {
            "timestamptz" => {
                "CASE WHEN $1 ~ 'infinity' THEN $1 ELSE ($1::timestamptz AT TIME ZONE 'UTC')::pg_catalog.text || '+00' END"
            }
            "timestamp" | "date" => {
                "CASE WHEN $1 ~ ':\\S*([+-]\\d|Z)' THEN $1::timestamptz::timestamp ELSE $1::timestamp END::pg_catalog.text"
            }
            _ => "$1::numeric::pg_catalog.text",
        };
        let invalid = || Error::InvalidArgument(format!("{what} '{text}' is not a value of type {}", self.bound_type));
        let read = crate::backend::subtransaction::attempt(|| {
            let _pinned = pin_settings()?;
            spi::text(&format!("SELECT {expression}"), &[text.into()])
        });
        match read {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(invalid()),
            Err(error) if error.sqlstate().is_of_class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION) => Err(invalid()),
            Err(error) => Err(error),
        }
    }

    /// The later of two values.
    pub fn greater(&self, a: &str, b: &str) -> Result<String> {
        let later = if self.is_after(b, a)? { b } else { a };
        Ok(later.to_string())
    }

    pub fn is_after(&self, a: &str, b: &str) -> Result<bool> {
        let t = self.bound_type;
        spi::is_true(&format!("SELECT $1::{t} > $2::{t}"), &[a.into(), b.into()])
    }

    /// Refuses a destination whose control column has a type that is not compared by PostgreSQL's own operators, through any number
    /// of domains: with another, somebody else's casts would come in.
    ///
    /// # Errors
    /// UnsupportedControl.
    pub fn require_comparable(&self, destination: &Shape) -> Result<()> {
        const COMPARABLE: [&str; 7] = [
            "smallint",
            "integer",
            "bigint",
            "numeric",
            "timestamp with time zone",
            "timestamp without time zone",
            "date",
        ];
        // For a missing column there is an error with the ALTER TABLE elsewhere.
        let Some(column) = destination.column(&self.column) else { return Ok(()) };
        let base = destination.base_type(column);
        if COMPARABLE.iter().any(|name| *base == *name) {
            return Ok(());
        }
        Err(Error::UnsupportedControl {
            table: destination.table().plain(),
            column: column.name.clone(),
            reason: format!("its type here is {}", column.type_name.for_message()),
        })
    }

    /// The greatest value in a local table, as the sources read it.
    pub fn greatest_in(&self, table: &Name) -> Result<Option<String>> {
        let _pinned = pin_settings()?;
        set_local("timezone", "UTC")?;
        spi::text(
            &format!("SELECT max({})::{}::pg_catalog.text FROM {table}", quote(&self.column), self.bound_type),
            &[],
        )
    }

    /// The same of a destination that was there before its job, as its owner.
    pub fn greatest_held(&self, existing: &Relation) -> Result<Option<String>> {
        let _identity = act_as(existing.owner, true)?;
        lock_to_read(existing.oid);
        ownership::require_tables(&[existing.oid])?;
        let [shape] = table::describe([existing.oid])?;
        self.require_comparable(&shape)?;
        self.greatest_in(&existing.name())
    }

    /// Deletes a range from a local table.
    pub fn delete(&self, table: &Name, range: &Range) -> Result<usize> {
        spi::run(&format!("DELETE FROM {table}{}", range.clause(&quote(&self.column), self.bound_type)), &[])
    }

    /// A value that is less than all others.
    pub fn beginning(kind: Kind) -> &'static str {
        match kind {
            Kind::Time => "0001-01-01 00:00:00+00",
            Kind::Serial => "0",
        }
    }
}

/// A boundary as refresh_config keeps it; the default is 10 minutes or 10.
///
/// # Errors
/// InvalidArgument.
pub fn boundary(text: Option<&str>, kind: Kind) -> Result<String> {
    let (sql_type, default, what) = match kind {
        Kind::Time => ("interval", "10 minutes", "an interval"),
        Kind::Serial => ("integer", "10", "an integer"),
    };
    let text = text.unwrap_or(default);
    let read = crate::backend::subtransaction::attempt(|| {
        let _pinned = pin_settings()?;
        spi::text(&format!("SELECT ($1::{sql_type})::pg_catalog.text"), &[text.into()])
    });
    match read {
        Ok(Some(value)) if !value.starts_with('-') => Ok(value),
        _ => Err(Error::InvalidArgument(format!("p_boundary '{text}' is not {what}"))),
    }
}

/// Whether a time-based job pauses now: on a day when the clocks of this session's TimeZone change, between two times
/// written as hours and minutes (230 is half past two).
pub fn clocks_change(start: i32, end: i32) -> Result<bool> {
    let _pinned = pin_settings()?;
    spi::is_true(
        "SELECT extract(timezone FROM current_date::timestamptz) <> extract(timezone FROM (current_date + 1)::timestamptz)
            AND to_char(clock_timestamp(), 'HH24MI')::int BETWEEN $1 AND $2",
        &[start.into(), end.into()],
    )
}
