//! Connections of jobs to their data sources.

use crate::backend::identity::{current_role, is_superuser};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::method::rights::{require_configured, require_usage};
use crate::source::connection::{Applicant, Connection, Mapping};
use pgrx::pg_sys;

/// Connects to a data source for a destination that `owner` owns.
pub fn connect(catalog: &Catalog, data_source_id: i32, owner: pg_sys::Oid, destination: &str) -> Result<Connection> {
    let mapping: Mapping = catalog.mapping(data_source_id)?;
    let trusted = is_superuser(current_role()) && is_superuser(owner);
    Connection::open(&mapping, &Applicant { owner, trusted, destination })
}

/// Connects to a job's data source, for its destination, which `owner` owns.
///
/// # Errors
/// ConfiguredByOther, Unconfirmed, DestinationSchema.
pub fn connect_job(catalog: &Catalog, job: &Job, owner: pg_sys::Oid) -> Result<Connection> {
    require_configured(catalog, job, owner)?;
    require_usage(job, owner)?;
    connect(catalog, job.data_source_id, owner, &job.dest_table)
}
