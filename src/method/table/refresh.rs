//! refresh_table.

use crate::backend::identity::act_as;
use crate::destination::{fit, sequences, table};
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::load::{lock_destination, replace_all, Everything};
use crate::method::rights::require_owner_rights;
use crate::method::running::{connect_job, refresh_job, Call};
use crate::source::catalog::rows_query;
use pgrx::warning;

/// The arguments of refresh_table.
pub struct Options<'a> {
    pub call: Call<'a>,
    /// None is what the job says.
    pub truncate_cascade: Option<bool>,
}

impl<'a> Options<'a> {
    /// What a call without further arguments means.
    pub fn of(call: Call<'a>) -> Options<'a> {
        Options { call, truncate_cascade: None }
    }
}

/// Replaces all rows of a table job's destination.
///
/// 1. The destination's lock, before the source is kept busy; the source's shape, in the snapshot that reads the data, which
///    the destination has to fit.
/// 2. The rows, beside those that are there, which are read meanwhile; then all of them take their place at once.
/// 3. The sequences follow.
pub fn refresh(options: &Options<'_>) -> Result<()> {
    refresh_job(Method::Table, &options.call, |catalog, job, run| refresh_locked(options, catalog, job, run))
}

fn refresh_locked(options: &Options<'_>, catalog: &Catalog, job: &Job, run: &mut Run) -> Result<Status> {
    run.phase("connect");
    let destination = table::find(&job.destination)?;
    let cascade = options.truncate_cascade.or(job.truncate_cascade).unwrap_or(false);
    if cascade && !job.truncate_cascade.unwrap_or(false) {
        require_owner_rights("p_truncate_cascade", job, destination.owner)?;
    }
    let mut source = connect_job(catalog, job, destination.owner)?;
    let _identity = act_as(destination.owner, true)?;
    run.phase("look");
    lock_destination(&destination, true)?;
    table::check_at_once(destination.oid)?;
    let [local] = table::describe([destination.oid])?;
    fit::require_loadable(&local)?;
    let source_table = source.find_table(&job.source_table)?;
    run.reads_parent(source_table.as_parent());
    let shape = source.locked_snapshot_of(&source_table)?;
    let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
    source.require_readable(&source_table, &names(&columns), job.filter.is_some())?;
    let fit = fit::fit(&local, &shape, &columns, &[])?;
    let (mut following, missing) = sequences::find(job.sequences.as_deref().unwrap_or_default())?;
    following.extend(sequences::of_identity(destination.oid)?);

    run.phase("copy");
    source.use_own_search_path()?;
    let query = rows_query(&source_table.table(), &fit.columns, job.condition.as_deref())?;
    let rows = Everything { source: &mut source, query: &query, flush: false, dest_table: &job.dest_table };
    replace_all(rows, &destination, &local, &fit, cascade, run)?;
    drop(source);
    run.phase("sequences");
    for sequence in following {
        sequences::reset(sequence)?;
    }
    catalog.record_run(&job.dest_table, run.started(), None, None, Some(run.started()))?;
    if !missing.is_empty() {
        let missing = missing.join(", ");
        warning!("{}: sequences of the job are not there: {missing}", job.dest_table);
        run.note(format!("sequences that are not there: {missing}"));
        return Ok(Status::Warning);
    }
    Ok(Status::Ok)
}
