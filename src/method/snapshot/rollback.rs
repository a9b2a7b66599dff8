//! rollback_snapshot.

use super::state::{live_file, State};
use crate::backend::identity::{act_as, current_role, pin_settings, read_the_latest, require_writable, role_name};
use crate::destination::table;
use crate::destination::twins::Twins;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::history;
use crate::job::lock::{self, Wait};
use crate::job::method::Method;
use crate::method::load::patience;
use crate::method::rights::require_configured;
use crate::method::running::{about, require_method};

/// Shows the data again that the last swap replaced, if it was kept. The job then is what it was before that refresh, and the
/// runs since then are marked.
///
/// # Errors
/// Busy while a refresh runs; NothingKept; those of the swap.
pub fn rollback(destination: &str) -> Result<()> {
    require_writable("rollback_snapshot")?;
    read_the_latest();
    let catalog = Catalog::find()?;
    let job = catalog.job(destination)?;
    require_method(&job, Method::Snapshot)?;
    if !lock::take(&job.dest_table, Wait::Not)? {
        return Err(Error::Busy(job.dest_table));
    }
    let name = job.destination.clone();
    let job = catalog.row(&job.dest_table)?.ok_or(Error::UnknownJob(job.dest_table))?;
    about(&format!("Rolling back snapshot \"{}\".", job.dest_table), || {
        let pinned = pin_settings()?;
        let twins = Twins::find(&name)?;
        drop(pinned);
        require_configured(&catalog, &job, twins.owner)?;
        let caller = role_name(current_role())?;
        let _identity = act_as(twins.owner, true)?;
        swap_back(&catalog, &job, &twins, &caller)
    })
}

fn swap_back(catalog: &Catalog, job: &Job, twins: &Twins, caller: &str) -> Result<()> {
    let state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
    let file = live_file(twins.idle.oid)?;
    let Some(previous) = state.previous.filter(|previous| previous.twin == file) else {
        return Err(Error::NothingKept { destination: job.dest_table.clone(), kept: job.keep_previous });
    };
    let [view] = table::describe([twins.view.oid])?;
    catalog.lock_to_record(&[&job.dest_table])?;
    twins.swap(&view, &previous.state.columns, patience())?;
    history::take_back(catalog, &job.dest_table, previous.replaced_by, caller)?;
    catalog.set_state(&job.dest_table, &serde_json::to_value(&*previous.state)?)?;
    Ok(())
}
