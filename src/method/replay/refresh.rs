//! refresh_dml and refresh_logdel.

use super::convert::{convert, legacy};
use super::decide::{Columns, Decision, Extent, Look, Repaired};
use super::merge::Merge;
use super::options::Options;
use super::state::{current_transaction, end_of_wal, Position, State};
use super::tell::{self, tell};
use super::wanted::storage_ids;
use super::work::{Loaded, Work};
use super::{dml, logdel};
use crate::backend::identity::{act_as, Caller};
use crate::backend::relation::Relation;
use crate::destination::exchange::Exchange;
use crate::destination::upsert::change_beside;
use crate::destination::{shadow, table};
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::connecting::connect_job;
use crate::method::follow;
use crate::method::left::Left;
use crate::method::load::{leave, lock_destination, patience};
use crate::method::plan::Plan;
use crate::method::rights::require_owner_rights;
use crate::method::running::{refresh_job, Call};
use crate::method::steps::{self, Manner, Opened, Opening, Steps};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use pgrx::pg_sys;

/// Refreshes a dml or logdel job.
pub fn refresh(method: Method, options: &Options<'_>) -> Result<()> {
    refresh_job(method, &options.call, |catalog, job, run| {
        run.phase("connect");
        steps::refresh(opening(options, catalog, job, false)?, catalog, job, run)
    })
}

/// A refresh that is about to begin.
pub fn opening<'a>(
    options: &'a Options<'a>,
    catalog: &'a Catalog,
    job: &'a Job,
    in_group: bool,
) -> Result<Opened<'a, Options<'a>>> {
    let destination = table::find(&job.destination)?;
    if options.repull && job.method().facts().keeps_gone {
        // Rows whose deletion was not queued would be deleted from the destination, too.
        require_owner_rights("p_repull", job, destination.owner)?;
    }
    Ok(Opened { options, catalog, job, destination, in_group })
}

impl<'a> Opening for Opened<'a, Options<'a>> {
    type Steps = Refresh<'a>;

    fn owner(&self) -> pg_sys::Oid {
        self.destination.owner
    }

    fn open(self, source: &mut Connection, run: &mut Run) -> Result<Refresh<'a>> {
        let Opened { options, catalog, job, destination, in_group } = self;
        let caller = Caller::now();
        let _identity = act_as(destination.owner, true)?;
        let table = source.find_table(&job.source_table)?;
        run.reads_parent(table.as_parent());
        let state = match State::find(job)? {
            Some(state) => state,
            None => {
                run.phase("convert");
                run.note("the queue of mimeo 1.5.1 was replaced");
                convert(job, source, &table)?
            }
        };
        let (repaired, status) = (Repaired::default(), Status::Ok);
        Ok(Refresh {
            options,
            catalog,
            job,
            destination,
            in_group,
            in_place: false,
            caller,
            table,
            state,
            repaired,
            status,
        })
    }
}

/// What it would do.
pub fn plan(catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let options = Options::of(Call::of(&job.dest_table));
    let destination = table::find(&job.destination)?;
    let mut source = connect_job(catalog, job, destination.owner)?;
    plan.connect(&source);
    let _identity = act_as(destination.owner, true)?;
    let table = source.find_table(&job.source_table)?;
    let Some(state) = State::find(job)? else {
        let legacy = legacy(job, &mut source, &table)?;
        tell::conversion(&legacy, &table, plan);
        return Ok(());
    };
    let look = Look { catalog, job, state: &state, limit: options.limit(job) };
    tell(look, &options, &destination, &table, &mut source, plan)
}

pub struct Refresh<'a> {
    options: &'a Options<'a>,
    catalog: &'a Catalog,
    job: &'a Job,
    destination: Relation,
    /// All that waits is taken.
    in_group: bool,
    in_place: bool,
    caller: Caller,
    table: SourceTable,
    state: State,
    repaired: Repaired,
    status: Status,
}

impl Steps for Refresh<'_> {
    type Decision = Decision;
    type Loaded = (Loaded, Decision);
    type Ready = (Left<Merge>, Decision);

    /// Removes from the queue what a committed refresh has applied.
    fn prepare(&mut self, source: &mut Connection, run: &mut Run) -> Result<()> {
        run.phase("queue");
        self.remove_applied(source)
    }

    /// The triggers.
    fn repair(&mut self, source: &mut Connection, run: &mut Run) -> Result<()> {
        source.will_read(&self.table, self.job.condition.as_deref())?;
        let look = Look { catalog: self.catalog, job: self.job, state: &self.state, limit: self.limit() };
        look.mended(source, self.table.clone(), &mut self.repaired, run)?;
        source.end_snapshot()
    }

    fn lock(&mut self, _: &mut Run) -> Result<()> {
        lock_destination(&self.destination, self.options.repull)?;
        table::check_at_once(self.destination.oid)
    }

    /// In one snapshot: the shape, the triggers, what the queue holds.
    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Decision> {
        let (job, limit) = (self.job, self.limit());
        let look = Look { catalog: self.catalog, job, state: &self.state, limit };
        let present = look.mended(source, self.table.clone(), &mut self.repaired, run)?;
        if present.has_disabled_triggers && !present.unwatched {
            let state = State { copy_all: Some("triggers were disabled".to_string()), ..self.state.clone() };
            return Err(Error::TriggersDisabled {
                table: present.table.table().plain(),
                source_label: source.label().to_string(),
                trigger: self.state.objects.trigger.clone(),
                state: serde_json::to_value(&state)?,
            });
        }
        let columns = Columns::of(job, &self.state, source, &present, (&self.destination, self.options.repull))?;
        let decision = look.decide(present, columns, self.options.repull, 0);
        let (summary, portion) = (&decision.present.summary, &decision.portion);
        if follow::tell(&decision.columns.following, &self.destination, run) {
            self.status = Status::Warning;
        }
        if let Some(reason) = &decision.unexpected {
            run.note(format!("all rows are copied: {reason}"));
            self.status = Status::Warning;
        } else if self.options.repull {
            run.note("all rows are copied, as asked for");
        }
        if summary.truncated.is_some() && !(self.options.repull && decision.unexpected.is_none()) {
            run.note("the source was truncated");
        }
        let taken = portion.taken;
        run.queue_rows = Some(summary.rows.saturating_sub(taken));
        let nearly =
            |limit: &i64| portion.extent != Extent::All && taken.saturating_mul(4) >= (*limit as u64).saturating_mul(3);
        if let Some(limit) = limit.filter(nearly) {
            run.note(format!("{taken} queued changes are three quarters of the batch limit of {limit} or more"));
            self.status = Status::Warning;
        }
        if portion.extent != Extent::Nothing {
            run.note(format!("{taken} queued changes"));
            if summary.not_kept > 0 {
                run.note(format!("the values of {} deleted rows were too long to be queued", summary.not_kept));
                self.status = Status::Warning;
            }
        }
        Ok(decision)
    }

    fn manner(&self, decision: &Decision) -> Result<Manner> {
        Ok(match decision.portion.extent {
            Extent::Nothing => Manner::Unchanged,
            Extent::Changes(_) => Manner::InPlace,
            // A logdel job keeps rows, which the others are merged with.
            Extent::All if self.job.method() == Method::Logdel => Manner::InPlace,
            Extent::All => match shadow::obstacle(decision.columns.local.local_oid())? {
                Some(_) => Manner::InPlace,
                None => Manner::AtOnce,
            },
        })
    }

    fn stay_in_place(&mut self) {
        self.in_place = true;
    }

    /// The rows of the keys that are queued, and the keys without rows.
    fn load(&mut self, source: &mut Connection, decision: Decision, run: &mut Run) -> Result<(Loaded, Decision)> {
        let summary = &decision.present.summary;
        if decision.portion.extent == Extent::Nothing {
            // A child that got its triggers is known from here on, so it has to keep them.
            let members = storage_ids(&decision.present.members, decision.present.cloned);
            leave(source, summary.unflushed && members != self.state.members)?;
            if summary.bloated && !self.in_group {
                source.shrink(&decision.present.queue)?;
            }
            return Ok((Loaded::Nothing, decision));
        }
        let work =
            Work::prepare(self.job, self.options, source, (&decision, self.in_place), &self.destination, self.caller)?;
        let loaded = match self.job.method() {
            Method::Dml => dml::load(source, &work, run)?,
            _ => logdel::load(source, &work, &mut self.status, run)?,
        };
        Ok((loaded, decision))
    }

    /// The rows replace those with the same keys; those of the other keys are deleted, or marked as deleted.
    fn ready(&mut self, (loaded, decision): Self::Loaded, _: &[pg_sys::Oid], run: &mut Run) -> Result<Self::Ready> {
        let following = &decision.columns.following;
        let left = match loaded {
            Loaded::Nothing if following.is_empty() => Left::Nothing,
            Loaded::Nothing => {
                let local = &decision.columns.local;
                let beside = change_beside(&self.destination, local, following, patience())?;
                beside.map_or(Left::Change, |exchange| Left::Exchange(Box::new(exchange)))
            }
            Loaded::All(loaded) => loaded.ready(&self.destination, (false, following), run)?.into(),
            Loaded::There(keys) => {
                keys.drop()?;
                Left::Nothing
            }
            Loaded::Whole(rows) => {
                run.phase("merge");
                self.put(Merge::all(self.job, rows, &self.destination, (&decision, self.in_place))?, &decision, run)?
            }
            Loaded::Changed(rows, gone, deleted) => {
                run.phase("merge");
                let merge = Merge::changed(
                    self.job,
                    rows,
                    (gone, deleted),
                    &self.destination,
                    (&decision, self.in_place),
                    run,
                )?;
                self.put(merge, &decision, run)?
            }
            Loaded::Stamped(rows, left, deleted) => {
                run.phase("merge");
                let stamps = decision.present.summary.truncated.is_some() || !self.options.repull;
                let rest = (left, deleted, stamps);
                self.put(
                    Merge::stamped(self.job, rows, rest, &self.destination, (&decision, self.in_place), run)?,
                    &decision,
                    run,
                )?
            }
        };
        Ok((left, decision))
    }

    fn exchange<'b>(&self, (left, _): &'b mut Self::Ready) -> Option<&'b mut Exchange> {
        left.exchange()
    }

    fn locks(&self, (left, decision): &Self::Ready) -> Result<Vec<pg_sys::Oid>> {
        left.locks(&decision.columns.following, &self.destination)
    }

    /// The position in the queue is stored in the same transaction as the rows.
    fn publish(&mut self, (left, decision): Self::Ready, run: &mut Run) -> Result<Status> {
        let following = &decision.columns.following;
        match left {
            Left::Nothing => {}
            Left::Exchange(exchange) => exchange.carry_out(patience())?,
            Left::Merge(merge) => {
                // Where its columns are altered, nothing is written anew.
                merge.carry_out(self.job, &self.destination, &decision, run)?;
            }
            Left::Change => {
                following.apply(&self.destination, patience())?;
                following.finish(&self.destination)?;
            }
        }
        let Decision { mut present, portion, columns, .. } = decision;
        let summary = present.summary;
        if columns.following.incomplete {
            present.seen.postpone(&columns.following.requirable());
        }
        let state = State {
            objects: self.state.objects.clone(),
            removed: summary.removed.unwrap_or(0),
            position: Some(Position {
                // SAFETY: reads the clock.
                number: unsafe { pg_sys::GetCurrentTimestamp() },
                snapshot: summary.snapshot,
                last: portion.until,
                transaction: current_transaction(),
                removed: summary.rows == 0,
            }),
            system: summary.system,
            members: storage_ids(&present.members, present.cloned),
            copy_all: present.unwatched.then(|| "changes are not queued for a release that is older".to_string()),
            seen: Some(present.seen),
            renamed: if portion.whole { Vec::new() } else { columns.renamed },
            filter: self.job.filter.clone(),
            condition: self.job.condition.clone(),
        };
        let as_of = portion.whole.then(|| run.started());
        let state = serde_json::to_value(&state)?;
        self.catalog.record_run(&self.job.dest_table, run.started(), Some(&state), None, as_of)?;
        Ok(self.status)
    }
}

impl Refresh<'_> {
    /// Rows of the queue, at most.
    fn limit(&self) -> Option<i64> {
        self.options.limit(self.job).filter(|_| !self.in_group)
    }

    /// Merges at once, unless columns have to be altered first.
    fn put(&self, merge: Merge, decision: &Decision, run: &mut Run) -> Result<Left<Merge>> {
        if merge.alters() {
            return Ok(Left::Merge(Box::new(merge)));
        }
        Ok(merge.carry_out(self.job, &self.destination, decision, run)?.into())
    }

    /// Removes on the source what is applied here and safe on disk.
    fn remove_applied(&mut self, source: &mut Connection) -> Result<()> {
        let state = &mut self.state;
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
}
