//! refresh_inserter and refresh_updater.

use super::asked::Asked;
use super::bound::{self, Bound, BoundKind};
use super::decide::{Decision, Repull};
use super::ended::Ended;
use super::merge::{self, Merge};
use super::state::{Redo, State};
use super::tell::tell;
use super::values::clocks_change;
use crate::backend::identity::{act_as, Caller};
use crate::backend::moment::Moment;
use crate::backend::relation::Relation;
use crate::destination::copy_in::Target;
use crate::destination::exchange::Exchange;
use crate::destination::upsert::{change_beside, is_rewritable, Collected};
use crate::destination::{shadow, table};
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::connecting::connect_job;
use crate::method::follow;
use crate::method::left::Left;
use crate::method::load::{self, leave, load_all, lock_destination, pull, Everything, How};
use crate::method::plan::Plan;
use crate::method::rights::require_owner_rights;
use crate::method::running::{refresh_job, Call};
use crate::method::steps::{self, Manner, Opened, Opening, Steps};
use crate::source::bounds::Slice;
use crate::source::connection::Connection;
use pgrx::pg_sys;

/// The arguments of refresh_inserter and refresh_updater.
pub struct Options<'a> {
    pub call: Call<'a>,
    pub limit: Option<i32>,
    pub repull: Repull<'a>,
}

impl<'a> Options<'a> {
    /// What a call without further arguments means.
    pub fn of(call: Call<'a>) -> Options<'a> {
        Options { call, limit: None, repull: Repull::Nothing }
    }
}

/// Refreshes an inserter or an updater; not while the clocks change, if the job says so.
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
    if !matches!(options.repull, Repull::Nothing) {
        // Rows that are gone on the source would be deleted from the destination, too.
        require_owner_rights("p_repull", job, destination.owner)?;
    }
    Ok(Opened { options, catalog, job, destination, in_group })
}

impl<'a> Opening for Opened<'a, Options<'a>> {
    type Steps = Refresh<'a>;

    fn owner(&self) -> pg_sys::Oid {
        self.destination.owner
    }

    fn pause(&self) -> Result<Option<&'static str>> {
        Ok(is_paused(self.job)?.then_some("the clocks change today, see dst_active"))
    }

    fn open(self, source: &mut Connection, run: &mut Run) -> Result<Refresh<'a>> {
        let Opened { options, catalog, job, destination, in_group } = self;
        let asked = Asked::of(options.repull, job, source)?;
        run.reads_parent(asked.table.as_parent());
        Ok(Refresh { in_group, ..Refresh::of(options, catalog, job, destination, asked) })
    }
}

/// What it would do.
pub fn plan(catalog: &Catalog, job: &Job, plan: &mut Plan) -> Result<()> {
    if is_paused(job)? {
        plan.here("nothing: the refresh pauses while the clocks change", None, Some("see dst_active".to_string()));
        return Ok(());
    }
    let options = Options::of(Call::of(&job.dest_table));
    let destination = table::find(&job.destination)?;
    let mut source = connect_job(catalog, job, destination.owner)?;
    plan.connect(&source);
    let asked = Asked::of(options.repull, job, &mut source)?;
    let _identity = act_as(destination.owner, true)?;
    let mut refresh = Refresh::of(&options, catalog, job, destination, asked);
    let bound = refresh.find_bound(&mut source)?;
    let decision = refresh.look(&mut source, &bound)?;
    let sides = (&refresh.asked, &refresh.destination);
    tell(&decision, &bound, job, sides, refresh.state.lacking.clone(), &mut source, plan)
}

fn is_paused(job: &Job) -> Result<bool> {
    Ok(job.dst_active.unwrap_or(false) && clocks_change(job.dst_start.unwrap_or(30), job.dst_end.unwrap_or(230))?)
}

pub struct Refresh<'a> {
    pub(super) options: &'a Options<'a>,
    /// All rows that the snapshot shows are taken, whatever may commit later: the next refresh takes those again that are not safe yet.
    pub(super) in_group: bool,
    pub(super) in_place: bool,
    /// As it was asked for, or as columns that have come need it.
    pub(super) repull: Repull<'a>,
    /// All rows are merged, by the values of another control column than before.
    pub(super) anew: bool,
    pub(super) catalog: &'a Catalog,
    pub(super) job: &'a Job,
    pub(super) destination: Relation,
    pub(super) caller: Caller,
    pub(super) asked: Asked,
    pub(super) state: State,
    /// What was to be taken again when the job ran last.
    pub(super) redo: Option<Redo>,
    pub(super) bound: Bound,
    pub(super) status: Status,
}

/// Where the rows are.
pub enum Loaded {
    /// All of them, where nobody sees them.
    All(load::Loaded),
    /// In the destination.
    There,
    /// In a temporary table, to be merged by key.
    Collected(Collected),
    /// In a temporary table, to be added.
    Appended(Collected),
    Nothing,
}

/// Rows that come into the destination once its columns are altered.
pub enum Late {
    Merge(Merge),
    Append(Collected),
}

impl<'a> Refresh<'a> {
    fn of(
        options: &'a Options<'a>,
        catalog: &'a Catalog,
        job: &'a Job,
        destination: Relation,
        asked: Asked,
    ) -> Refresh<'a> {
        let mut state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
        let redo = state.redo.take().filter(|_| state.left.as_deref() == Some(asked.last_value.as_str()));
        let bound = Bound::new(None, BoundKind::SourceIsEmpty, None);
        let (repull, status) = (options.repull, Status::Ok);
        let (caller, anew, in_group, in_place) = (Caller::now(), false, false, false);
        Refresh {
            options,
            in_group,
            in_place,
            repull,
            anew,
            catalog,
            job,
            destination,
            caller,
            asked,
            state,
            redo,
            bound,
            status,
        }
    }

    pub(super) fn repulls_nothing(&self) -> bool {
        matches!(self.repull, Repull::Nothing)
    }

    pub(super) fn repulls_all(&self) -> bool {
        matches!(self.repull, Repull::All)
    }

    /// Up to where nothing can be missed: before the snapshot that reads the data.
    fn find_bound(&mut self, source: &mut Connection) -> Result<Bound> {
        let Asked { table, control, kind, boundary, .. } = &self.asked;
        bound::find(source, table, control, *kind, boundary, self.job.condition.as_deref(), &mut self.state)
    }
}

impl Steps for Refresh<'_> {
    type Decision = Decision;
    type Loaded = (Loaded, Decision);
    type Ready = (Left<Late>, Decision);

    fn prepare(&mut self, source: &mut Connection, run: &mut Run) -> Result<()> {
        run.phase("bound");
        self.bound = self.find_bound(source)?;
        run.note(match &self.bound.upper {
            Some(upper) => format!("bound {upper}: {}", self.bound.kind),
            None => format!("no bound: {}", self.bound.kind),
        });
        if self.stands_still(source, run)? {
            self.status = Status::Warning;
        }
        if self.is_ahead() {
            let start = &self.asked.start;
            run.note(format!("last_value {start} is later than the source's clock: no row is copied until then. Set it to a value that is proven"));
            self.status = Status::Warning;
        }
        Ok(())
    }

    fn repair(&mut self, source: &mut Connection, _: &mut Run) -> Result<()> {
        source.will_read(&self.asked.table, self.job.condition.as_deref())
    }

    fn lock(&mut self, run: &mut Run) -> Result<()> {
        run.phase("look");
        lock_destination(&self.destination, self.repulls_all())?;
        table::check_at_once(self.destination.oid)
    }

    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Decision> {
        let mut decision = self.look(source, &self.bound)?;
        if follow::tell(&decision.following, &self.destination, run) {
            self.status = Status::Warning;
        }
        if decision.repulls {
            self.repull = Repull::All;
        }
        if let Some(reason) = &decision.again {
            self.status = Status::Warning;
            if decision.merges_all || decision.repulls {
                self.anew = decision.following.moved.contains(&self.asked.control.name);
                run.note(format!("all rows are copied: {reason}"));
            } else {
                self.state.lacking = Some(reason.clone());
            }
        }
        if self.repulls_all() {
            self.state.lacking = None;
        }
        if let Some(reason) = &decision.lacking {
            self.state.lacking = Some(reason.clone());
        }
        if let Some(reason) = &self.state.lacking {
            run.note(format!("rows of the destination lack values: {reason}. p_repull := true copies all rows anew"));
            self.status = Status::Warning;
        }
        self.state.seen = Some(decision.seen.clone());
        self.measure(source, &mut decision, run)?;
        if decision.is_cut {
            self.status = Status::Warning;
        }
        Ok(decision)
    }

    fn manner(&self, decision: &Decision) -> Result<Manner> {
        Ok(match &decision.greatest {
            _ if self.repulls_all() => match shadow::obstacle(decision.local.local_oid())? {
                Some(_) => Manner::InPlace,
                None => Manner::AtOnce,
            },
            None if decision.take.delete => Manner::InPlace,
            None => Manner::Unchanged,
            Some(_) => Manner::InPlace,
        })
    }

    fn stay_in_place(&mut self) {
        self.in_place = true;
    }

    /// The rows go straight into the destination (inserter), into a temporary table (updater), or all of them beside it.
    fn load(&mut self, source: &mut Connection, decision: Decision, run: &mut Run) -> Result<(Loaded, Decision)> {
        if decision.greatest.is_none() && !self.repulls_all() {
            source.require_seen()?;
            source.end_snapshot()?;
            return Ok((Loaded::Nothing, decision));
        }
        if source.shares_snapshot() {
            source.use_own_search_path()?;
        }
        let Decision { take, rows, local, column_map, .. } = &decision;
        let query = Slice { rows, control: &self.asked.control, range: &take.range }.query(&column_map.columns);
        run.phase("copy");
        if self.repulls_all() {
            let rows = Everything { source, query: &query, flush: false };
            let how = How { cascade: false, in_place: self.in_place, following: &decision.following };
            let loaded = load_all(rows, &self.destination, local, column_map, how, run)?;
            return Ok((Loaded::All(loaded), decision));
        }
        if self.job.method().facts().by_key {
            let collected = merge::collect(self.job, source, &query, self.caller, &decision, run)?;
            return Ok((Loaded::Collected(collected), decision));
        }
        if !decision.following.is_empty() {
            // Readers would wait as long as the rows come.
            let collected = merge::pull(self.job, source, &query, self.caller, &decision, run)?;
            return Ok((Loaded::Appended(collected), decision));
        }
        if take.delete {
            self.asked.values.delete(&self.job.destination, &take.range)?;
        }
        let target = Target {
            oid: self.destination.oid,
            columns: &column_map.columns,
            binary: column_map.binary,
            emptied: false,
        };
        pull(source, &query, &self.job.destination, &target, run)?;
        leave(source, false)?;
        Ok((Loaded::There, decision))
    }

    /// Merges an updater's rows, unless columns have to be altered for them first.
    fn ready(&mut self, (loaded, decision): Self::Loaded, _: &[pg_sys::Oid], run: &mut Run) -> Result<Self::Ready> {
        let following = &decision.following;
        let left = match loaded {
            Loaded::All(loaded) => loaded.ready(&self.destination, (false, following), run)?.into(),
            Loaded::There => Left::Nothing,
            Loaded::Collected(collected) => {
                run.phase("merge");
                let merge = Merge::of(self.job, collected, &self.destination, (&decision, self.in_place), run)?;
                if merge.shares_keys() {
                    self.status = Status::Warning;
                }
                if merge.alters() {
                    Left::Merge(Box::new(Late::Merge(merge)))
                } else {
                    merge.carry_out(&self.destination, &decision, &self.asked.values, run)?.into()
                }
            }
            Loaded::Appended(collected) => {
                run.phase("merge");
                match self.append_anew(&collected, &decision, run)? {
                    Some(exchange) => {
                        collected.drop()?;
                        Left::Exchange(exchange)
                    }
                    None => Left::Merge(Box::new(Late::Append(collected))),
                }
            }
            Loaded::Nothing => {
                let beside = change_beside(&self.destination, &decision.local, following, load::patience())?;
                let left = beside.map_or(Left::Change, |exchange| Left::Exchange(Box::new(exchange)));
                if following.is_empty() {
                    self.delete_here(&decision)?;
                    Left::Nothing
                } else {
                    left
                }
            }
        };
        Ok((left, decision))
    }

    fn exchange<'b>(&self, (left, _): &'b mut Self::Ready) -> Option<&'b mut Exchange> {
        left.exchange()
    }

    fn locks(&self, (left, decision): &Self::Ready) -> Result<Vec<pg_sys::Oid>> {
        left.locks(&decision.following, &self.destination)
    }

    /// Stores last_value in the same transaction as the data.
    fn publish(&mut self, (left, decision): Self::Ready, run: &mut Run) -> Result<Status> {
        let (take, patience) = (&decision.take, load::patience());
        match left {
            Left::Nothing => {}
            Left::Exchange(exchange) => {
                exchange.carry_out(patience)?;
                if matches!(self.repull, Repull::Nothing | Repull::Range(..)) && decision.greatest.is_none() {
                    self.delete_here(&decision)?;
                }
            }
            Left::Merge(rows) => match *rows {
                // Where its columns are altered, nothing is written anew.
                Late::Merge(merge) => {
                    merge.carry_out(&self.destination, &decision, &self.asked.values, run)?;
                }
                Late::Append(collected) => self.append(collected, &decision)?,
            },
            Left::Change => {
                decision.following.apply(&self.destination, patience)?;
                decision.following.finish(&self.destination)?;
                self.delete_here(&decision)?;
            }
        }
        let nearly = |limit: &i64| !decision.is_cut && run.rows.saturating_mul(4) >= (*limit as u64).saturating_mul(3);
        if let Some(limit) = take.limit.filter(nearly) {
            run.note(format!("{} rows are three quarters of the batch limit of {limit} or more", run.rows));
            self.status = Status::Warning;
        }
        let ended = Ended {
            asked: &self.asked,
            repull: self.repull,
            redo: self.redo.as_ref(),
            safe: self.bound.upper.as_deref(),
            decision: &decision,
            anew: self.anew,
            whole: self.in_group,
        };
        let last = ended.last_value(&self.job.destination)?;
        let Asked { values, start, .. } = &self.asked;
        if let Some(bound) = self.bound.upper.as_ref().filter(|_| self.repulls_nothing() && !self.in_group) {
            // What was asked for is below the bound: a greater value would skip rows for ever.
            if values.is_after(&last, bound)? && values.is_after(&last, start)? {
                return Err(beyond(bound, &last));
            }
        }
        let state = State { redo: ended.next_redo(&last)?, left: Some(last.clone()), ..self.state.clone() };
        // A batch, or a range, does not say how old the rest is.
        let whole = !decision.is_cut && !matches!(self.repull, Repull::Range(..));
        let as_of = match self.in_group {
            true => Some(run.started()),
            false => self.bound.at.filter(|_| whole).map(Moment::microseconds),
        };
        let state = serde_json::to_value(&state)?;
        self.catalog.record_run(&self.job.dest_table, run.started(), Some(&state), Some(&last), as_of)?;
        Ok(self.status)
    }
}

impl Refresh<'_> {
    /// Rows of the destination that are taken again, and are gone.
    fn delete_here(&self, decision: &Decision) -> Result<()> {
        if decision.take.delete && !decision.nothing_is_safe {
            self.asked.values.delete(&self.job.destination, &decision.take.range)?;
        }
        Ok(())
    }

    /// Adds rows to a destination whose columns change, by writing all of it anew. None if it is better to alter it.
    fn append_anew(&self, collected: &Collected, decision: &Decision, run: &Run) -> Result<Option<Box<Exchange>>> {
        let Decision { take, following, column_map, .. } = decision;
        let anew = !take.delete
            && is_rewritable(&decision.local)?
            && following.goes_beside(&self.destination, run.rows, &[])?;
        if !anew {
            return Ok(None);
        }
        let exchange = collected.append_anew(&self.destination, &column_map.columns, following, load::patience())?;
        Ok(Some(Box::new(exchange)))
    }

    fn append(&self, collected: Collected, decision: &Decision) -> Result<()> {
        let Decision { following, column_map, .. } = decision;
        following.apply(&self.destination, load::patience())?;
        self.delete_here(decision)?;
        collected.append(&self.job.destination, &column_map.columns)?;
        following.finish(&self.destination)?;
        collected.drop()
    }
}

/// The error if a source returns a value that is not below the bound in the query.
pub(super) fn beyond(bound: &str, value: &str) -> Error {
    Error::Internal(format!("{value}, where a value below {bound} was asked for"))
}
