//! Every way in which mimeo refuses or fails: one enum, and its one conversion to a PostgreSQL error.
//!
//! A variant carries what the message needs; its SQLSTATE, DETAIL and HINT stand beside it below. No
//! variant may hold a password or a connection string.

use crate::backend::context::{self, Place};
use crate::backend::grant;
use crate::backend::name::replace_word;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::spi::{SpiError, SpiErrorCodes};
use pgrx::PgSqlErrorCode;
use std::cell::RefCell;

/// What was known about an error that PostgreSQL itself raised, here or on a source.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Five characters.
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// CONTEXT, and the names of what it is about.
    pub place: Place,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Destination table given in argument ({0}) is not managed by mimeo")]
    UnknownJob(String),
    #[error("destination table {destination} is a job of type {found}, not {wanted}")]
    WrongMethod { destination: String, found: &'static str, wanted: &'static str },
    #[error("{method} replication already defined for {destination}")]
    JobExists { method: &'static str, destination: String },
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{name} must not {} NULL", if *element { "hold" } else { "be" })]
    NullArgument {
        name: &'static str,
        /// One of its elements is NULL.
        element: bool,
    },
    #[error("{table} on {source_label} has no key that identifies its rows")]
    NoKey { table: String, source_label: String },
    #[error("the filter of {table} lacks {what}: {}", columns.join(", "))]
    FilterLacks { table: String, what: &'static str, columns: Vec<String> },
    #[error("{table} on {source_label} has no column {}, which the job finds its rows by", columns.join(", "))]
    KeyGone { table: String, source_label: String, columns: Vec<String> },
    #[error("rows of {table} that differ have the same key ({})", key.join(", "))]
    AmbiguousKey { table: String, key: Vec<String> },
    #[error("a row has come whose place is taken in {destination}: {}", report.message)]
    HeldAlready { destination: String, inserter: bool, report: Report },
    #[error("column {column} of {table} cannot be the control column: {reason}")]
    UnsupportedControl { table: String, column: String, reason: String },
    #[error("destination {destination} cannot take the columns of {source_table}: {}", reasons.join("; "))]
    Misfit { destination: String, source_table: String, reasons: Vec<String>, fixes: Vec<String> },
    #[error("destination {destination} cannot be written to by mimeo: {reason}")]
    UnsupportedDestination { destination: String, reason: String },
    #[error("rows of {table} violate foreign key {constraint} with the new rows of {destination}")]
    ForeignKey { table: String, constraint: String, destination: String },
    #[error("must be owner of {0}")]
    NotOwner(String),
    #[error("destination {destination} belongs to {owner}, whose rights {by}, who configured the job, does not have")]
    ConfiguredByOther { destination: String, owner: String, by: String, fix: String },
    #[error("destination {destination} belongs to {owner} now, and did not when its job was configured")]
    OwnerChanged { destination: String, owner: String, fix: String },
    #[error("{what} on {source_label} was not made for destination {destination}")]
    ForeignQueue { what: String, source_label: String, destination: String, fix: String },
    #[error("nobody answers for the job of destination {destination}, which belongs to {owner}")]
    Unconfirmed { destination: String, owner: String, fix: String },
    #[error("{argument} does more than the job of destination {destination} says, and needs the rights of {owner}, its owner")]
    OwnerRights { argument: &'static str, destination: String, owner: String },
    #[error("a definition of the source cannot be used here: {0}")]
    Definition(String),
    #[error("the condition cannot be used: {0}")]
    Condition(String),
    #[error("{what} has other characters than those of ASCII, and this database has the encoding {encoding}")]
    Encoding { what: &'static str, encoding: String },
    #[error("{source_label} is PostgreSQL {version}, and a source must be PostgreSQL {oldest} or later")]
    OldSource { source_label: String, version: String, oldest: String },
    #[error("there is no data source with the id {0}")]
    UnknownSource(i32),
    #[error("{source_label} cannot be used: {reason}")]
    InvalidSource {
        source_label: String,
        reason: String,
        /// It asks for what is a superuser's to give.
        forbidden: bool,
    },
    #[error("could not connect to {source_label}: {reason}")]
    Unreachable {
        source_label: String,
        reason: String,
        /// SQLSTATE, if a server was reached that said no.
        code: Option<String>,
    },
    #[error("{source_label} cannot be used: role {role} lacks USAGE on foreign server {server}")]
    ForeignServer { source_label: String, role: String, server: String },
    #[error("{source_label} cannot be used: role {role} has no user mapping for foreign server {server}")]
    UserMapping { source_label: String, role: String, server: String },
    #[error("{0} must be reached with a password of its own")]
    PasswordRequired(String),
    #[error("the connection to {source_label} was lost: {reason}")]
    ConnectionLost { source_label: String, reason: String },
    #[error("{}", report.message)]
    Remote { source_label: String, doing: String, report: Report },
    #[error("table {table} does not exist on {source_label}")]
    SourceTableMissing {
        table: String,
        source_label: String,
        /// What tells a job of the table's new name; None of a maker.
        fix: Option<String>,
    },
    #[error("role {role} may not read {table} on {source_label}")]
    SourcePrivilege { role: String, table: String, source_label: String, fix: String },
    #[error("role {role} may not {action} on {source_label}")]
    SourceRight { role: String, action: String, source_label: String, fix: String },
    #[error("changes of {table} on {source_label} are missed: its triggers are disabled or gone")]
    Deaf {
        table: String,
        source_label: String,
        /// What the names of the triggers begin with.
        trigger: String,
        /// What the job is to remember all the same.
        state: serde_json::Value,
    },
    #[error("more than {limit} rows of {table} have the same {column}, {value}, so that no batch can end")]
    EndlessBatch { table: String, column: String, value: String, limit: i64, state: serde_json::Value },
    #[error("{source_label} is a standby, where a dml or logdel job can have no queue")]
    SourceStandby { source_label: String },
    #[error("rows of {table} and of the tables that inherit from it have the same key")]
    SharedKey { table: String, report: Report },
    #[error("the queue {queue} does not exist on {source_label}")]
    QueueMissing { queue: String, source_label: String },
    #[error("the queue {queue} on {source_label} was used last by another copy of the job of {destination}")]
    QueueOfAnother { queue: String, source_label: String, destination: String },
    #[error("{table} has {most} destinations already")]
    TooManyDestinations { table: String, most: u32 },
    #[error("columns of the key of {table} may be NULL: {}", columns.join(", "))]
    NullableKey { table: String, columns: Vec<String> },
    // Monitors match this text.
    #[error(
        "Unable to drop the mimeo trigger on source table ({table}). Mimeo role must be the owner of the table to \
             automatically drop it. Manually drop the mimeo trigger first, then run destroyer function again."
    )]
    TriggerOwner { table: String, fix: String },
    #[error("{table} on {source_label} cannot be copied: {reason}")]
    UnsupportedSource { table: String, source_label: String, reason: String },
    #[error("the filter names columns that {table} does not have: {}", columns.join(", "))]
    UnknownFilterColumns { table: String, columns: Vec<String> },
    #[error("{table} uses types that do not exist here: {}", types.join(", "))]
    UnknownTypes { table: String, types: Vec<String> },
    #[error("{table} has columns whose values have no meaning on another server: {}", columns.join(", "))]
    UncopyableTypes {
        table: String,
        /// With their types.
        columns: Vec<String>,
    },
    #[error("{table} uses collations that do not exist here: {}", collations.join(", "))]
    UnknownCollations { table: String, collations: Vec<String> },
    #[error("\"{0}\" is not a table name")]
    InvalidName(String),
    #[error("\"{0}\" may stand for more than one table")]
    AmbiguousName(String),
    #[error("the name {name} is {} bytes long, {limit} are possible", name.len())]
    NameTooLong { name: String, limit: usize },
    #[error("destination {0} exists already")]
    DestinationExists(String),
    // PostgreSQL's own words.
    #[error("permission denied for schema {schema}")]
    DestinationSchema {
        schema: String,
        /// Who can run it: the schema's owner.
        by: String,
        fix: String,
    },
    #[error("rows of {destination} are shown only to a role that may read it")]
    NotReadable { destination: String, fix: String },
    #[error("schema {0} does not exist here")]
    SchemaMissing(String),
    #[error("destination {destination} is not as mimeo left it: {reason}")]
    BrokenDestination { destination: String, reason: String, hint: String },
    #[error("index {index} of {table} cannot be made here: {}", report.message)]
    Index { index: String, table: String, report: Report },
    #[error("{source_label} sent {sent} rows, {loaded} were loaded into {table}")]
    RowCount { source_label: String, sent: u64, loaded: u64, table: String },
    #[error("{relation} was in use for {seconds} s, and was not {intent}")]
    InUse { relation: String, seconds: u64, intent: &'static str },
    #[error("{0} is being read by a cursor or a query of this session")]
    InUseHere(String),
    #[error("{object} belongs to {owner}, and {} with the rights of {role}", stranger_does(object))]
    Stranger { object: String, owner: String, role: String },
    #[error("{object} depends on view {view}, and cannot be kept while its columns change{reason}")]
    Dependent { object: String, view: String, reason: String },
    #[error("{0} cannot run in a read-only transaction")]
    ReadOnly(&'static str),
    #[error("{0} cannot run on a standby")]
    Standby(&'static str),
    #[error("too many files are open in this backend")]
    NoDescriptor,
    #[error("the source's COPY data cannot be read")]
    MalformedStream,
    #[error("unexpected answer: {0}")]
    Internal(String),
    #[error("{}", .0.message)]
    Postgres(Report),
    /// The user, or a time limit here, has ended the call.
    #[error("{}", .0.message)]
    Cancelled(Report),
    #[error("pg_jobmon is not installed here")]
    JobmonMissing,
    #[error("a refresh of {0} is running")]
    Busy(String),
    #[error("could not serialize access: {0} was altered after this transaction began")]
    Altered(String),
    #[error("there is no earlier data of {destination} to go back to")]
    NothingKept { destination: String, kept: bool },
    #[error("the new data of {destination} is refused: {reason}")]
    Refused { destination: String, reason: String },
    #[error("{0} cannot run inside a transaction block")]
    InTransaction(&'static str),
    #[error("{} of {begun} jobs failed: {}", failed.len(), names(failed))]
    JobsFailed { failed: Vec<(String, String)>, begun: usize },
}

/// Whether a name was not found in somebody's function: below our own statement, which is the last line, there is another.
fn is_lost_on_the_way(report: &Report) -> bool {
    const UNDEFINED: [&str; 4] = ["42P01", "42883", "42704", "3F000"];
    UNDEFINED.contains(&report.sqlstate.as_str())
        && report.place.context.as_ref().is_some_and(|context| context.lines().count() > 1)
}

/// A function runs; the owner of anything else can give it code that runs.
fn stranger_does(object: &str) -> &'static str {
    if object.starts_with("function ") {
        "would run"
    } else {
        "could run code"
    }
}

/// The first of each pair.
fn names(failed: &[(String, String)]) -> String {
    failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode as E;
        match self {
            Error::UnknownJob(_) | Error::UnknownSource(_) => E::ERRCODE_UNDEFINED_OBJECT,
            Error::UncopyableTypes { .. } => E::ERRCODE_FEATURE_NOT_SUPPORTED,
            Error::UnknownTypes { .. } | Error::UnknownCollations { .. } => E::ERRCODE_UNDEFINED_OBJECT,
            Error::WrongMethod { .. } => E::ERRCODE_WRONG_OBJECT_TYPE,
            Error::UnsupportedSource { .. } => E::ERRCODE_WRONG_OBJECT_TYPE,
            Error::UnsupportedControl { .. } | Error::UnsupportedDestination { .. } => E::ERRCODE_WRONG_OBJECT_TYPE,
            Error::JobExists { .. } => E::ERRCODE_DUPLICATE_OBJECT,
            Error::InvalidSource { forbidden: false, .. } | Error::InvalidArgument(_) => {
                E::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Error::UserMapping { .. } => E::ERRCODE_UNDEFINED_OBJECT,
            Error::QueueOfAnother { .. } => E::ERRCODE_OBJECT_IN_USE,
            Error::Deaf { .. } => E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::EndlessBatch { .. } => E::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Error::SourceStandby { .. } => E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::SharedKey { .. } | Error::AmbiguousKey { .. } | Error::HeldAlready { .. } => {
                E::ERRCODE_UNIQUE_VIOLATION
            }
            Error::NullArgument { .. } => E::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Error::NoKey { .. } => E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::FilterLacks { .. } | Error::KeyGone { .. } => E::ERRCODE_INVALID_COLUMN_REFERENCE,
            Error::Misfit { .. } => E::ERRCODE_DATATYPE_MISMATCH,
            Error::ForeignKey { .. } => E::ERRCODE_FOREIGN_KEY_VIOLATION,
            Error::NotOwner(_)
            | Error::ConfiguredByOther { .. }
            | Error::Unconfirmed { .. }
            | Error::OwnerChanged { .. }
            | Error::ForeignQueue { .. }
            | Error::OwnerRights { .. }
            | Error::NotReadable { .. }
            | Error::Stranger { .. }
            | Error::DestinationSchema { .. }
            | Error::InvalidSource { forbidden: true, .. }
            | Error::ForeignServer { .. } => E::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Error::OldSource { .. } => E::ERRCODE_FEATURE_NOT_SUPPORTED,
            Error::Unreachable { .. } => E::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
            Error::PasswordRequired(_) => E::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED,
            Error::ConnectionLost { .. } => E::ERRCODE_CONNECTION_FAILURE,
            Error::Remote { report, .. }
            | Error::Postgres(report)
            | Error::Cancelled(report)
            | Error::Index { report, .. } => decode_sqlstate(&report.sqlstate),
            Error::Busy(_) => E::ERRCODE_OBJECT_IN_USE,
            Error::Altered(_) => E::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Error::NothingKept { .. } => E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::Refused { .. } => E::ERRCODE_CHECK_VIOLATION,
            Error::JobmonMissing => E::ERRCODE_UNDEFINED_OBJECT,
            Error::InTransaction(_) => E::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Error::JobsFailed { .. } => E::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
            Error::SourceTableMissing { .. } => E::ERRCODE_UNDEFINED_TABLE,
            Error::SourcePrivilege { .. } | Error::SourceRight { .. } | Error::TriggerOwner { .. } => {
                E::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Error::QueueMissing { .. } => E::ERRCODE_UNDEFINED_TABLE,
            Error::TooManyDestinations { .. } => E::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            Error::NullableKey { .. } => E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::UnknownFilterColumns { .. } => E::ERRCODE_UNDEFINED_COLUMN,
            Error::InvalidName(_) | Error::AmbiguousName(_) => E::ERRCODE_INVALID_NAME,
            Error::Definition(_) => E::ERRCODE_INVALID_OBJECT_DEFINITION,
            Error::Condition(_) => E::ERRCODE_SYNTAX_ERROR,
            Error::Encoding { .. } => E::ERRCODE_UNTRANSLATABLE_CHARACTER,
            Error::NameTooLong { .. } => E::ERRCODE_NAME_TOO_LONG,
            Error::DestinationExists(_) => E::ERRCODE_DUPLICATE_TABLE,
            Error::SchemaMissing(_) => E::ERRCODE_INVALID_SCHEMA_NAME,
            Error::BrokenDestination { .. } => E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::RowCount { .. } => E::ERRCODE_DATA_EXCEPTION,
            Error::InUseHere(_) => E::ERRCODE_OBJECT_IN_USE,
            Error::InUse { .. } => E::ERRCODE_LOCK_NOT_AVAILABLE,
            Error::Dependent { .. } => E::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            Error::ReadOnly(_) | Error::Standby(_) => E::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            Error::MalformedStream => E::ERRCODE_BAD_COPY_FILE_FORMAT,
            Error::NoDescriptor => E::ERRCODE_INSUFFICIENT_RESOURCES,
            Error::Internal(_) => E::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Error::Postgres(report)
            | Error::Cancelled(report)
            | Error::Index { report, .. }
            | Error::SharedKey { report, .. }
            | Error::HeldAlready { report, .. } => report.detail.clone(),
            Error::JobsFailed { failed, .. } => {
                Some(failed.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("\n"))
            }
            Error::Remote { source_label, doing, report } => {
                let mut detail = format!("Reported by {source_label} (SQLSTATE {}) while {doing}.", report.sqlstate);
                if let Some(more) = &report.detail {
                    detail = format!("{more}\n{detail}");
                }
                Some(detail)
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Postgres(report) if is_lost_on_the_way(report) => {
                let before = report.hint.as_ref().map(|hint| format!("{hint}\n")).unwrap_or_default();
                format!(
                    "{before}A refresh runs with search_path = pg_catalog, pg_temp: in functions of triggers, constraints and event triggers \
                     name everything with its schema, or give them a search_path (ALTER FUNCTION … SET search_path = …)."
                )
            }
            Error::Remote { report, .. } if self.is_of_recovery() && report.hint.is_none() => {
                "The source is a standby, whose recovery goes before its queries. Let it wait there (max_standby_streaming_delay, \
                 max_standby_archive_delay), set hot_standby_feedback, or copy from the primary."
                    .into()
            }
            Error::Postgres(report) | Error::Cancelled(report) | Error::Remote { report, .. } => {
                return report.hint.clone()
            }
            Error::QueueOfAnother { .. } => "A database that is a copy of this one, or that this one is a copy of, has used it last. With \
                 p_keep_source := true the destroyer ends the job here, and leaves the source alone. If there is no other one any more, refresh the \
                 job here once, and call the destroyer again."
                .into(),
            Error::Deaf { trigger, .. } => format!(
                "The triggers are called {trigger}_…. If they are disabled, ALTER TABLE … ENABLE TRIGGER … on the source, and refresh: all \
                 rows are copied then. If they are gone, call the destroyer and the maker of its method again."
            ),
            Error::EndlessBatch { .. } => "Call the refresher with a greater p_limit, or raise batch_limit.".into(),
            Error::SourceStandby { .. } => {
                "Let the data source lead to the primary, or choose a method that only reads: snapshot, table, inserter, updater.".into()
            }
            Error::SharedKey { table, .. } => format!(
                "A key is unique within one table only. Copy that one alone with p_condition := $$WHERE tableoid = '{table}'::regclass$$, and \
                 its children by jobs of their own; or name a key that is unique over all of them (p_pk_name, p_pk_type), or leave indexes \
                 away (p_index := false)."
            ),
            Error::JobmonMissing => {
                "CREATE EXTENSION pg_jobmon, or let p_jobmon and refresh_config.jobmon be false.".into()
            }
            Error::Busy(_) => "Wait for it, or cancel it: pg_stat_activity shows it.".into(),
            Error::Altered(_) => "Try again in a new transaction.".into(),
            Error::NothingKept { kept: true, .. } => {
                "A refresh keeps the data that it replaces from now on. One step back is possible.".into()
            }
            Error::NothingKept { kept: false, .. } => {
                "With refresh_config.keep_previous, a refresh keeps the data that it replaces.".into()
            }
            Error::Refused { .. } => {
                "The old data stays. If the new data is right, change max_shrink_percent or guard of \
                 this job in refresh_config, and refresh again."
                    .into()
            }
            Error::ConfiguredByOther { owner, fix, .. }
            | Error::Unconfirmed { owner, fix, .. }
            | Error::OwnerChanged { owner, fix, .. } => {
                format!("If the job is right, {owner} can confirm it: {fix}")
            }
            Error::ForeignQueue { fix, .. } => format!("If it is this job's all the same, run on the source: {fix}"),
            Error::OwnerRights { owner, .. } => format!("Call it as {owner}, or as a role that has its rights."),
            Error::Definition(_) => "Leave the column out with p_filter, or the indexes with p_index := false.".into(),
            Error::Condition(_) => {
                "It is what follows FROM and the table in one query: WHERE …, or a comma and further tables first.".into()
            }
            Error::Encoding { .. } => {
                "Rows may hold any characters; names, conditions and definitions only those of ASCII, unless the database is in UTF8."
                    .into()
            }
            Error::InTransaction(_) => "It commits after each job. CALL it by itself, with autocommit on.".into(),
            Error::JobsFailed { .. } => "The view job_status and the table run_history tell more.".into(),
            Error::UnknownJob(_) => "The view job_status and the table refresh_config list what is managed.".into(),
            Error::JobExists { .. } => "Call the destroyer of its method first, or choose another p_dest_table.".into(),
            Error::NoKey { .. } => "Give it a primary key or a unique index on NOT NULL columns, or name its key with \
                 p_pk_name and p_pk_type."
                .into(),
            Error::FilterLacks { .. } => "Add them to p_filter.".into(),
            Error::AmbiguousKey { .. } => {
                "The job finds its rows by this key: name one whose values no two rows share, in p_pk_name of its maker.".into()
            }
            Error::HeldAlready { inserter, .. } => {
                let again = if *inserter {
                    "If the row was there before and has another control value now, take an updater: an inserter takes each row once. "
                } else {
                    ""
                };
                format!(
                    "{again}Rows that are gone on the source stay here, so a value that is used again there is here twice: \
                     only the key can be unique here. Make other unique indexes of this table plain ones (DROP INDEX, CREATE INDEX)."
                )
            }
            Error::KeyGone { .. } => "If it was renamed, rename it here, too (ALTER TABLE … RENAME COLUMN), and in \
                 refresh_config.pk_name. Changes are queued meanwhile."
                .into(),
            Error::Misfit { fixes, .. } => format!("Run here: {}", fixes.join(" ")),
            Error::ForeignKey { .. } => {
                "The old data stays. Set truncate_cascade to empty the referencing tables too, \
                 or remove the rows that point nowhere."
                    .into()
            }
            Error::UnknownSource(_) => "Add it to dblink_mapping_mimeo: data_source is a libpq connection string or \
                 the name of a foreign server."
                .into(),
            Error::PasswordRequired(_) => "A job of a role that is not a superuser connects with the password that \
                 dblink_mapping_mimeo or the user mapping gives, and the source must ask for it. A superuser may set \
                 dblink_mapping_mimeo.password_required to false."
                .into(),
            Error::InvalidSource { forbidden: true, .. } => "It may use files or the identity of this server. Leave it \
                 out; or a superuser owns the foreign server, or sets password_required to false in dblink_mapping_mimeo \
                 (for an option of a user mapping: there)."
                .into(),
            Error::SourceTableMissing { fix: Some(fix), .. } => format!(
                "If it was renamed there, or moved to another schema: {fix} The source role must also have USAGE on its schema, if the name is \
                 bare."
            ),
            Error::SourceTableMissing { .. } => "Give it as schema.table, exactly as it is spelled there.".into(),
            Error::SourcePrivilege { fix, .. } | Error::SourceRight { fix, .. } | Error::TriggerOwner { fix, .. } => {
                format!("Run on the source: {fix}")
            }
            Error::QueueMissing { .. } => {
                "Changes may have been missed. Call the destroyer and the maker of its method again.".into()
            }
            Error::NullableKey { columns, .. } => format!(
                "On the source: {}",
                columns
                    .iter()
                    .map(|column| format!(
                        "ALTER TABLE … ALTER COLUMN {} SET NOT NULL;",
                        crate::backend::name::quote(column)
                    ))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
            Error::UnknownTypes { .. } => "Create the types or their extension here, or leave the columns out with \
                 p_filter."
                .into(),
            Error::UncopyableTypes { .. } => "Leave them out: name the other columns in p_filter.".into(),
            Error::UnknownCollations { .. } => "Create them here with CREATE COLLATION, or leave the columns out with \
                 p_filter."
                .into(),
            Error::DestinationExists(_) => "Drop or rename it, or choose another p_dest_table.".into(),
            Error::DestinationSchema { by, fix, .. } => format!("{by}, who owns it, or a superuser can run: {fix}"),
            Error::NotReadable { fix, .. } => fix.clone(),
            Error::ForeignServer { role, server, .. } => grant::on_foreign_server(server, role),
            Error::SchemaMissing(schema) => format!(
                "Run here: CREATE SCHEMA {}; (which takes CREATE on the database), or choose another p_dest_table.",
                crate::backend::name::quote(schema)
            ),
            Error::AmbiguousName(_) => "Write it as \"schema\".\"table\", each part in double quotes.".into(),
            Error::BrokenDestination { hint, .. } => hint.clone(),
            Error::Index { report, .. } => {
                report.hint.clone().unwrap_or_else(|| "Make what it needs here, or call with p_index := false.".into())
            }
            Error::InUseHere(_) => "Close it first, or refresh in another session.".into(),
            Error::InUse { .. } => "The old data stays. pg_locks shows who holds it; mimeo.swap_max_wait says how \
                 long to wait."
                .into(),
            Error::Stranger { role, .. } => format!(
                "What runs while a destination is made or refreshed must belong to a superuser, to {role}, or to a role that has \
                 the rights of {role}."
            ),
            Error::Dependent { .. } => "Drop it, refresh, and create it again.".into(),
            Error::Standby(_) => "Call it on the primary.".into(),
            Error::Unreachable { .. } => {
                "Check that the source is up, that its pg_hba.conf lets this host in, and the \
                 row of this data source in dblink_mapping_mimeo. check_permissions says what to do, statement by statement."
                    .into()
            }
            Error::WrongMethod { found, .. } => format!("Call refresh_{found}, or {found}_destroyer."),
            Error::UnsupportedControl { .. } => "A control column grows with each row that is added (inserter) or changed (updater): a serial or \
                 identity column, or the time of the insert or of the last change."
                .into(),
            Error::NotOwner(_) => "Its owner can call this, a role that has the owner's rights, or a superuser.".into(),
            Error::ConnectionLost { .. } => {
                "Nothing has changed here. Refresh again; if it comes back, the log of the source tells more.".into()
            }
            Error::UserMapping { role, server, .. } => {
                format!(
                    "CREATE USER MAPPING FOR {} SERVER {} OPTIONS (user '…', password '…');",
                    crate::backend::name::quote(role),
                    crate::backend::name::quote(server)
                )
            }
            Error::OldSource { .. } => "Upgrade it, or restore a dump of it into a newer server.".into(),
            Error::TooManyDestinations { .. } => {
                "Call the destroyer of one of them first: refresh_config lists them by source_table.".into()
            }
            Error::UnknownFilterColumns { .. } => "Give them exactly as they are spelled on the source. If they were renamed or dropped there, \
                 change refresh_config.filter of the job."
                .into(),
            Error::InvalidName(_) => "Give it as schema.table, or \"schema\".\"table\" with each part in double quotes.".into(),
            Error::NameTooLong { .. } => "Choose another p_dest_table. A snapshot needs six bytes more for its twins.".into(),
            Error::ReadOnly(_) => "Call it in a transaction that may write: SET TRANSACTION READ WRITE, or default_transaction_read_only = off.".into(),
            Error::NoDescriptor => "Raise max_files_per_process, or run fewer jobs at once.".into(),
            Error::RowCount { .. } | Error::MalformedStream => {
                "The old data stays. Refresh again; if it comes back, look at what stands between here and the source.".into()
            }
            Error::NullArgument { .. } => return None,
            Error::Internal(_) => "If it comes back, it is a fault of mimeo's, or the state of the job was changed by hand: then call its destroyer and its \
                 maker again."
                .into(),
            Error::UnsupportedSource { .. } => "docs/choose.md tells which method takes which table; p_filter leaves columns out.".into(),
            Error::UnsupportedDestination { .. }
            | Error::InvalidArgument(_)
            | Error::InvalidSource { forbidden: false, .. } => return None,
        };
        Some(hint)
    }

    /// The same error, which also tells what mimeo was doing.
    pub fn while_doing(self, doing: &str) -> Error {
        let mut report = self.report();
        report.detail = Some(match report.detail {
            Some(detail) => format!("{detail}\n{doing}"),
            None => doing.to_string(),
        });
        if matches!(self, Error::Cancelled(_)) {
            Error::Cancelled(report)
        } else {
            Error::Postgres(report)
        }
    }

    /// The same error without the values of rows that PostgreSQL tells: where a constraint is violated, and in what was being done.
    pub fn without_rows(self) -> Error {
        let Error::Postgres(mut report) = self else { return self };
        report.place.context = None;
        if report.sqlstate.starts_with("23") {
            report.detail = None;
        }
        Error::Postgres(report)
    }

    /// Tells the name that users know, the second, wherever an error of PostgreSQL tells the first, in any language.
    pub fn renamed(self, names: &[(String, String)]) -> Error {
        let Error::Postgres(report) = self else { return self };
        let rename = |text: String| names.iter().fold(text, |text, (old, new)| replace_word(&text, old, new));
        let (message, detail) = (rename(report.message), report.detail.map(rename));
        Error::Postgres(Report { message, detail, place: report.place.map(rename), ..report })
    }

    /// What a job is to remember although its run came to nothing.
    pub fn state(&self) -> Option<&serde_json::Value> {
        match self {
            Error::Deaf { state, .. } | Error::EndlessBatch { state, .. } => Some(state),
            _ => None,
        }
    }

    /// A standby's recovery has cancelled what it was asked.
    pub fn is_of_recovery(&self) -> bool {
        matches!(self, Error::Remote { report, .. } if report.sqlstate == "40001")
    }

    /// What a user sees of it.
    pub fn report(&self) -> Report {
        Report {
            sqlstate: self.sqlstate_text(),
            message: told(self.to_string()),
            detail: self.detail().map(told),
            hint: self.hint().map(told),
            place: self.place().map(told),
        }
    }

    fn place(&self) -> Place {
        match self {
            Error::Postgres(report)
            | Error::Cancelled(report)
            | Error::Index { report, .. }
            | Error::SharedKey { report, .. }
            | Error::HeldAlready { report, .. }
            | Error::Remote { report, .. } => report.place.clone(),
            _ => Place::default(),
        }
    }

    /// Five characters, whichever side the error comes from.
    pub fn sqlstate_text(&self) -> String {
        match self {
            Error::Remote { report, .. }
            | Error::Postgres(report)
            | Error::Cancelled(report)
            | Error::Index { report, .. } => report.sqlstate.clone(),
            other => encode_sqlstate(other.sqlstate()),
        }
    }
}

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> ErrorReport {
        let message = told(error.to_string());
        context::add(&message, pack_sqlstate(&error.sqlstate_text()), error.place().map(told));
        let mut report = ErrorReport::new(error.sqlstate(), message, "mimeo");
        if let Some(detail) = error.detail() {
            report = report.set_detail(told(detail));
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(told(hint));
        }
        report
    }
}

impl From<SpiError> for Error {
    fn from(error: SpiError) -> Error {
        // What only a statement that a user wrote can be.
        let (sqlstate, message) = match error {
            SpiError::SpiError(SpiErrorCodes::Transaction) => ("2D000", "a transaction cannot be begun or ended here"),
            SpiError::SpiError(SpiErrorCodes::Copy) => ("0A000", "COPY to or from the client is not possible here"),
            other => return Error::Internal(other.to_string()),
        };
        Error::Postgres(Report { sqlstate: sqlstate.into(), message: message.into(), ..Report::default() })
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Internal(error.to_string())
    }
}

impl From<CaughtError> for Error {
    fn from(caught: CaughtError) -> Error {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = &caught;
        let cancelled = report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED;
        let (code, place) =
            context::take(report.message()).unwrap_or_else(|| (report.sql_error_code() as i32, Place::default()));
        let report = Report {
            sqlstate: unpack_sqlstate(code),
            message: report.message().to_string(),
            detail: report.detail().map(str::to_string),
            hint: report.hint().map(str::to_string),
            place,
        };
        if cancelled {
            Error::Cancelled(report)
        } else {
            Error::Postgres(report)
        }
    }
}

thread_local! {
    /// Passwords of sources that this backend has connected to.
    static SECRETS: RefCell<Vec<Secret>> = const { RefCell::new(Vec::new()) };
}

struct Secret {
    password: String,
    /// A source, or libpq, has said it although nobody had told it with a statement. Only then it is taken out of what is told:
    /// else a caller could read from his own words, put into an error, which of them is a password.
    said: bool,
}

/// No error tells what a source says of this from here on. A shorter one could be told from what is missing.
pub fn keep_secret(password: &str) {
    SECRETS.with_borrow_mut(|secrets| {
        if password.len() <= 3 {
            return;
        }
        match secrets.iter_mut().find(|secret| secret.password == password) {
            Some(secret) => secret.said = false,
            None => secrets.push(Secret { password: password.to_string(), said: false }),
        }
    });
}

/// A source, or libpq, has said this text. `asked` is what it was sent before: words that stand there too are not its own.
pub fn heard(text: &str, asked: impl Fn(&str) -> bool) {
    SECRETS.with_borrow_mut(|secrets| {
        for secret in secrets.iter_mut().filter(|secret| !secret.said) {
            secret.said = text.contains(&secret.password) && !asked(&secret.password);
        }
    });
}

/// A source can say as much as it likes; the log and run_history take so many bytes of it.
const LONGEST: usize = 32 * 1024;

/// A text as it can be told: no password that a source has said, and not too long.
pub fn told(text: String) -> String {
    let hide = |text: String, secret: &Secret| text.replace(secret.password.as_str(), "********");
    let mut text = SECRETS.with_borrow(|secrets| secrets.iter().filter(|secret| secret.said).fold(text, hide));
    if text.len() > LONGEST {
        text.truncate((0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default());
        text.push('…');
    }
    text
}

/// PostgreSQL packs five characters into six bits each (MAKE_SQLSTATE in elog.h).
fn pack_sqlstate(text: &str) -> i32 {
    text.bytes()
        .take(5)
        .enumerate()
        .fold(0i32, |packed, (i, byte)| packed | ((i32::from(byte) - i32::from(b'0')) & 0x3f) << (6 * i))
}

/// As pgrx knows it; one that is none of PostgreSQL's own is XX000 there.
fn decode_sqlstate(text: &str) -> PgSqlErrorCode {
    PgSqlErrorCode::from(pack_sqlstate(text) as isize)
}

fn encode_sqlstate(code: PgSqlErrorCode) -> String {
    unpack_sqlstate(code as i32)
}

fn unpack_sqlstate(packed: i32) -> String {
    (0..5).map(|i| char::from((((packed >> (6 * i)) & 0x3f) as u8) + b'0')).collect()
}
