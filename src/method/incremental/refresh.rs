//! refresh_inserter and refresh_updater.

use super::bound::{self, Bound};
use super::state::{kind_of, range_from, required, Redo, State};
use super::values::{clocks_change, Values};
use crate::backend::identity::{act_as, Identity};
use crate::backend::relation::Relation;
use crate::destination::copy_in::Target;
use crate::destination::fit::{self, Fit};
use crate::destination::table;
use crate::destination::upsert::{Collected, MUCH_TO_MERGE};
use crate::error::{Error, Report, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::load::{leave, lock_destination, patience, pull, replace_all, Everything};
use crate::method::rights::require_owner_rights;
use crate::method::running::{connect_job, refresh_job, Call};
use crate::shape::Shape;
use crate::source::bounds::{Kind, Range, Slice};
use crate::source::catalog::rows_query;
use crate::source::connection::Connection;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{notice, PgLogLevel, PgSqlErrorCode};

pub mod plan;

/// 2000-01-01 UTC, in seconds since 1970.
const EPOCH: f64 = 946_684_800.0;

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

/// What is copied again, whatever last_value says.
#[derive(Debug, Clone, Copy)]
pub enum Repull<'a> {
    Nothing,
    All,
    /// Both exclusive; one of them is there.
    Range(Option<&'a str>, Option<&'a str>),
}

impl<'a> Repull<'a> {
    /// A range by itself asks for nothing, as in 1.x; a WARNING says so.
    pub fn from_arguments(repull: bool, start: Option<&'a str>, end: Option<&'a str>) -> Repull<'a> {
        match (repull, start, end) {
            (false, None, None) => Repull::Nothing,
            (false, ..) => {
                let hint = "Give p_repull := true with it to have the range copied again.";
                ErrorReport::new(
                    PgSqlErrorCode::ERRCODE_WARNING,
                    "p_repull_start and p_repull_end are ignored without p_repull",
                    "mimeo",
                )
                .set_hint(hint)
                .report(PgLogLevel::WARNING);
                Repull::Nothing
            }
            (true, None, None) => Repull::All,
            (true, start, end) => Repull::Range(start, end),
        }
    }
}

/// Refreshes an inserter or an updater.
pub fn refresh(method: Method, options: &Options<'_>) -> Result<()> {
    refresh_job(method, &options.call, |catalog, job, run| Refresh { options, catalog, job }.run(run))
}

/// One refresh, with the job's lock held.
struct Refresh<'a> {
    options: &'a Options<'a>,
    catalog: &'a Catalog,
    job: &'a Job,
}

/// What a refresh takes.
struct Plan {
    range: Range,
    /// Rows of the range are deleted here first.
    delete: bool,
    /// Rows that are taken, at most.
    limit: Option<i64>,
}

impl Refresh<'_> {
    /// 1. The day when clocks change: a time-based job may pause.
    /// 2. Connect, and find up to where nothing can be missed: before the snapshot that reads the data.
    /// 3. In one snapshot: shape, the range, its greatest value, the rows.
    /// 4. The rows go into the destination: straight (inserter), or by key (updater).
    /// 5. last_value, in the same transaction as the data.
    fn run(&self, run: &mut Run) -> Result<Status> {
        let job = self.job;
        if job.dst_active.unwrap_or(false) && clocks_change(job.dst_start.unwrap_or(30), job.dst_end.unwrap_or(230))? {
            notice!("{} pauses while the clocks change", job.dest_table);
            run.note("paused: the clocks change today, see dst_active");
            self.catalog.record_run(&job.dest_table, run.started(), None, None, None)?;
            return Ok(Status::Skipped);
        }
        run.phase("connect");
        let destination = table::find(&self.job.destination)?;
        if !matches!(self.options.repull, Repull::Nothing) {
            // Rows that are gone on the source would go here, too.
            require_owner_rights("p_repull", job, destination.owner)?;
        }
        let mut source = connect_job(self.catalog, job, destination.owner)?;
        let source_table = source.find_table(&job.source_table)?;
        run.reads_parent(source_table.as_parent());
        let kind = kind_of(job);
        let control = source.control(&source_table, required(job.control.as_ref(), "control", job)?)?;
        control.require(kind, &source_table)?;
        let values = Values::of(&control);
        let boundary = required(job.boundary.as_ref(), "boundary", job)?;
        let last_value = required(job.last_value.as_ref(), "last_value", job)?;
        let start = values.read(last_value, "last_value")?;
        let repull = match self.options.repull {
            Repull::Range(start, end) => {
                let read = |text: Option<&str>, what| text.map(|text| values.read(text, what)).transpose();
                Some((read(start, "p_repull_start")?, read(end, "p_repull_end")?))
            }
            _ => None,
        };

        let owner = act_as(destination.owner, true)?;
        run.phase("bound");
        let mut state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
        let redo = state.redo.take().filter(|_| state.left.as_deref() == Some(last_value));
        let bound =
            bound::find(&mut source, &source_table, &control, kind, boundary, job.condition.as_deref(), &mut state)?;
        run.note(match &bound.upper {
            Some(upper) => format!("bound {upper}: {}", bound.how),
            None => format!("no bound: {}", bound.how),
        });
        let mut status = Status::Ok;
        if self.stands_still(&mut source, &bound, &state, run)? {
            status = Status::Warning;
        }
        if bound
            .newest
            .as_deref()
            .is_some_and(|newest| kind == Kind::Time && values.is_after(&start, newest).unwrap_or(false))
        {
            run.note(format!("last_value {start} is later than the source's clock: no row comes before that. Set it to a value that is proven"));
            status = Status::Warning;
        }

        run.phase("look");
        lock_destination(&destination, matches!(self.options.repull, Repull::All))?;
        let mut shape = source.locked_snapshot_of(&source_table)?;
        if self.job.method() == Method::Updater {
            shape.indexes = source.indexes(&source_table)?;
        }
        let source_columns = source.seen(&source_table)?;
        let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
        source.require_readable(&source_table, &names(&columns), job.filter.is_some())?;
        if !columns.iter().any(|column| column.name == control.name) {
            return Err(Error::FilterLacks {
                table: source_table.table().plain(),
                what: "the control column",
                columns: vec![control.name],
            });
        }
        table::check_at_once(destination.oid)?;
        let [local] = table::describe([destination.oid])?;
        fit::require_loadable(&local)?;
        values.require_comparable(&local)?;
        let renamed = state.seen.as_ref().map(|before| before.renamed(&source_columns)).unwrap_or_default();
        let fit = fit::fit(&local, &shape, &columns, &renamed)?;
        source.use_own_search_path()?;
        let rows = rows_query(&source_table.table(), &names(&columns), job.condition.as_deref())?;

        let seen = source_columns;
        let again = state.seen.as_ref().and_then(|before| before.why_again(&seen, &fit.columns));
        let again = again.filter(|_| matches!(self.options.repull, Repull::Nothing));
        let merges_all = again.is_some() && self.job.method() == Method::Updater && bound.upper.is_some();
        let mut plan = self.plan(&bound, redo.as_ref(), &start, repull, merges_all);
        if let Some(reason) = again {
            status = Status::Warning;
            if merges_all {
                run.note(format!("all rows are copied: {reason}"));
            } else {
                state.lacking = Some(reason);
            }
        }
        if matches!(self.options.repull, Repull::All) {
            state.lacking = None;
        }
        if let Some(reason) = &state.lacking {
            run.note(format!("rows that are here lack values: {reason}. p_repull := true copies all rows anew"));
            status = Status::Warning;
        }
        state.seen = Some(seen);
        let mut is_cut = false;
        if let (Some(limit), true) = (plan.limit, bound.upper.is_some()) {
            let slice = Slice { rows: &rows, control: &control, range: &plan.range };
            let cut = source.value(&slice.after(limit), &[], "finding the end of the batch")?;
            if let Some(cut) = cut {
                if values.is_after(&cut, bound.upper.as_ref().unwrap_or(&cut))? {
                    return Err(beyond(bound.upper.as_deref().unwrap_or_default(), &cut));
                }
                plan.range.upper = Some(cut);
                is_cut = true;
                run.note(format!("batch limit of {limit} rows reached"));
                status = Status::Warning;
            }
        }
        let nothing_is_safe = bound.upper.is_none() && matches!(self.options.repull, Repull::Nothing);
        let slice = Slice { rows: &rows, control: &control, range: &plan.range };
        let greatest = if nothing_is_safe {
            None
        } else {
            source.value(&slice.greatest(), &[], "reading the greatest control value")?
        };
        if greatest.is_none() && is_cut {
            state.redo = redo;
            return Err(Error::EndlessBatch {
                table: source_table.table().plain(),
                column: control.name,
                value: plan.range.upper.unwrap_or_default(),
                limit: plan.limit.unwrap_or_default(),
                state: serde_json::to_value(&state)?,
            });
        }

        let all = matches!(self.options.repull, Repull::All);
        if let (Some(parent), Method::Updater, Some(_)) = (source_table.as_parent(), self.job.method(), &greatest) {
            let key = job.pk_name.clone().unwrap_or_default();
            let operators = source.key_operators(&source_table, &key)?;
            if source
                .value(&slice.shared_keys(&key, &operators), &[], "looking for keys that are there twice")?
                .is_some()
            {
                return Err(Error::SharedKey { table: parent, report: Report::default() });
            }
        }
        if greatest.is_some() || all {
            let query = slice.query(&fit.columns);
            run.phase("copy");
            if all {
                let rows = Everything { source: &mut source, query: &query, flush: false, dest_table: &job.dest_table };
                replace_all(rows, &destination, &local, &fit, false, run)?;
            } else if self.job.method() == Method::Inserter {
                if plan.delete {
                    values.delete(&self.job.destination, &plan.range)?;
                }
                let target = Target { oid: destination.oid, columns: &fit.columns, binary: fit.binary, emptied: false };
                pull(&mut source, &query, &self.job.destination, &target, run)?;
            } else {
                let collected = self.collect(&mut source, &query, &owner, &local, &fit, run)?;
                run.phase("merge");
                if plan.delete {
                    values.delete(&self.job.destination, &plan.range)?;
                }
                if self.merge(collected, &destination, &shape, &local, &fit, run)? {
                    status = Status::Warning;
                }
            }
        } else {
            source.end_snapshot()?;
            if plan.delete && !nothing_is_safe {
                values.delete(&self.job.destination, &plan.range)?;
            }
        }
        if let Some(limit) =
            plan.limit.filter(|limit| !is_cut && run.rows.saturating_mul(4) >= (*limit as u64).saturating_mul(3))
        {
            run.note(format!("{} rows are three quarters of the batch limit of {limit} or more", run.rows));
            status = Status::Warning;
        }
        drop(source);

        let last = self.last_value(&values, &start, greatest.as_deref(), redo.as_ref())?;
        if let Some(bound) = bound.upper.as_ref().filter(|_| matches!(self.options.repull, Repull::Nothing)) {
            // What was asked for is below the bound: a greater value would skip rows for ever.
            if values.is_after(&last, bound)? && values.is_after(&last, &start)? {
                return Err(beyond(bound, &last));
            }
        }
        state.redo = match (self.options.repull, &bound.upper) {
            _ if greatest.is_none() => match self.options.repull {
                Repull::All => Some(Redo::Empty),
                _ if nothing_is_safe || redo == Some(Redo::Empty) => redo,
                _ => next_redo(redo, &plan.range, &last, &values)?,
            },
            // Rows from the bound on may come in late, and have to be taken again.
            (Repull::All, None) => Some(Redo::All),
            (Repull::All, Some(safe)) => {
                let beyond = values.is_after(&last, safe)? || (last == *safe && !control.has_no_ties());
                beyond.then(|| Redo::From(safe.clone()))
            }
            (Repull::Range(..), safe) => {
                let mut safe = safe.as_ref().unwrap_or(&start);
                // A range that begins beyond last_value leaves a gap.
                let gap = match &plan.range.lower {
                    Some(lower) => values.is_after(lower, &start)? && values.is_after(&last, &start)?,
                    None => false,
                };
                if gap && values.is_after(safe, &start)? {
                    safe = &start;
                }
                match redo {
                    Some(Redo::From(earlier)) if values.is_after(&earlier, safe)? => Some(Redo::From(safe.clone())),
                    None if values.is_after(&last, safe)? => Some(Redo::From(safe.clone())),
                    redo => redo,
                }
            }
            (Repull::Nothing, _) => next_redo(redo, &plan.range, &last, &values)?,
        };
        state.left = Some(last.clone());
        // A batch, or a range, does not say how old the rest is.
        let whole = !is_cut && !matches!(self.options.repull, Repull::Range(..));
        let as_of = bound.at.filter(|_| whole).map(|at| ((at - EPOCH) * 1e6) as i64);
        let state = serde_json::to_value(&state)?;
        self.catalog.record_run(&job.dest_table, run.started(), Some(&state), Some(&last), as_of)?;
        Ok(status)
    }

    /// Whether the bound has not moved for two periods of the job, because somebody on the source holds it: then the reason names him.
    fn stands_still(&self, source: &mut Connection, bound: &Bound, state: &State, run: &mut Run) -> Result<bool> {
        let standing = match (bound.at, state.candidates.first()) {
            (Some(at), _) => at,
            (None, Some(oldest)) => oldest.at,
            (None, None) => return Ok(false),
        };
        if bound.waits_for.is_empty() || !self.catalog.is_late(&self.job.dest_table, standing)? {
            return Ok(false);
        }
        if let Some(who) = source.who_waits(&bound.waits_for)? {
            run.note(format!("the bound stands still: a transaction on the source keeps rows back ({who})"));
        }
        Ok(true)
    }

    fn plan(
        &self,
        bound: &Bound,
        redo: Option<&Redo>,
        start: &str,
        repull: Option<(Option<String>, Option<String>)>,
        merges_all: bool,
    ) -> Plan {
        if let Some((lower, upper)) = repull {
            return Plan { range: Range { lower, upper, ..Range::default() }, delete: true, limit: None };
        }
        if matches!(self.options.repull, Repull::All) {
            return Plan { range: Range { known: true, ..Range::default() }, delete: false, limit: None };
        }
        if merges_all {
            // By key, and nothing is deleted: rows that are gone on the source stay.
            let range = Range { upper: bound.upper.clone(), ..Range::default() };
            return Plan { range, delete: false, limit: None };
        }
        Plan {
            range: Range { upper: bound.upper.clone(), ..range_from(redo, start) },
            // An updater's rows find their places by key; one that has moved on since would be lost.
            delete: redo.is_some() && self.job.method() == Method::Inserter,
            limit: self.options.limit.or(self.job.batch_limit).filter(|limit| *limit > 0).map(i64::from),
        }
    }

    /// An updater's rows, in a temporary table. The source is done with then.
    fn collect(
        &self,
        source: &mut Connection,
        query: &str,
        owner: &Identity,
        local: &Shape,
        fit: &Fit,
        run: &mut Run,
    ) -> Result<Collected> {
        let key = self.job.pk_name.clone().unwrap_or_default();
        let missing: Vec<_> = key.iter().filter(|column| !fit.columns.contains(column)).cloned().collect();
        if key.is_empty() || !missing.is_empty() {
            let table = local.table().plain();
            return Err(Error::FilterLacks { table, what: "columns of the key", columns: missing });
        }
        let collected = Collected::make(&self.job.destination, &fit.columns, owner)?;
        let target = Target { oid: collected.oid, columns: &fit.columns, binary: fit.binary, emptied: true };
        pull(source, query, &self.job.destination, &target, run)?;
        leave(source, false)?;
        self.catalog.lock_to_record(&self.job.dest_table)?;
        Ok(collected)
    }

    /// Puts them in their places; whether rows that differ have the same key.
    fn merge(
        &self,
        collected: Collected,
        destination: &Relation,
        shape: &Shape,
        local: &Shape,
        fit: &Fit,
        run: &mut Run,
    ) -> Result<bool> {
        let key = self.job.pk_name.clone().unwrap_or_default();
        let control = self.job.control.as_deref().unwrap_or_default();
        let may_be_null = key.iter().any(|name| shape.column(name).is_none_or(|column| !column.not_null));
        let unique = shape.is_unique(&key) && !may_be_null;
        let rows = collected.rows(&fit.columns, &key, control, unique);
        collected.ready(&key)?;
        let shared = !unique && collected.shares_keys(&key)?;
        if shared {
            run.note("rows share a key: of these the one with the greatest control value is here");
        }
        if may_be_null {
            collected.delete_null_keys(local, &key)?;
        }
        if collected.is_much(local, run.rows, MUCH_TO_MERGE)? {
            run.note("so many rows that the table is written anew");
            collected.rewrite(destination, &fit.columns, &key, &rows, "true", patience())?;
        } else {
            collected.merge_into(local, &fit.columns, &key, &rows)?;
        }
        collected.drop()?;
        Ok(shared)
    }

    /// After a repull of a range the true maximum that the destination holds; else the greatest value that was taken.
    fn last_value(&self, values: &Values, start: &str, greatest: Option<&str>, redo: Option<&Redo>) -> Result<String> {
        let last = match self.options.repull {
            Repull::Nothing if redo == Some(&Redo::Empty) => greatest.map(str::to_string),
            Repull::All => greatest.map(str::to_string),
            Repull::Range(..) => values.greatest_in(&self.job.destination)?,
            Repull::Nothing => greatest.map(|greatest| values.greater(greatest, start)).transpose()?,
        };
        Ok(last.unwrap_or_else(|| start.to_string()))
    }
}

/// A source that was asked for values below a bound has given another.
fn beyond(bound: &str, value: &str) -> Error {
    Error::Internal(format!("{value}, where a value below {bound} was asked for"))
}

/// What remains to be taken again after a range was: what the destination holds beyond it.
fn next_redo(redo: Option<Redo>, done: &Range, last: &str, values: &Values) -> Result<Option<Redo>> {
    Ok(match (redo, &done.upper) {
        (None, _) => None,
        (Some(Redo::Empty), _) => None,
        (Some(_), Some(done)) if values.is_after(last, done)? => Some(Redo::From(done.clone())),
        (Some(_), Some(_)) => None,
        (redo, None) => redo,
    })
}
