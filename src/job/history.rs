//! run_history: one row a run, and what a run tells while it is under way.

use crate::backend::identity::keeps_its_snapshot;
use crate::backend::name::{literal, Name};
use crate::backend::spi;
use crate::error::{told, Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::{failure, jobmon};
use crate::settings;
use pgrx::datum::{DatumWithOid, JsonB};
use pgrx::{notice, pg_sys};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::ffi::CString;
use std::time::Instant;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    Skipped,
    /// Done, but somebody should look at it.
    Warning,
    /// Nothing done, and nothing will be until somebody changes something.
    Critical,
    /// Another run of the same job was under way.
    Concurrent,
}

impl Status {
    pub fn text(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Skipped => "skipped",
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::Concurrent => "concurrent",
        }
    }
}

/// What a run leaves behind: a row of run_history, and the same for pg_jobmon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub dest_table: String,
    pub source_table: String,
    /// As refresh_config.type.
    pub kind: String,
    pub status: Status,
    pub reason: Option<String>,
    pub rows: u64,
    pub bytes: u64,
    pub queue_rows: Option<u64>,
    pub phases: Vec<serde_json::Value>,
    /// Microseconds since 2000-01-01 UTC, as PostgreSQL counts.
    pub started: i64,
    pub ended: i64,
    pub sqlstate: Option<String>,
    /// With DETAIL, HINT, CONTEXT and the names that it is about on lines of their own.
    pub error: Option<String>,
    /// None is the session's user.
    pub run_by: Option<String>,
    pub jobmon: bool,
    /// Of a run that came to nothing: what the job is to remember all the same.
    pub state: Option<serde_json::Value>,
}

impl Record {
    /// Of a run that begins now.
    fn new(dest_table: &str, source_table: &str, kind: &str) -> Record {
        let now = now();
        Record {
            dest_table: dest_table.to_string(),
            source_table: source_table.to_string(),
            kind: kind.to_string(),
            status: Status::Ok,
            reason: None,
            rows: 0,
            bytes: 0,
            queue_rows: None,
            phases: Vec::new(),
            started: now,
            ended: now,
            sqlstate: None,
            error: None,
            run_by: None,
            jobmon: false,
            state: None,
        }
    }

    /// Of a run that could not even begin, or that ended without a word.
    pub fn of_failure(dest_table: &str, source_table: &str, kind: &str, error: &Error) -> Record {
        let mut record = Record::new(dest_table, source_table, kind);
        record.fail(error);
        record
    }

    fn fail(&mut self, error: &Error) {
        let report = error.report();
        let mut text = report.message;
        for (label, more) in [("DETAIL", &report.detail), ("HINT", &report.hint), ("CONTEXT", &report.place.context)] {
            if let Some(more) = more {
                text = format!("{text}\n{label}: {more}");
            }
        }
        for (label, name) in report.place.names() {
            text = format!("{text}\n{label}: {name}");
        }
        (self.status, self.sqlstate, self.error) = (Status::Critical, Some(report.sqlstate), Some(text));
    }

    /// Writes the row, takes rows away that are older than they have to be kept, and tells pg_jobmon.
    pub fn write(&self, catalog: &Catalog) -> Result<()> {
        {
            let _identity = catalog.act_as_owner()?;
            let table = catalog.table("run_history");
            let args: [DatumWithOid<'_>; 14] = [
                self.dest_table.as_str().into(),
                self.source_table.as_str().into(),
                self.kind.as_str().into(),
                self.status.text().into(),
                self.reason.clone().into(),
                whole(self.rows).into(),
                whole(self.bytes).into(),
                self.queue_rows.map(whole).into(),
                JsonB(serde_json::Value::from(self.phases.clone())).into(),
                self.started.into(),
                self.ended.into(),
                self.sqlstate.clone().into(),
                self.error.clone().into(),
                self.run_by.clone().into(),
            ];
            spi::run(
                &format!(
                    "INSERT INTO {table} (dest_table, source_table, type, status, reason, rows, bytes, queue_rows, phases, started,
                                          ended, sqlstate, error, run_by)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,
                             timestamptz '2000-01-01 00:00:00+00' + $10 * interval '1 microsecond',
                             timestamptz '2000-01-01 00:00:00+00' + $11 * interval '1 microsecond',
                             $12, $13, coalesce($14, session_user))"
                ),
                &args,
            )?;
            prune(catalog)?;
        }
        if let Some(state) = &self.state {
            catalog.record_run(&self.dest_table, self.started, Some(state), None, None)?;
        }
        if self.jobmon {
            jobmon::log(catalog, self)?;
        }
        Ok(())
    }
}

/// What a source counts may be more than a bigint holds.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Takes some rows away that are older than mimeo.history_keep. What another session is taking away is left to it.
fn prune(catalog: &Catalog) -> Result<()> {
    let Some(keep) = settings::history_keep() else { return Ok(()) };
    // Such a transaction cannot pass over rows that others have taken away since it began.
    if keeps_its_snapshot() {
        return Ok(());
    }
    let table = catalog.table("run_history");
    spi::run(
        &format!(
            "DELETE FROM {table} WHERE run_id = ANY (ARRAY(SELECT run_id FROM {table}
               WHERE started < clock_timestamp() - make_interval(secs => $1) ORDER BY started LIMIT 100
                 FOR UPDATE SKIP LOCKED))"
        ),
        &[keep.as_secs_f64().into()],
    )?;
    Ok(())
}

/// Marks the runs of a job from `started` on (microseconds since 2000-01-01 UTC) that brought data, which shows no more.
pub fn take_back(catalog: &Catalog, dest_table: &str, started: i64, by: &str) -> Result<()> {
    let _identity = catalog.act_as_owner()?;
    let table = catalog.table("run_history");
    spi::run(
        &format!(
            "UPDATE {table} SET status = 'rolled_back',
                    reason = concat_ws('; ', reason, format('rolled back by %s at %s', $3::pg_catalog.text, date_trunc('second', clock_timestamp())))
              WHERE dest_table = $1 AND status IN ('ok', 'skipped', 'warning')
                AND started >= timestamptz '2000-01-01 00:00:00+00' + $2 * interval '1 microsecond'"
        ),
        &[dest_table.into(), started.into(), by.into()],
    )?;
    Ok(())
}

thread_local! {
    /// Who watches: what the last run inside has left behind.
    static WATCHED: RefCell<Option<Option<Record>>> = const { RefCell::new(None) };
}

/// Runs `body`, and tells what the run in it has left behind. A run that failed has not written its row then: that is left to
/// the caller, whose transaction lives on.
pub fn watch<T>(body: impl FnOnce() -> T) -> (T, Option<Record>) {
    /// Nobody watches any more, also when an error unwinds.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WATCHED.set(None);
        }
    }
    let _end = End;
    WATCHED.set(Some(None));
    let result = body();
    (result, WATCHED.take().flatten())
}

fn tell_watcher(record: &Record) -> bool {
    WATCHED.with_borrow_mut(|watched| match watched {
        Some(place) => {
            *place = Some(record.clone());
            true
        }
        None => false,
    })
}

/// A run under way: its phases, its figures.
pub struct Run {
    record: Record,
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
        let record = Record {
            jobmon: jobmon::wanted(jobmon.unwrap_or(job.jobmon))?,
            ..Record::new(&job.dest_table, &job.source_table, &job.kind)
        };
        Ok(Run {
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

    /// Begins a phase and ends the one before. It shows in pg_stat_activity, and with p_debug as a NOTICE.
    pub fn phase(&mut self, name: &'static str) {
        self.end_phase();
        self.phase = Some((name, Instant::now()));
        show_activity(&format!("{}: {name}", self.call));
        if self.debug {
            notice!("{}: {name}", self.record.dest_table);
        }
    }

    /// It reads from a table that others inherit from.
    pub fn reads_parent(&mut self, parent: Option<String>) {
        self.parent = parent;
    }

    /// What a failure means for whoever reads of it: the key of a table with children is not unique over all of them.
    pub fn explain(&self, error: Error) -> Error {
        match (&self.parent, error) {
            (Some(parent), Error::Postgres(report)) if report.sqlstate == "23505" => {
                Error::SharedKey { table: parent.clone(), report }
            }
            // Rows stay here that are gone on the source.
            (None, Error::Postgres(report)) if report.sqlstate == "23505" && self.keeps_gone() => {
                let (destination, inserter) =
                    (self.record.dest_table.clone(), self.record.kind.starts_with("inserter"));
                Error::HeldAlready { destination, inserter, report }
            }
            (_, error) => error,
        }
    }

    fn keeps_gone(&self) -> bool {
        let kind = &self.record.kind;
        kind.starts_with("inserter") || kind.starts_with("updater") || kind == "logdel"
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
            notice!("{}: {reason}", self.record.dest_table);
        }
        self.reasons.push(reason);
    }

    /// What was noted so far.
    pub fn reasons(&self) -> String {
        self.reasons.join("; ")
    }

    pub fn forget_reasons(&mut self) {
        self.reasons.clear();
    }

    fn end_phase(&mut self) {
        if let Some((name, since)) = self.phase.take() {
            let ms = since.elapsed().as_secs_f64() * 1000.0;
            self.record.phases.push(serde_json::json!({"phase": name, "ms": (ms * 10.0).round() / 10.0}));
            if self.debug {
                notice!("{}: {name} took {ms:.1} ms", self.record.dest_table);
            }
        }
    }

    fn finished(&mut self, status: Status) -> &mut Record {
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
        let record = self.finished(status);
        record.write(catalog)?;
        tell_watcher(record);
        if self.debug && status == Status::Ok {
            let megabytes = self.bytes as f64 / 1e6;
            notice!(
                "{}: {} rows, {megabytes:.1} MB in {seconds:.3} s, {:.1} MB/s",
                self.record.dest_table,
                self.rows,
                megabytes / seconds
            );
        }
        Ok(())
    }

    /// Records a failure, whatever becomes of this transaction: it is told to who watches, else to a worker that writes it in
    /// a transaction of its own.
    ///
    /// `state` is what the job is to remember all the same.
    pub fn fail(&mut self, error: &Error, state: Option<serde_json::Value>) {
        let record = self.finished(Status::Critical);
        record.fail(error);
        record.state = state;
        if !tell_watcher(record) {
            failure::deliver(record);
        }
    }
}

/// Microseconds since 2000-01-01 UTC.
fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
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
