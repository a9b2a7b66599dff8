//! What plan_refresh tells of a dml or logdel job.

use super::decide::{added, Columns, Decision, Extent, Look};
use super::options::Options;
use super::repair::{may_change_functions, Done, Facts, Repair};
use super::wanted::{capture, Wanted};
use super::work::Selected;
use crate::backend::name::quote_list;
use crate::backend::relation::Relation;
use crate::destination::upsert::{is_replaceable, MUCH_TO_COPY, MUCH_TO_MERGE};
use crate::error::Result;
use crate::job::method::Method;
use crate::method::plan::{shadow, volume, written_anew, Plan};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;
use crate::source::queue::{has_disabled_triggers, untriggered, Capture, Found, Legacy, Member};

/// Of a job that 1.5.1 has made.
pub fn conversion(legacy: &Legacy, table: &SourceTable, plan: &mut Plan) {
    plan.source(
        format!("put the queue of mimeo 2 in place of that of 1.5.1: {}", legacy.objects.queue),
        Some(format!("SHARE ROW EXCLUSIVE on \"{}\", for some milliseconds", table.table().plain())),
        Some("what waits in it is kept, and replayed".to_string()),
    );
}

pub fn tell(
    look: Look<'_>,
    options: &Options<'_>,
    destination: &Relation,
    table: &SourceTable,
    source: &mut Connection,
    plan: &mut Plan,
) -> Result<()> {
    let Look { catalog, job, state, .. } = look;
    let queue = &state.objects.queue;
    let position = state.position.as_ref().filter(|position| !position.removed);
    if position.is_some() {
        plan.source(
            format!("DELETE from {queue} what the last refresh has applied"),
            Some(format!("SHARE UPDATE EXCLUSIVE on \"{}\": writers go on", queue.plain())),
            None,
        );
    }
    let shape = source.locked_snapshot_of(table, job.condition.as_deref())?;
    let members = source.members(table, Some(&state.objects))?;
    let wanted = Wanted::of(job, &state.objects);
    let summary = source.summary(&state.objects, wanted.key.len(), wanted.keeps_rows(), look.limit)?;
    let applied = match position {
        Some(position) => source.queued(queue, position.last, &position.snapshot)?,
        None => 0,
    };
    let mut capture = capture(&wanted, source, table, &shape, &members);
    let facts = Facts::of(catalog, job, state, table, &capture, &members, &summary);
    capture.typed = matches!(facts.found, Found::Typed(..));
    let queue_is_new = repairs(look, facts, &capture, &members, source, plan)?;
    if !queue_is_new && has_disabled_triggers(&capture, &members) {
        let will = Some("the run is critical".to_string());
        plan.source("nothing: triggers of the source table are disabled or gone", None, will);
        return Ok(());
    }
    let (typed, cloned) = (capture.typed, capture.cloned);
    drop(capture);
    let mut present = look.present(source, table, (shape.clone(), members.clone(), summary), (typed, cloned))?;
    present.queue_is_new = queue_is_new;
    let applied = if queue_is_new { present.summary.rows } else { applied };
    let columns = Columns::of(job, state, source, &present, (destination, false))?;
    let decision = look.decide(present, columns, false, applied);
    let waiting = decision.present.summary.rows.saturating_sub(applied);
    plan.source(format!("read {queue}"), None, Some(format!("{waiting} changes wait")));
    for member in added(state, &members) {
        plan.source(format!("read the keys of {}, which nobody has queued", member.table()), None, None);
    }
    plan.follow(&decision.columns.following, destination);
    rows(look, options, &decision, waiting, destination, source, plan)
}

/// What is repaired first, on the source; returns whether the queue is made again.
fn repairs(
    look: Look<'_>,
    mut facts: Facts,
    capture: &Capture<'_>,
    members: &[Member],
    source: &mut Connection,
    plan: &mut Plan,
) -> Result<bool> {
    let (catalog, queue, table) = (look.catalog, &look.state.objects.queue, capture.table.table());
    let anew = format!("make the triggers of {table} anew");
    let lock = Some(format!("ACCESS EXCLUSIVE on \"{}\", for some milliseconds, tried", table.plain()));
    let (mut done, mut queue_is_new) = (Done::default(), false);
    while let Some(repair) = facts.next(done) {
        match repair {
            Repair::MakeAnew => {
                queue_is_new = true;
                source.require_capture_rights(catalog.schema(), members, capture.cloned)?;
                plan.source(anew.clone(), lock.clone(), Some("something else is to be queued now".to_string()));
            }
            Repair::ChangeFunctions if may_change_functions(source, catalog, capture, members) => {
                plan.source(anew.clone(), lock.clone(), Some("as this release has them; one try".to_string()));
            }
            Repair::AddTriggers => {
                for child in untriggered(capture, members) {
                    let name = child.table();
                    let lock = format!("SHARE ROW EXCLUSIVE on \"{}\", for some milliseconds, tried", name.plain());
                    plan.source(format!("give {name} the triggers of the job"), Some(lock), None);
                }
            }
            Repair::Restart => {
                let lock = Some(format!("ACCESS EXCLUSIVE on \"{}\", tried", queue.plain()));
                plan.source(format!("empty {queue}, which is full"), lock, None);
            }
            Repair::ChangeFunctions | Repair::LeaveToOlder | Repair::Mark | Repair::Adopt => {}
        }
        done.note(repair);
        facts = facts.after(repair);
    }
    Ok(queue_is_new)
}

/// Which rows are copied, and where they go.
fn rows(
    look: Look<'_>,
    options: &Options<'_>,
    decision: &Decision,
    waiting: u64,
    destination: &Relation,
    source: &mut Connection,
    plan: &mut Plan,
) -> Result<()> {
    let Decision { present, columns: Columns { local, column_map, text, .. }, unexpected, portion, .. } = decision;
    if portion.extent == Extent::Nothing {
        plan.here("nothing: no change waits", None, Some("0 rows".to_string()));
        return Ok(());
    }
    let (job, name) = (look.job, &look.job.destination);
    let (found, key) = (present.table.table(), job.pk_name.clone().unwrap_or_default());
    let dml = job.method() == Method::Dml;
    let Selected { unique, joined } = Selected::of(job, source, &present.table, &present.shape, &key)?;
    let straight = dml && options.straight(job) && unique && !joined;
    source.use_own_search_path()?;
    let query = rows_query(&found, (&column_map.columns, &[]), job.condition.as_deref())?;
    let volume = volume(source, &query)?;
    let lock = Some(format!("ROW EXCLUSIVE on \"{}\", until the end of the transaction", name.plain()));
    if portion.extent == Extent::All {
        let reason = unexpected.clone().or_else(|| Some("the source was truncated".to_string()));
        plan.source("copy all rows", None, reason);
        if straight {
            plan.copy(job, &query, &found, &shadow(local, name)?, volume, text.clone());
            return plan.replace_all(destination, local, false);
        }
        plan.copy(job, &query, &found, "a temporary table", volume, text.clone());
        if dml {
            return plan.replace_by_collected(destination, local);
        }
        plan.here(format!("put them in place of the rows of {name}"), lock, Some(written_anew(MUCH_TO_MERGE)));
        return Ok(());
    }
    let straight = straight && is_replaceable(local, column_map.columns.len())?;
    let taken = look.limit.map_or(waiting, |limit| waiting.min(limit as u64));
    let list = quote_list(key.iter().map(String::as_str));
    plan.copy(
        job,
        &format!("{query} for the keys ({list}) of the queue"),
        &found,
        if straight { "a temporary table, or in place" } else { "a temporary table" },
        volume.of_rows(taken),
        text.clone(),
    );
    let action = if dml {
        format!("put them in place of the rows of {name} with these keys, and delete those whose keys are gone")
    } else {
        format!("put them in place of the rows of {name} with these keys, and stamp those whose keys are gone")
    };
    plan.here(action, lock, Some(written_anew(if straight { MUCH_TO_COPY } else { MUCH_TO_MERGE })));
    plan.here(
        "store the position in the queue with them",
        None,
        Some("the queue is emptied by the next refresh".to_string()),
    );
    Ok(())
}
