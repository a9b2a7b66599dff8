//! What a run leaves behind.

use crate::error::Error;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

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
pub struct RunRecord {
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
    /// The group that was refreshed as one.
    #[serde(default)]
    pub refresh_group: Option<String>,
    /// Of a run that failed: the state that the job keeps nevertheless.
    pub state: Option<serde_json::Value>,
}

impl RunRecord {
    /// Of a run that begins now.
    pub fn new(dest_table: &str, source_table: &str, kind: &str) -> RunRecord {
        let now = now();
        RunRecord {
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
            refresh_group: None,
            state: None,
        }
    }

    /// Of a run that could not begin, or that ended without a record of its own.
    pub fn of_failure(dest_table: &str, source_table: &str, kind: &str, error: &Error) -> RunRecord {
        let mut record = RunRecord::new(dest_table, source_table, kind);
        record.fail(error);
        record
    }

    pub fn fail(&mut self, error: &Error) {
        let report = error.report();
        let mut text = report.message;
        for (label, more) in [("DETAIL", &report.detail), ("HINT", &report.hint), ("CONTEXT", &report.location.context)]
        {
            if let Some(more) = more {
                text = format!("{text}\n{label}: {more}");
            }
        }
        for (label, name) in report.location.names() {
            text = format!("{text}\n{label}: {name}");
        }
        (self.status, self.sqlstate, self.error) = (Status::Critical, Some(report.sqlstate.to_string()), Some(text));
    }
}

/// Microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
