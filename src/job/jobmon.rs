//! pg_jobmon: the log of jobs that many users of 1.x watch. A run is logged there when it has ended.

use crate::backend::identity::act_as;
use crate::backend::name::Name;
use crate::backend::ownership;
use crate::backend::spi;
use crate::backend::subtransaction::tried;
use crate::error::{Error, Result};
use crate::job::config::Catalog;
use crate::job::method::Method;
use crate::job::record::{RunRecord, Status};
use pgrx::warning;

/// The schema of the extension, if it is there.
fn schema() -> Result<Option<String>> {
    spi::text(
        "SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n
             ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
          WHERE e.extname OPERATOR(pg_catalog.=) 'pg_jobmon'",
        &[],
    )
}

/// The value of a maker's p_jobmon: None means true if pg_jobmon is installed.
///
/// # Errors
/// JobmonMissing.
pub fn default(asked: Option<bool>) -> Result<bool> {
    match asked {
        Some(asked) => wanted(asked),
        None => Ok(schema()?.is_some()),
    }
}

/// # Errors
/// JobmonMissing, if it is wanted.
pub fn wanted(wanted: bool) -> Result<bool> {
    if wanted && schema()?.is_none() {
        return Err(Error::JobmonMissing);
    }
    Ok(wanted)
}

/// All functions that could be meant by the calls below.
fn functions(schema: &str) -> Result<Vec<u32>> {
    let found = spi::json(
        "SELECT json_agg(p.oid::bigint)::pg_catalog.text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname = $1::name AND p.proname IN ('add_job', 'add_step', 'update_step', 'close_job', 'fail_job')",
        &[schema.into()],
    )?;
    Ok(found.unwrap_or_default())
}

/// The names of jobs that 1.x gave them.
fn job_name(record: &RunRecord) -> Result<String> {
    let method = Method::of(&record.kind)?.facts().jobmon_title;
    Ok(format!("Refresh {method}: {}", record.dest_table))
}

/// Logs a run as one job with one step, as the role that created mimeo here. A run does not fail because pg_jobmon does.
pub fn log(catalog: &Catalog, record: &RunRecord) -> Result<()> {
    let Some(schema) = schema()? else { return Ok(()) };
    let function = |name: &str| Name::new(&schema, name);
    let step = format!("{} from {}", record.dest_table, record.source_table);
    let seconds = (record.ended - record.started) as f64 / 1e6;
    let mut text = format!("{} rows, {} bytes in {seconds:.3} s", record.rows, record.bytes);
    for more in [&record.reason, &record.error].into_iter().flatten() {
        text = format!("{text}; {more}");
    }
    let (word, end) = match record.status {
        Status::Ok | Status::Skipped => ("OK", format!("{}($1)", function("close_job"))),
        Status::Warning | Status::Concurrent => ("WARNING", format!("{}($1, 2)", function("fail_job"))),
        Status::Critical => ("CRITICAL", format!("{}($1)", function("fail_job"))),
    };
    let logged = tried(|| {
        let _identity = act_as(catalog.created_by(), true)?;
        ownership::require_functions(&functions(&schema)?)?;
        let number = |sql: String, args: &[_]| spi::number(&sql, args);
        let job = number(format!("SELECT {}($1)", function("add_job")), &[job_name(record)?.into()])?;
        let step_id = number(format!("SELECT {}($1, $2)", function("add_step")), &[job.into(), step.as_str().into()])?;
        let update = format!("SELECT {}($1, $2, $3)", function("update_step"));
        spi::run(&update, &[step_id.into(), word.into(), text.as_str().into()])?;
        spi::run(&format!("SELECT {end}"), &[job.into()])?;
        Ok(())
    })?;
    if let Err(error) = logged {
        warning!("the run of \"{}\" could not be logged with pg_jobmon: {}", record.dest_table, error.report().message);
    }
    Ok(())
}
