//! What plan_refresh tells of an inserter or an updater.

use super::asked::Asked;
use super::bound::Bound;
use super::decide::Decision;
use crate::backend::name::quote;
use crate::backend::relation::Relation;
use crate::destination::upsert::MUCH_TO_MERGE;
use crate::error::{quoted, quoted_list, Result};
use crate::job::config::Job;
use crate::method::plan::{volume, written_anew, Plan};
use crate::source::bounds::{bound_type, Slice};
use crate::source::connection::Connection;

/// In the source's snapshot. `lacking`: why rows of the destination lack values, as an earlier refresh has found.
pub fn tell(
    decision: &Decision,
    bound: &Bound,
    job: &Job,
    (asked, destination): (&Asked, &Relation),
    lacking: Option<String>,
    source: &mut Connection,
    plan: &mut Plan,
) -> Result<()> {
    let (control, table, name) = (&asked.control, asked.table.table(), &job.destination);
    let Decision { take, rows, column_map, text, .. } = decision;
    plan.source(
        format!("find up to which value column \"{}\" of \"{}\" is complete", control.name, table.plain()),
        None,
        Some(match &bound.upper {
            Some(upper) => format!("up to {upper}, exclusive: {}", bound.kind),
            None => format!("no bound: {}", bound.kind),
        }),
    );
    if decision.nothing_is_safe {
        plan.here("nothing: no row is known to be complete", None, Some("0 rows".to_string()));
        return Ok(());
    }
    if decision.merges_all || decision.repulls {
        plan.source("copy all rows", None, decision.again.clone());
    } else if let Some(reason) = decision.again.clone().or(lacking) {
        plan.here("nothing for the rows that lack values: p_repull := true copies them anew", None, Some(reason));
    }
    plan.follow(&decision.following, destination);
    let query = Slice { rows, control, range: &take.range }.query(&column_map.columns);
    let volume = volume(source, &query)?;
    if take.delete {
        let clause = take.range.clause(&quote(&control.name), bound_type(&control.type_name));
        plan.here(
            format!("DELETE FROM {name}{clause}"),
            Some(format!("ROW EXCLUSIVE on \"{}\", until the end of the transaction", name.plain())),
            Some("these rows are taken again".to_string()),
        );
    }
    let by_key = job.method().facts().by_key;
    let into = if by_key { "a temporary table".to_string() } else { quoted(&name.plain()) };
    plan.copy(job, &query, &table, &into, volume, text.clone());
    if let Some(limit) = take.limit {
        plan.source("end the batch between two control values", None, Some(format!("batch limit of {limit} rows")));
    }
    let lock = Some(format!("ROW EXCLUSIVE on \"{}\", until the end of the transaction", name.plain()));
    if by_key {
        plan.here(
            format!("update or insert them in {name} by {}", quoted_list(&job.pk_name.clone().unwrap_or_default())),
            lock,
            Some(written_anew(MUCH_TO_MERGE)),
        );
    } else {
        plan.here(format!("keep its indexes and triggers, commit {name} and last_value together"), lock, None);
    }
    Ok(())
}
