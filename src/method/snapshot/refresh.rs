//! refresh_snapshot.

use super::state::{live_file, Analyzed, Previous, Seen, State};
use super::{empty, guard};
use crate::backend::identity::{act_as, pin_settings, system};
use crate::backend::parse::is_plain_condition;
use crate::backend::relation::{lock_exclusively, lock_if_free, lock_to_read, Patience};
use crate::backend::spi;
use crate::backend::subtransaction::{caught, tried};
use crate::backend::trust;
use crate::destination::copy_in::Target;
use crate::destination::fit::obstacle_to_binary;
use crate::destination::heap::{Indexed, Indexing};
use crate::destination::twins::{self, Twins};
use crate::destination::written::{count_soon, Written};
use crate::destination::{indexes, statistics, table};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::columns::{copied_indexes, names, selected_columns};
use crate::method::load::{finish_indexes, patience, pull_behind};
use crate::method::rights::{require_creation, require_owner_rights};
use crate::method::running::{connect_job, refresh_job, Call};
use crate::shape::{Column, Difference, Shape};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::changes::Fingerprint;
use crate::source::connection::Connection;
use pgrx::PgSqlErrorCode;
use pgrx::{pg_sys, warning};
use std::time::Duration;

pub mod plan;

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
    refresh_job(Method::Snapshot, &options.call, |catalog, job, run| Refresh { options, catalog, job }.run(run))
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
    columns: Vec<Column>,
    /// None if there are no counters there.
    fingerprint: Option<Fingerprint>,
    /// What to compare with next time; None if nothing there proves anything.
    seen: Option<Seen>,
}

impl Refresh<'_> {
    /// 1. Connect, and look at the source: counters first, then its shape in the snapshot that reads the data.
    /// 2. Unchanged? Done.
    /// 3. Lock the idle twin, empty it, bring it to the source's shape.
    /// 4. Load it with its indexes being built behind, or afterwards; compare the counts, analyze.
    /// 5. Ask the guards, and swap the view. From here to the commit its lock is held, so only brief things are left.
    /// 6. Empty the twin that was live, unless it is to be kept, if nobody uses it at this instant; a large one after the commit.
    fn run(&self, run: &mut Run) -> Result<Status> {
        run.phase("connect");
        let pinned = pin_settings()?;
        let twins = Twins::find(&self.job.destination)?;
        drop(pinned);
        if !self.options.pull_data {
            require_owner_rights("p_pulldata := false", self.job, twins.owner)?;
        }
        let before: State = serde_json::from_value(self.job.state.clone()).unwrap_or_default();
        let mut source = connect_job(self.catalog, self.job, twins.owner)?;
        let _identity = act_as(twins.owner, true)?;

        let Some(mut present) = self.look(&mut source, &before, &twins, run)? else {
            self.catalog.record_run(&self.job.dest_table, run.started(), None, None, Some(run.started()))?;
            return Ok(Status::Skipped);
        };

        run.reads_parent(present.table.as_parent());
        run.phase("prepare");
        let change = Difference::between(&before.columns, &present.columns);
        let reshaped = !before.columns.is_empty() && !change.is_empty();
        if reshaped {
            run.note(format!("columns of the source changed: {}", change.summary()));
        }
        if self.options.indexes && (reshaped || before.columns.is_empty()) {
            present.shape.indexes = source.indexes(&present.table)?;
        }
        let (idle_name, idle_oid) = (twins.idle.name(), twins.idle.oid);
        lock_to_read(twins.live.oid);
        trust::require_tables(&[idle_oid, twins.live.oid])?;
        let [view, live, idle] = table::describe([twins.view.oid, twins.live.oid, idle_oid])?;
        if !table::shows(&view, &present.columns) {
            require_creation(&twins.view.schema)?;
        }
        let foreign_keys = indexes::take_foreign_keys_off(&idle_name, idle_oid)?;
        let idle = self.empty_twin(&idle, &before, &present)?;

        let written = Written::to(idle_oid)?;
        let mut indexing = Indexing::Done;
        if self.options.pull_data {
            run.phase("copy");
            indexing = self.pull(&mut source, &present, &idle, run)?;
        }
        drop(source);
        let indexed = finish_indexes(indexing, run);
        if let Indexed::Only(built) = &indexed {
            indexes::rebuild(idle_oid, built)?;
        }
        indexes::restore_foreign_keys(&idle_name, &foreign_keys, patience())?;
        run.phase("analyze");
        let analyzed = self.analyze(&before, &present, &twins, &indexed, run)?;
        let file = live_file(idle_oid)?;
        if self.options.pull_data {
            run.phase("guard");
            guard::check(self.job, &twins, run.rows)?;
        }
        self.catalog.lock_to_record(&self.job.dest_table)?;
        flush_wal();

        run.phase("swap");
        twins.swap(&view, &present.columns, patience())?;
        let mut previous = None;
        if self.job.keep_previous {
            let state = Box::new(State { previous: None, ..before });
            previous = Some(Previous { twin: live_file(twins.live.oid)?, state, replaced_by: run.started() });
        } else if !reshaped && table::size(twins.live.oid)? >= empty::LARGE {
            empty::after_commit(&self.job.dest_table);
        } else if lock_if_free(twins.live.oid) {
            match tried(|| self.empty_twin(&live, &before, &present))? {
                // A cursor, or the query around this call: the next refresh empties it.
                Err(error) if error.sqlstate() == PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => {
                    run.note("the twin that was live is not emptied yet, for this session reads it");
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
        let seen = present.seen.filter(|_| self.options.pull_data).map(|seen| Seen { live: file, written, ..seen });
        count_soon()?;
        let analyzed = analyzed.map(|analyzed| Analyzed { live: file, ..analyzed });
        let state = State { seen, columns: present.columns, types: present.shape.types, analyzed, previous };
        self.catalog.record_run(
            &self.job.dest_table,
            run.started(),
            Some(&serde_json::to_value(&state)?),
            None,
            Some(run.started()),
        )?;
        Ok(Status::Ok)
    }

    /// What the source is now; None if the live twin holds just that. With the idle twin locked: if it was not free at
    /// once (a dump, an autovacuum), it is waited for without a snapshot open on the source.
    fn look(&self, source: &mut Connection, before: &State, twins: &Twins, run: &mut Run) -> Result<Option<Present>> {
        run.phase("look");
        // The usual case costs one query over there: the table that was seen last is still the one, and unchanged.
        let mut known = before.seen.as_ref().map(|seen| seen.fingerprint.oid);
        let mut locked = lock_if_free(twins.idle.oid);
        loop {
            let mut table = None;
            let oid = match known {
                Some(oid) => oid,
                None => table.insert(source.find_table(&self.job.source_table)?).oid,
            };
            let counted = source.fingerprint(oid)?;
            let seen = self.see(source.place(), &counted, twins, run)?;
            let mut described = None;
            if self.unchanged(before, seen.as_ref(), run) {
                if !seen.as_ref().is_some_and(|seen| seen.fingerprint.assigned_types) {
                    return Ok(None);
                }
                let shape = source.snapshot_of(oid)?;
                if shape.types == before.types {
                    return Ok(None);
                }
                run.note("a type of the source has changed");
                described = Some(shape);
            }
            if !locked {
                source.end_snapshot()?;
                run.phase("wait for the idle twin");
                lock_exclusively(&[twins.idle.oid], &twins.idle.name(), self.idle_patience(), "emptied")?;
                locked = true;
                known = None;
                run.forget_reasons();
                run.phase("look");
                continue;
            }
            let table = match table {
                Some(table) => table,
                None => source.find_table(&self.job.source_table)?,
            };
            if table.oid != oid {
                // The name now means another table than last time.
                known = None;
                run.forget_reasons();
                continue;
            }
            let shape = match described {
                Some(shape) => shape,
                None => source.locked_snapshot_of(&table)?,
            };
            let columns = selected_columns(&shape, self.job.filter.as_deref(), source.label())?;
            source.require_readable(&table, &names(&columns), self.job.filter.is_some())?;
            return Ok(Some(Present { table, shape, columns, fingerprint: counted.ok(), seen }));
        }
    }

    /// The proof to compare with the one of last time; None, and the reason in the run, if there is none.
    fn see(
        &self,
        place: &str,
        counted: &std::result::Result<Fingerprint, String>,
        twins: &Twins,
        run: &mut Run,
    ) -> Result<Option<Seen>> {
        if !self.options.check_stats.unwrap_or(self.job.check_stats.unwrap_or(true)) {
            run.note("copied: check_stats is off");
            return Ok(None);
        }
        if self.job.condition.as_deref().is_some_and(|condition| !is_plain_condition(condition)) {
            run.note("copied: what the condition selects may change without the table");
            return Ok(None);
        }
        match counted {
            Err(obstacle) => {
                run.note(format!("copied: {obstacle}"));
                Ok(None)
            }
            Ok(fingerprint) => Ok(Some(Seen {
                place: place.to_string(),
                source_table: self.job.source_table.clone(),
                fingerprint: fingerprint.clone(),
                filter: self.job.filter.clone(),
                condition: self.job.condition.clone(),
                live: live_file(twins.live.oid)?,
                system: system(),
                written: Written::to(twins.live.oid)?,
            })),
        }
    }

    /// Whether the proof is the one of last time.
    fn unchanged(&self, before: &State, now: Option<&Seen>, run: &mut Run) -> bool {
        let Some(now) = now else { return false };
        let reason = match &before.seen {
            None => "copied: there is no earlier copy to compare with",
            Some(_) if !self.options.pull_data => "emptied: p_pulldata is false",
            Some(seen) if seen.holds(now) => "unchanged on the source",
            Some(seen) if seen.condition != now.condition || seen.filter != now.filter => {
                "copied: the filter or the condition has changed"
            }
            Some(seen) if seen.live != now.live || seen.system != now.system || !seen.is_untouched(now) => {
                "copied: the live twin is not as the last refresh left it"
            }
            Some(_) => "copied: the source has changed",
        };
        run.note(reason);
        self.options.pull_data && before.seen.as_ref().is_some_and(|seen| seen.holds(now))
    }

    /// Gives the loaded twin its statistics: those of the live one, if the source has hardly changed since they were made,
    /// else new ones. Returns what they were made from.
    fn analyze(
        &self,
        before: &State,
        present: &Present,
        twins: &Twins,
        indexed: &Indexed,
        run: &mut Run,
    ) -> Result<Option<Analyzed>> {
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
        let kept = match (&before.analyzed, &now) {
            (Some(before), Some(now)) if matches!(indexed, Indexed::Only(_)) && before.still_holds(now) => Some(before),
            _ => None,
        };
        if let Some(kept) = kept {
            if statistics::carry_over(twins.live.oid, twins.idle.oid, run.rows)? {
                run.note("statistics kept, for few rows have changed since they were made");
                return Ok(Some(kept.clone()));
            }
        }
        table::analyze(&twins.idle.name())?;
        Ok(now)
    }

    fn idle_patience(&self) -> Patience {
        // Long enough in the queue for PostgreSQL to cancel an autovacuum that is in the way.
        // SAFETY: reads a setting.
        let deadlock = Duration::from_millis(unsafe { pg_sys::DeadlockTimeout } as u64);
        let patience = patience();
        Patience { queue: deadlock + patience.queue, ..patience }
    }

    /// Empties a twin and brings it to the source's shape. When that has changed, indexes that the source has got
    /// since are copied too; one that cannot be made here is a warning, for the data comes first.
    fn empty_twin(&self, twin: &Shape, before: &State, present: &Present) -> Result<Shape> {
        let name = twin.table();
        table::truncate(&name)?;
        if table::conforms(twin, &present.columns, &before.columns) {
            return Ok(twin.clone());
        }
        let columns = table::localise(&present.columns, &present.table.table())?;
        let shape = table::conform(&name, twin, &columns, &before.columns)?;
        let place = indexes::Place {
            source_table: &present.table.name,
            table: &name,
            oid: twin.local_oid(),
            prefix: twins::index_prefix(&name),
        };
        let wanted = copied_indexes(&present.shape, self.job.filter.as_deref());
        for left_out in indexes::copy_all(wanted, None, &place, None)?.0 {
            warning!("{}: {}", self.job.dest_table, left_out.text());
        }
        Ok(shape)
    }

    /// Copies the rows, and makes sure that all of them have come.
    fn pull(&self, source: &mut Connection, present: &Present, idle: &Shape, run: &mut Run) -> Result<Indexing> {
        let binary = obstacle_to_binary(idle, &present.shape, &present.columns).is_none();
        source.use_own_search_path()?;
        let columns = names(&present.columns);
        let query = rows_query(&present.table.table(), &columns, self.job.condition.as_deref())?;
        let target = Target { oid: idle.local_oid(), columns: &columns, binary, emptied: true };
        pull_behind(source, &query, &idle.table(), &target, run, |_| Ok(()))
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

/// The commit, which the swapped view waits for, then has little left to write.
fn flush_wal() {
    // SAFETY: flushes what this transaction has written so far.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) }
}
