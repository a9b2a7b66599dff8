//! A job's source and destination side by side: the same rows of both, read in one snapshot of the source.

use super::range::{range, Intervals};
use crate::backend::identity::{act_as, pin_settings, read_the_latest, set_local, Identity};
use crate::backend::name::quote;
use crate::backend::ownership;
use crate::backend::relation::{lock_to_read, Relation};
use crate::backend::spi;
use crate::destination::table;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::lock::{self, Wait};
use crate::job::method::Method;
use crate::method::columns::{names, selected_columns};
use crate::method::connecting::connect_job;
use crate::method::incremental::{kind_of, Values};
use crate::method::replay::DELETED;
use crate::shape::{Column, Shape};
use crate::source::bounds::{bound_type, Range};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;
use crate::source::server::Server;

/// Both sides of a job. As long as it lasts, the backend acts as the destination's owner, with pinned settings.
pub struct Comparison {
    pub job: Job,
    pub destination: Relation,
    pub source: Connection,
    pub table: SourceTable,
    /// Of the source, in the snapshot that is open there.
    pub shape: Shape,
    /// That the job copies, in the source's order.
    pub columns: Vec<Column>,
    /// Of an incremental job.
    pub range: Range,
    /// From `rows_query`: all that the job selects on the source.
    pub rows: String,
    /// `FROM … WHERE …`: the rows that are compared, under the alias "mimeo".
    pub source_rows: String,
    pub local_rows: String,
    _identity: Identity,
}

impl Comparison {
    /// 1. The job; but for an incremental one its lock, so that no refresh changes the destination meanwhile.
    /// 2. The range, from what the destination holds.
    /// 3. The source's snapshot.
    ///
    /// `allow` may refuse the destination to the caller.
    pub fn begin(
        destination: &str,
        intervals: Intervals<'_>,
        allow: impl FnOnce(&Relation) -> Result<()>,
    ) -> Result<Comparison> {
        read_the_latest();
        let catalog = Catalog::find()?;
        let job = catalog.job(destination)?;
        let name = job.destination.clone();
        let method = job.method();
        let incremental = method.facts().by_control;
        let job = if incremental {
            job
        } else {
            if intervals.lower.or(intervals.upper).is_some() {
                return Err(Error::InvalidArgument(format!(
                    "\"{}\" is a job of type {}, which has no range of values: leave the intervals out",
                    job.dest_table,
                    method.name()
                )));
            }
            lock::take(&job.dest_table, Wait::Unlimited)?;
            // While this call waited, the job may have been changed or destroyed.
            catalog.row(&job.dest_table)?.ok_or(Error::UnknownJob(job.dest_table))?
        };
        let pinned = pin_settings()?;
        let destination = table::find(&name)?;
        drop(pinned);
        allow(&destination)?;
        let mut source = connect_job(&catalog, &job, destination.owner)?;
        let identity = act_as(destination.owner, true)?;
        lock_to_read(destination.oid);
        ownership::require_tables(&[destination.oid])?;
        let formats = formats(source.server());
        for (setting, value) in formats {
            set_local(setting, value)?;
        }
        let table = source.find_table(&job.source_table)?;
        let mut clauses = [String::new(), String::new()];
        let mut span = Range::default();
        if incremental {
            let kind = kind_of(&job);
            let control = source.control(&table, job.control.as_deref().unwrap_or_default())?;
            control.require(kind, &table)?;
            let [local] = table::describe([destination.oid])?;
            Values::of(&control).require_comparable(&local)?;
            span = range(intervals, &job, kind, &control, &name)?;
            let column = format!("\"mimeo\".{}", quote(&control.name));
            clauses = [0, 1].map(|_| span.clause(&column, bound_type(&control.type_name)));
        } else if method == Method::Logdel {
            clauses[1] = format!(" WHERE \"mimeo\".{} IS NULL", quote(DELETED));
        }
        let shape = source.locked_snapshot_of(&table, job.condition.as_deref())?;
        let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
        source.require_readable(&table, &names(&columns), job.filter.is_some())?;
        source.use_formats(&formats)?;
        if job.condition.is_some() {
            source.use_own_search_path()?;
        }
        let rows = rows_query(&table.table(), (&names(&columns), &[]), job.condition.as_deref())?;
        let [source_clause, local_clause] = clauses;
        Ok(Comparison {
            destination,
            source,
            table,
            shape,
            columns,
            range: span,
            source_rows: format!("FROM ({rows}) \"mimeo\"{source_clause}"),
            local_rows: format!("FROM {name} \"mimeo\"{local_clause}"),
            rows,
            job,
            _identity: identity,
        })
    }

    /// The value of an aggregate expression over the rows of the source, as text.
    pub fn ask_source(&mut self, expression: &str, doing: &str) -> Result<String> {
        let query = format!("SELECT ({expression})::pg_catalog.text {}", self.source_rows);
        let answer = self.source.value(&query, &[], doing)?.unwrap_or_default();
        self.source.require_seen()?;
        Ok(answer)
    }

    /// The same over those of the destination.
    pub fn ask_here(&self, expression: &str) -> Result<String> {
        let query = format!("SELECT ({expression})::text {}", self.local_rows);
        Ok(spi::text(&query, &[])?.unwrap_or_default())
    }
}

/// Beside those that are always pinned: what values are written as. The sources are set to the same.
fn formats(server: Server) -> [(&'static str, &'static str); 4] {
    let digits = server.comparable_float_digits();
    [("timezone", "GMT"), ("extra_float_digits", digits), ("bytea_output", "hex"), ("lc_monetary", "C")]
}
