//! What a refresh of a snapshot would do.

use super::{Options, Refresh};
use crate::backend::identity::{act_as, pin_settings};
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::destination::twins::Twins;
use crate::destination::{fit, table};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::plan::{briefly, size, volume, Plan};
use crate::method::running::{connect_job, Call};
use crate::method::snapshot::state::State;
use crate::shape::Difference;
use crate::source::catalog::rows_query;

pub fn plan(call: Call<'_>, catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let options = Options::of(call);
    let refresh = Refresh { options: &options, catalog, job };
    let mut run = Run::begin(&catalog.table("refresh_snapshot"), job, call.jobmon, call.debug)?;
    let pinned = pin_settings()?;
    let twins = Twins::find(&job.destination)?;
    drop(pinned);
    let before: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
    let mut source = connect_job(catalog, job, twins.owner)?;
    plan.connect(&source);
    let _identity = act_as(twins.owner, true)?;

    let found = source.find_table(&job.source_table)?;
    let counted = source.fingerprint(found.oid)?;
    let seen = refresh.see(source.place(), &counted, &twins, &mut run)?;
    let same = refresh.unchanged(&before, seen.as_ref(), &mut run);
    let shape = source.locked_snapshot_of(&found)?;
    let skipped = same && (!seen.is_some_and(|seen| seen.fingerprint.assigned_types) || shape.types == before.types);
    let reason = if same && !skipped { "copied: a type of the source has changed".to_string() } else { run.reasons() };
    plan.source(format!("look at {}: its counters and columns", found.table().plain()), None, Some(reason));
    if skipped {
        plan.here("nothing: the refresh is skipped", None, Some("0 rows".to_string()));
        return Ok(());
    }

    let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
    source.require_readable(&found, &names(&columns), job.filter.is_some())?;
    // A refresh that was under way may have made the view anew meanwhile. To lock it would be wrong: that refresh holds the idle
    // twin, which is looked at below.
    let (twins, [view, idle]) = loop {
        let twins = Twins::find(&job.destination)?;
        if let Some(shapes) = table::describe_present([twins.view.oid, twins.idle.oid])? {
            break (twins, shapes);
        }
    };
    let (idle_name, live_name, name) = (twins.idle.name(), twins.live.name(), twins.view.name());
    plan.here(
        format!("TRUNCATE {idle_name}"),
        Some(format!(
            "ACCESS EXCLUSIVE on {}, which the view does not show, until the end of the transaction",
            idle_name.plain()
        )),
        Some(size(table::size(twins.idle.oid)?)),
    );
    let change = Difference::between(&before.columns, &columns);
    let reshaped = !before.columns.is_empty() && !change.is_empty();
    if reshaped || !table::conforms(&idle, &columns, &before.columns) {
        table::localise(&columns, &found.table())?;
        plan.here(
            format!("ALTER TABLE {idle_name}, to the columns of the source"),
            None,
            reshaped.then(|| format!("columns of the source changed: {}", change.summary())),
        );
    }

    source.use_own_search_path()?;
    let query = rows_query(&found.table(), &names(&columns), job.condition.as_deref())?;
    let volume = volume(&mut source, &query)?;
    let text = fit::obstacle_to_binary(&idle, &shape, &columns);
    plan.copy(job, &query, &found.table(), &idle_name.plain(), volume, text);
    let indexes = spi::number("SELECT count(*) FROM pg_index WHERE indrelid = $1", &[oid_arg(twins.idle.oid)])?;
    plan.here(
        format!("build its indexes ({indexes}) and give it statistics"),
        None,
        Some(format!(
            "those of {} take {}",
            live_name.plain(),
            size(spi::number("SELECT pg_indexes_size($1)", &[oid_arg(twins.live.oid)])? as u64)
        )),
    );
    if let Some(percent) = job.max_shrink_percent {
        plan.here(
            format!("SELECT count(*) FROM {live_name}"),
            None,
            Some(format!("refused if fewer rows have come, by more than {percent} percent")),
        );
    }
    if let Some(guard) = &job.guard {
        plan.here(
            guard.replace("{new}", &idle_name.to_string()),
            None,
            Some("refused unless it returns true".to_string()),
        );
    }
    if Twins::is_extended(&view, &columns) {
        plan.here(
            format!("CREATE OR REPLACE VIEW {name} AS SELECT … FROM {idle_name}"),
            Some(format!("ACCESS EXCLUSIVE on {}, {}", name.plain(), briefly())),
            None,
        );
    } else {
        plan.here(
            format!("drop view {name} with all that depends on it, and make them anew"),
            Some(format!("ACCESS EXCLUSIVE on {} and its dependents, {}", name.plain(), briefly())),
            Some("its columns change".to_string()),
        );
    }
    if job.keep_previous {
        plan.here(
            format!("keep {}", live_name.plain()),
            None,
            Some("keep_previous, for rollback_snapshot".to_string()),
        );
    } else {
        plan.here(
            format!("TRUNCATE {live_name}"),
            Some(format!("ACCESS EXCLUSIVE on {}, if it is free at that instant", live_name.plain())),
            Some(size(table::size(twins.live.oid)?)),
        );
    }
    for statement in job.post_script.iter().flatten().filter(|_| reshaped) {
        plan.here(statement.clone(), None, Some("post_script".to_string()));
    }
    Ok(())
}
