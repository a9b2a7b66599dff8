//! What a refresh of a table would do.

use crate::backend::identity::act_as;
use crate::destination::{fit, sequences, table};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::method::columns::{names, selected_columns};
use crate::method::plan::{stand_in, volume, Plan};
use crate::method::running::connect_job;
use crate::source::catalog::rows_query;

pub fn plan(catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let name = &job.destination;
    let destination = table::find(name)?;
    let mut source = connect_job(catalog, job, destination.owner)?;
    plan.connect(&source);
    let _identity = act_as(destination.owner, true)?;
    let found = source.find_table(&job.source_table)?;
    let shape = source.locked_snapshot_of(&found)?;
    let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
    source.require_readable(&found, &names(&columns), job.filter.is_some())?;
    let [local] = table::describe([destination.oid])?;
    fit::require_loadable(&local)?;
    let fit = fit::fit(&local, &shape, &columns, &[])?;
    source.use_own_search_path()?;
    let query = rows_query(&found.table(), &fit.columns, job.condition.as_deref())?;
    let volume = volume(&mut source, &query)?;
    let text = fit::obstacle_to_binary(&local, &shape, &columns);
    plan.copy(job, &query, &found.table(), &stand_in(&local, name)?, volume, text);
    plan.replace_all(&destination, &local, job.truncate_cascade.unwrap_or(false))?;
    let (mut following, missing) = sequences::find(job.sequences.as_deref().unwrap_or_default())?;
    following.extend(sequences::of_identity(destination.oid)?);
    if !following.is_empty() {
        plan.here(format!("set sequences ({}) behind the greatest values", following.len()), None, None);
    }
    if !missing.is_empty() {
        let text = format!("warn of sequences that are not there: {}", missing.join(", "));
        plan.here(text, None, None);
    }
    Ok(())
}
