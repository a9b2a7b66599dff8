//! Makers: they set a job up and pull the first data.

use crate::method::snapshot;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Makes a snapshot job: `<destination>_snap1`, `<destination>_snap2` and the view in front of them.
#[pg_extern]
#[allow(clippy::too_many_arguments)]
fn snapshot_maker(
    p_src_table: &str,
    p_dblink_id: i32,
    p_dest_table: default!(Option<&str>, "NULL"),
    p_index: default!(bool, "true"),
    p_filter: default!(Option<Vec<String>>, "NULL"),
    p_condition: default!(Option<&str>, "NULL"),
    p_pulldata: default!(bool, "true"),
    p_jobmon: default!(Option<bool>, "NULL"),
    p_debug: default!(bool, "false"),
) -> Result<(), ErrorReport> {
    snapshot::make(&snapshot::Request {
        source_table: p_src_table,
        data_source_id: p_dblink_id,
        destination: p_dest_table,
        indexes: p_index,
        filter: p_filter,
        condition: p_condition,
        pull_data: p_pulldata,
        jobmon: p_jobmon,
        debug: p_debug,
    })?;
    Ok(())
}
