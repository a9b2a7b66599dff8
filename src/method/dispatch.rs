//! From a job to its method.

use crate::backend::identity::read_the_latest;
use crate::backend::subtransaction::tried;
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::lock::{self};

use crate::job::method::Method;
use crate::method::follow::{renamed_job, told};
use crate::method::incremental;
use crate::method::plan::{Plan, Step};
use crate::method::replay;
use crate::method::running::{about, Call};
use crate::method::snapshot;
use crate::method::table;

/// Refreshes a job as it is configured, whatever its method; if another refresh of it runs, that is left to it.
pub fn refresh(kind: &str, destination: &str) -> Result<()> {
    let call = Call::of(destination);
    match Method::of(kind)? {
        Method::Snapshot => snapshot::refresh(&snapshot::Options::of(call)),
        Method::Table => table::refresh(&table::Options::of(call)),
        method @ (Method::Inserter | Method::Updater) => incremental::refresh(method, &incremental::Options::of(call)),
        method @ (Method::Dml | Method::Logdel) => replay::refresh(method, &replay::Options::of(call)),
    }
}

fn plan_as(catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    match job.method() {
        Method::Snapshot => snapshot::plan(catalog, job, plan),
        Method::Table => table::plan(catalog, job, plan),
        Method::Inserter | Method::Updater => incremental::plan(catalog, job, plan),
        Method::Dml | Method::Logdel => replay::plan(catalog, job, plan),
    }
}

/// What a refresh of a job would do now, as it is configured.
///
/// # Errors
/// Those that the refresh would end with, as far as they can be known.
pub fn plan(destination: &str) -> Result<Vec<Step>> {
    read_the_latest();
    let catalog = Catalog::find()?;
    let job = catalog.job(destination)?;
    let mut plan = Plan::default();
    about(&format!("Planning a refresh of \"{}\".", job.dest_table), || {
        plan.here(
            "take the lock of the job",
            Some("a lock of its own until the end of the transaction: other refreshes of this job".to_string()),
            lock::is_taken(&job.dest_table)?.then(|| {
                "another refresh holds it now: this one would do nothing, or wait if p_lock_wait says so".into()
            }),
        );
        if let Some(group) = &job.refresh_group {
            let members = catalog.group(group)?.len();
            plan.here(
                format!("leave the other members of group \"{group}\" as they are"),
                None,
                Some(format!("refresh_group refreshes all {members} of them in one snapshot of the source, and shows them at one moment")),
            );
        }
        let steps = plan.steps.len();
        let planned = tried(|| plan_as(&catalog, &job, &mut plan))?;
        let Err(error) = planned else { return Ok(()) };
        // A refresh may have changed both the destination and what the job remembers, since that was read.
        let now = catalog.job(destination)?;
        if now.state != job.state {
            plan.steps.truncate(steps);
            return plan_as(&catalog, &now, &mut plan);
        }
        // The job's own columns may be called otherwise now.
        let Some(job) = renamed_job(&catalog, &job, &error)? else { return Err(error) };
        plan.steps.truncate(steps);
        plan.here("follow the source's columns in refresh_config", None, job.renamed.as_ref().map(told));
        plan_as(&catalog, &job, &mut plan)
    })?;
    Ok(plan.steps)
}
