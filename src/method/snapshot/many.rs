//! Many snapshots that are due at once, most of which have not changed: one look at each source tells which.

use super::decide::{InGroup, UNCHANGED};
use super::refresh::{opening, Options};
use crate::backend::identity::{act_as, read_the_latest};
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::history;
use crate::job::lock;
use crate::job::method::Method;
use crate::job::record::now;
use crate::method::running::Call;
use crate::method::sources::Sources;
use crate::method::steps::{Opening, Steps};
use std::collections::HashSet;

/// Jobs that counters prove to be unchanged.
pub struct Unchanged {
    jobs: Vec<Job>,
    /// From before the counters were read.
    started: i64,
}

/// Of these jobs, the snapshots that are proven to be unchanged. Nothing is locked, and nothing recorded.
///
/// # Errors
/// What would be one of a refresh of one of them.
pub fn unchanged(catalog: &Catalog, jobs: &[Job]) -> Result<Unchanged> {
    // pg_jobmon logs one run after the other.
    let candidates: Vec<_> = jobs
        .iter()
        .filter(|job| job.method() == Method::Snapshot && !job.jobmon && job.refresh_group.is_none())
        .collect();
    let options: Vec<_> = candidates.iter().map(|job| Options::of(Call::of(&job.dest_table))).collect();
    let started = now();
    let mut sources = Sources::default();
    let mut looks = Vec::new();
    let mut unreachable = HashSet::new();
    for (job, options) in candidates.into_iter().zip(&options) {
        // One that is broken says so in its own refresh.
        let Ok(refresh) = opening(options, catalog, job, Some(InGroup::default())) else { continue };
        let Some(table) = refresh.counted_table() else { continue };
        if unreachable.contains(&(job.data_source_id, Opening::owner(&refresh))) {
            continue;
        }
        match sources.of(catalog, job, Opening::owner(&refresh)) {
            Ok(source) => looks.push((job, refresh, source, table)),
            Err(error) if error.is_cancel() => return Err(error),
            Err(Error::ConfiguredByOther { .. } | Error::Unconfirmed { .. } | Error::OwnerChanged { .. }) => {}
            Err(_) => {
                unreachable.insert((job.data_source_id, Opening::owner(&refresh)));
            }
        }
    }
    let mut counted = sources.counters(looks.iter().map(|(_, _, source, table)| (*source, Some(*table))))?;
    let mut jobs = Vec::new();
    for (job, mut refresh, source, _) in looks {
        let _identity = act_as(Opening::owner(&refresh), true)?;
        if refresh.is_unchanged(sources.connection(source), counted.next(source))? {
            jobs.push(job.clone());
        }
    }
    Ok(Unchanged { jobs, started })
}

impl Unchanged {
    /// How many of them are recorded in one transaction: each has a lock.
    const AT_ONCE: usize = 100;

    /// Some of them; None if there are no more.
    pub fn take(&mut self, limit: usize) -> Option<Vec<Job>> {
        let count = self.jobs.len().min(Unchanged::AT_ONCE).min(limit);
        (count > 0).then(|| self.jobs.drain(..count).collect())
    }

    /// Records that they were skipped. Those that another session refreshes now, or that are not as they were, are left out; the names of the
    /// others. `due`: which of them still are.
    pub fn record(
        &self,
        catalog: &Catalog,
        jobs: &[Job],
        due: impl FnOnce(&[String]) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        // The rows are read once the locks are held: another call may have run the jobs just before.
        read_the_latest();
        let names: Vec<_> = jobs.iter().map(|job| job.dest_table.clone()).collect();
        let locked: HashSet<_> = lock::take_free(&names)?.into_iter().collect();
        let names: Vec<_> = names.into_iter().filter(|name| locked.contains(name)).collect();
        let still: HashSet<_> = catalog.unchanged_rows(jobs)?.into_iter().collect();
        let names: Vec<_> = due(&names)?.into_iter().filter(|name| still.contains(name)).collect();
        if !names.is_empty() {
            catalog.record_skipped(&names, self.started)?;
            history::write_skipped(catalog, &names, UNCHANGED, self.started)?;
        }
        Ok(names)
    }
}
