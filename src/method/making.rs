//! What all makers do: they read the source, refuse what can be refused, and write the job.

use crate::backend::identity::{current_role, pin_settings, read_the_latest, Identity};
use crate::backend::name::{quote, readings, Name};
use crate::backend::relation::{self, Relation};
use crate::backend::spi;
use crate::destination;
use crate::destination::{column_map, indexes};
use crate::error::{quoted, quoted_list, told, Error, Result};
use crate::job::config::{Catalog, NewJob};
use crate::job::jobmon;
use crate::job::lock::Wait;
use crate::job::run::watch;
use crate::shape::{Column, Shape};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;

use crate::job::method::Method;
use crate::method::columns::{copied_indexes, names, selected_columns};
use crate::method::connecting::connect;
use crate::method::rights::{require_creation, require_owner};
use crate::method::running::Call;
use pgrx::datum::Interval;
use pgrx::PgSqlErrorCode;
use pgrx::{notice, pg_sys, warning};

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
    /// With which other jobs it is refreshed together.
    pub group: Option<String>,
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

    pub fn doing(&self, method: Method) -> String {
        let source = quoted(self.source_table);
        format!("Making a {} of {source} from data source {}.", method.name(), self.data_source_id)
    }
}

/// A maker at work: what it knows of the source, all that can be refused there having been refused. Settings are
/// pinned as long as it lasts.
pub struct Making {
    pub catalog: Catalog,
    pub source: Connection,
    pub table: SourceTable,
    /// With its indexes; in the source's snapshot that stays open.
    pub shape: Shape,
    pub columns: Vec<Column>,
    pub destination: Name,
    pub jobmon: bool,
    pub period: Option<String>,
    _pinned: Identity,
}

impl Making {
    pub fn begin(request: &Request<'_>) -> Result<Making> {
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
        if request.group.as_deref() == Some("") {
            return Err(Error::InvalidArgument("p_group is empty".to_string()));
        }
        let mut shape = source.snapshot_of(table.oid)?;
        shape.indexes = source.indexes(&table)?;
        let columns = selected_columns(&shape, request.filter.as_deref(), source.label())?;
        source.require_readable(&table, &names(&columns), request.filter.is_some())?;
        let mut making =
            Making { catalog, source, table, shape, columns, destination, jobmon, period, _pinned: pinned };
        making.check_condition(request.condition)?;
        Ok(making)
    }

    /// Lets the source plan the query that a refresh will run, before anything is created on the destination.
    pub fn check_condition(&mut self, condition: Option<&str>) -> Result<()> {
        if condition.is_none() {
            return Ok(());
        }
        self.source.use_own_search_path()?;
        let query = rows_query(&self.table.table(), (&names(&self.columns), &[]), condition)?;
        let explained = self.source.value(&format!("EXPLAIN {query}"), &[], "checking the condition");
        explained.map_err(|error| match error {
            // A name after the table is read as its alias, and a parenthesis makes it a function call.
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
    pub fn job<'a>(&self, request: &'a Request<'_>, kind: &'a str) -> NewJob<'a> {
        NewJob {
            period: self.period.clone(),
            refresh_group: request.group.as_deref(),
            dest_table: self.destination.plain(),
            source_table: self.table.table().plain(),
            kind,
            data_source_id: request.data_source_id,
            filter: request.filter.as_deref(),
            condition: request.condition,
            jobmon: self.jobmon,
            follow_columns: (kind != "snap").then_some(true),
            state: serde_json::json!({}),
            ..NewJob::default()
        }
    }

    /// Copies the source's indexes to a table that was just created. A WARNING tells of each index that cannot be created; a NOTICE of those
    /// that are not unique, because the destination keeps rows that are gone on the source (`kept_by` is the key that they are found by).
    pub fn copy_indexes(
        &self,
        request: &Request<'_>,
        table: &Name,
        oid: pg_sys::Oid,
        prefix: &str,
        kept_by: Option<&[String]>,
    ) -> Result<()> {
        let target = indexes::IndexTarget { source_table: &self.table.name, table, oid, prefix };
        let wanted = copied_indexes(&self.shape, request.filter.as_deref());
        let (left_out, plain) = indexes::copy_all(wanted, self.shape.key(), &target, kept_by)?;
        for left_out in left_out {
            warning!("\"{}\": {}", table.plain(), left_out.text());
        }
        if !plain.is_empty() {
            let (table, plain) = (table.plain(), told(quoted_list(&plain)));
            notice!("\"{table}\": indexes are not unique on the destination, because it keeps rows that are gone on the source: {plain}");
        }
        Ok(())
    }

    /// An existing table, which stays as it is, with a NOTICE; None if there is none.
    ///
    /// # Errors
    /// What `fit` and `require_loadable` refuse.
    pub fn existing_destination(&self) -> Result<Option<Relation>> {
        let Some(existing) = relation::find(&self.destination)? else { return Ok(None) };
        let [shape] = destination::table::describe([existing.oid])?;
        column_map::require_loadable(&shape)?;
        column_map::map(&shape, &self.shape, &self.columns, &[])?;
        require_owner(&existing)?;
        notice!(
            "destination \"{}\" already exists: it is kept as it is, and no data is pulled",
            self.destination.plain()
        );
        Ok(Some(existing))
    }
}

/// Whether a condition begins with a parenthesis, or with a word that cannot follow a table in FROM.
pub fn is_bare(condition: &str) -> bool {
    if condition.trim_start().starts_with('(') {
        return true;
    }
    let first = condition.trim_start().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
    !["", "where", "join", "inner", "left", "right", "full", "cross", "natural", "tablesample"]
        .contains(&first.as_str())
}

/// Where a maker puts its table: as the user wrote it, or under the source's own schema and name.
///
/// # Errors
/// SchemaMissing, NameTooLong, InvalidName.
pub fn new_destination(written: Option<&str>, source: &Name) -> Result<Name> {
    let Some(written) = written else {
        source.check_length()?;
        if !relation::schema_exists(&source.schema)? {
            return Err(schema_missing(&source.schema));
        }
        return Ok(source.clone());
    };
    let mut readings = readings(written)?;
    if written.contains('"') {
        // No table of that name exists yet: quotes are read as quotes, if they are placed properly.
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

pub fn schema_missing(schema: &str) -> Error {
    Error::SchemaMissing { schema: schema.to_string(), fix: format!("CREATE SCHEMA {};", quote(schema)) }
}

/// A maker's own refresh. If it fails, the job it would be recorded for goes with it.
pub fn first_refresh(
    request: &Request<'_>,
    destination: &Name,
    refresh: impl FnOnce(Call<'_>) -> Result<()>,
) -> Result<()> {
    let destination = destination.plain();
    let call =
        Call { destination: &destination, jobmon: None, lock_wait: Wait::Unlimited, debug: request.debug, first: true };
    watch(|| refresh(call)).0
}
