//! The text of each error: SQLSTATE, message, DETAIL and HINT in one place. A variant that has no text does not compile.

use super::report::{ErrorLocation, Report};
use super::sqlstate::SqlState;
use super::{quoted, quoted_list, Error};
use pgrx::PgSqlErrorCode as E;

fn words(sqlstate: impl Into<SqlState>, message: impl Into<String>) -> Report {
    Report { sqlstate: sqlstate.into(), message: message.into(), ..Report::default() }
}

impl Report {
    fn detail(self, detail: impl Into<String>) -> Report {
        Report { detail: Some(detail.into()), ..self }
    }

    fn hint(self, hint: impl Into<String>) -> Report {
        Report { hint: Some(hint.into()), ..self }
    }

    /// DETAIL, CONTEXT and names as PostgreSQL reported them for the same error.
    fn with_details_of(self, report: &Report) -> Report {
        Report { detail: report.detail.clone(), location: report.location.clone(), ..self }
    }
}

impl Error {
    /// The full text, passwords included. What users see comes from `Error::report`.
    pub(super) fn words(&self) -> Report {
        match self {
            // Errors that PostgreSQL itself has raised, on this server or on a source.
            Error::Postgres(report) if is_lost_on_the_way(report) => {
                let before = report.hint.as_ref().map(|hint| format!("{hint}\n")).unwrap_or_default();
                report.clone().hint(format!(
                    "{before}A refresh runs with search_path = pg_catalog, pg_temp. In functions of triggers, constraints and event triggers, \
                     qualify every name with its schema, or set a search_path for them (ALTER FUNCTION … SET search_path = …)."
                ))
            }
            Error::Postgres(report) | Error::Cancelled(report) | Error::Told { report, .. } => report.clone(),
            Error::Remote { source_label, doing, report } => {
                let mut detail = format!("Reported by {source_label} (SQLSTATE {}) while {doing}.", report.sqlstate);
                if let Some(more) = &report.detail {
                    detail = format!("{more}\n{detail}");
                }
                let told = report.clone().detail(detail);
                if !self.is_of_recovery() || report.hint.is_some() {
                    return told;
                }
                told.hint(
                    "The source is a standby, and its recovery cancels queries that are in its way. Let recovery wait longer on the standby \
                     (max_standby_streaming_delay, max_standby_archive_delay), set hot_standby_feedback, or copy from the primary.",
                )
            }
            Error::Index { index, table, report } => words(
                report.sqlstate,
                format!("could not create index \"{index}\" of \"{table}\" on the destination: {}", report.message),
            )
            .with_details_of(report)
            .hint(report.hint.clone().unwrap_or_else(|| "Create what it needs on the destination, or call with p_index := false.".into())),
            Error::SharedKey { table, report } => words(
                E::ERRCODE_UNIQUE_VIOLATION,
                format!("rows of \"{table}\" and of the tables that inherit from it have the same key"),
            )
            .with_details_of(report)
            .hint(format!(
                "A key is unique within one table only. Copy the parent alone with p_condition := $$WHERE tableoid = '{table}'::regclass$$, and \
                 its children with jobs of their own; or name a key that is unique across all of them (p_pk_name, p_pk_type); or copy \
                 no indexes (p_index := false)."
            )),
            Error::HeldAlready { destination, inserter, report } => {
                let again = if *inserter {
                    "If the row was copied before and has another control value now, use an updater: an inserter copies each row once. "
                } else {
                    ""
                };
                words(
                    E::ERRCODE_UNIQUE_VIOLATION,
                    format!("could not store a row in destination \"{destination}\": {}", report.message),
                )
                .with_details_of(report)
                .hint(format!(
                    "{again}Rows that were deleted on the source stay in the destination. So a value that is used again on the source occurs \
                     twice in the destination, where only the key can be unique. Replace the other unique indexes of the destination by \
                     indexes that are not unique (DROP INDEX, CREATE INDEX)."
                ))
            }

            // Jobs, and the arguments of calls.
            Error::UnknownJob(name) => words(
                E::ERRCODE_UNDEFINED_OBJECT,
                format!("Destination table given in argument ({name}) is not managed by mimeo"),
            )
            .hint("The view job_status and the table refresh_config list what is managed."),
            Error::WrongMethod { destination, found, wanted } => words(
                E::ERRCODE_WRONG_OBJECT_TYPE,
                format!("destination table \"{destination}\" is a job of type {found}, not {wanted}"),
            )
            .hint(format!("Call refresh_{found}, or {found}_destroyer.")),
            Error::JobExists { method, destination } => words(
                E::ERRCODE_DUPLICATE_OBJECT,
                format!("{method} replication already defined for {destination}"),
            )
            .hint("Call the destroyer of its method first, or choose another p_dest_table."),
            Error::InvalidArgument(what) => words(E::ERRCODE_INVALID_PARAMETER_VALUE, what),
            Error::NullArgument { name, element } => words(
                E::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                format!("{name} must not {} NULL", if *element { "hold" } else { "be" }),
            ),
            Error::ReadOnly(function) => words(
                E::ERRCODE_READ_ONLY_SQL_TRANSACTION,
                format!("{function} cannot run in a read-only transaction"),
            )
            .hint("Call it in a transaction that may write: SET TRANSACTION READ WRITE, or default_transaction_read_only = off."),
            Error::Standby(function) => {
                words(E::ERRCODE_READ_ONLY_SQL_TRANSACTION, format!("{function} cannot run on a standby"))
                    .hint("Call it on the primary.")
            }
            Error::InTransaction(function) => words(
                E::ERRCODE_ACTIVE_SQL_TRANSACTION,
                format!("{function} cannot run inside a transaction block"),
            )
            .hint("It commits after each job. CALL it by itself, with autocommit on."),
            Error::Busy(table) => words(E::ERRCODE_OBJECT_IN_USE, format!("a refresh of \"{table}\" is running"))
                .hint("Wait for it, or cancel it: pg_stat_activity shows it."),
            Error::JobsFailed { failed, begun } => {
                let names: Vec<_> = failed.iter().map(|(name, _)| name.clone()).collect();
                let reasons: Vec<_> = failed.iter().map(|(name, why)| format!("\"{name}\": {why}")).collect();
                words(
                    E::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                    format!("{} of {begun} jobs failed: {}", failed.len(), quoted_list(&names)),
                )
                .detail(reasons.join("\n"))
                .hint("See the view job_status and the table run_history.")
            }
            Error::JobmonMissing => words(E::ERRCODE_UNDEFINED_OBJECT, "extension \"pg_jobmon\" is not installed in this database")
                .hint("Run CREATE EXTENSION pg_jobmon, or set p_jobmon and refresh_config.jobmon to false."),
            Error::NothingKept { destination, kept } => words(
                E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("there is no earlier data of \"{destination}\" to go back to"),
            )
            .hint(if *kept {
                "From the next refresh on, the data that a refresh replaces is kept. One step back is possible."
            } else {
                "Set refresh_config.keep_previous, and a refresh keeps the data that it replaces."
            }),
            Error::Refused { destination, reason } => words(
                E::ERRCODE_CHECK_VIOLATION,
                format!("the new data of \"{destination}\" is refused: {reason}"),
            )
            .hint(
                "The old data stays. If the new data is right, change max_shrink_percent or guard of \
                 this job in refresh_config, and refresh again.",
            ),

            // Names.
            Error::InvalidName(text) => words(E::ERRCODE_INVALID_NAME, format!("\"{text}\" is not a table name"))
                .hint("Give it as schema.table, or \"schema\".\"table\" with each part in double quotes."),
            Error::AmbiguousName(text) => {
                words(E::ERRCODE_INVALID_NAME, format!("\"{text}\" may stand for more than one table"))
                    .hint("Write it as \"schema\".\"table\", each part in double quotes.")
            }
            Error::NameTooLong { name, limit } => words(
                E::ERRCODE_NAME_TOO_LONG,
                format!("name \"{name}\" is {} bytes long, but {limit} bytes are the limit", name.len()),
            )
            .hint("Choose another p_dest_table. A snapshot needs six bytes more for its twins."),
            Error::Encoding { what, encoding } => words(
                E::ERRCODE_UNTRANSLATABLE_CHARACTER,
                format!("{what} contains characters that are not ASCII, and the encoding of this database is \"{encoding}\""),
            )
            .hint("Unless the encoding of the database is UTF8, names, conditions and definitions may contain only ASCII characters. Rows may contain any."),

            // Privileges and ownership.
            Error::NotOwner(name) => words(E::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of {name}"))
                .hint("Only its owner, a role that has the rights of its owner, or a superuser can call this."),
            Error::ConfiguredByOther { destination, owner, by, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("destination \"{destination}\" belongs to role \"{owner}\", but role \"{by}\", which configured the job, does not have its rights"),
            )
            .hint(format!("If the job is as it should be, role \"{owner}\" can confirm it: {fix}")),
            Error::OwnerChanged { destination, owner, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("destination \"{destination}\" belongs to role \"{owner}\" now, but belonged to another role when its job was configured"),
            )
            .hint(format!("If the job is as it should be, role \"{owner}\" can confirm it: {fix}")),
            Error::Unconfirmed { destination, owner, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("no role answers for the job of destination \"{destination}\", which belongs to role \"{owner}\""),
            )
            .hint(format!("If the job is as it should be, role \"{owner}\" can confirm it: {fix}")),
            Error::OwnerRights { argument, destination, owner } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("{argument} does more than the job of destination \"{destination}\" says, and needs the rights of its owner, role \"{owner}\""),
            )
            .hint(format!("Call it as role \"{owner}\", or as a role that has its rights.")),
            Error::NotReadable { destination, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("rows of \"{destination}\" are shown only to a role that may read it"),
            )
            .hint(fix),
            // As PostgreSQL itself words it.
            Error::DestinationSchema { schema, by, fix } => {
                words(E::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("permission denied for schema {schema}"))
                    .hint(format!("Its owner, role \"{by}\", or a superuser can run: {fix}"))
            }
            Error::UntrustedOwner { object, owner, role } => {
                // A function is run itself; the owner of any other object can attach code to it that is run.
                let does = if object.starts_with("function ") { "would run" } else { "could run code" };
                words(
                    E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                    format!("{object} belongs to role \"{owner}\", and {does} with the rights of role \"{role}\""),
                )
                .hint(format!(
                    "Code that runs while a destination is made or refreshed must belong to a superuser, to role \"{role}\", or to a role that \
                     has its rights."
                ))
            }

            // Data sources.
            Error::UnknownSource(id) => {
                words(E::ERRCODE_UNDEFINED_OBJECT, format!("there is no data source with the id {id}")).hint(
                    "Add it to dblink_mapping_mimeo: data_source is a libpq connection string or \
                     the name of a foreign server.",
                )
            }
            Error::InvalidSource { source_label, reason, forbidden } => {
                let message = format!("{source_label} cannot be used: {reason}");
                if !forbidden {
                    return words(E::ERRCODE_INVALID_PARAMETER_VALUE, message);
                }
                words(E::ERRCODE_INSUFFICIENT_PRIVILEGE, message).hint(
                    "The parameter can use files or the identity of this server. Leave it out, or let a superuser own the foreign server, or \
                     let a superuser set password_required to false: in dblink_mapping_mimeo, or in the user mapping if that has the \
                     parameter.",
                )
            }
            Error::Unreachable { source_label, reason, code: _ } => words(
                E::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
                format!("could not connect to {source_label}: {reason}"),
            )
            .hint(
                "Check that the source is up, that its pg_hba.conf lets this host in, and the \
                 row of this data source in dblink_mapping_mimeo. check_permissions says what to do, statement by statement.",
            ),
            Error::ForeignServer { source_label, role, server, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("{source_label} cannot be used: role \"{role}\" lacks USAGE on foreign server \"{server}\""),
            )
            .hint(fix),
            Error::UserMapping { source_label, role, server, fix } => words(
                E::ERRCODE_UNDEFINED_OBJECT,
                format!("{source_label} cannot be used: role \"{role}\" has no user mapping for foreign server \"{server}\""),
            )
            .hint(fix),
            Error::PasswordRequired(source_label) => words(
                E::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED,
                format!("{source_label} must be reached with a password of its own"),
            )
            .hint(
                "A job of a role that is not a superuser connects with the password that \
                 dblink_mapping_mimeo or the user mapping gives, and the source must ask for it. A superuser may set \
                 dblink_mapping_mimeo.password_required to false.",
            ),
            Error::ConnectionLost { source_label, reason } => words(
                E::ERRCODE_CONNECTION_FAILURE,
                format!("the connection to {source_label} was lost: {reason}"),
            )
            .hint("The destination is unchanged. Refresh again; if the error recurs, see the log of the source."),
            Error::OldSource { source_label, version, oldest } => words(
                E::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("{source_label} is PostgreSQL {version}, and a source must be PostgreSQL {oldest} or later"),
            )
            .hint("Upgrade it, or restore a dump of it into a newer server."),
            Error::NoDescriptor => {
                words(E::ERRCODE_INSUFFICIENT_RESOURCES, "too many files are open in this backend")
                    .hint("Raise max_files_per_process, or run fewer jobs at once.")
            }

            // Tables of a source.
            Error::SourceTableMissing { table, source_label, fix } => words(
                E::ERRCODE_UNDEFINED_TABLE,
                format!("table {} does not exist on {source_label}", quoted(table)),
            )
            .hint(match fix {
                Some(fix) => format!(
                    "If it was renamed, or moved to another schema: {fix} The source role must also have USAGE on its schema, if the name is \
                     given without a schema."
                ),
                None => "Give it as schema.table, exactly as it is spelled on the source.".to_string(),
            }),
            Error::SourcePrivilege { role, table, source_label, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{role}\" may not read \"{table}\" on {source_label}"),
            )
            .hint(format!("Run on the source: {fix}")),
            Error::SourceRight { role, action, source_label, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("role \"{role}\" may not {action} on {source_label}"),
            )
            .hint(format!("Run on the source: {fix}")),
            Error::UnsupportedSource { table, source_label, reason } => words(
                E::ERRCODE_WRONG_OBJECT_TYPE,
                format!("\"{table}\" on {source_label} cannot be copied: {reason}"),
            )
            .hint("See docs/choose.md for the methods that can copy a table; p_filter leaves columns out."),
            Error::UnknownFilterColumns { table, columns } => words(
                E::ERRCODE_UNDEFINED_COLUMN,
                format!("the filter names columns that \"{table}\" does not have: {}", quoted_list(columns)),
            )
            .hint(
                "Give them exactly as they are spelled on the source. If they were renamed or dropped on the source, \
                 change refresh_config.filter of the job.",
            ),
            Error::UnknownTypes { table, types } => words(
                E::ERRCODE_UNDEFINED_OBJECT,
                format!("\"{table}\" uses types that do not exist on the destination: {}", types.join(", ")),
            )
            .hint("Create the types or their extension on the destination, or leave the columns out with p_filter."),
            Error::UncopyableTypes { table, columns } => words(
                E::ERRCODE_FEATURE_NOT_SUPPORTED,
                format!("\"{table}\" has columns whose values have no meaning on another server: {}", columns.join(", ")),
            )
            .hint("Leave them out: name the other columns in p_filter."),
            Error::UnknownCollations { table, collations } => words(
                E::ERRCODE_UNDEFINED_OBJECT,
                format!("\"{table}\" uses collations that do not exist on the destination: {}", collations.join(", ")),
            )
            .hint("Create them on the destination with CREATE COLLATION, or leave the columns out with p_filter."),
            Error::Definition(what) => words(
                E::ERRCODE_INVALID_OBJECT_DEFINITION,
                format!("a definition of the source cannot be used on the destination: {what}"),
            )
            .hint("Leave the column out with p_filter, or the indexes with p_index := false."),
            Error::Condition(what) => {
                words(E::ERRCODE_SYNTAX_ERROR, format!("the condition cannot be used: {what}")).hint(
                    "A condition is what follows FROM and the table in one query: WHERE …, or a comma and further tables before that.",
                )
            }

            // Keys and control columns.
            Error::NoKey { table, source_label } => words(
                E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("\"{table}\" on {source_label} has no key that identifies its rows"),
            )
            .hint(
                "Give it a primary key or a unique index on NOT NULL columns, or name its key with \
                 p_pk_name and p_pk_type.",
            ),
            Error::FilterLacks { table, what, columns } => words(
                E::ERRCODE_INVALID_COLUMN_REFERENCE,
                format!("the filter of \"{table}\" lacks {what}: {}", quoted_list(columns)),
            )
            .hint("Add them to p_filter."),
            Error::KeyGone { table, source_label, columns } => words(
                E::ERRCODE_INVALID_COLUMN_REFERENCE,
                format!("\"{table}\" on {source_label} lacks columns of the key of the job: {}", quoted_list(columns)),
            )
            .hint(
                "If they were renamed on the source, rename them in the destination, too (ALTER TABLE … RENAME COLUMN), and in \
                 refresh_config.pk_name. Changes are queued meanwhile. If the key has other columns now: set refresh_config.pk_name, and call the \
                 refresher with p_repull := true.",
            ),
            Error::AmbiguousKey { table, key } => words(
                E::ERRCODE_UNIQUE_VIOLATION,
                format!("different rows of \"{table}\" have the same key ({})", quoted_list(key)),
            )
            .hint("The job identifies rows by this key. Call its maker with a key that is unique (p_pk_name)."),
            Error::NullableKey { table, columns, fix } => words(
                E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("columns of the key of \"{table}\" may be NULL: {}", quoted_list(columns)),
            )
            .hint(format!("Run on the source: {fix}")),
            Error::UnsupportedControl { table, column, reason } => words(
                E::ERRCODE_WRONG_OBJECT_TYPE,
                format!("column \"{column}\" of \"{table}\" cannot be the control column: {reason}"),
            )
            .hint(
                "A control column grows with each row that is added (inserter) or changed (updater): a serial or \
                 identity column, or the time of the insert or of the last change.",
            ),
            Error::EndlessBatch { table, column, value, limit, state: _ } => words(
                E::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("more than {limit} rows of \"{table}\" have the same value of column \"{column}\", {value}, so no batch can end"),
            )
            .hint("Call the refresher with a greater p_limit, or raise batch_limit."),

            // Queues.
            Error::TriggersDisabled { table, source_label, trigger, state: _ } => words(
                E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("changes of \"{table}\" on {source_label} are missed: its triggers are disabled or gone"),
            )
            .hint(format!(
                "The names of the triggers begin with \"{trigger}_\". If they are disabled, run ALTER TABLE … ENABLE TRIGGER … on the source, \
                 and refresh: all rows are copied then. If they are gone, call the destroyer and the maker of its method again."
            )),
            Error::SourceStandby { source_label } => words(
                E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{source_label} is a standby, on which a dml or logdel job cannot have a queue"),
            )
            .hint("Point the data source to the primary, or choose a method that only reads: snapshot, table, inserter, updater."),
            Error::QueueMissing { queue, source_label } => {
                words(E::ERRCODE_UNDEFINED_TABLE, format!("queue \"{queue}\" does not exist on {source_label}"))
                    .hint("Changes may have been missed. Call the destroyer and the maker of its method again.")
            }
            Error::QueueOfAnother { queue, source_label, destination } => words(
                E::ERRCODE_OBJECT_IN_USE,
                format!("queue \"{queue}\" on {source_label} was last used by another copy of the job of \"{destination}\""),
            )
            .hint(
                "The other copy is in a database that was copied from this one, or from which this one was copied. With p_keep_source := true, \
                 the destroyer ends the job in this database only, and leaves the source alone. If the other database no longer exists, refresh \
                 the job in this database once, and call the destroyer again.",
            ),
            Error::ForeignQueue { what, source_label, destination, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!("{what} on {source_label} was not made for destination \"{destination}\""),
            )
            .hint(format!("If it belongs to this job nevertheless, run on the source: {fix}")),
            Error::TooManyDestinations { table, most } => {
                words(E::ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("\"{table}\" already has {most} destinations"))
                    .hint("Call the destroyer of one of them first: refresh_config lists them by source_table.")
            }
            // Monitors match this text.
            Error::TriggerOwner { table, fix } => words(
                E::ERRCODE_INSUFFICIENT_PRIVILEGE,
                format!(
                    "Unable to drop the mimeo trigger on source table ({table}). Mimeo role must be the owner of the table to \
                     automatically drop it. Manually drop the mimeo trigger first, then run destroyer function again."
                ),
            )
            .hint(format!("Run on the source: {fix}")),

            // Destinations.
            Error::IncompatibleColumns { destination, source_table, reasons, fixes } => words(
                E::ERRCODE_DATATYPE_MISMATCH,
                format!("destination \"{destination}\" cannot take the columns of \"{source_table}\": {}", reasons.join("; ")),
            )
            .hint(format!("Run on the destination: {}", fixes.join(" "))),
            Error::UnsupportedDestination { destination, reason } => words(
                E::ERRCODE_WRONG_OBJECT_TYPE,
                format!("destination \"{destination}\" cannot be written to by mimeo: {reason}"),
            ),
            Error::ForeignKey { table, constraint, destination } => words(
                E::ERRCODE_FOREIGN_KEY_VIOLATION,
                format!("rows of \"{table}\" violate foreign key \"{constraint}\" with the new rows of \"{destination}\""),
            )
            .hint(
                "The old data stays. Set truncate_cascade to empty the referencing tables too, \
                 or remove the rows that refer to a row that does not exist.",
            ),
            Error::DestinationExists(name) => {
                words(E::ERRCODE_DUPLICATE_TABLE, format!("destination \"{name}\" already exists"))
                    .hint("Drop or rename it, or choose another p_dest_table.")
            }
            Error::SchemaMissing { schema, fix } => {
                words(E::ERRCODE_INVALID_SCHEMA_NAME, format!("schema \"{schema}\" does not exist on the destination")).hint(format!(
                    "Run on the destination: {fix} (which needs CREATE on the database), or choose another p_dest_table."
                ))
            }
            Error::BrokenDestination { destination, reason, hint } => words(
                E::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("destination \"{destination}\" is not as mimeo left it: {reason}"),
            )
            .hint(hint),
            Error::ColumnInUse { destination, column, from, to, users } => words(
                E::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                format!(
                    "cannot change the type of column \"{column}\" of \"{destination}\" from {from} to {to}, as on the source: {} uses it",
                    users.join(", ")
                ),
            )
            .hint("Drop it, refresh, and create it again."),
            Error::ColumnTaken { destination, source_table, column, reason } => words(
                E::ERRCODE_DUPLICATE_COLUMN,
                format!("cannot add column \"{column}\" of source table \"{source_table}\" to \"{destination}\": {reason}"),
            )
            .hint(format!(
                "Rename or drop the column of that name here (ALTER TABLE), and refresh again; or leave the source's out: name the other \
                 columns in refresh_config.filter of \"{destination}\"."
            )),
            Error::Dependent { object, view, reason } => words(
                E::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                format!("{object} depends on view \"{view}\", whose columns change, and cannot be kept{reason}"),
            )
            .hint("Drop it, refresh, and create it again."),
            Error::InUse { relation, seconds, intent } => words(
                E::ERRCODE_LOCK_NOT_AVAILABLE,
                format!("{} was in use for {seconds} s, and was not {intent}", quoted(relation)),
            )
            .hint(
                "The old data stays. pg_locks shows who holds a lock on it; mimeo.swap_max_wait says how \
                 long to wait.",
            ),
            Error::InUseHere(relation) => words(
                E::ERRCODE_OBJECT_IN_USE,
                format!("\"{relation}\" is being read by a cursor or a query of this session"),
            )
            .hint("Close it first, or refresh in another session."),
            Error::Altered(table) => words(
                E::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("could not serialize access: \"{table}\" was altered after this transaction began"),
            )
            .hint("Try again in a new transaction."),

            Error::ChangedMeanwhile(what) => words(
                E::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("tables are changed again and again while they are looked at: {what}"),
            )
            .hint("Try again at another time."),
            Error::WrittenAnew(table) => words(
                E::ERRCODE_T_R_SERIALIZATION_FAILURE,
                format!("table \"{table}\" of the source was written anew while it was read"),
            )
            .hint("A snapshot from before sees none of its rows, or others. Try again at another time."),
            Error::UnknownGroup(group) => words(
                E::ERRCODE_UNDEFINED_OBJECT,
                format!("no job belongs to group \"{group}\""),
            )
            .hint("Its members are the jobs whose refresh_config.refresh_group is that name, as p_group of the makers sets it."),
            Error::TakenBack { group, member, report } => {
                words(report.sqlstate, format!("taken back with group \"{group}\", because \"{member}\" failed: {}", report.message))
            }

            // What a source sent.
            Error::RowCount { source_label, sent, loaded, table } => words(
                E::ERRCODE_DATA_EXCEPTION,
                format!("{source_label} sent {sent} rows, but {loaded} were loaded into \"{table}\""),
            )
            .hint(COMES_BACK),
            Error::MalformedStream => {
                words(E::ERRCODE_BAD_COPY_FILE_FORMAT, "the source's COPY data cannot be read").hint(COMES_BACK)
            }
            Error::Internal(what) => words(E::ERRCODE_INTERNAL_ERROR, format!("unexpected answer: {what}")).hint(
                "If the error recurs, it is a bug of mimeo, or the state of the job was changed by hand; then call the destroyer and the maker \
                 of the job again.",
            ),
        }
    }
}

const COMES_BACK: &str =
    "The old data stays. Refresh again; if the error recurs, check what lies between this server and the source, such as a pooler.";

/// Whether a name was not found inside a user's function: CONTEXT then has more lines than the last one, which is mimeo's own statement.
fn is_lost_on_the_way(report: &Report) -> bool {
    let ErrorLocation { context: Some(context), .. } = &report.location else { return false };
    report.sqlstate.is_any_of(&[
        E::ERRCODE_UNDEFINED_TABLE,
        E::ERRCODE_UNDEFINED_FUNCTION,
        E::ERRCODE_UNDEFINED_OBJECT,
        E::ERRCODE_INVALID_SCHEMA_NAME,
    ]) && context.lines().count() > 1
}
