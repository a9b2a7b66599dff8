//! What a refresh of a dml or logdel job would do.

use super::apply::Selected;
use super::{
    added, capture, is_as_made, is_deaf, untriggered, Found, Options, Present, Refresh, State, Wanted, CONVERTIBLE,
};
use crate::backend::identity::act_as;
use crate::backend::name::quote_list;
use crate::destination::upsert::{is_replaceable, MUCH_TO_COPY, MUCH_TO_MERGE};
use crate::destination::{fit, table};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::method::columns::{names, selected_columns};
use crate::method::plan::{stand_in, volume, written_anew, Plan};
use crate::method::replay::convert::legacy;
use crate::method::running::{connect_job, Call};
use crate::source::catalog::rows_query;

pub fn plan(call: Call<'_>, catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let (method, name) = (job.method(), &job.destination);
    let options = Options::of(call);
    let refresh = Refresh { options: &options, catalog, job };
    let destination = table::find(name)?;
    let mut source = connect_job(catalog, job, destination.owner)?;
    plan.connect(&source);
    let _identity = act_as(destination.owner, true)?;
    let found = source.find_table(&job.source_table)?;
    let Some(state) = State::find(job)? else {
        let legacy = legacy(job, &mut source, &found)?;
        plan.source(
            format!("put the queue of mimeo 2 in place of that of 1.5.1: {}", legacy.objects.queue),
            Some(format!("SHARE ROW EXCLUSIVE on {}, for some milliseconds", found.table().plain())),
            Some("what waits in it is kept, and replayed".to_string()),
        );
        return Ok(());
    };
    let queue = state.objects.queue.clone();
    let removes = state.position.as_ref().is_some_and(|position| !position.removed);
    if removes {
        plan.source(
            format!("DELETE from {queue} what the last refresh has applied"),
            Some(format!("SHARE UPDATE EXCLUSIVE on {}: writers go on", queue.plain())),
            None,
        );
    }
    let shape = source.locked_snapshot_of(&found)?;
    let members = source.members(&found, Some(&state.objects))?;
    let limit = job.batch_limit.filter(|limit| *limit > 0).map(i64::from);
    let wanted = Wanted::of(job, &state.objects);
    let summary = source.summary(&state.objects, wanted.key.len(), method == Method::Logdel, limit)?;
    let applied = match &state.position {
        Some(position) if removes => source.queued(&queue, position.last, &position.snapshot)?,
        _ => 0,
    };
    let cloned = source.clones_triggers(&shape);
    let key = job.pk_name.clone().unwrap_or_default();
    let mut capture = capture(&wanted, &source, &found, &shape, &members);
    let form = capture.form();
    let there = summary.form();
    capture.typed = matches!(there, Found::Typed(..));
    let mut queue_anew = match &there {
        Found::Nothing => false,
        Found::Form(there) => !there.captures_as(&form),
        Found::Typed(compared, rows) => {
            (compared.as_deref(), *rows) != (capture.compared, capture.rows) || summary.size > CONVERTIBLE
        }
        Found::Unreadable => true,
    };
    queue_anew |= capture.typed && untriggered(&capture, &members).into_iter().any(|member| member.oid != found.oid);
    let is_other = capture.typed || matches!(&there, Found::Form(there) if *there != form);
    if queue_anew || is_other {
        let action = format!("make the triggers of {} anew", found.table());
        let lock = Some(format!("ACCESS EXCLUSIVE on {}, for some milliseconds, tried", found.table().plain()));
        if queue_anew {
            source.require_capture_rights(catalog.schema(), &members, cloned)?;
            plan.source(action, lock, Some("something else is to be queued now".to_string()));
        } else if is_as_made(&capture, &members)
            && source.require_capture_rights(catalog.schema(), &members, false).is_ok()
        {
            plan.source(action, lock, Some("as this release has them; one try".to_string()));
        }
    }
    if summary.is_stopped() {
        plan.source(
            format!("empty {queue}, which is full"),
            Some(format!("ACCESS EXCLUSIVE on {}, tried", queue.plain())),
            None,
        );
    }
    if !queue_anew && is_deaf(&capture, &members) {
        plan.source(
            "nothing: triggers of the source table are disabled or gone",
            None,
            Some("the run is critical".to_string()),
        );
        return Ok(());
    }
    if !queue_anew {
        for child in untriggered(&capture, &members) {
            let lock = format!("SHARE ROW EXCLUSIVE on {}, for some milliseconds, tried", child.table().plain());
            plan.source(format!("give {} the triggers of the job", child.table()), Some(lock), None);
        }
    }
    let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
    source.require_readable(&found, &names(&columns), job.filter.is_some())?;
    let [local] = table::describe([destination.oid])?;
    fit::require_loadable(&local)?;
    let seen = source.seen(&found)?;
    let renamed = state.seen.as_ref().map(|before| before.renamed(&seen)).unwrap_or_default();
    let fit = fit::fit(&local, &shape, &columns, &renamed)?;
    let present = Present {
        key: source.queue_key(&found, &key, capture.typed)?,
        seen,
        added: Vec::new(),
        added_unreadable: Vec::new(),
        queue: queue.clone(),
        queue_is_new: queue_anew,
        is_deaf: false,
        missed: false,
        unwatched: false,
        table: found.clone(),
        shape: shape.clone(),
        members: members.clone(),
        summary: summary.clone(),
    };
    let reason = refresh.why_all(&state, &present, &fit.columns, cloned);
    let waiting = if queue_anew { 0 } else { summary.rows.saturating_sub(applied) };
    plan.source(format!("read {queue}"), None, Some(format!("{waiting} changes wait")));
    let all = reason.is_some() || summary.truncated.is_some();
    let mut more = false;
    for member in added(&state, &members) {
        more = true;
        plan.source(format!("read the keys of {}, which nobody has queued", member.table()), None, None);
    }
    if waiting == 0 && !all && !more {
        plan.here("nothing: no change waits", None, Some("0 rows".to_string()));
        return Ok(());
    }

    let Selected { unique, joined } = refresh.selected(&mut source, &found, &shape, &key)?;
    let straight = method == Method::Dml && refresh.straight() && unique && !joined;
    source.use_own_search_path()?;
    let query = rows_query(&found.table(), &fit.columns, job.condition.as_deref())?;
    let text = fit::obstacle_to_binary(&local, &shape, &columns);
    let list = quote_list(key.iter().map(String::as_str));
    if all {
        let volume = volume(&mut source, &query)?;
        plan.source("copy all rows", None, reason.or_else(|| Some("the source was truncated".to_string())));
        if straight {
            plan.copy(job, &query, &found.table(), &stand_in(&local, name)?, volume, text);
            return plan.replace_all(&destination, &local, false);
        }
        plan.copy(job, &query, &found.table(), "a temporary table", volume, text);
        if method == Method::Dml {
            return plan.replace_by_collected(&destination, &local);
        }
        plan.here(
            format!("put them in place of the rows of {name}"),
            Some(format!("ROW EXCLUSIVE on {}, until the end of the transaction", name.plain())),
            Some(written_anew(MUCH_TO_MERGE)),
        );
        return Ok(());
    }
    let straight = straight && is_replaceable(&local, fit.columns.len())?;
    let taken = limit.map_or(waiting, |limit| waiting.min(limit as u64));
    let whole = volume(&mut source, &query)?;
    plan.copy(
        job,
        &format!("{query} for the keys ({list}) of the queue"),
        &found.table(),
        if straight { "a temporary table, or in place" } else { "a temporary table" },
        whole.of_rows(taken),
        text,
    );
    let lock = Some(format!("ROW EXCLUSIVE on {}, until the end of the transaction", name.plain()));
    let action = match method {
        Method::Dml => {
            format!("put them in place of the rows of {name} with these keys, and delete those whose keys are gone")
        }
        _ => format!("put them in place of the rows of {name} with these keys, and stamp those whose keys are gone"),
    };
    plan.here(action, lock, Some(written_anew(if straight { MUCH_TO_COPY } else { MUCH_TO_MERGE })));
    plan.here(
        "store the position in the queue with them",
        None,
        Some("the queue is emptied by the next refresh".to_string()),
    );
    Ok(())
}
