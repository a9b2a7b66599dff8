//! What a refresh of an inserter or an updater would do.

use super::{bound, required, Options, Redo, Refresh, State};
use crate::backend::identity::act_as;
use crate::destination::upsert::MUCH_TO_MERGE;
use crate::destination::{fit, table};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::method::columns::{names, selected_columns};
use crate::method::incremental::state::kind_of;
use crate::method::incremental::values::{clocks_change, Values};
use crate::method::plan::{volume, written_anew, Plan};
use crate::method::running::{connect_job, Call};
use crate::source::bounds::{bound_type, Slice};
use crate::source::catalog::rows_query;

pub fn plan(call: Call<'_>, catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let (method, name) = (job.method(), &job.destination);
    if job.dst_active.unwrap_or(false) && clocks_change(job.dst_start.unwrap_or(30), job.dst_end.unwrap_or(230))? {
        plan.here("nothing: the refresh pauses while the clocks change", None, Some("see dst_active".to_string()));
        return Ok(());
    }
    let options = Options::of(call);
    let refresh = Refresh { options: &options, catalog, job };
    let destination = table::find(name)?;
    let mut source = connect_job(catalog, job, destination.owner)?;
    plan.connect(&source);
    let found = source.find_table(&job.source_table)?;
    let kind = kind_of(job);
    let control = source.control(&found, required(job.control.as_ref(), "control", job)?)?;
    control.require(kind, &found)?;
    let boundary = required(job.boundary.as_ref(), "boundary", job)?;
    let last_value = required(job.last_value.as_ref(), "last_value", job)?;
    let start = Values::of(&control).read(last_value, "last_value")?;
    let _identity = act_as(destination.owner, true)?;
    let mut state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
    let redo: Option<Redo> = state.redo.take().filter(|_| state.left.as_deref() == Some(last_value));
    let bound = bound::find(&mut source, &found, &control, kind, boundary, job.condition.as_deref(), &mut state)?;
    plan.source(
        format!("find up to where {} of {} is complete", control.name, found.table().plain()),
        None,
        Some(match &bound.upper {
            Some(upper) => format!("up to {upper}, exclusive: {}", bound.how),
            None => format!("no bound: {}", bound.how),
        }),
    );
    let shape = source.locked_snapshot_of(&found)?;
    let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
    source.require_readable(&found, &names(&columns), job.filter.is_some())?;
    let [local] = table::describe([destination.oid])?;
    fit::require_loadable(&local)?;
    let seen = source.seen(&found)?;
    let renamed = state.seen.as_ref().map(|before| before.renamed(&seen)).unwrap_or_default();
    let fit = fit::fit(&local, &shape, &columns, &renamed)?;
    source.use_own_search_path()?;
    if bound.upper.is_none() {
        plan.here("nothing: no row is known to be complete", None, Some("0 rows".to_string()));
        return Ok(());
    }
    let rows = rows_query(&found.table(), &names(&columns), job.condition.as_deref())?;
    let again = state.seen.as_ref().and_then(|before| before.why_again(&seen, &fit.columns));
    let merges_all = again.is_some() && method == Method::Updater;
    let take = refresh.plan(&bound, redo.as_ref(), &start, None, merges_all);
    if merges_all {
        plan.source("copy all rows", None, again);
    } else if let Some(reason) = again.or_else(|| state.lacking.take()) {
        plan.here("nothing for the rows that lack values: p_repull := true copies them anew", None, Some(reason));
    }
    let slice = Slice { rows: &rows, control: &control, range: &take.range };
    let query = slice.query(&fit.columns);
    let volume = volume(&mut source, &query)?;
    if take.delete {
        let clause = take.range.clause(&crate::backend::name::quote(&control.name), bound_type(&control.type_name));
        plan.here(
            format!("DELETE FROM {name}{clause}"),
            Some(format!("ROW EXCLUSIVE on {}, until the end of the transaction", name.plain())),
            Some("these rows are taken again".to_string()),
        );
    }
    let into = if method == Method::Inserter { name.plain() } else { "a temporary table".to_string() };
    plan.copy(job, &query, &found.table(), &into, volume, fit::obstacle_to_binary(&local, &shape, &columns));
    if let Some(limit) = take.limit {
        plan.source("end the batch between two control values", None, Some(format!("batch limit of {limit} rows")));
    }
    let lock = Some(format!("ROW EXCLUSIVE on {}, until the end of the transaction", name.plain()));
    if method == Method::Updater {
        plan.here(
            format!("update or insert them in {name} by {}", job.pk_name.clone().unwrap_or_default().join(", ")),
            lock,
            Some(written_anew(MUCH_TO_MERGE)),
        );
    } else {
        plan.here(format!("keep its indexes and triggers, commit {name} and last_value together"), lock, None);
    }
    Ok(())
}
