//! Which values of a control column are compared: between two intervals back from what the destination holds.

use crate::backend::name::{quote, Name};
use crate::backend::spi;
use crate::backend::subtransaction::attempt;
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::source::bounds::{bound_type, Control, Kind, Range};
use pgrx::warning;
use pgrx::PgSqlErrorCode;
use serde::Deserialize;

/// The arguments p_lower_interval and p_upper_interval.
#[derive(Debug, Clone, Copy)]
pub struct Intervals<'a> {
    pub lower: Option<&'a str>,
    pub upper: Option<&'a str>,
}

/// The range, both bounds included: from the greatest value that the destination holds less `lower` (else its least value) to the
/// greatest less `upper` (else the job's boundary). Without bounds if it holds nothing. Runs with pinned settings, as whoever may
/// read the destination.
///
/// # Errors
/// InvalidArgument.
pub fn range(intervals: Intervals<'_>, job: &Job, kind: Kind, control: &Control, destination: &Name) -> Result<Range> {
    #[derive(Deserialize)]
    struct Found {
        lower: Option<String>,
        upper: Option<String>,
        empty: Option<bool>,
    }
    let lower = intervals.lower.map(|text| read(text, kind, "p_lower_interval")).transpose()?;
    let upper = match (intervals.upper, job.boundary.as_deref()) {
        (Some(text), _) => read(text, kind, "p_upper_interval")?,
        (None, boundary) => boundary.unwrap_or("0").to_string(),
    };
    let (column, bound) = (quote(&control.name), bound_type(&control.type_name));
    // What is beyond all intervals is not compared.
    let finite = match (kind, bound) {
        (Kind::Time, _) => format!(" WHERE isfinite({column})"),
        (Kind::Serial, "numeric") => format!(" WHERE {column} <> ALL ('{{NaN,Infinity,-Infinity}}'::numeric[])"),
        (Kind::Serial, _) => String::new(),
    };
    let interval = match kind {
        Kind::Time => "interval",
        Kind::Serial => bound,
    };
    let found: Option<Found> = spi::json(
        &format!(
            "SELECT json_build_object('lower', r.lower::pg_catalog.text, 'upper', r.upper::pg_catalog.text, 'empty', r.lower > r.upper)::pg_catalog.text
               FROM (SELECT (CASE WHEN $1 IS NULL THEN m.least ELSE m.greatest - $1::{interval} END)::{bound} AS lower,
                            (m.greatest - $2::{interval})::{bound} AS upper
                       FROM (SELECT min({column})::{bound} AS least, max({column})::{bound} AS greatest
                               FROM {destination}{finite}) m) r"
        ),
        &[lower.clone().into(), upper.as_str().into()],
    )?;
    let Some(Found { lower: from, upper: to, empty }) = found else {
        return Ok(Range { known: true, ..Range::default() });
    };
    if empty == Some(true) {
        let until = if intervals.upper.is_some() { "p_upper_interval" } else { "the job's boundary" };
        match intervals.lower {
            Some(lower) => {
                return Err(Error::InvalidArgument(format!(
                    "p_lower_interval '{lower}' must be longer than {until} '{upper}', or no row lies between them"
                )))
            }
            None => warning!("\"{}\": all rows lie within {until} '{upper}', so none is compared", job.dest_table),
        }
    }
    Ok(Range { lower: from, from_lower: true, upper: to, to_upper: true, known: true })
}

/// An interval, or a whole number.
fn read(text: &str, kind: Kind, argument: &str) -> Result<String> {
    let (sql_type, what) = match kind {
        Kind::Time => ("interval", "an interval"),
        Kind::Serial => ("bigint", "an integer"),
    };
    let read = attempt(|| {
        spi::text(
            &format!("SELECT CASE WHEN v >= '0' THEN v::pg_catalog.text END FROM (SELECT $1::{sql_type} AS v) t"),
            &[text.into()],
        )
    });
    match read {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(Error::InvalidArgument(format!("{argument} '{text}' is negative"))),
        Err(error) if error.sqlstate().is_of_class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION) => {
            Err(Error::InvalidArgument(format!("{argument} '{text}' is not {what}")))
        }
        Err(error) => Err(error),
    }
}
