//! run_history: one row a run.

use crate::backend::identity::keeps_its_snapshot;
use crate::backend::spi;
use crate::error::Result;
use crate::job::config::Catalog;
use crate::job::jobmon;
use crate::job::record::RunRecord;
use crate::settings;
use pgrx::datum::{DatumWithOid, JsonB};

/// Writes the row, deletes rows that are older than mimeo.history_keep, and logs the run with pg_jobmon.
pub fn write(record: &RunRecord, catalog: &Catalog) -> Result<()> {
    {
        let _identity = catalog.act_as_owner()?;
        let table = catalog.table("run_history");
        let mut args: Vec<DatumWithOid<'_>> = vec![
            record.dest_table.as_str().into(),
            record.source_table.as_str().into(),
            record.kind.as_str().into(),
            record.status.text().into(),
            record.reason.clone().into(),
            whole(record.rows).into(),
            whole(record.bytes).into(),
            record.queue_rows.map(whole).into(),
            JsonB(serde_json::Value::from(record.phases.clone())).into(),
            record.started.into(),
            record.ended.into(),
            record.sqlstate.clone().into(),
            record.error.clone().into(),
            record.run_by.clone().into(),
        ];
        // A catalog of an older release has no groups.
        let (column, value) = match &record.refresh_group {
            Some(group) => {
                args.push(group.as_str().into());
                (", refresh_group", ", $15")
            }
            None => ("", ""),
        };
        spi::run(
            &format!(
                "INSERT INTO {table} (dest_table, source_table, type, status, reason, rows, bytes, queue_rows, phases, started,
                                      ended, sqlstate, error, run_by{column})
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,
                         timestamptz '2000-01-01 00:00:00+00' + $10 * interval '1 microsecond',
                         timestamptz '2000-01-01 00:00:00+00' + $11 * interval '1 microsecond',
                         $12, $13, coalesce($14, session_user){value})"
            ),
            &args,
        )?;
        prune(catalog)?;
    }
    if let Some(state) = &record.state {
        catalog.record_run(&record.dest_table, record.started, Some(state), None, None)?;
    }
    if record.jobmon {
        jobmon::log(catalog, record)?;
    }
    Ok(())
}

/// Writes the rows of snapshots that were skipped, which began at the same moment.
pub fn write_skipped(catalog: &Catalog, dest_tables: &[String], reason: &str, started: i64) -> Result<()> {
    let _identity = catalog.act_as_owner()?;
    let (config, table) = (catalog.table("refresh_config"), catalog.table("run_history"));
    spi::run(
        &format!(
            "INSERT INTO {table} (dest_table, source_table, type, status, reason, started, ended, run_by)
             SELECT c.dest_table, c.source_table, c.type, 'skipped', $2, timestamptz '2000-01-01 00:00:00+00' + $3 * interval '1 microsecond',
                    clock_timestamp(), session_user FROM {config} c WHERE c.dest_table = ANY ($1) ORDER BY c.dest_table"
        ),
        &[dest_tables.to_vec().into(), reason.into(), started.into()],
    )?;
    prune(catalog)
}

/// A number that comes from a source may exceed a bigint.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Deletes some rows that are older than mimeo.history_keep. Rows that another session is deleting are skipped.
fn prune(catalog: &Catalog) -> Result<()> {
    let Some(keep) = settings::history_keep() else { return Ok(()) };
    // Such a transaction cannot skip rows that others have deleted since it began.
    if keeps_its_snapshot() {
        return Ok(());
    }
    let table = catalog.table("run_history");
    spi::run(
        &format!(
            "DELETE FROM {table} WHERE run_id = ANY (ARRAY(SELECT run_id FROM {table}
               WHERE started < clock_timestamp() - make_interval(secs => $1) ORDER BY started LIMIT 100
                 FOR UPDATE SKIP LOCKED))"
        ),
        &[keep.as_secs_f64().into()],
    )?;
    Ok(())
}

/// Marks the runs of a job from `started` on (microseconds since 2000-01-01 UTC) that brought data which is no longer shown.
pub fn take_back(catalog: &Catalog, dest_table: &str, started: i64, by: &str) -> Result<()> {
    let _identity = catalog.act_as_owner()?;
    let table = catalog.table("run_history");
    spi::run(
        &format!(
            "UPDATE {table} SET status = 'rolled_back',
                    reason = concat_ws('; ', reason, format('rolled back by %s at %s', $3::pg_catalog.text, date_trunc('second', clock_timestamp())))
              WHERE dest_table = $1 AND status IN ('ok', 'skipped', 'warning')
                AND started >= timestamptz '2000-01-01 00:00:00+00' + $2 * interval '1 microsecond'"
        ),
        &[dest_table.into(), started.into(), by.into()],
    )?;
    Ok(())
}
