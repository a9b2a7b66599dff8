//! Refreshers: what cron calls.

use super::arguments::{Given, Text};
use crate::job::lock::Wait;
use crate::job::method::Method;
use crate::method::group;
use crate::method::incremental::{self, Repull};
use crate::method::replay;
use crate::method::running::Call;
use crate::method::snapshot;
use crate::method::table;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

fn call(destination: &str, jobmon: Option<bool>, lock_wait: Option<i32>, debug: bool) -> Call<'_> {
    Call { destination, jobmon, lock_wait: Wait::from_argument(lock_wait), debug, first: false }
}

/// Refreshes a snapshot.
#[pg_extern]
fn refresh_snapshot(
    p_destination: Option<Text>,
    p_index: default!(Option<bool>, "true"),
    p_pulldata: default!(Option<bool>, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_check_stats: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    snapshot::refresh(&snapshot::Options {
        call: call(&p_destination.given("p_destination")?, p_jobmon, p_lock_wait, p_debug.given("p_debug")?),
        indexes: p_index.given("p_index")?,
        pull_data: p_pulldata.given("p_pulldata")?,
        check_stats: p_check_stats,
    })?;
    Ok(())
}

/// Refreshes all jobs of a group in one snapshot of their source and one transaction here.
#[pg_extern]
fn refresh_group(
    p_group: Option<Text>,
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    let group = p_group.given("p_group")?;
    group::refresh(&group, Wait::from_argument(p_lock_wait), p_debug.given("p_debug")?)?;
    Ok(())
}

/// The caller, who has the rights of the destination's owner, answers for what a job does.
#[pg_extern]
fn confirm_job(p_destination: Option<Text>) -> Result<(), ErrorReport> {
    crate::method::rights::confirm(&p_destination.given("p_destination")?)?;
    Ok(())
}

/// Shows the data again that the last refresh of a snapshot replaced.
#[pg_extern]
fn rollback_snapshot(p_destination: Option<Text>) -> Result<(), ErrorReport> {
    snapshot::rollback(&p_destination.given("p_destination")?)?;
    Ok(())
}

/// The name that refresh_snapshot had in 1.x.
#[pg_extern]
fn refresh_snap(
    p_destination: Option<Text>,
    p_index: default!(Option<bool>, "true"),
    p_pulldata: default!(Option<bool>, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_check_stats: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    refresh_snapshot(p_destination, p_index, p_pulldata, p_jobmon, p_lock_wait, p_check_stats, p_debug)
}

/// Refreshes a table.
#[pg_extern]
fn refresh_table(
    p_destination: Option<Text>,
    p_truncate_cascade: default!(Option<bool>, "NULL"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    table::refresh(&table::Options {
        call: call(&p_destination.given("p_destination")?, p_jobmon, p_lock_wait, p_debug.given("p_debug")?),
        truncate_cascade: p_truncate_cascade,
    })?;
    Ok(())
}

/// Refreshes an inserter.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn refresh_inserter(
    p_destination: Option<Text>,
    p_limit: default!(Option<i32>, "NULL"),
    p_repull: default!(Option<bool>, "false"),
    p_repull_start: default!(Option<Text>, "NULL"),
    p_repull_end: default!(Option<Text>, "NULL"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    incremental::refresh(
        Method::Inserter,
        &incremental::Options {
            call: call(&p_destination.given("p_destination")?, p_jobmon, p_lock_wait, p_debug.given("p_debug")?),
            limit: p_limit,
            repull: Repull::from_arguments(
                p_repull.given("p_repull")?,
                p_repull_start.as_deref(),
                p_repull_end.as_deref(),
            ),
        },
    )?;
    Ok(())
}

/// Refreshes an updater.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn refresh_updater(
    p_destination: Option<Text>,
    p_limit: default!(Option<i32>, "NULL"),
    p_repull: default!(Option<bool>, "false"),
    p_repull_start: default!(Option<Text>, "NULL"),
    p_repull_end: default!(Option<Text>, "NULL"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    incremental::refresh(
        Method::Updater,
        &incremental::Options {
            call: call(&p_destination.given("p_destination")?, p_jobmon, p_lock_wait, p_debug.given("p_debug")?),
            limit: p_limit,
            repull: Repull::from_arguments(
                p_repull.given("p_repull")?,
                p_repull_start.as_deref(),
                p_repull_end.as_deref(),
            ),
        },
    )?;
    Ok(())
}

/// Refreshes a dml job.
#[pg_extern]
fn refresh_dml(
    p_destination: Option<Text>,
    p_limit: default!(Option<i32>, "NULL"),
    p_repull: default!(Option<bool>, "false"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_insert_on_fetch: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    replay::refresh(
        Method::Dml,
        &replay::Options {
            call: call(&p_destination.given("p_destination")?, p_jobmon, p_lock_wait, p_debug.given("p_debug")?),
            limit: p_limit,
            repull: p_repull.given("p_repull")?,
            insert_on_fetch: p_insert_on_fetch,
        },
    )?;
    Ok(())
}

/// Refreshes a logdel job.
#[pg_extern]
fn refresh_logdel(
    p_destination: Option<Text>,
    p_limit: default!(Option<i32>, "NULL"),
    p_repull: default!(Option<bool>, "false"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_lock_wait: default!(Option<i32>, "NULL"),
    p_insert_on_fetch: default!(Option<bool>, "NULL"),
    p_debug: default!(Option<bool>, "false"),
) -> Result<(), ErrorReport> {
    replay::refresh(
        Method::Logdel,
        &replay::Options {
            call: call(&p_destination.given("p_destination")?, p_jobmon, p_lock_wait, p_debug.given("p_debug")?),
            limit: p_limit,
            repull: p_repull.given("p_repull")?,
            insert_on_fetch: p_insert_on_fetch,
        },
    )?;
    Ok(())
}
