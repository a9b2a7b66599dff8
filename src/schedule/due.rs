//! Which jobs are due: job_status says it.

use crate::backend::spi;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::record::RunRecord;
use serde::{Deserialize, Serialize};

/// A job that is due.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Due {
    pub dest_table: String,
    pub source_table: String,
    /// As refresh_config.type.
    #[serde(rename = "type")]
    pub kind: String,
    /// All of which is refreshed as one; then the job is one of its members.
    pub group: Option<String>,
    /// None where the catalog, of an older release, does not tell.
    pub source: Option<i32>,
}

impl Due {
    /// The data source of a snapshot that is due by itself.
    pub fn source_of_snapshot(&self) -> Option<i32> {
        self.source.filter(|_| self.kind == "snap" && self.group.is_none())
    }

    /// For errors.
    pub fn name(&self) -> String {
        match &self.group {
            Some(group) => format!("group {group}"),
            None => self.dest_table.clone(),
        }
    }

    /// What is recorded if it could not begin, or has ended without records of its own.
    pub fn failed(&self, catalog: &Catalog, error: &Error) -> Result<Vec<RunRecord>> {
        let Some(group) = &self.group else {
            return Ok(vec![RunRecord::of_failure(&self.dest_table, &self.source_table, &self.kind, error)]);
        };
        let of_member = |job: Job| RunRecord {
            refresh_group: Some(group.clone()),
            ..RunRecord::of_failure(&job.dest_table, &job.source_table, job.kind.as_str(), error)
        };
        Ok(catalog.group(group)?.into_iter().map(of_member).collect())
    }
}

/// The jobs that are due, those first whose last attempt is longest ago: one that fails again and again does not keep the
/// others from their turn. A group is one of them, as soon as one of its members is due.
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
    // A catalog of an older release has no groups.
    let (group, source) =
        if catalog.has_groups() { ("refresh_group", "data_source_id") } else { ("NULL::text", "NULL::integer") };
    let jobs = spi::json(
        &format!(
            "SELECT coalesce(json_agg(json_build_object('dest_table', dest_table, 'source_table', source, 'type', type, 'group', refresh_group, 'source', source_id)
                                      ORDER BY last_attempt NULLS FIRST, dest_table), '[]')::pg_catalog.text
               FROM (SELECT DISTINCT ON (coalesce(refresh_group, dest_table), refresh_group IS NULL) *
                       FROM (SELECT dest_table, source, type, last_attempt, {group} AS refresh_group, {source} AS source_id FROM {jobs} j
                              WHERE due AND ($1 IS NULL OR split_part(type, '_', 1) = $1)) due
                      ORDER BY coalesce(refresh_group, dest_table), refresh_group IS NULL, last_attempt NULLS FIRST, dest_table) due"
        ),
        &[method.map(str::to_string).into()],
    )?;
    Ok(jobs.unwrap_or_default())
}

/// Which of these jobs are still due.
pub fn still(catalog: &Catalog, dest_tables: &[String]) -> Result<Vec<String>> {
    let _identity = catalog.act_as_owner()?;
    let query = format!(
        "SELECT coalesce(json_agg(j.dest_table), '[]')::pg_catalog.text FROM {} j WHERE j.due AND j.dest_table = ANY ($1)",
        catalog.table("job_status")
    );
    Ok(spi::json(&query, &[dest_tables.to_vec().into()])?.unwrap_or_default())
}

/// Whether a job, or a member of a group, is still due.
pub fn is_due(catalog: &Catalog, due: &Due) -> Result<bool> {
    let _identity = catalog.act_as_owner()?;
    let jobs = catalog.table("job_status");
    match &due.group {
        Some(group) => {
            let query = format!("SELECT bool_or(j.due) FROM {jobs} j WHERE j.refresh_group = $1");
            spi::is_true(&query, &[group.as_str().into()])
        }
        None => {
            let query = format!("SELECT j.due FROM {jobs} j WHERE j.dest_table = $1");
            spi::is_true(&query, &[due.dest_table.as_str().into()])
        }
    }
}
