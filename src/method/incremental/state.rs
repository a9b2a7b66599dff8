//! What an inserter or updater job remembers, and what its row says.

use super::values;
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::job::method::Method;
use crate::source::bounds::{Candidate, Kind, Range};
use crate::source::seen::Seen;
use serde::{Deserialize, Serialize};

/// What an incremental job remembers from run to run, in refresh_config.state.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Bounds that were not safe when they were taken, or are the newest that are; the oldest first.
    #[serde(default)]
    pub candidates: Vec<Candidate>,
    /// Where they were taken: host, port and database, table, start of the server. Elsewhere they prove nothing.
    #[serde(default)]
    pub taken_at: String,
    /// The last_value that the last run left. Once a user has set another, `redo` is void.
    #[serde(default)]
    pub left: Option<String>,
    /// The boundary that the maker has chosen by itself; empty if a user has. None of a job of an older release.
    #[serde(default)]
    pub default_boundary: Option<String>,
    /// From where on rows may have been missed, because they were copied before all of them were safe.
    #[serde(default)]
    pub redo: Option<Redo>,
    /// The source's columns when the last refresh read them. None of a job of an older release.
    #[serde(default)]
    pub seen: Option<Seen>,
    /// Why rows of the destination lack values that they have on the source, until all are copied again.
    #[serde(default)]
    pub lacking: Option<String>,
}

impl State {
    /// Whether a user has said how far a refresh stays behind, by the maker's argument or in refresh_config. Then it does so, whatever
    /// is proven. Of a job of an older release, what the maker would have chosen counts as that.
    pub fn is_explicit(&self, boundary: &str, kind: Kind) -> Result<bool> {
        match &self.default_boundary {
            Some(default) => Ok(default != boundary),
            None => Ok(values::boundary(None, kind)? != boundary),
        }
    }
}

/// What the next refresh takes again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redo {
    /// Nothing has been copied yet: all, and last_value only holds the place.
    Empty,
    All,
    /// This value and greater ones.
    From(String),
}

/// The kind of a job's control column, from its type: `inserter_time` and so on.
pub fn kind_of(job: &Job) -> Kind {
    if job.kind.as_str().ends_with("_time") {
        Kind::Time
    } else {
        Kind::Serial
    }
}

/// As refresh_config.type names it.
pub fn type_of(method: Method, kind: Kind) -> &'static str {
    match (method, kind) {
        (Method::Inserter, Kind::Time) => "inserter_time",
        (Method::Inserter, Kind::Serial) => "inserter_serial",
        (_, Kind::Time) => "updater_time",
        (_, Kind::Serial) => "updater_serial",
    }
}

/// From where on the next refresh takes values, as far as the source lets it.
///
/// # Errors
/// Internal, if last_value is NULL; InvalidArgument, if it is none.
pub fn next_range(job: &Job) -> Result<Range> {
    let state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
    let last_value = required(job.last_value.as_ref(), "last_value", job)?;
    Ok(range_from(state.redo.filter(|_| state.left.as_deref() == Some(last_value)).as_ref(), last_value))
}

/// From the last value on, or from where rows have to be taken again.
pub fn range_from(redo: Option<&Redo>, last_value: &str) -> Range {
    let (lower, from_lower) = match redo {
        None => (Some(last_value.to_string()), false),
        Some(Redo::All | Redo::Empty) => (None, false),
        Some(Redo::From(value)) => (Some(value.clone()), true),
    };
    Range { lower, from_lower, ..Range::default() }
}

/// A column of refresh_config that the method cannot do without.
pub fn required<'a>(value: Option<&'a String>, column: &str, job: &Job) -> Result<&'a str> {
    value
        .map(String::as_str)
        .ok_or_else(|| Error::Internal(format!("refresh_config.{column} of \"{}\" is NULL", job.dest_table)))
}
