//! snapshot_monitor.

use super::each::{for_each_job, jobs};
use crate::backend::identity::read_the_latest;
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::method::Method;
use crate::method::running::require_method;
use pgrx::notice;

/// What a snapshot job copies at each refresh.
pub struct SnapshotSize {
    pub destination: String,
    pub rows: i64,
    pub bytes: i64,
}

/// The sizes of the source tables of all snapshot jobs, or of one; those that reach at least one of the thresholds that are given.
pub fn snapshots(
    rows: Option<i64>,
    bytes: Option<i64>,
    destination: Option<&str>,
    debug: bool,
) -> Result<Vec<SnapshotSize>> {
    let (catalog, jobs) = match destination {
        Some(destination) => {
            read_the_latest();
            let catalog = Catalog::find()?;
            let job = catalog.job(destination)?;
            require_method(&job, Method::Snapshot)?;
            (catalog, vec![job])
        }
        None => jobs(None)?,
    };
    let jobs = jobs.into_iter().filter(|job| job.method() == Method::Snapshot).collect();
    let reaches = |threshold: Option<i64>, value: i64| threshold.is_some_and(|threshold| value >= threshold);
    let mut sizes = Vec::new();
    for_each_job(&catalog, jobs, "snapshot_monitor", destination.is_some(), |source, job, _, table| {
        let (found_rows, found_bytes) = source.extent(table)?;
        if debug {
            notice!("\"{}\": {found_rows} rows and {found_bytes} bytes on {}", job.dest_table, source.label());
        }
        let all = rows.is_none() && bytes.is_none();
        if all || reaches(rows, found_rows) || reaches(bytes, found_bytes) {
            sizes.push(SnapshotSize { destination: job.dest_table.clone(), rows: found_rows, bytes: found_bytes });
        }
        Ok(())
    })?;
    Ok(sizes)
}
