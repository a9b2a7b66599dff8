//! How each method makes, refreshes and destroys a job, and the steps that all of them share.

pub mod incremental;
pub mod keyed;
mod load;
pub mod plan;
pub mod replay;
pub mod snapshot;
pub mod table;

use crate::backend::grant::{self, Right};
use crate::backend::identity::{
    current_role, has_rights_of, is_superuser, pin_settings, read_the_latest, require_writable, role_name, Identity,
};
use crate::backend::interrupts;
use crate::backend::name::{literal, quote, readings, Name};
use crate::backend::relation::{self, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::destination;
use crate::destination::{fit, indexes};
use crate::error::{told, Error, Result};
use crate::job::config::{destination_name, Catalog, ConfiguredBy, Job, NewJob};
use crate::job::jobmon;
use crate::job::lock::{self, Wait};
use crate::job::record::Status;
use crate::job::run::{watch, Run};
use crate::shape::{Column, IndexDefinition, Shape};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::{Applicant, Connection, Mapping};
use load::{finish_indexes, leave, lock_destination, patience, pull, pull_after, pull_behind, replace_all, Everything};
use pgrx::datum::Interval;
use pgrx::PgSqlErrorCode;
use pgrx::{notice, pg_sys, warning};
use std::time::Duration;

/// The methods, by the types that refresh_config.type holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Snapshot,
    Table,
    Inserter,
    Updater,
    Dml,
    Logdel,
}

impl Method {
    pub fn of(kind: &str) -> Result<Method> {
        Ok(match kind {
            "snap" => Method::Snapshot,
            "table" => Method::Table,
            "inserter_time" | "inserter_serial" => Method::Inserter,
            "updater_time" | "updater_serial" => Method::Updater,
            "dml" => Method::Dml,
            "logdel" => Method::Logdel,
            other => return Err(Error::Internal(format!("refresh_config holds a job of type {other}"))),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Method::Snapshot => "snapshot",
            Method::Table => "table",
            Method::Inserter => "inserter",
            Method::Updater => "updater",
            Method::Dml => "dml",
            Method::Logdel => "logdel",
        }
    }
}

/// Refuses a job of another method.
pub(crate) fn require_method(job: &Job, wanted: Method) -> Result<()> {
    let found = Method::of(&job.kind)?;
    if found == wanted {
        return Ok(());
    }
    Err(Error::WrongMethod { destination: job.dest_table.clone(), found: found.name(), wanted: wanted.name() })
}

/// Connects to a data source for a destination that `owner` owns.
pub(crate) fn connect(
    catalog: &Catalog,
    data_source_id: i32,
    owner: pg_sys::Oid,
    destination: &str,
) -> Result<Connection> {
    let mapping: Mapping = catalog.mapping(data_source_id)?;
    let trusted = is_superuser(current_role()) && is_superuser(owner);
    Connection::open(&mapping, &Applicant { owner, trusted, destination })
}

/// Connects to a job's data source, for its destination, which `owner` owns.
///
/// # Errors
/// ConfiguredByOther, Unconfirmed, DestinationSchema.
pub(crate) fn connect_job(catalog: &Catalog, job: &Job, owner: pg_sys::Oid) -> Result<Connection> {
    require_configured(catalog, job, owner)?;
    require_usage(job, owner)?;
    connect(catalog, job.data_source_id, owner, &job.dest_table)
}

/// What a job does, it does as the owner of its destination: only if whoever has configured it has the rights of that role. The
/// table, or its name, may have come to another owner since.
///
/// # Errors
/// ConfiguredByOther; Unconfirmed, if nobody has said so: the guards of refresh_config were not at work.
pub(crate) fn require_configured(catalog: &Catalog, job: &Job, owner: pg_sys::Oid) -> Result<()> {
    let by = match job.configured_by() {
        ConfiguredBy::Role { role, owner: then } if has_rights_of(role, owner) => match then {
            // A superuser has the rights of whoever makes another table under that name.
            Some(then) if then != owner => {
                let (destination, owner) = (job.dest_table.clone(), role_name(owner)?);
                let fix = format!("SELECT {}({});", catalog.table("confirm_job"), literal(&destination));
                return Err(Error::OwnerChanged { destination, owner, fix });
            }
            _ => return Ok(()),
        },
        ConfiguredBy::Role { role, .. } => Some(role_name(role)?),
        ConfiguredBy::Gone(role) => Some(role),
        ConfiguredBy::Nobody => None,
    };
    let (destination, owner) = (job.dest_table.clone(), role_name(owner)?);
    let fix = format!("SELECT {}({});", catalog.table("confirm_job"), literal(&destination));
    Err(match by {
        Some(by) => Error::ConfiguredByOther { destination, owner, by, fix },
        None => Error::Unconfirmed { destination, owner, fix },
    })
}

/// confirm_job: the caller answers for a job from here on.
///
/// # Errors
/// NotOwner, unless the caller has the rights of the destination's owner.
pub fn confirm(destination: &str) -> Result<()> {
    require_writable("confirm_job")?;
    read_the_latest();
    let catalog = Catalog::find()?;
    let (job, name) = catalog.job(destination)?;
    require_owner(&destination::table::find(&name)?)?;
    catalog.confirm(&job.dest_table)
}

/// Refuses an argument that does more than the job says to a caller who may only refresh it.
///
/// # Errors
/// OwnerRights.
pub(crate) fn require_owner_rights(argument: &'static str, job: &Job, owner: pg_sys::Oid) -> Result<()> {
    if has_rights_of(current_role(), owner) {
        return Ok(());
    }
    Err(Error::OwnerRights { argument, destination: job.dest_table.clone(), owner: role_name(owner)? })
}

/// The columns that a job copies, in the source's order.
///
/// # Errors
/// UnknownFilterColumns; UnsupportedSource if nothing is left.
pub(crate) fn selected_columns(shape: &Shape, filter: Option<&[String]>, source_label: &str) -> Result<Vec<Column>> {
    let columns: Vec<Column> = match filter {
        None => shape.columns.clone(),
        Some(filter) => {
            let unknown: Vec<_> = filter.iter().filter(|name| shape.column(name).is_none()).cloned().collect();
            if !unknown.is_empty() {
                return Err(Error::UnknownFilterColumns { table: shape.table().plain(), columns: unknown });
            }
            shape.columns.iter().filter(|column| filter.contains(&column.name)).cloned().collect()
        }
    };
    if columns.is_empty() {
        return Err(Error::UnsupportedSource {
            table: shape.table().plain(),
            source_label: source_label.to_string(),
            reason: "no column is left to copy".to_string(),
        });
    }
    Ok(columns)
}

/// Where a maker puts its table: as the user wrote it, or under the source's own schema and name.
///
/// # Errors
/// SchemaMissing, NameTooLong, InvalidName.
pub(crate) fn new_destination(written: Option<&str>, source: &Name) -> Result<Name> {
    let Some(written) = written else {
        source.check_length()?;
        if !relation::schema_exists(&source.schema)? {
            return Err(schema_missing(&source.schema));
        }
        return Ok(source.clone());
    };
    let mut readings = readings(written)?;
    if written.contains('"') {
        // Nothing is there yet that could be called so: quotes are meant as quotes, if they are in their places.
        readings.rotate_right(1);
    }
    let bare = if written.contains('"') { readings.first() } else { readings.last() };
    let mut missing = None;
    for (schema, name) in &readings {
        let Some(schema) = schema else { continue };
        let name = Name::new(schema, name);
        if relation::schema_exists(schema)? {
            name.check_length()?;
            return Ok(name);
        }
        missing.get_or_insert(name);
    }
    if let Some(name) = missing {
        name.check_length()?;
        return Err(schema_missing(&name.schema));
    }
    let (_, bare) = bare.cloned().ok_or_else(|| Error::InvalidName(written.to_string()))?;
    let schema = relation::creation_schema()?.ok_or_else(|| schema_missing("public"))?;
    let name = Name::new(schema, bare);
    name.check_length()?;
    Ok(name)
}

fn schema_missing(schema: &str) -> Error {
    Error::SchemaMissing { schema: schema.to_string(), fix: format!("CREATE SCHEMA {};", quote(schema)) }
}

/// The arguments that every maker has.
pub struct Request<'a> {
    pub source_table: &'a str,
    pub data_source_id: i32,
    pub destination: Option<&'a str>,
    pub indexes: bool,
    pub filter: Option<Vec<String>>,
    pub condition: Option<&'a str>,
    pub pull_data: bool,
    pub jobmon: Option<bool>,
    pub debug: bool,
    /// How often run_refresh is to refresh it; None is never.
    pub period: Option<Interval>,
}

impl Request<'_> {
    /// As refresh_config is written to.
    ///
    /// # Errors
    /// InvalidArgument.
    fn period(&self) -> Result<Option<String>> {
        let Some(period) = self.period else { return Ok(None) };
        let text = spi::text("SELECT CASE WHEN $1 >= interval '0' THEN $1::pg_catalog.text END", &[period.into()])?;
        text.map(Some).ok_or_else(|| Error::InvalidArgument("p_period is negative".to_string()))
    }

    fn doing(&self, method: Method) -> String {
        format!("Making a {} of {} from data source {}.", method.name(), self.source_table, self.data_source_id)
    }
}

/// A maker at work: what it knows of the source, all that can be refused there having been refused. Settings are
/// pinned as long as it lasts.
struct Making {
    catalog: Catalog,
    source: Connection,
    table: SourceTable,
    /// With its indexes; in the source's snapshot that stays open.
    shape: Shape,
    columns: Vec<Column>,
    destination: Name,
    jobmon: bool,
    period: Option<String>,
    _pinned: Identity,
}

impl Making {
    fn begin(request: &Request<'_>) -> Result<Making> {
        read_the_latest();
        let catalog = Catalog::find()?;
        let jobmon = jobmon::default(request.jobmon)?;
        let named_for = request.destination.unwrap_or(request.source_table);
        let mut source = connect(&catalog, request.data_source_id, current_role(), named_for)?;
        let table = source.find_table(request.source_table)?;
        let destination = new_destination(request.destination, &table.table())?;
        if relation::find(&destination)?.is_none() {
            require_creation(&destination.schema)?;
        }
        let pinned = pin_settings()?;
        let period = request.period()?;
        let mut shape = source.snapshot_of(table.oid)?;
        shape.indexes = source.indexes(&table)?;
        let columns = selected_columns(&shape, request.filter.as_deref(), source.label())?;
        source.require_readable(&table, &names(&columns), request.filter.is_some())?;
        let mut making =
            Making { catalog, source, table, shape, columns, destination, jobmon, period, _pinned: pinned };
        making.check_condition(request.condition)?;
        Ok(making)
    }

    /// Lets the source read the query that a refresh will run, before anything is made here.
    fn check_condition(&mut self, condition: Option<&str>) -> Result<()> {
        if condition.is_none() {
            return Ok(());
        }
        self.source.use_own_search_path()?;
        let query = rows_query(&self.table.table(), &names(&self.columns), condition)?;
        let explained = self.source.value(&format!("EXPLAIN {query}"), &[], "checking the condition");
        explained.map_err(|error| match error {
            // What stands behind the table is its alias, or makes it a function.
            Error::Remote { report, .. }
                if report.sqlstate.is_any_of(&[
                    PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                    PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                    PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                ]) && condition.is_some_and(is_bare) =>
            {
                Error::Condition(report.message)
            }
            error => error,
        })?;
        self.source.use_pinned_search_path()
    }

    /// What all jobs have in their row.
    fn job<'a>(&self, request: &'a Request<'_>, kind: &'a str) -> NewJob<'a> {
        NewJob {
            period: self.period.clone(),
            dest_table: self.destination.plain(),
            source_table: self.table.table().plain(),
            kind,
            data_source_id: request.data_source_id,
            filter: request.filter.as_deref(),
            condition: request.condition,
            jobmon: self.jobmon,
            state: serde_json::json!({}),
            ..NewJob::default()
        }
    }

    /// Copies the source's indexes to a table that was just made. What cannot be made here is told in a WARNING, of each index once; and in a
    /// NOTICE, what is not unique here, because rows stay that are gone on the source (`kept_by` is the key that they are found by).
    fn copy_indexes(
        &self,
        request: &Request<'_>,
        table: &Name,
        oid: pg_sys::Oid,
        prefix: &str,
        kept_by: Option<&[String]>,
    ) -> Result<()> {
        let place = indexes::Place { source_table: &self.table.name, table, oid, prefix };
        let wanted = copied_indexes(&self.shape, request.filter.as_deref());
        let (left_out, plain) = indexes::copy_all(wanted, self.shape.key(), &place, kept_by)?;
        for left_out in left_out {
            warning!("{}: {}", table.plain(), left_out.text());
        }
        if !plain.is_empty() {
            let (table, plain) = (table.plain(), told(plain.join(", ")));
            notice!("{table}: not unique here, because rows stay that are gone on the source: {plain}");
        }
        Ok(())
    }

    /// A table that is there already and stays as it is; None if there is none. A NOTICE tells.
    ///
    /// # Errors
    /// What `fit` and `require_loadable` refuse.
    fn existing_destination(&self) -> Result<Option<Relation>> {
        let Some(existing) = relation::find(&self.destination)? else { return Ok(None) };
        let [shape] = destination::table::describe([existing.oid])?;
        fit::require_loadable(&shape)?;
        fit::fit(&shape, &self.shape, &self.columns, &[])?;
        require_owner(&existing)?;
        notice!("destination {} exists already: it is kept as it is, and no data is pulled", self.destination.plain());
        Ok(Some(existing))
    }
}

/// Whether a condition begins with a word that is none of SQL's, or a parenthesis.
fn is_bare(condition: &str) -> bool {
    if condition.trim_start().starts_with('(') {
        return true;
    }
    let first = condition.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
    !["", "where", "join", "inner", "left", "right", "full", "cross", "natural", "tablesample"]
        .contains(&first.as_str())
}

/// What the current role needs to make a table in a schema.
pub(crate) fn creation_rights(schema: &str) -> Result<Vec<Right>> {
    schema_rights(schema, current_role(), &["USAGE", "CREATE"])
}

fn schema_rights(schema: &str, role: pg_sys::Oid, privileges: &[&'static str]) -> Result<Vec<Right>> {
    let name = role_name(role)?;
    let mut rights = Vec::new();
    for privilege in privileges {
        let granted = spi::is_true(
            "SELECT pg_catalog.has_schema_privilege($3, n.oid, $2) FROM pg_catalog.pg_namespace n
              WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
            &[schema.into(), (*privilege).into(), role.into()],
        )?;
        let fix = || grant::on_schema(privilege, schema, &name);
        rights.push(Right::new(format!("schema {schema}"), *privilege, granted, fix));
    }
    Ok(rights)
}

/// # Errors
/// DestinationSchema.
pub(crate) fn require_creation(schema: &str) -> Result<()> {
    match grant::fixes(&creation_rights(schema)?) {
        None => Ok(()),
        Some(fix) => Err(schema_refused(schema, fix)?),
    }
}

/// Refuses an owner who may not even look into the schema of the destination, if there is one.
///
/// # Errors
/// DestinationSchema.
fn require_usage(job: &Job, owner: pg_sys::Oid) -> Result<()> {
    let schema = destination_name(&job.dest_table)?.schema;
    if !relation::schema_exists(&schema)? {
        return Ok(());
    }
    match grant::fixes(&schema_rights(&schema, owner, &["USAGE"])?) {
        None => Ok(()),
        Some(fix) => Err(schema_refused(&schema, fix)?),
    }
}

fn schema_refused(schema: &str, fix: String) -> Result<Error> {
    let by = spi::text(
        "SELECT pg_catalog.pg_get_userbyid(n.nspowner)::pg_catalog.text FROM pg_catalog.pg_namespace n
          WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[schema.into()],
    )?;
    Ok(Error::DestinationSchema { schema: schema.to_string(), by: by.unwrap_or_default(), fix })
}

/// # Errors
/// NotOwner.
fn require_owner(existing: &Relation) -> Result<()> {
    if has_rights_of(current_role(), existing.owner) {
        return Ok(());
    }
    Err(Error::NotOwner(existing.name().plain()))
}

/// Of a job whose destination is gone: it is for who answers for it, or has the rights of that role.
///
/// # Errors
/// NotOwner.
fn require_responsible(job: &Job) -> Result<()> {
    match job.configured_by() {
        ConfiguredBy::Role { role, .. } if !has_rights_of(current_role(), role) => {
            Err(Error::NotOwner(job.dest_table.clone()))
        }
        _ => Ok(()),
    }
}

/// With a filter only the key's index is copied. `shape` has its indexes.
pub(crate) fn copied_indexes<'a>(shape: &'a Shape, filter: Option<&[String]>) -> Vec<&'a IndexDefinition> {
    match filter {
        None => shape.indexes.iter().collect(),
        Some(filter) => {
            shape.key().filter(|key| key.columns.iter().all(|column| filter.contains(column))).into_iter().collect()
        }
    }
}

pub(crate) fn names(columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| column.name.clone()).collect()
}

/// The arguments that every refresher has.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub destination: &'a str,
    /// None is what the job says.
    pub jobmon: Option<bool>,
    pub lock_wait: Wait,
    pub debug: bool,
}

/// Refreshes a job as it is configured, whatever its method; if another refresh of it runs, that is left to it.
pub fn refresh(kind: &str, destination: &str) -> Result<()> {
    let call = Call { destination, jobmon: None, lock_wait: Wait::Not, debug: false };
    match Method::of(kind)? {
        Method::Snapshot => snapshot::refresh(&snapshot::Options::of(call)),
        Method::Table => table::refresh(&table::Options::of(call)),
        method @ (Method::Inserter | Method::Updater) => incremental::refresh(method, &incremental::Options::of(call)),
        method @ (Method::Dml | Method::Logdel) => replay::refresh(method, &replay::Options::of(call)),
    }
}

/// A maker's own refresh. If it fails, the job it would be recorded for goes with it.
fn first_refresh(
    request: &Request<'_>,
    destination: &Name,
    refresh: impl FnOnce(Call<'_>) -> Result<()>,
) -> Result<()> {
    let destination = destination.plain();
    let call = Call { destination: &destination, jobmon: None, lock_wait: Wait::Unlimited, debug: request.debug };
    watch(|| refresh(call)).0
}

/// What the refreshers of all methods do first: the job, its lock, the run. The body runs with the lock held, and
/// returns how it ended.
fn refresh_job(
    function: &'static str,
    method: Method,
    call: &Call<'_>,
    body: impl Fn(&Catalog, &Job, &Name, &mut Run) -> Result<Status>,
) -> Result<()> {
    require_writable(function)?;
    read_the_latest();
    let catalog = Catalog::find()?;
    let (job, name) = catalog.job(call.destination)?;
    require_method(&job, method)?;
    let mut run = Run::begin(&catalog.table(function), &job, call.jobmon, call.debug)?;
    if !lock::take(&job.dest_table, call.lock_wait)? {
        warning!("another refresh of {} is running, this one does nothing", job.dest_table);
        return run.end(&catalog, Status::Concurrent);
    }
    let what = |job: &Job| {
        let Job { dest_table, source_table, data_source_id, .. } = job;
        format!("Refreshing {} {dest_table} from {source_table} on data source {data_source_id}.", method.name())
    };
    // While this call waited for the lock, the job may have been changed or destroyed.
    let job = about(&what(&job), || catalog.latest_row(&job.dest_table))?.ok_or(Error::UnknownJob(job.dest_table))?;
    let mut tries = 1;
    loop {
        let mut state = None;
        let mut cancelled = false;
        // In a subtransaction, so that what is left of a failure is cleared away before it is recorded.
        let outcome = attempt(|| {
            about(&what(&job), || {
                let outcome = caught(|| body(&catalog, &job, &name, &mut run));
                let outcome = outcome.map_err(|error| run.explain(error).of_job(&catalog, &job));
                let status = outcome.inspect_err(|error| {
                    state = error.state().cloned();
                    cancelled = error.is_of_recovery();
                })?;
                run.end(&catalog, status)
            })
        });
        if cancelled && tries < MOST_TRIES {
            run.begin_again(&match tries {
                1 => "begun again, for the standby's recovery had cancelled the copy".to_string(),
                _ => format!("begun again {tries} times, for the standby's recovery had cancelled the copy"),
            });
            interrupts::sleep(Duration::from_secs(tries));
            tries += 1;
            continue;
        }
        let outcome = outcome.map_err(|error| without_rows(error, &name));
        return outcome.inspect_err(|error| run.fail(error, state));
    }
}

impl Error {
    /// What helps a job that is there already.
    fn of_job(self, catalog: &Catalog, job: &Job) -> Error {
        match self {
            Error::SourceTableMissing { table, source_label, .. } if table == job.source_table => {
                let config = catalog.table("refresh_config");
                let fix = Some(format!(
                    "UPDATE {config} SET source_table = '…' WHERE dest_table = {};",
                    literal(&job.dest_table)
                ));
                Error::SourceTableMissing { table, source_label, fix }
            }
            other => other,
        }
    }
}

/// How often a copy is begun that a standby's recovery cancels.
const MOST_TRIES: u64 = 3;

/// What PostgreSQL tells of rows that violate a constraint is for who may read the destination.
fn without_rows(error: Error, destination: &Name) -> Error {
    let readable = relation::find(destination).ok().flatten().is_some_and(|destination| {
        spi::is_true("SELECT pg_catalog.has_table_privilege($1, 'SELECT')", &[relation::oid_arg(destination.oid)])
            .unwrap_or(false)
    });
    if readable {
        error
    } else {
        error.without_rows()
    }
}

/// What the destroyers of the methods with a plain table as destination do. The caller must own it.
fn destroy_job(function: &'static str, method: Method, destination: &str, keep: bool, debug: bool) -> Result<()> {
    require_writable(function)?;
    let catalog = Catalog::find()?;
    let (job, name) = catalog.job(destination)?;
    require_method(&job, method)?;
    lock::take(&job.dest_table, Wait::Unlimited)?;
    about(&format!("Destroying {} {}.", method.name(), job.dest_table), || {
        let _pinned = pin_settings()?;
        match relation::find(&name)? {
            None => {
                require_responsible(&job)?;
                notice!("{} is gone already, only the job is removed", job.dest_table);
            }
            Some(existing) => {
                require_owner(&existing)?;
                if !keep {
                    let kind = if existing.kind == 'f' { "FOREIGN TABLE" } else { "TABLE" };
                    spi::run(&format!("DROP {kind} {name}"), &[])?;
                }
            }
        }
        catalog.delete(&job.dest_table)?;
        if debug {
            notice!("{}: the job is removed, the table is {}", name.plain(), if keep { "kept" } else { "dropped" });
        }
        Ok(())
    })
}

/// Runs the body of a call so that every error also tells which job it belongs to.
pub(crate) fn about<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(body).map_err(|error| error.while_doing(what))
}
