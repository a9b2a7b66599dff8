//! Every way in which mimeo refuses or fails.
//!
//! A variant carries the values of its message, including the statement that solves the problem. The texts are in `words`; the
//! conversion from and to PostgreSQL's errors is in `backend/raise.rs`. No variant may hold a password or a connection string.

mod report;
mod secrets;
mod sqlstate;
mod words;

pub use report::{ErrorLocation, Report};
pub use secrets::{heard, keep_secret, told};
pub use sqlstate::SqlState;

use pgrx::PgSqlErrorCode;
use std::fmt;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    UnknownJob(String),
    WrongMethod {
        destination: String,
        found: &'static str,
        wanted: &'static str,
    },
    JobExists {
        method: &'static str,
        destination: String,
    },
    InvalidArgument(String),
    NullArgument {
        name: &'static str,
        /// One of its elements is NULL.
        element: bool,
    },
    NoKey {
        table: String,
        source_label: String,
    },
    FilterLacks {
        table: String,
        what: &'static str,
        columns: Vec<String>,
    },
    KeyGone {
        table: String,
        source_label: String,
        columns: Vec<String>,
    },
    AmbiguousKey {
        table: String,
        key: Vec<String>,
    },
    HeldAlready {
        destination: String,
        inserter: bool,
        report: Report,
    },
    UnsupportedControl {
        table: String,
        column: String,
        reason: String,
    },
    IncompatibleColumns {
        destination: String,
        source_table: String,
        reasons: Vec<String>,
        fixes: Vec<String>,
    },
    UnsupportedDestination {
        destination: String,
        reason: String,
    },
    ForeignKey {
        table: String,
        constraint: String,
        destination: String,
    },
    NotOwner(String),
    ConfiguredByOther {
        destination: String,
        owner: String,
        by: String,
        fix: String,
    },
    OwnerChanged {
        destination: String,
        owner: String,
        fix: String,
    },
    ForeignQueue {
        what: String,
        source_label: String,
        destination: String,
        fix: String,
    },
    Unconfirmed {
        destination: String,
        owner: String,
        fix: String,
    },
    OwnerRights {
        argument: &'static str,
        destination: String,
        owner: String,
    },
    Definition(String),
    Condition(String),
    Encoding {
        what: &'static str,
        encoding: String,
    },
    OldSource {
        source_label: String,
        version: String,
        oldest: String,
    },
    UnknownSource(i32),
    InvalidSource {
        source_label: String,
        reason: String,
        /// It gives a connection parameter that only a superuser may give.
        forbidden: bool,
    },
    Unreachable {
        source_label: String,
        reason: String,
        /// SQLSTATE, if a server was reached and refused the connection.
        code: Option<SqlState>,
    },
    ForeignServer {
        source_label: String,
        role: String,
        server: String,
        fix: String,
    },
    UserMapping {
        source_label: String,
        role: String,
        server: String,
        fix: String,
    },
    PasswordRequired(String),
    ConnectionLost {
        source_label: String,
        reason: String,
    },
    Remote {
        source_label: String,
        doing: String,
        report: Report,
    },
    SourceTableMissing {
        table: String,
        source_label: String,
        /// The statement that gives a job the new name of the table; None for a maker.
        fix: Option<String>,
    },
    SourcePrivilege {
        role: String,
        table: String,
        source_label: String,
        fix: String,
    },
    SourceRight {
        role: String,
        action: String,
        source_label: String,
        fix: String,
    },
    TriggersDisabled {
        table: String,
        source_label: String,
        /// What the names of the triggers begin with.
        trigger: String,
        /// The state that the job keeps although the run failed.
        state: serde_json::Value,
    },
    EndlessBatch {
        table: String,
        column: String,
        value: String,
        limit: i64,
        state: serde_json::Value,
    },
    SourceStandby {
        source_label: String,
    },
    SharedKey {
        table: String,
        report: Report,
    },
    QueueMissing {
        queue: String,
        source_label: String,
    },
    QueueOfAnother {
        queue: String,
        source_label: String,
        destination: String,
    },
    TooManyDestinations {
        table: String,
        most: u32,
    },
    NullableKey {
        table: String,
        columns: Vec<String>,
        fix: String,
    },
    TriggerOwner {
        table: String,
        fix: String,
    },
    UnsupportedSource {
        table: String,
        source_label: String,
        reason: String,
    },
    UnknownFilterColumns {
        table: String,
        columns: Vec<String>,
    },
    UnknownTypes {
        table: String,
        types: Vec<String>,
    },
    UncopyableTypes {
        table: String,
        /// With their types.
        columns: Vec<String>,
    },
    UnknownCollations {
        table: String,
        collations: Vec<String>,
    },
    InvalidName(String),
    AmbiguousName(String),
    NameTooLong {
        name: String,
        limit: usize,
    },
    DestinationExists(String),
    DestinationSchema {
        schema: String,
        /// Who can run it: the schema's owner.
        by: String,
        fix: String,
    },
    NotReadable {
        destination: String,
        fix: String,
    },
    SchemaMissing {
        schema: String,
        fix: String,
    },
    BrokenDestination {
        destination: String,
        reason: String,
        hint: String,
    },
    Index {
        index: String,
        table: String,
        report: Report,
    },
    RowCount {
        source_label: String,
        sent: u64,
        loaded: u64,
        table: String,
    },
    InUse {
        relation: String,
        seconds: u64,
        intent: &'static str,
    },
    InUseHere(String),
    UntrustedOwner {
        object: String,
        owner: String,
        role: String,
    },
    ColumnInUse {
        destination: String,
        column: String,
        from: String,
        to: String,
        users: Vec<String>,
    },
    ColumnTaken {
        destination: String,
        source_table: String,
        column: String,
        reason: String,
    },
    Dependent {
        object: String,
        view: String,
        reason: String,
    },
    ReadOnly(&'static str),
    Standby(&'static str),
    NoDescriptor,
    MalformedStream,
    Internal(String),
    Postgres(Report),
    /// The user, or a timeout on this server, has cancelled the call.
    Cancelled(Report),
    JobmonMissing,
    Busy(String),
    Altered(String),
    /// What was looked at has changed before the snapshot was opened: the refresh, or the group, begins again.
    ChangedMeanwhile(String),
    /// A table of the source is not what the open snapshot knows of it: the same.
    WrittenAnew(String),
    UnknownGroup(String),
    /// Of the other members of a group: what has failed.
    TakenBack {
        group: String,
        member: String,
        report: Report,
    },
    NothingKept {
        destination: String,
        kept: bool,
    },
    Refused {
        destination: String,
        reason: String,
    },
    InTransaction(&'static str),
    JobsFailed {
        failed: Vec<(String, String)>,
        begun: usize,
    },
    /// An error with another report: it also tells what was being done, or leaves out what not everybody may see.
    Told {
        report: Report,
        /// Never a `Told` itself.
        #[source]
        cause: Box<Error>,
    },
}

pub type Result<T> = std::result::Result<T, Error>;

/// A name for a message, in double quotes as PostgreSQL shows names. Text that has quotes of its own stays as it was written.
pub fn quoted(name: &str) -> String {
    if name.contains('"') {
        name.to_string()
    } else {
        format!("\"{name}\"")
    }
}

/// Names for a message, separated by commas.
pub fn quoted_list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.words().message)
    }
}

impl Error {
    /// The original error, below `Told`.
    pub fn kind(&self) -> &Error {
        match self {
            Error::Told { cause, .. } => cause,
            error => error,
        }
    }

    fn told_as(self, report: Report) -> Error {
        let cause = match self {
            Error::Told { cause, .. } => cause,
            error => Box::new(error),
        };
        Error::Told { report, cause }
    }

    /// The same error, which also tells what mimeo was doing.
    pub fn while_doing(self, doing: &str) -> Error {
        let mut report = self.report();
        report.detail = Some(match report.detail {
            Some(detail) => format!("{detail}\n{doing}"),
            None => doing.to_string(),
        });
        self.told_as(report)
    }

    /// The same error without values of rows: PostgreSQL puts them into CONTEXT, and into DETAIL where a constraint is violated.
    pub fn without_rows(self) -> Error {
        if self.is_cancel() {
            return self;
        }
        let mut report = self.report();
        report.location.context = None;
        if report.sqlstate.is_of_class(PgSqlErrorCode::ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION) {
            report.detail = None;
        }
        self.told_as(report)
    }

    /// An error of PostgreSQL with `change` applied to message, DETAIL, CONTEXT and names, whatever language they are in.
    pub fn reworded(self, change: impl Fn(String) -> String) -> Error {
        if !matches!(self.kind(), Error::Postgres(_)) {
            return self;
        }
        let report = self.report();
        let (message, detail) = (change(report.message), report.detail.map(&change));
        self.told_as(Report {
            message,
            detail,
            location: report.location.map(change),
            sqlstate: report.sqlstate,
            hint: report.hint,
        })
    }

    /// The state that a job keeps although its run failed.
    pub fn state(&self) -> Option<&serde_json::Value> {
        match self.kind() {
            Error::TriggersDisabled { state, .. } | Error::EndlessBatch { state, .. } => Some(state),
            _ => None,
        }
    }

    /// The whole call has to end.
    pub fn is_cancel(&self) -> bool {
        matches!(self.kind(), Error::Cancelled(_))
    }

    /// The recovery of a standby has cancelled the query.
    pub fn is_of_recovery(&self) -> bool {
        matches!(self.kind(), Error::Remote { report, .. } if report.sqlstate == PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE)
    }

    /// A snapshot could not see all that was read in it.
    pub fn is_of_rewrite(&self) -> bool {
        matches!(self.kind(), Error::WrittenAnew(_))
    }

    /// What was looked at before the snapshot was opened has changed.
    pub fn is_of_change(&self) -> bool {
        matches!(self.kind(), Error::ChangedMeanwhile(_))
    }

    /// The source cannot be reached any more.
    pub fn is_of_lost_connection(&self) -> bool {
        matches!(self.kind(), Error::ConnectionLost { .. })
    }

    /// A lock could not be acquired in time, on either side.
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate() == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
    }

    /// Whichever side the error comes from.
    pub fn sqlstate(&self) -> SqlState {
        self.words().sqlstate
    }

    /// What a user sees of it.
    pub fn report(&self) -> Report {
        let Report { sqlstate, message, detail, hint, location } = self.words();
        Report {
            sqlstate,
            message: told(message),
            detail: detail.map(told),
            hint: hint.map(told),
            location: location.map(told),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Internal(error.to_string())
    }
}
