//! refresh_snapshot.

use super::decide::{Decision, InGroup, Look, Present, Versions, UNCHANGED};
use super::delta::{Changed, Delta, Outcome};
use super::state::{live_file, Analyzed, Previous, Seen, State};
use super::tell::tell;
use super::trust::{Copied, Learned};
use super::{empty, guard};
use crate::backend::identity::{act_as, pin_settings, system, Caller};
use crate::backend::ownership;
use crate::backend::relation::{lock_if_free, lock_to_read};
use crate::backend::spi;
use crate::backend::subtransaction::{caught, tried};
use crate::destination::column_map::obstacle_to_binary;
use crate::destination::copy_in::Target;
use crate::destination::heap::{Indexed, Indexing};
use crate::destination::indexes::ForeignKey;
use crate::destination::row_versions::Hidden;
use crate::destination::twins::{self, Twins};
use crate::destination::written::{count_soon, Written};
use crate::destination::{indexes, statistics, table};
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::columns::{copied_indexes, names};
use crate::method::connecting::connect_job;
use crate::method::load::{finish_indexes, patience, pull_behind};
use crate::method::plan::Plan;
use crate::method::rights::{require_creation, require_owner_rights};
use crate::method::running::{refresh_job, Call};
use crate::method::steps::{self, Manner, Opening, Steps};
use crate::shape::{Difference, Shape};
use crate::source::catalog::rows_query;
use crate::source::changes::Counted;
use crate::source::connection::Connection;
use crate::source::row_versions::Origin;
use pgrx::{pg_sys, warning, PgSqlErrorCode};
use std::time::Instant;

/// The arguments of refresh_snapshot.
pub struct Options<'a> {
    pub call: Call<'a>,
    pub indexes: bool,
    pub pull_data: bool,
    pub check_stats: Option<bool>,
}

impl<'a> Options<'a> {
    /// What a call without further arguments means.
    pub fn of(call: Call<'a>) -> Options<'a> {
        Options { call, indexes: true, pull_data: true, check_stats: None }
    }
}

/// Refreshes a snapshot, unless it is proven that nothing has changed.
pub fn refresh(options: &Options<'_>) -> Result<()> {
    refresh_job(Method::Snapshot, &options.call, |catalog, job, run| {
        run.phase("connect");
        steps::refresh(opening(options, catalog, job, None)?, catalog, job, run)
    })
}

/// A refresh that is about to begin.
pub fn opening<'a>(
    options: &'a Options<'a>,
    catalog: &'a Catalog,
    job: &'a Job,
    in_group: Option<InGroup>,
) -> Result<Refresh<'a>> {
    let refresh = Refresh { in_group, ..Refresh::of(options, catalog, job)? };
    if !options.pull_data {
        require_owner_rights("p_pulldata := false", job, refresh.twins.owner)?;
    }
    Ok(refresh)
}

/// What it would do.
pub fn plan(catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    let options = Options::of(Call::of(&job.dest_table));
    let refresh = Refresh::of(&options, catalog, job)?;
    let mut source = connect_job(catalog, job, refresh.twins.owner)?;
    plan.connect(&source);
    let _identity = act_as(refresh.twins.owner, true)?;
    let decision = refresh.look().decide(&mut source, None)?;
    tell(&decision, job, &refresh.before, &mut source, plan)
}

pub struct Refresh<'a> {
    pub(super) options: &'a Options<'a>,
    pub(super) catalog: &'a Catalog,
    pub(super) job: &'a Job,
    pub(super) before: State,
    pub(super) twins: Twins,
    pub(super) caller: Caller,
    pub(super) in_group: Option<InGroup>,
}

/// Rows that are there, and not shown yet.
pub enum Loaded {
    /// There is nothing to show.
    Nothing,
    Twin(Box<LoadedTwin>),
    /// In the live twin, for this transaction alone.
    InPlace(Box<ChangedTwin>),
}

/// And foreign keys of the twin that are to be restored, once the rows of other tables are in place.
pub type Ready = (Loaded, Vec<ForeignKey>);

/// The live twin, some of whose rows were replaced.
pub struct ChangedTwin {
    pub(super) present: Present,
    pub(super) changed: Changed,
    /// What had been written to it before that, if that is counted.
    pub(super) written: Option<Written>,
    /// Where the versions in its hidden columns come from, as far as that is safe on the source's disk.
    pub(super) copied: Option<Origin>,
    pub(super) learned: Learned,
}

/// A twin that is loaded, and not shown yet.
pub struct LoadedTwin {
    present: Present,
    view: Shape,
    live: Shape,
    /// The columns have changed.
    reshaped: bool,
    foreign_keys: Vec<ForeignKey>,
    written: Option<Written>,
    analyzed: Option<Analyzed>,
    /// Where the versions in its hidden columns come from, if it has them.
    copied: Option<Origin>,
    learned: Learned,
}

impl<'a> Refresh<'a> {
    fn of(options: &'a Options<'a>, catalog: &'a Catalog, job: &'a Job) -> Result<Refresh<'a>> {
        let pinned = pin_settings()?;
        let twins = Twins::find(&job.destination)?;
        drop(pinned);
        let before: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
        Ok(Refresh { options, catalog, job, before, twins, caller: Caller::now(), in_group: None })
    }

    fn look(&self) -> Look<'_> {
        let (check_stats, pull_data) = (self.options.check_stats, self.options.pull_data);
        Look { job: self.job, before: &self.before, twins: &self.twins, check_stats, pull_data, failed: None }
    }
}

impl<'a> Opening for Refresh<'a> {
    type Steps = Refresh<'a>;

    fn owner(&self) -> pg_sys::Oid {
        self.twins.owner
    }

    fn open(self, _: &mut Connection, _: &mut Run) -> Result<Refresh<'a>> {
        Ok(self)
    }
}

impl Steps for Refresh<'_> {
    type Decision = Decision;
    type Loaded = Loaded;
    type Ready = Ready;

    fn counted_table(&self) -> Option<u32> {
        self.before.seen.as_ref().map(|seen| seen.fingerprint.oid)
    }

    fn moment(&self) -> Option<i64> {
        self.before.group
    }

    fn is_unchanged(&mut self, source: &mut Connection, counted: Counted) -> Result<bool> {
        let same = self.look().is_unchanged(source, &counted)?;
        if let Some(in_group) = &mut self.in_group {
            in_group.known = Some(counted);
        }
        Ok(same)
    }

    fn skip(&mut self, run: &mut Run) -> Result<Status> {
        run.note(UNCHANGED);
        self.publish((Loaded::Nothing, Vec::new()), run)
    }

    /// Of a group: the counters, which are read before its snapshot.
    fn prepare(&mut self, source: &mut Connection, _: &mut Run) -> Result<()> {
        let known = self.counted_table();
        let Some(in_group) = &mut self.in_group else { return Ok(()) };
        let table = source.find_table(&self.job.source_table)?;
        let counted = match in_group.known.take().filter(|_| known == Some(table.oid)) {
            Some(counted) => counted,
            None => source.counters(table.oid)?,
        };
        source.will_read(&table, self.job.condition.as_deref())?;
        in_group.counted = Some((table, counted));
        Ok(())
    }

    /// Of a group: the idle twin, unless a delta may do without. A refresh by itself locks it once it knows.
    fn lock(&mut self, run: &mut Run) -> Result<()> {
        let Some(InGroup { wait, .. }) = self.in_group else { return Ok(()) };
        let mut locked = lock_if_free(self.twins.idle.oid);
        if !locked && (wait || !self.look().may_try_a_delta()) {
            self.look().lock_idle(run)?;
            locked = true;
        }
        if let Some(in_group) = &mut self.in_group {
            in_group.idle_locked = locked;
        }
        Ok(())
    }

    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Decision> {
        run.phase("look");
        match &self.in_group {
            None => self.look().decide(source, Some(run)),
            Some(in_group) => self.look().decide_in_group(source, in_group),
        }
    }

    fn manner(&self, decision: &Decision) -> Result<Manner> {
        let Some(present) = &decision.copy else { return Ok(Manner::Unchanged) };
        let trusted = present.versions.as_ref().is_some_and(|versions| versions.trust.is_ok());
        Ok(if trusted { Manner::InPlace } else { Manner::AtOnce })
    }

    fn stay_in_place(&mut self) {
        if let Some(in_group) = &mut self.in_group {
            in_group.in_place = true;
        }
    }

    fn load(&mut self, source: &mut Connection, decision: Decision, run: &mut Run) -> Result<Loaded> {
        let mut learned = self.before.learned.clone();
        let Decision { mut reason, copy, idle_locked } = decision;
        let Some(mut present) = copy else {
            run.note(reason);
            return Ok(Loaded::Nothing);
        };
        run.reads_parent(present.table.as_parent());
        let trusted = present.versions.as_ref().and_then(|versions| versions.trust.as_ref().ok());
        if let Some(written) = trusted.map(|trust| trust.written.clone()) {
            let since = Instant::now();
            let tried = tried(|| self.delta(source, &present, run))?;
            if let Ok(Outcome::Done(changed)) = tried {
                run.note(changed.text());
                let copied = self.leave(source, &present)?;
                let learned = learned.tried(Some(milliseconds(since)));
                let present = *present;
                return Ok(Loaded::InPlace(Box::new(ChangedTwin {
                    present,
                    changed,
                    written: Some(written),
                    copied,
                    learned,
                })));
            }
            (run.rows, run.bytes) = (0, 0);
            if !matches!(tried, Ok(Outcome::Refused(_))) {
                learned = learned.tried(None);
            }
            match (tried, idle_locked) {
                (Ok(Outcome::InVain(why) | Outcome::Refused(why)), true) => {
                    reason = format!("{reason}; no delta: {why}");
                    source.use_pinned_search_path()?;
                }
                (tried, _) => {
                    let Decision { reason: now, copy, .. } = self.look_again(source, tried, run)?;
                    reason = now;
                    let Some(again) = copy else {
                        run.note(reason);
                        return Ok(Loaded::Nothing);
                    };
                    present = again;
                }
            }
        }
        run.note(reason);
        if self.in_group.as_ref().is_some_and(|in_group| in_group.in_place) && self.can_stay_in_place(&present)? {
            return Ok(Loaded::InPlace(Box::new(self.replace_in_place(source, *present, learned, run)?)));
        }
        Ok(Loaded::Twin(Box::new(self.load_all(source, *present, learned, run)?)))
    }

    /// Where the versions come from that have come, once all of them are on the source's disk.
    fn settle(&mut self, source: &mut Connection, loaded: &mut Loaded, run: &mut Run) -> Result<()> {
        let copied = match loaded {
            Loaded::Nothing => return Ok(()),
            Loaded::InPlace(changed) => &mut changed.copied,
            Loaded::Twin(loaded) => &mut loaded.copied,
        };
        let Some(origin) = copied.as_ref() else { return Ok(()) };
        let flushed = match source.ensure_flushed(origin) {
            Err(error) if error.is_of_lost_connection() => false,
            flushed => flushed?,
        };
        if !flushed {
            *copied = None;
            run.note("the next refresh will not compare versions of rows, because the source has not flushed its WAL");
        }
        Ok(())
    }

    /// Foreign keys that a DBA has put on the twin, and the guards. A foreign key to a table whose rows are still to come waits for these.
    fn ready(&mut self, loaded: Loaded, company: &[pg_sys::Oid], run: &mut Run) -> Result<Ready> {
        let twins = &self.twins;
        let (loaded, foreign_keys) = match loaded {
            Loaded::Nothing => return Ok((Loaded::Nothing, Vec::new())),
            Loaded::InPlace(changed) => {
                run.phase("guard");
                guard::check(
                    self.job,
                    (&twins.live, Some(changed.changed.there)),
                    (&twins.live, changed.changed.rows()),
                )?;
                return Ok((Loaded::InPlace(changed), Vec::new()));
            }
            Loaded::Twin(mut loaded) => {
                let foreign_keys = std::mem::take(&mut loaded.foreign_keys);
                (loaded, foreign_keys)
            }
        };
        let (later, now): (Vec<_>, Vec<_>) = foreign_keys.into_iter().partition(|key| company.contains(&key.to));
        indexes::restore_foreign_keys(&twins.idle.name(), &now, patience())?;
        if self.options.pull_data {
            run.phase("guard");
            guard::check(self.job, (&twins.live, None), (&twins.idle, run.rows))?;
        }
        Ok((Loaded::Twin(loaded), later))
    }

    fn locks(&self, (loaded, _): &Ready) -> Result<Vec<pg_sys::Oid>> {
        match loaded {
            Loaded::Twin(loaded) => self.twins.locks(&loaded.view, &loaded.present.columns),
            Loaded::Nothing | Loaded::InPlace(_) => Ok(Vec::new()),
        }
    }

    /// 1. Swap the view. From here to the commit its lock is held, so only brief things are left.
    /// 2. Empty the twin that was live, unless it is to be kept, if nobody uses it at this instant; a large one, and those of a group, after the
    ///    commit.
    fn publish(&mut self, (loaded, foreign_keys): Ready, run: &mut Run) -> Result<Status> {
        let loaded = match loaded {
            Loaded::Nothing => {
                self.catalog.record_run(&self.job.dest_table, run.started(), None, None, Some(run.started()))?;
                return Ok(Status::Skipped);
            }
            Loaded::InPlace(changed) => return self.publish_in_place(*changed, run),
            Loaded::Twin(loaded) => *loaded,
        };
        let LoadedTwin { present, view, live, reshaped, written, analyzed, copied, learned, .. } = loaded;
        let twins = &self.twins;
        indexes::restore_foreign_keys(&twins.idle.name(), &foreign_keys, patience())?;
        let file = live_file(twins.idle.oid)?;

        run.phase("swap");
        twins.swap(&view, &present.columns, patience())?;
        let mut previous = None;
        if self.job.keep_previous {
            let state = Box::new(State { previous: None, ..self.before.clone() });
            previous = Some(Previous { twin: live_file(twins.live.oid)?, state, replaced_by: run.started() });
        } else if self.in_group.is_some() {
            // The group has it done after the commit.
        } else if !reshaped && table::size(twins.live.oid)? >= empty::LARGE {
            empty::after_commit(&self.job.dest_table);
        } else if lock_if_free(twins.live.oid) {
            match tried(|| self.empty_twin(&live, &present))? {
                // A cursor, or the query around this call: the next refresh empties it.
                Err(error) if error.sqlstate() == PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => {
                    run.note("the twin that was live is not emptied yet, because this session reads it");
                }
                emptied => {
                    emptied?;
                }
            }
        }
        if reshaped {
            self.run_post_script(run)?;
        }
        let written = written.map(|written| written.and(run.rows));
        let copied = self.copied(copied, file, written.clone(), run.rows);
        let seen = present.seen.filter(|_| self.options.pull_data).map(|seen| Seen { live: file, written, ..seen });
        count_soon()?;
        let analyzed = analyzed.map(|analyzed| Analyzed { live: file, ..analyzed });
        let (columns, types) = (present.columns, present.shape.types);
        let group = self.in_group.as_ref().map(|in_group| in_group.moment);
        let state = State { seen, columns, types, analyzed, copied, learned, previous, group };
        let state = serde_json::to_value(&state)?;
        self.catalog.record_run(&self.job.dest_table, run.started(), Some(&state), None, Some(run.started()))?;
        Ok(Status::Ok)
    }
}

impl Refresh<'_> {
    fn delta(&self, source: &mut Connection, present: &Present, run: &mut Run) -> Result<Outcome> {
        let Some(Versions { origin, hidden, trust: Ok(trust) }) = &present.versions else {
            return Err(Error::Internal("a delta without versions".to_string()));
        };
        let (job, twins, caller) = (self.job, &self.twins, self.caller);
        Delta { job, twins, present, origin, trust, hidden: *hidden, caller }.apply(source, run)
    }

    /// After a delta that has failed, or for which the idle twin was not locked: looks again, for a copy of all rows, in another
    /// snapshot of the source.
    ///
    /// # Errors
    /// The delta's, if the source cannot be reached any more, or if the recovery of a standby has cancelled it.
    fn look_again(&self, source: &mut Connection, tried: Result<Outcome>, run: &mut Run) -> Result<Decision> {
        let why = match tried {
            Ok(Outcome::InVain(why) | Outcome::Refused(why)) => {
                source.end_snapshot()?;
                why
            }
            Ok(Outcome::Done(changed)) => changed.text(),
            Err(error) if error.is_of_recovery() || error.is_of_lost_connection() => return Err(error),
            Err(error) => {
                // Whatever is left of the answer.
                let _ = source.abandon_copy();
                source.roll_back()?;
                // Without DETAIL, which has values of rows.
                error.report().message
            }
        };
        run.phase("look");
        let look = Look { failed: Some(why), ..self.look() };
        match &self.in_group {
            None => look.decide(source, Some(run)),
            Some(in_group) => look.decide_in_group(source, in_group),
        }
    }

    /// 1. Empty the idle twin, which is locked, and bring it to the source's shape.
    /// 2. Load it with its indexes being built behind, or afterwards; compare the counts, analyze.
    fn load_all(
        &self,
        source: &mut Connection,
        mut present: Present,
        learned: Learned,
        run: &mut Run,
    ) -> Result<LoadedTwin> {
        run.phase("prepare");
        let since = Instant::now();
        let change = Difference::between(&self.before.columns, &present.columns);
        let reshaped = !self.before.columns.is_empty() && !change.is_empty();
        if reshaped {
            run.note(format!("columns of the source changed: {}", change.summary()));
        }
        if self.options.indexes && (reshaped || self.before.columns.is_empty()) {
            present.shape.indexes = source.indexes(&present.table)?;
        }
        let twins = &self.twins;
        let (idle_name, idle_oid) = (twins.idle.name(), twins.idle.oid);
        lock_to_read(twins.live.oid);
        ownership::require_tables(&[idle_oid, twins.live.oid])?;
        let [view, live, idle] = table::describe([twins.view.oid, twins.live.oid, idle_oid])?;
        if !table::shows(&view, &present.columns) {
            require_creation(&twins.view.schema)?;
        }
        let foreign_keys = indexes::take_foreign_keys_off(&idle_name, idle_oid)?;
        let idle = self.empty_twin(&idle, &present)?;

        let written = Written::to(idle_oid)?;
        let mut indexing = Indexing::Done;
        if self.options.pull_data {
            run.phase("copy");
            indexing = pull_into((&idle, true), source, &present, self.job, run)?;
        }
        let copied = self.leave(source, &present)?;
        let indexed = finish_indexes(indexing, run);
        if let Indexed::Only(built) = &indexed {
            indexes::rebuild(idle_oid, built)?;
        }
        run.phase("analyze");
        let analyzed = self.analyze(&present, &indexed, run)?;
        let learned = learned.copied(run.rows, milliseconds(since));
        Ok(LoadedTwin { present, view, live, reshaped, foreign_keys, written, analyzed, copied, learned })
    }

    /// Ends the source's snapshot. Where versions come from that have been copied.
    pub(super) fn leave(&self, source: &mut Connection, present: &Present) -> Result<Option<Origin>> {
        source.end_snapshot()?;
        let versions = present.versions.as_ref().filter(|_| self.options.pull_data);
        Ok(versions.map(|versions| versions.origin.clone()))
    }

    fn copied(&self, origin: Option<Origin>, live: (u32, u32), written: Option<Written>, rows: u64) -> Option<Copied> {
        let Job { source_table, filter, condition, .. } = self.job;
        Some(Copied {
            origin: origin?,
            source_table: source_table.clone(),
            filter: filter.clone(),
            condition: condition.clone(),
            live,
            system: system(),
            written: written?,
            rows,
        })
    }

    /// The state: readers see the new rows with the commit.
    fn publish_in_place(&self, loaded: ChangedTwin, run: &mut Run) -> Result<Status> {
        let ChangedTwin { present, changed, written, copied, learned } = loaded;
        let live = &self.twins.live;
        let file = live_file(live.oid)?;
        let written = written.map(|written| written.and(changed.came).without(changed.deleted));
        let copied = self.copied(copied, file, written.clone(), changed.rows());
        let seen = present.seen.map(|seen| Seen { live: file, written, ..seen });
        count_soon()?;
        let group = self.in_group.as_ref().map(|in_group| in_group.moment);
        let state = State { seen, copied, learned, types: present.shape.types, group, ..self.before.clone() };
        let state = serde_json::to_value(&state)?;
        self.catalog.record_run(&self.job.dest_table, run.started(), Some(&state), None, Some(run.started()))?;
        Ok(Status::Ok)
    }

    /// Gives the loaded twin its statistics: those of the live one, if the source has hardly changed since they were made,
    /// else new ones. Returns what they were made from.
    fn analyze(&self, present: &Present, indexed: &Indexed, run: &mut Run) -> Result<Option<Analyzed>> {
        let twins = &self.twins;
        let now = match &present.fingerprint {
            None => None,
            Some(fingerprint) => Some(Analyzed {
                fingerprint: fingerprint.clone(),
                rows: run.rows,
                filter: self.job.filter.clone(),
                condition: self.job.condition.clone(),
                live: live_file(twins.live.oid)?,
            }),
        };
        let kept = match (&self.before.analyzed, &now) {
            (Some(before), Some(now)) if matches!(indexed, Indexed::Only(_)) && before.still_holds(now) => Some(before),
            _ => None,
        };
        if let Some(kept) = kept {
            if statistics::carry_over(twins.live.oid, twins.idle.oid, run.rows)? {
                run.note("statistics kept, because few rows have changed since they were made");
                return Ok(Some(kept.clone()));
            }
        }
        table::analyze(&twins.idle.name())?;
        Ok(now)
    }

    /// Empties a twin and brings it to the source's shape. When that has changed, indexes that the source has got
    /// since are copied too; one that cannot be created is a warning, for the data comes first.
    fn empty_twin(&self, twin: &Shape, present: &Present) -> Result<Shape> {
        let name = twin.table();
        table::truncate(&name)?;
        let mut twin = twin.clone();
        let has = Hidden::take_from(&mut twin, present.columns.iter().chain(&self.before.columns));
        let hidden = match &present.versions {
            Some(versions) => versions.hidden,
            // Columns that come and go use up those that a table can have.
            None if !self.options.pull_data => has,
            None => Hidden::None,
        };
        if table::conforms(&twin, &present.columns, &self.before.columns) {
            hidden.set(&name, has)?;
            return Ok(twin);
        }
        let columns = table::localise(&present.columns, &present.table.table())?;
        let shape = table::conform(&name, &twin, &columns, &self.before.columns)?;
        hidden.set(&name, has)?;
        let target = indexes::IndexTarget {
            source_table: &present.table.name,
            table: &name,
            oid: twin.local_oid(),
            prefix: twins::index_prefix(&name),
        };
        let wanted = copied_indexes(&present.shape, self.job.filter.as_deref());
        for left_out in indexes::copy_all(wanted, None, &target, None)?.0 {
            warning!("{}: {}", self.job.dest_table, left_out.text());
        }
        Ok(shape)
    }

    /// The statements that a user wants after the columns have changed, as the destination's owner.
    fn run_post_script(&self, run: &mut Run) -> Result<()> {
        let Some(statements) = &self.job.post_script else { return Ok(()) };
        run.phase("post_script");
        for statement in statements {
            caught(|| spi::run(statement, &[]))
                .map_err(|error| error.while_doing(&format!("In post_script: {statement}")))?;
        }
        Ok(())
    }
}

/// Copies the rows, and makes sure that all of them have come.
pub(super) fn pull_into(
    (twin, emptied): (&Shape, bool),
    source: &mut Connection,
    present: &Present,
    job: &Job,
    run: &mut Run,
) -> Result<Indexing> {
    let binary = obstacle_to_binary(twin, &present.shape, &present.columns).is_none();
    source.use_own_search_path()?;
    let mut columns = names(&present.columns);
    let hidden = present.versions.as_ref().map_or(Hidden::None, |versions| versions.hidden);
    let system: Vec<_> = hidden.sources().collect();
    let query = rows_query(&present.table.table(), (&columns, &system), job.condition.as_deref())?;
    columns.extend(hidden.names().map(str::to_string));
    let target = Target { oid: twin.local_oid(), columns: &columns, binary, emptied };
    pull_behind(source, &query, &twin.table(), &target, run, |_| Ok(()))
}

fn milliseconds(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
