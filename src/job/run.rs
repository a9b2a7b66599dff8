//! A run in progress: its phases and counts, what it reports meanwhile, and to whom it reports its end.

use crate::backend::name::{literal, Name};
use crate::error::{told, Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::{now, RunRecord, Status};
use crate::job::{failure, history, jobmon};
use pgrx::PgSqlErrorCode;
use pgrx::{notice, pg_sys};
use std::cell::RefCell;
use std::ffi::CString;
use std::time::Instant;

thread_local! {
    /// Inside of `watch`: the records of the runs in it.
    static WATCHED: RefCell<Option<Vec<RunRecord>>> = const { RefCell::new(None) };
}

/// Runs `body`, and returns the record of the run in it, or those of a group. A run that failed has not written its row then: the caller has to,
/// whose transaction goes on.
pub fn watch<T>(body: impl FnOnce() -> T) -> (T, Vec<RunRecord>) {
    /// Nobody watches any more, also when an error unwinds.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WATCHED.set(None);
        }
    }
    let _end = End;
    WATCHED.set(Some(Vec::new()));
    let result = body();
    (result, WATCHED.take().unwrap_or_default())
}

fn tell_watcher(record: &RunRecord) -> bool {
    WATCHED.with_borrow_mut(|watched| match watched {
        Some(records) => {
            records.push(record.clone());
            true
        }
        None => false,
    })
}

/// A run in progress: its phases, its counts.
pub struct Run {
    method: Method,
    record: RunRecord,
    debug: bool,
    clock: Instant,
    phase: Option<(&'static str, Instant)>,
    pub rows: u64,
    pub bytes: u64,
    /// What is still in the queue on the source.
    pub queue_rows: Option<u64>,
    /// Why it was skipped, or why not; what changed.
    reasons: Vec<String>,
    /// What pg_stat_activity shows: `mimeo.refresh_snapshot('app.t')`.
    call: String,
    /// The source table, if others inherit from it.
    parent: Option<String>,
}

impl Run {
    /// # Errors
    /// JobmonMissing. `jobmon`: None is what the job says.
    /// `function` is the refresher.
    pub fn begin(function: &Name, job: &Job, jobmon: Option<bool>, debug: bool) -> Result<Run> {
        let record = RunRecord {
            jobmon: jobmon::wanted(jobmon.unwrap_or(job.jobmon))?,
            ..RunRecord::new(&job.dest_table, &job.source_table, job.kind.as_str())
        };
        Ok(Run {
            method: job.method(),
            record,
            debug,
            clock: Instant::now(),
            phase: None,
            rows: 0,
            bytes: 0,
            queue_rows: None,
            reasons: Vec::new(),
            call: format!("{}({})", function.plain(), literal(&job.dest_table)),
            parent: None,
        })
    }

    /// When it began: microseconds since 2000-01-01 UTC.
    pub fn started(&self) -> i64 {
        self.record.started
    }

    /// One of a group's. `function` is refresh_group.
    ///
    /// # Errors
    /// JobmonMissing.
    pub fn of_member(function: &Name, group: &str, job: &Job, debug: bool) -> Result<Run> {
        let mut run = Run::begin(function, job, None, debug)?;
        run.record.refresh_group = Some(group.to_string());
        run.call = format!("{}({}, {})", function.plain(), literal(group), literal(&job.dest_table));
        Ok(run)
    }

    /// Begins a phase and ends the one before. It shows in pg_stat_activity, and with p_debug as a NOTICE.
    pub fn phase(&mut self, name: &'static str) {
        self.end_phase();
        self.phase = Some((name, Instant::now()));
        show_activity(&format!("{}: {name}", self.call));
        if self.debug {
            notice!("\"{}\": {name}", self.record.dest_table);
        }
    }

    /// It reads from a table that others inherit from.
    pub fn reads_parent(&mut self, parent: Option<String>) {
        self.parent = parent;
    }

    /// The cause of a failure, where PostgreSQL's message does not show it: the key of a table with children is not unique across all of them.
    pub fn explain(&self, error: Error) -> Error {
        let of_postgres = matches!(error.kind(), Error::Postgres(_));
        if !of_postgres || error.sqlstate() != PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION {
            return error;
        }
        match &self.parent {
            Some(parent) => Error::SharedKey { table: parent.clone(), report: error.report() },
            // The destination keeps rows that are gone on the source.
            None if self.method.facts().keeps_gone => Error::HeldAlready {
                destination: self.record.dest_table.clone(),
                inserter: self.method == Method::Inserter,
                report: error.report(),
            },
            None => error,
        }
    }

    /// It begins once more: what it has done so far is gone.
    pub fn begin_again(&mut self, why: &str) {
        self.end_phase();
        (self.rows, self.bytes, self.queue_rows) = (0, 0, None);
        self.reasons.clear();
        self.note(why);
    }

    pub fn note(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.debug {
            notice!("\"{}\": {reason}", self.record.dest_table);
        }
        self.reasons.push(reason);
    }

    fn end_phase(&mut self) {
        if let Some((name, since)) = self.phase.take() {
            let ms = since.elapsed().as_secs_f64() * 1000.0;
            self.record.phases.push(serde_json::json!({"phase": name, "ms": (ms * 10.0).round() / 10.0}));
            if self.debug {
                notice!("\"{}\": {name} took {ms:.1} ms", self.record.dest_table);
            }
        }
    }

    fn finished(&mut self, status: Status) -> &mut RunRecord {
        self.end_phase();
        let reason = (!self.reasons.is_empty()).then(|| told(self.reasons.join("; ")));
        let record = &mut self.record;
        (record.status, record.reason, record.ended) = (status, reason, now());
        (record.rows, record.bytes, record.queue_rows) = (self.rows, self.bytes, self.queue_rows);
        record
    }

    /// Writes the row of this run.
    pub fn end(&mut self, catalog: &Catalog, status: Status) -> Result<()> {
        let seconds = self.clock.elapsed().as_secs_f64();
        self.record.state = None;
        let record = self.finished(status);
        history::write(record, catalog)?;
        tell_watcher(record);
        if self.debug && status == Status::Ok {
            let megabytes = self.bytes as f64 / 1e6;
            notice!(
                "\"{}\": {} rows, {megabytes:.1} MB in {seconds:.3} s, {:.1} MB/s",
                self.record.dest_table,
                self.rows,
                megabytes / seconds
            );
        }
        Ok(())
    }

    /// Records a failure, whether or not this transaction is rolled back: it is returned by `watch`, else written by a worker in
    /// a transaction of its own.
    ///
    /// `state` is the state that the job keeps nevertheless.
    pub fn fail(&mut self, error: &Error, state: Option<serde_json::Value>) {
        if let Some(state) = state {
            self.keep(state);
        }
        self.fail_with(error);
        deliver(std::slice::from_ref(&self.record));
    }

    /// The same for a group: `failed` is the member that has failed, if it was one.
    pub fn fail_together(runs: &mut [Run], failed: Option<usize>, group: &str, error: &Error) {
        let member = failed.map(|failed| runs[failed].record.dest_table.clone());
        for (number, run) in runs.iter_mut().enumerate() {
            match &member {
                Some(member) if failed != Some(number) => {
                    let (group, member) = (group.to_string(), member.clone());
                    run.fail_with(&Error::TakenBack { group, member, report: error.report() });
                }
                _ => run.fail_with(error),
            }
        }
        deliver(&runs.iter().map(|run| run.record.clone()).collect::<Vec<_>>());
    }

    fn fail_with(&mut self, error: &Error) {
        self.finished(Status::Critical).fail(error);
    }

    /// The state that the job keeps if it fails from here on: something has been done on the source that cannot be seen any more.
    pub fn keep(&mut self, state: serde_json::Value) {
        self.record.state = Some(state);
    }

    pub fn kept(&self) -> Option<&serde_json::Value> {
        self.record.state.as_ref()
    }
}

/// To whoever watches, else to a worker.
fn deliver(records: &[RunRecord]) {
    let watched = records.iter().filter(|record| tell_watcher(record)).count();
    if watched == 0 {
        failure::deliver(records);
    }
}

impl Drop for Run {
    /// pg_stat_activity shows the user's statement again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: debug_query_string is null or the text of the statement that is running.
        unsafe {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, pg_sys::debug_query_string);
        }
    }
}

fn show_activity(text: &str) {
    let Ok(text) = CString::new(text) else { return };
    // SAFETY: the text is copied into shared memory.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
}
