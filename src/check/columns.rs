//! check_source_columns.

use super::each::{for_each_job, jobs};
use crate::backend::identity::pin_settings;
use crate::backend::name::Name;
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::{quoted_list, Result};
use crate::source::survey::COLUMN_TYPES;
use pgrx::notice;
use std::collections::HashSet;

/// A column of a source that the destination lacks, or holds with another type.
pub struct MissingColumn {
    pub destination: Name,
    pub source: Name,
    pub column: String,
    /// On the source, as format_type prints it.
    pub type_name: String,
    pub data_source_id: i32,
}

/// The columns that are missing, of the jobs of one source or of all. One that a filter leaves out is not.
pub fn source_columns(data_source_id: Option<i32>) -> Result<Vec<MissingColumn>> {
    let (catalog, jobs) = jobs(data_source_id)?;
    let _pinned = pin_settings()?;
    let (mut missing, mut following) = (Vec::new(), Vec::new());
    let alone = data_source_id.is_some();
    for_each_job(&catalog, jobs, "check_source_columns", alone, |source, job, destination, table| {
        let held: Vec<(String, String, String)> =
            spi::json(COLUMN_TYPES, &[oid_arg(destination.oid)])?.unwrap_or_default();
        let held: HashSet<(&str, &str)> = held.iter().map(|(name, _, same)| (name.as_str(), same.as_str())).collect();
        for column in source.column_types(table)? {
            let copied = job.filter.as_ref().is_none_or(|filter| filter.contains(&column.0));
            if copied && !held.contains(&(column.0.as_str(), column.2.as_str())) {
                if job.follows_columns() && !following.contains(&destination.name().plain()) {
                    following.push(destination.name().plain());
                }
                missing.push(MissingColumn {
                    destination: destination.name(),
                    source: table.table(),
                    column: column.0,
                    type_name: column.1,
                    data_source_id: job.data_source_id,
                });
            }
        }
        Ok(())
    })?;
    if !following.is_empty() {
        notice!("the next refresh follows the columns of these jobs: {}", quoted_list(&following));
    }
    Ok(missing)
}
