//! refresh_dml and refresh_logdel.

use super::convert::convert;
use super::state::{current_transaction, end_of_wal, is_older, this_database, Position, State};
use super::wanted::{capture, places, Wanted};
use crate::backend::identity::act_as;
use crate::backend::name::Name;
use crate::backend::relation::{Patience, Relation};
use crate::destination::fit::{self, Fit};
use crate::destination::table;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::load::{leave, lock_destination, patience};
use crate::method::rights::require_owner_rights;
use crate::method::running::{connect_job, refresh_job, Call};
use crate::shape::Shape;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::{is_as_made, is_deaf, untriggered, Found, Member, QueueKey, Summary};
use crate::source::seen::Seen;
use apply::Extent;
use pgrx::pg_sys;
use std::collections::HashSet;
use std::time::Duration;

mod apply;
pub mod plan;

/// How large a queue of 2.1 may be, in bytes, that is turned into one of today: its writers wait for that.
const CONVERTIBLE: u64 = 32 * 1024 * 1024;

/// How long a refresh tries to empty a queue that was full, while transactions that have written to it are open.
const RESTART: Duration = Duration::from_secs(10);

/// The arguments of refresh_dml and refresh_logdel.
pub struct Options<'a> {
    pub call: Call<'a>,
    /// Rows of the queue, at most.
    pub limit: Option<i32>,
    pub repull: bool,
    /// None is what the job says.
    pub insert_on_fetch: Option<bool>,
}

impl<'a> Options<'a> {
    /// What a call without further arguments means.
    pub fn of(call: Call<'a>) -> Options<'a> {
        Options { call, limit: None, repull: false, insert_on_fetch: None }
    }
}

/// Refreshes a dml or logdel job.
pub fn refresh(method: Method, options: &Options<'_>) -> Result<()> {
    refresh_job(method, &options.call, |catalog, job, run| Refresh { options, catalog, job }.run(run))
}

/// Tables that have come to belong to the source since the last refresh, and hold rows.
fn added<'a>(state: &'a State, members: &'a [Member]) -> impl Iterator<Item = &'a Member> {
    let known: HashSet<u32> = state.members.iter().map(|(oid, ..)| *oid).collect();
    let is_known = move |member: &Member| known.contains(&member.oid);
    members.iter().skip(1).filter(move |member| !is_known(member) && member.has_rows())
}

/// One refresh, with the job's lock held.
struct Refresh<'a> {
    options: &'a Options<'a>,
    catalog: &'a Catalog,
    job: &'a Job,
}

/// What the source is now, in the snapshot that is open there.
struct Present {
    table: SourceTable,
    shape: Shape,
    members: Vec<Member>,
    /// Tables that have come to belong to it, and hold rows whose keys nobody queued.
    added: Vec<Name>,
    /// Such partitions that cannot be read by themselves.
    added_unreadable: Vec<u32>,
    key: QueueKey,
    seen: Seen,
    queue: Name,
    /// By this refresh: what the one before it held is gone.
    queue_is_new: bool,
    summary: Summary,
    /// Triggers are disabled or gone, so changes were missed and will be.
    is_deaf: bool,
    /// Those of a child were gone.
    missed: bool,
    /// Its triggers are left to an older release, which makes its own.
    unwatched: bool,
}

/// What the destination takes of it.
struct Columns {
    local: Shape,
    fit: Fit,
}

impl Refresh<'_> {
    /// 1. Connect, and remove from the queue what a committed refresh has applied.
    /// 2. In one snapshot: the shape, the triggers, what the queue holds, the rows of its keys, and the keys without rows.
    /// 3. The rows replace those of the same keys here; those of the other keys go, or are marked as deleted.
    /// 4. The snapshot, in the same transaction as the data.
    fn run(&self, run: &mut Run) -> Result<Status> {
        let job = self.job;
        run.phase("connect");
        let destination = table::find(&self.job.destination)?;
        if self.options.repull && self.job.method().facts().keeps_gone {
            // Rows whose deletion nobody has queued would go here, too.
            require_owner_rights("p_repull", job, destination.owner)?;
        }
        let mut source = connect_job(self.catalog, job, destination.owner)?;
        let owner = act_as(destination.owner, true)?;
        let table = source.find_table(&job.source_table)?;
        run.reads_parent(table.as_parent());
        let mut state = match State::find(job)? {
            Some(state) => state,
            None => {
                run.phase("convert");
                run.note("the queue of mimeo 1.5.1 was replaced");
                convert(job, &mut source, &table)?
            }
        };

        run.phase("queue");
        self.remove_applied(&mut source, &mut state)?;
        let limit = self.options.limit.or(job.batch_limit).filter(|limit| *limit > 0).map(i64::from);
        lock_destination(&destination, self.options.repull)?;
        let present = self.look(&mut source, table, &state, limit, run)?;
        let cloned = source.clones_triggers(&present.shape);
        if present.is_deaf && !present.unwatched {
            state.copy_all = Some("triggers were disabled".to_string());
            return Err(Error::Deaf {
                table: present.table.table().plain(),
                source_label: source.label().to_string(),
                trigger: state.objects.trigger.clone(),
                state: serde_json::to_value(&state)?,
            });
        }
        let renamed = state.seen.as_ref().map(|seen| seen.renamed(&present.seen)).unwrap_or_default();
        let columns = self.columns(&mut source, &present, &destination, &renamed)?;
        let mut status = Status::Ok;
        let missed = present.missed.then(|| "triggers of a partition or child of the source were gone".to_string());
        let unexpected = missed.or_else(|| self.why_all(&state, &present, &columns.fit.columns, cloned));
        if let Some(reason) = &unexpected {
            run.note(format!("all rows are copied: {reason}"));
            status = Status::Warning;
        }
        let summary = &present.summary;
        if self.options.repull && unexpected.is_none() {
            run.note("all rows are copied, as asked for");
        } else if summary.truncated.is_some() {
            run.note("the source was truncated");
        }
        let all = self.options.repull || unexpected.is_some() || summary.truncated.is_some();
        let last = summary.last.unwrap_or(0);
        let until = if all { last } else { summary.cut.unwrap_or(last) };
        let taken = match limit {
            Some(limit) if until < last => limit as u64,
            _ => summary.rows,
        };
        run.queue_rows = Some(summary.rows.saturating_sub(taken));
        if let Some(limit) = limit.filter(|limit| !all && taken.saturating_mul(4) >= (*limit as u64).saturating_mul(3))
        {
            run.note(format!("{taken} queued changes are three quarters of the batch limit of {limit} or more"));
            status = Status::Warning;
        }

        let members = places(&present.members, cloned);
        if all || summary.rows > 0 || !present.added.is_empty() || !present.added_unreadable.is_empty() {
            run.note(format!("{taken} queued changes"));
            let extent = if all { Extent::All } else { Extent::Changes(until) };
            if summary.not_kept > 0 {
                run.note(format!("the values of {} deleted rows were too long to be queued", summary.not_kept));
                status = Status::Warning;
            }
            let same_types =
                state.seen.as_ref().is_none_or(|seen| seen.has_same_types(&present.seen, &columns.fit.columns));
            let changed = if same_types { None } else { Some(&mut status) };
            let work = self.prepare(&mut source, &present, &destination, &owner, columns, renamed, (&extent, taken))?;
            match self.job.method() {
                Method::Dml => self.apply_dml(&mut source, &work, &extent, run)?,
                _ => self.apply_logdel(&mut source, &work, &extent, changed, run)?,
            }
        } else {
            // A child that has got its triggers is known from here on, so it has to keep them.
            leave(&mut source, summary.unflushed && members != state.members)?;
            if summary.bloated {
                source.shrink(&present.queue)?;
            }
        }

        state.removed = summary.removed.unwrap_or(0);
        state.position = Some(Position {
            // SAFETY: reads the clock.
            number: unsafe { pg_sys::GetCurrentTimestamp() },
            snapshot: summary.snapshot.clone(),
            last: until,
            transaction: current_transaction(),
            removed: summary.rows == 0,
        });
        state.system = summary.system.clone();
        state.members = members;
        state.copy_all = present.unwatched.then(|| "changes are not queued for a release that is older".to_string());
        state.seen = Some(present.seen.clone());
        state.filter = job.filter.clone();
        state.condition = job.condition.clone();
        let as_of = (until == last || all).then(|| run.started());
        self.catalog.record_run(&job.dest_table, run.started(), Some(&serde_json::to_value(&state)?), None, as_of)?;
        Ok(status)
    }

    /// Removes on the source what is applied here and safe on disk.
    fn remove_applied(&self, source: &mut Connection, state: &mut State) -> Result<()> {
        let Some(position) = &mut state.position else { return Ok(()) };
        if position.removed || position.transaction == current_transaction() {
            return Ok(());
        }
        // The commit may have been asynchronous.
        // SAFETY: flushes the WAL that is written so far.
        unsafe { pg_sys::XLogFlush(end_of_wal()) };
        let (queue, expected) = (&state.objects.queue, [state.removed, position.number]);
        if source.remove_applied(queue, expected, position.number, &position.snapshot, position.last)? {
            position.removed = true;
            state.removed = position.number;
        }
        Ok(())
    }

    /// Opens the snapshot. A child of the source table that has no triggers yet gets them first; and if the triggers do not
    /// queue what the job now wants, or do not fire for all that writes to the table any more, they are made anew; if only
    /// their functions are those of another release, this is tried.
    fn look(
        &self,
        source: &mut Connection,
        table: SourceTable,
        state: &State,
        limit: Option<i64>,
        run: &mut Run,
    ) -> Result<Present> {
        let timed = self.job.method().facts().keeps_gone;
        let wanted = Wanted::of(self.job, &state.objects);
        let (mut adopted, mut marked, mut tried, mut restarted) = (false, false, false, false);
        let (mut queue_is_new, mut missed, mut unwatched) = (false, false, false);
        // Four are needed at most, if nobody else changes the table meanwhile.
        for _ in 0..16 {
            let shape = source.locked_snapshot_of(&table)?;
            let members = source.members(&table, Some(&state.objects))?;
            let mut capture = capture(&wanted, source, &table, &shape, &members);
            let summary = source.summary(&state.objects, wanted.key.len(), timed, limit)?;
            let form = capture.form();
            let found = summary.form();
            let mut again = false;
            match &found {
                Found::Form(_) if is_older(self.catalog) => {
                    source.leave_to_older(&state.objects, patience())?;
                    continue;
                }
                Found::Unreadable if is_older(self.catalog) => unwatched = true,
                Found::Form(found) if *found == form => {}
                Found::Nothing => {}
                Found::Form(found) => again = !found.captures_as(&form),
                Found::Typed(compared, rows) => {
                    capture.typed = true;
                    // To convert much of it would make writers wait.
                    again = (compared.as_deref(), *rows) != (capture.compared, capture.rows)
                        || summary.size > CONVERTIBLE && !is_older(self.catalog);
                }
                Found::Unreadable => again = true,
            }
            let children: Vec<Member> =
                untriggered(&capture, &members).into_iter().filter(|member| member.oid != table.oid).cloned().collect();
            if again || capture.typed && !children.is_empty() {
                source.require_capture_rights(self.catalog.schema(), &members, capture.cloned)?;
                source.make_queue(&state.objects, &capture, &members, true, patience())?;
                queue_is_new = true;
                continue;
            }
            let is_other = capture.typed || matches!(&found, Found::Form(found) if *found != form);
            if is_other && !tried && !is_older(self.catalog) {
                tried = true;
                let possible = is_as_made(&capture, &members)
                    && source.require_capture_rights(self.catalog.schema(), &members, false).is_ok();
                let typed = capture.typed;
                capture.typed = false;
                if possible && source.change_functions(&state.objects, &capture, &members, typed, patience().queue)? {
                    run.note("the triggers on the source were made anew");
                    continue;
                }
                if possible {
                    continue;
                }
                capture.typed = typed;
            }
            if !children.is_empty() && !unwatched {
                let known = |child: &Member| state.members.iter().any(|(oid, ..)| *oid == child.oid);
                missed |= children.iter().any(known);
                source.require_capture_rights(self.catalog.schema(), &members, false)?;
                source.end_snapshot()?;
                for child in &children {
                    source.add_triggers(&state.objects, &capture, child, patience())?;
                }
                continue;
            }
            let limit_said = self.job.max_queue_size.map(|size| size.to_string());
            if !marked && (summary.user.as_deref() != Some(this_database().as_str()) || summary.max_size != limit_said)
            {
                source.end_snapshot()?;
                source.mark_queue(&state.objects.queue, &this_database(), self.job.max_queue_size)?;
                marked = true;
                continue;
            }
            if summary.is_stopped() && !restarted {
                restarted = true;
                let wait = Patience { give_up: RESTART, ..patience() };
                if !source.restart_queue(&state.objects.queue, wait)? {
                    run.note("the queue takes no changes yet: it could not be emptied, for somebody uses it");
                }
                continue;
            }
            if !state.system.is_empty() && summary.system != state.system && !adopted {
                source.end_snapshot()?;
                source.adopt_queue(&state.objects.queue)?;
                adopted = true;
                continue;
            }
            let key = source.queue_key(&table, wanted.key, capture.typed)?;
            let seen = source.seen(&table)?;
            let (added, unreadable): (Vec<_>, Vec<_>) = added(state, &members).partition(|member| member.is_readable());
            let (added, added_unreadable) =
                (added.iter().map(|m| m.table()).collect(), unreadable.iter().map(|m| m.oid).collect());
            let queue = state.objects.queue.clone();
            let is_deaf = is_deaf(&capture, &members);
            return Ok(Present {
                is_deaf,
                missed,
                table,
                shape,
                members,
                added,
                added_unreadable,
                key,
                seen,
                queue,
                queue_is_new,
                summary,
                unwatched,
            });
        }
        Err(Error::Internal(
            "whatever is done to the triggers on the source, they are not as they should be".to_string(),
        ))
    }

    /// The columns of both sides, which have to fit whether or not anything has changed.
    fn columns(
        &self,
        source: &mut Connection,
        present: &Present,
        destination: &Relation,
        renamed: &[(String, String)],
    ) -> Result<Columns> {
        let shape = &present.shape;
        let columns = selected_columns(shape, self.job.filter.as_deref(), source.label())?;
        source.require_readable(&present.table, &names(&columns), self.job.filter.is_some())?;
        let [local] = table::describe([destination.oid])?;
        fit::require_loadable(&local)?;
        let fit = fit::fit(&local, shape, &columns, renamed)?;
        Ok(Columns { local, fit })
    }

    /// Why the queue does not tell all that has changed.
    fn why_all(&self, state: &State, present: &Present, copied: &[String], cloned: bool) -> Option<String> {
        let Present { summary, members, queue_is_new, .. } = present;
        if let Some(reason) = &state.copy_all {
            return Some(reason.clone());
        }
        if !state.system.is_empty() && state.system != summary.system {
            return Some("the source is another cluster now".to_string());
        }
        if state.filter != self.job.filter || state.condition != self.job.condition {
            return Some("the filter or the condition has changed".to_string());
        }
        if present.unwatched {
            return Some(
                "the extension's version here is older: its package will make queue and triggers anew".to_string(),
            );
        }
        if *queue_is_new {
            return Some("something else is queued now than before".to_string());
        }
        // An earlier try may have removed the rows of the present position, and then have come to nothing here.
        let removed = summary.removed.unwrap_or(0);
        if removed != state.removed && state.position.as_ref().is_none_or(|position| position.number != removed) {
            return Some(
                "changes that are not applied here were removed from the queue, by another copy of this job"
                    .to_string(),
            );
        }
        if summary.is_stopped() || summary.was_full {
            return Some(format!(
                "the queue had reached max_queue_size ({} bytes), and took no more changes",
                summary.max_size.as_deref().unwrap_or("NULL")
            ));
        }
        if summary.unknown > 0 {
            return Some("rows have changed while columns of the key had other names on the source".to_string());
        }
        if let Some(reason) = state.seen.as_ref().and_then(|seen| seen.why_again(&present.seen, copied)) {
            return Some(reason);
        }
        let now: HashSet<_> = places(members, cloned).into_iter().collect();
        if state.members.iter().any(|before| !now.contains(before)) {
            return Some("a partition or child of the source was detached, truncated or rewritten".to_string());
        }
        None
    }
}
