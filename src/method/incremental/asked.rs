//! What a job and a call ask for, as the source reads it.

use super::decide::Repull;
use super::state::{kind_of, required};
use super::values::Values;
use crate::error::Result;
use crate::job::config::Job;
use crate::source::bounds::{Control, Kind};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;

/// What the job and the call say, as the source reads it.
pub struct Asked {
    pub table: SourceTable,
    pub control: Control,
    pub kind: Kind,
    pub values: Values,
    pub boundary: String,
    /// As the job has it.
    pub last_value: String,
    /// The same, as the source reads it.
    pub start: String,
    pub repull_range: Option<(Option<String>, Option<String>)>,
}

impl Asked {
    pub fn of(repull: Repull<'_>, job: &Job, source: &mut Connection) -> Result<Asked> {
        let table = source.find_table(&job.source_table)?;
        let kind = kind_of(job);
        let control = source.control(&table, required(job.control.as_ref(), "control", job)?)?;
        control.require(kind, &table)?;
        let values = Values::of(&control);
        let boundary = required(job.boundary.as_ref(), "boundary", job)?.to_string();
        let last_value = required(job.last_value.as_ref(), "last_value", job)?.to_string();
        let start = values.read(&last_value, "last_value")?;
        let repull_range = match repull {
            Repull::Range(start, end) => {
                let read = |text: Option<&str>, what| text.map(|text| values.read(text, what)).transpose();
                Some((read(start, "p_repull_start")?, read(end, "p_repull_end")?))
            }
            _ => None,
        };
        Ok(Asked { table, control, kind, values, boundary, last_value, start, repull_range })
    }
}
