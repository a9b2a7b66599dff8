//! Which jobs are due: job_status says it.

use crate::backend::spi;
use crate::error::{Error, Result};
use crate::job::config::Catalog;
use serde::{Deserialize, Serialize};

/// A job that is due.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Due {
    pub dest_table: String,
    pub source_table: String,
    /// As refresh_config.type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// The jobs that are due, those first whose last attempt is longest ago: one that fails again and again does not keep the
/// others from their turn.
///
/// # Errors
/// InvalidArgument for another method.
pub fn list(catalog: &Catalog, method: Option<&str>) -> Result<Vec<Due>> {
    if let Some(method) = method {
        if !["snap", "table", "inserter", "updater", "dml", "logdel"].contains(&method) {
            return Err(Error::InvalidArgument(format!(
                "p_type is \"{method}\"; it may be snap, table, inserter, updater, dml, logdel, or NULL for all"
            )));
        }
    }
    let _identity = catalog.act_as_owner()?;
    let jobs = catalog.table("job_status");
    let jobs = spi::json(
        &format!(
            "SELECT coalesce(json_agg(json_build_object('dest_table', dest_table, 'source_table', source, 'type', type)
                                      ORDER BY last_attempt NULLS FIRST, dest_table), '[]')::pg_catalog.text
               FROM {jobs} WHERE due AND ($1 IS NULL OR split_part(type, '_', 1) = $1)"
        ),
        &[method.map(str::to_string).into()],
    )?;
    Ok(jobs.unwrap_or_default())
}

/// Whether a job is still due.
pub fn is_due(catalog: &Catalog, dest_table: &str) -> Result<bool> {
    let _identity = catalog.act_as_owner()?;
    let jobs = catalog.table("job_status");
    spi::is_true(&format!("SELECT due FROM {jobs} WHERE dest_table = $1"), &[dest_table.into()])
}
