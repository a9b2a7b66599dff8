//! What plan_refresh tells of a snapshot.

use super::decide::{Decision, Versions};
use super::state::State;
use super::trust::Trust;
use crate::backend::name::Name;
use crate::backend::relation::oid_arg;
use crate::backend::row_version::Grouping;
use crate::backend::spi;
use crate::destination::row_versions::Hidden;
use crate::destination::twins::Twins;
use crate::destination::{column_map, table};
use crate::error::{quoted, Result};
use crate::job::config::Job;
use crate::method::columns::names;
use crate::method::plan::{briefly, size, volume, Plan};
use crate::settings;
use crate::shape::Difference;
use crate::source::catalog::rows_query;
use crate::source::connection::Connection;
use crate::source::row_versions::Origin;

/// In the source's snapshot, if anything is to be copied.
pub fn tell(decision: &Decision, job: &Job, before: &State, source: &mut Connection, plan: &mut Plan) -> Result<()> {
    plan.source(
        format!("read counters and columns of {}", quoted(&job.source_table)),
        None,
        Some(decision.reason.clone()),
    );
    let Some(present) = &decision.copy else {
        plan.here("nothing: the refresh is skipped", None, Some("0 rows".to_string()));
        return Ok(());
    };
    // A refresh that was running may have created the view again meanwhile. To lock it would be wrong: that refresh holds the idle
    // twin, which is looked at below.
    let (twins, [view, mut idle]) = loop {
        let twins = Twins::find(&job.destination)?;
        if let Some(shapes) = table::describe_present([twins.view.oid, twins.idle.oid])? {
            break (twins, shapes);
        }
    };
    if let Some(Versions { origin, trust: Ok(trust), .. }) = &present.versions {
        tell_delta(origin, trust, &twins, job, plan);
        return Ok(());
    }
    let (idle_name, live_name, name) = (twins.idle.name(), twins.live.name(), twins.view.name());
    plan.here(
        format!("TRUNCATE {idle_name}"),
        Some(format!(
            "ACCESS EXCLUSIVE on \"{}\", which the view does not show, until the end of the transaction",
            idle_name.plain()
        )),
        Some(size(table::size(twins.idle.oid)?)),
    );
    let (columns, found) = (&present.columns, present.table.table());
    Hidden::take_from(&mut idle, columns.iter().chain(&before.columns));
    let change = Difference::between(&before.columns, columns);
    let reshaped = !before.columns.is_empty() && !change.is_empty();
    if reshaped || !table::conforms(&idle, columns, &before.columns) {
        table::localise(columns, &found)?;
        plan.here(
            format!("ALTER TABLE {idle_name}, to the columns of the source"),
            None,
            reshaped.then(|| format!("columns of the source changed: {}", change.summary())),
        );
    }

    source.use_own_search_path()?;
    let query = rows_query(&found, (&names(columns), &[]), job.condition.as_deref())?;
    let volume = volume(source, &query)?;
    let text = column_map::obstacle_to_binary(&idle, &present.shape, columns);
    plan.copy(job, &query, &found, &quoted(&idle_name.plain()), volume, text);
    let indexes = spi::number("SELECT count(*) FROM pg_index WHERE indrelid = $1", &[oid_arg(twins.idle.oid)])?;
    plan.here(
        format!("build its indexes ({indexes}) and give it statistics"),
        None,
        Some(format!(
            "those of \"{}\" take {}",
            live_name.plain(),
            size(spi::number("SELECT pg_indexes_size($1)", &[oid_arg(twins.live.oid)])? as u64)
        )),
    );
    tell_guards(job, Some(&live_name), &idle_name, plan);
    if Twins::is_extended(&view, columns) {
        plan.here(
            format!("CREATE OR REPLACE VIEW {name} AS SELECT … FROM {idle_name}"),
            Some(format!("ACCESS EXCLUSIVE on \"{}\", {}", name.plain(), briefly())),
            None,
        );
    } else {
        plan.here(
            format!("drop view {name} with all that depends on it, and create them again"),
            Some(format!("ACCESS EXCLUSIVE on \"{}\" and its dependents, {}", name.plain(), briefly())),
            Some("its columns change".to_string()),
        );
    }
    if job.keep_previous {
        plan.here(
            format!("keep \"{}\"", live_name.plain()),
            None,
            Some("keep_previous, for rollback_snapshot".to_string()),
        );
    } else {
        plan.here(
            format!("TRUNCATE {live_name}"),
            Some(format!("ACCESS EXCLUSIVE on \"{}\", if it is free at that instant", live_name.plain())),
            Some(size(table::size(twins.live.oid)?)),
        );
    }
    for statement in job.post_script.iter().flatten().filter(|_| reshaped) {
        plan.here(statement.clone(), None, Some("post_script".to_string()));
    }
    Ok(())
}

/// A delta: what it would compare.
fn tell_delta(origin: &Origin, trust: &Trust, twins: &Twins, job: &Job, plan: &mut Plan) {
    let live = twins.live.name();
    let grouping = origin.grouping();
    let groups = grouping.as_ref().map_or(0, Grouping::groups);
    let blocks: u64 = grouping.iter().flat_map(Grouping::extents).map(|extent| u64::from(extent.blocks)).sum();
    plan.source(
        format!("read the versions of the rows of {}, condensed", quoted(&job.source_table)),
        Some(format!("ACCESS SHARE on {} until the rows have come", quoted(&job.source_table))),
        Some(format!("{groups} sums for {blocks} blocks")),
    );
    plan.here(
        format!("compare them with those of \"{}\"", live.plain()),
        Some(format!("ROW EXCLUSIVE on \"{}\": readers do not wait", live.plain())),
        Some(format!(
            "{} rows, all of which are copied instead if more than {} percent differ",
            trust.rows,
            settings::delta_limit_percent()
        )),
    );
    plan.source("read the versions of blocks that differ, then the rows that are new", None, None);
    plan.here(
        format!("delete the rows that are gone from {live}, and insert those that are new"),
        Some(format!(
            "ROW EXCLUSIVE on \"{0}\": readers see the old rows until the end of the transaction",
            live.plain()
        )),
        None,
    );
    tell_guards(job, None, &live, plan);
}

/// What has to hold before new rows show. `old` is what their number is compared with, if it has to be counted.
fn tell_guards(job: &Job, old: Option<&Name>, new: &Name, plan: &mut Plan) {
    if let Some(percent) = job.max_shrink_percent {
        let count = match old {
            Some(old) => format!("SELECT count(*) FROM {old}"),
            None => "compare the number of rows with that before".to_string(),
        };
        plan.here(count, None, Some(format!("refused if they are fewer, by more than {percent} percent")));
    }
    if let Some(guard) = &job.guard {
        plan.here(guard.replace("{new}", &new.to_string()), None, Some("refused unless it returns true".to_string()));
    }
}
