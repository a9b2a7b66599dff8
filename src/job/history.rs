//! run_history: one row a run, and what a run tells while it is under way.

use crate::backend::spi;
use crate::error::Result;
use crate::job::config::Catalog;
use pgrx::datum::{DatumWithOid, JsonB};
use pgrx::{notice, pg_sys};
use std::ffi::CString;
use std::time::Instant;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    fn text(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Skipped => "skipped",
            Status::Warning => "warning",
            Status::Critical => "critical",
            Status::Concurrent => "concurrent",
        }
    }
}

/// A run under way: its phases, its figures.
pub struct Run {
    dest_table: String,
    source_table: String,
    kind: String,
    debug: bool,
    started: Instant,
    phase: Option<(&'static str, Instant)>,
    phases: Vec<serde_json::Value>,
    pub rows: u64,
    pub bytes: u64,
    /// What is still in the queue on the source.
    pub queue_rows: Option<u64>,
    /// Why it was skipped, or why not; what changed.
    pub reasons: Vec<String>,
}

impl Run {
    pub fn begin(dest_table: &str, source_table: &str, kind: &str, debug: bool) -> Run {
        Run {
            dest_table: dest_table.to_string(),
            source_table: source_table.to_string(),
            kind: kind.to_string(),
            debug,
            started: Instant::now(),
            phase: None,
            phases: Vec::new(),
            rows: 0,
            bytes: 0,
            queue_rows: None,
            reasons: Vec::new(),
        }
    }

    /// Begins a phase and ends the one before. It shows in pg_stat_activity, and with p_debug as a NOTICE.
    pub fn phase(&mut self, name: &'static str) {
        self.end_phase();
        self.phase = Some((name, Instant::now()));
        show_activity(&format!("mimeo refresh of {}: {name}", self.dest_table));
        if self.debug {
            notice!("{}: {name}", self.dest_table);
        }
    }

    pub fn note(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.debug {
            notice!("{}: {reason}", self.dest_table);
        }
        self.reasons.push(reason);
    }

    fn end_phase(&mut self) {
        if let Some((name, since)) = self.phase.take() {
            let ms = since.elapsed().as_secs_f64() * 1000.0;
            self.phases.push(serde_json::json!({"phase": name, "ms": (ms * 10.0).round() / 10.0}));
            if self.debug {
                notice!("{}: {name} took {ms:.1} ms", self.dest_table);
            }
        }
    }

    /// Writes the row of this run.
    pub fn end(&mut self, catalog: &Catalog, status: Status) -> Result<()> {
        self.end_phase();
        let seconds = self.started.elapsed().as_secs_f64();
        if self.debug && status == Status::Ok {
            let megabytes = self.bytes as f64 / 1e6;
            notice!(
                "{}: {} rows, {megabytes:.1} MB in {seconds:.3} s, {:.1} MB/s",
                self.dest_table,
                self.rows,
                megabytes / seconds
            );
        }
        let _identity = catalog.act_as_owner()?;
        let table = catalog.table("run_history");
        let reason = (!self.reasons.is_empty()).then(|| self.reasons.join("; "));
        let args: [DatumWithOid<'_>; 10] = [
            self.dest_table.as_str().into(),
            self.source_table.as_str().into(),
            self.kind.as_str().into(),
            status.text().into(),
            reason.into(),
            (self.rows as i64).into(),
            (self.bytes as i64).into(),
            JsonB(serde_json::Value::from(self.phases.clone())).into(),
            seconds.into(),
            self.queue_rows.map(|rows| rows as i64).into(),
        ];
        spi::run(
            &format!(
                "INSERT INTO {table} (dest_table, source_table, type, status, reason, rows, bytes, phases, started, queue_rows)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() - make_interval(secs => $9), $10)"
            ),
            &args,
        )?;
        Ok(())
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
