//! refresh_snapshot.

use super::{copied_indexes, copy_index, names, Seen, State};
use crate::backend::identity::{act_as, pin_settings, require_writable};
use crate::backend::name::Name;
use crate::backend::parse::is_plain_condition;
use crate::backend::relation::{lock_exclusively, lock_if_free, Patience, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::destination::copy_in;
use crate::destination::indexes;
use crate::destination::table::{self, LocalColumn};
use crate::destination::twins::Twins;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::history::{Run, Status};
use crate::job::lock::{self, Wait};
use crate::method::{about, connect, require_method, selected_columns, Method};
use crate::settings;
use crate::shape::{Column, Difference, Shape};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::changes::Fingerprint;
use crate::source::connection::Connection;
use pgrx::{pg_sys, warning};
use std::time::Duration;

/// The arguments of refresh_snapshot.
pub struct Options<'a> {
    pub destination: &'a str,
    pub indexes: bool,
    pub pull_data: bool,
    pub lock_wait: Wait,
    pub check_stats: Option<bool>,
    pub debug: bool,
}

/// Refreshes a snapshot, unless it is proven that nothing has changed.
pub fn refresh(options: &Options<'_>) -> Result<()> {
    require_writable("refresh_snapshot")?;
    let catalog = Catalog::find()?;
    let (job, destination) = catalog.job(options.destination)?;
    require_method(&job, Method::Snapshot)?;
    let mut run = Run::begin(&job.dest_table, &job.source_table, &job.kind, options.debug);
    if !lock::take(&job.dest_table, options.lock_wait)? {
        warning!("another refresh of {} is running, this one does nothing", job.dest_table);
        return run.end(&catalog, Status::Concurrent);
    }
    // While this call waited for the lock, the job may have been changed or destroyed.
    let job = catalog.row(&job.dest_table)?.ok_or(Error::UnknownJob(job.dest_table))?;
    let what = format!(
        "Refreshing snapshot {} from {} on data source {}.",
        job.dest_table, job.source_table, job.data_source_id
    );
    about(&what, || Refresh { options, catalog: &catalog, job: &job, destination: &destination }.run(&mut run))
}

/// One refresh, with the job's lock held.
struct Refresh<'a> {
    options: &'a Options<'a>,
    catalog: &'a Catalog,
    job: &'a Job,
    destination: &'a Name,
}

/// What the source is now.
struct Present {
    table: SourceTable,
    shape: Shape,
    columns: Vec<Column>,
    /// Where the connection leads.
    place: String,
    /// Or why the counters prove nothing.
    fingerprint: std::result::Result<Fingerprint, String>,
}

impl Refresh<'_> {
    /// 1. Connect, and look at the source: counters first, then its shape in the snapshot that reads the data.
    /// 2. Unchanged? Done.
    /// 3. Lock the idle twin, empty it, bring it to the source's shape.
    /// 4. Load it without indexes, compare the counts, build the indexes, analyze.
    /// 5. Swap the view. From here to the commit its lock is held, so only brief things are left.
    /// 6. Empty the twin that was live, if nobody uses it at this instant.
    fn run(&self, run: &mut Run) -> Result<()> {
        run.phase("connect");
        let pinned = pin_settings()?;
        let twins = Twins::find(self.destination)?;
        drop(pinned);
        let before: State = serde_json::from_value(self.job.state.clone()).unwrap_or_default();
        let mut source = connect(self.catalog, self.job.data_source_id, twins.view.owner, &self.job.dest_table)?;
        let _identity = act_as(twins.view.owner, true)?;

        run.phase("look");
        let mut locked = lock_if_free(twins.idle.oid);
        let present = loop {
            let present = self.look(&mut source)?;
            if let Some(seen) = self.unchanged(&before, &present, &twins, run)? {
                let state = State { seen: Some(seen), ..before };
                self.catalog.record_run(&self.job.dest_table, Some(&serde_json::to_value(&state)?))?;
                return run.end(self.catalog, Status::Skipped);
            }
            if locked {
                break present;
            }
            // A dump or an autovacuum is at the idle twin. No snapshot stays open on the source meanwhile.
            source.end_snapshot()?;
            run.phase("wait for the idle twin");
            lock_exclusively(&[twins.idle.oid], &twins.idle.name(), self.idle_patience(), "emptied")?;
            locked = true;
            run.reasons.clear();
            run.phase("look");
        };

        run.phase("prepare");
        let local = table::localise(&present.columns, &present.table.table())?;
        let change = Difference::between(&before.columns, &present.columns);
        let reshaped = !before.columns.is_empty() && !change.is_empty();
        if reshaped {
            run.note(format!("columns of the source changed: {}", change.summary()));
        }
        let foreign_keys = indexes::take_foreign_keys_off(&twins.idle.name(), twins.idle.oid)?;
        let idle = self.conform_twin(&twins.idle, &local, &before, &present)?;

        if self.options.pull_data {
            run.phase("copy");
            self.pull(&mut source, &present, &idle, twins.idle.oid, run)?;
        }
        drop(source);
        if run.rows > 0 {
            run.phase("index");
            indexes::rebuild(twins.idle.oid)?;
        }
        indexes::restore_foreign_keys(&twins.idle.name(), &foreign_keys)?;
        run.phase("analyze");
        table::analyze(&twins.idle.name())?;
        flush_wal();

        run.phase("swap");
        let patience = Patience { queue: settings::swap_lock_timeout(), give_up: settings::swap_max_wait() };
        twins.swap(&present.columns, patience)?;
        if lock_if_free(twins.live.oid) {
            self.conform_twin(&twins.live, &local, &before, &present)?;
        }
        if reshaped {
            self.run_post_script(run)?;
        }
        let state = State {
            seen: if self.options.pull_data { self.seen(&present, twins.idle.oid)? } else { None },
            columns: present.columns,
        };
        self.catalog.record_run(&self.job.dest_table, Some(&serde_json::to_value(&state)?))?;
        run.end(self.catalog, Status::Ok)
    }

    fn look(&self, source: &mut Connection) -> Result<Present> {
        let table = source.find_table(&self.job.source_table)?;
        let fingerprint =
            if self.check_stats() { source.fingerprint(&table)? } else { Err("check_stats is off".to_string()) };
        source.begin_snapshot()?;
        let shape = source.describe(&table)?;
        let columns = selected_columns(&shape, self.job.filter.as_deref(), source.label())?;
        source.require_readable(&table, &names(&columns))?;
        let place = source.place().to_string();
        Ok(Present { table, shape, columns, place, fingerprint })
    }

    fn check_stats(&self) -> bool {
        self.options.check_stats.unwrap_or(self.job.check_stats.unwrap_or(true))
    }

    fn idle_patience(&self) -> Patience {
        // Long enough in the queue for PostgreSQL to cancel an autovacuum that is in the way.
        // SAFETY: reads a setting.
        let deadlock = Duration::from_millis(unsafe { pg_sys::DeadlockTimeout } as u64);
        Patience { queue: deadlock + settings::swap_lock_timeout(), give_up: settings::swap_max_wait() }
    }

    /// What is the same as at the last copy, if all of it is; otherwise the run's reason tells what is not.
    fn unchanged(
        &self,
        before: &State,
        present: &Present,
        twins: &Twins,
        run: &mut Run,
    ) -> Result<Option<Seen>> {
        if let Err(obstacle) = &present.fingerprint {
            run.note(format!("copied: {obstacle}"));
            return Ok(None);
        }
        if self.job.condition.as_deref().is_some_and(|condition| !is_plain_condition(condition)) {
            run.note("copied: what the condition selects may change without the table");
            return Ok(None);
        }
        let Some(seen) = &before.seen else {
            run.note("copied: there is no earlier copy to compare with");
            return Ok(None);
        };
        let now = self.seen(present, twins.live.oid)?;
        if now.as_ref() == Some(seen) && self.options.pull_data {
            run.note("unchanged on the source");
            return Ok(now);
        }
        run.note("copied: the source or the job has changed");
        Ok(None)
    }

    /// What to remember once the twin `live` holds what the source now holds; None if the counters prove nothing.
    fn seen(&self, present: &Present, live: pg_sys::Oid) -> Result<Option<Seen>> {
        let Ok(fingerprint) = &present.fingerprint else { return Ok(None) };
        // SAFETY: a constant of this cluster.
        let system = unsafe { pg_sys::GetSystemIdentifier() };
        Ok(Some(Seen {
            place: present.place.clone(),
            fingerprint: fingerprint.clone(),
            columns: present.columns.clone(),
            types: present.shape.assigned_types(),
            condition: self.job.condition.clone(),
            live: (live.to_u32(), table::file_of(live)?),
            system: system.to_string(),
        }))
    }

    /// Empties a twin and brings it to the source's shape. When the shape has changed, indexes that the source has
    /// got since are copied too; one that cannot be made here is a warning, for the data comes first.
    fn conform_twin(
        &self,
        twin: &Relation,
        columns: &[LocalColumn],
        before: &State,
        present: &Present,
    ) -> Result<Shape> {
        let name = twin.name();
        table::truncate(&name)?;
        let shape = table::describe(twin.oid)?;
        let Some(shape) = table::conform(&name, &shape, columns, &before.columns)? else { return Ok(shape) };
        if self.options.indexes {
            for index in copied_indexes(&present.shape, self.job.filter.as_deref()) {
                if let Err(error) = attempt(|| copy_index(index, &present.table, &name, twin.oid)) {
                    warning!("{}: {error}", self.job.dest_table);
                }
            }
        }
        Ok(shape)
    }

    /// Copies the rows, and makes sure that all of them have come.
    fn pull(
        &self,
        source: &mut Connection,
        present: &Present,
        idle: &Shape,
        idle_oid: pg_sys::Oid,
        run: &mut Run,
    ) -> Result<()> {
        let binary = present.columns.iter().all(|column| {
            idle.column(&column.name).is_some_and(|own| idle.takes_binary(own, &present.shape, column))
        });
        if !binary {
            run.note("text format");
        }
        source.use_own_search_path()?;
        let columns = names(&present.columns);
        let query = rows_query(&present.table.table(), &columns, self.job.condition.as_deref());
        let source_label = source.label().to_string();
        let mut stream = source.copy_out(&query, binary)?;
        let mut read = |buffer: &mut [u8], at_least: usize| stream.read(buffer, at_least);
        let loaded = copy_in::load_emptied(idle_oid, &columns, binary, &mut read)?;
        let (sent, bytes) = stream.totals()?;
        if sent != loaded {
            return Err(Error::RowCount { source_label, sent, loaded, table: idle.table().plain() });
        }
        (run.rows, run.bytes) = (loaded, bytes);
        Ok(())
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
