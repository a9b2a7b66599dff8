//! validate_rowcount.

use super::compare::Comparison;
use super::range::Intervals;
use crate::error::{Error, Result};
use crate::method::running::about;
use pgrx::notice;

/// How many rows both sides have.
pub struct Counts {
    pub source: i64,
    pub destination: i64,
    /// The control values between which rows were counted, both included; of an incremental job that holds rows.
    pub lower: Option<String>,
    pub upper: Option<String>,
}

/// Counts the rows of a job's source and destination.
pub fn rowcount(destination: &str, intervals: Intervals<'_>, debug: bool) -> Result<Counts> {
    about(&format!("Counting the rows of \"{destination}\"."), || {
        let mut sides = Comparison::begin(destination, intervals, |_| Ok(()))?;
        if debug {
            notice!("{}: on the source SELECT count(*) {}", sides.job.dest_table, sides.source_rows);
            notice!("{}: here SELECT count(*) {}", sides.job.dest_table, sides.local_rows);
        }
        let number = |text: String| text.parse::<i64>().map_err(|_| Error::Internal(format!("a count of {text}")));
        let source = number(sides.ask_source("pg_catalog.count(*)", "counting its rows")?)?;
        let here = number(sides.ask_here("count(*)")?)?;
        Ok(Counts { source, destination: here, lower: sides.range.lower.take(), upper: sides.range.upper.take() })
    })
}
