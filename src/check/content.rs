//! validate_content.

use super::compare::Comparison;
use super::difference::{self, Differences};
use super::range::Intervals;
use super::row_sums::{self, RowSums};
use super::waiting::waiting;
use crate::backend::grant;
use crate::backend::identity::{current_role, role_name};
use crate::backend::relation::{oid_arg, Relation};
use crate::backend::spi;
use crate::error::{Error, Result};
use crate::method::running::about;

/// What both sides hold.
pub struct Contents {
    pub source: RowSums,
    pub destination: RowSums,
}

/// Compares the contents of the rows of a job's source and destination, and reports up to `show` keys whose rows differ.
pub fn content(destination: &str, intervals: Intervals<'_>, show: i32) -> Result<Contents> {
    about(&format!("Comparing the rows of \"{destination}\"."), || {
        let mut sides = Comparison::begin(destination, intervals, |destination| {
            if show > 0 {
                require_readable(destination)?;
            }
            Ok(())
        })?;
        let rows = row_sums::Rows::of(&mut sides)?;
        let [source, here] = row_sums::of_both(&mut sides, &rows)?;
        if source != here && show > 0 {
            difference::show(&mut sides, &rows, source.rows.max(here.rows), show as usize)?;
        }
        Ok(Contents { source, destination: here })
    })
}

/// Up to `limit` keys whose rows differ: which, how, and whether that may just wait for the next refresh.
///
/// # Errors
/// NoKey; InvalidArgument.
pub fn differences(
    destination: &str,
    intervals: Intervals<'_>,
    limit: i32,
) -> Result<Vec<(serde_json::Value, String, bool)>> {
    let limit = usize::try_from(limit)
        .map_err(|_| Error::InvalidArgument(format!("p_limit is {limit}; it must not be negative")))?;
    about(&format!("Comparing the rows of \"{destination}\"."), || {
        let mut sides = Comparison::begin(destination, intervals, require_readable)?;
        let rows = row_sums::Rows::of(&mut sides)?;
        let [source, here] = row_sums::of_both(&mut sides, &rows)?;
        if source == here || limit == 0 {
            return Ok(Vec::new());
        }
        let found = difference::find(&mut sides, &rows, source.rows.max(here.rows), limit)?;
        let Some(Differences { key, text, found }) = found else {
            let (table, source_label) = (sides.table.table().plain(), sides.source.label().to_string());
            return Err(Error::NoKey { table, source_label });
        };
        let waiting = waiting(&mut sides, &key, &text, &found)?;
        Ok(found
            .into_iter()
            .map(|one| (waiting.holds(&one), one))
            .map(|(wait, one)| (one.key, one.how, wait))
            .collect())
    })
}

/// The keys are shown to the caller, who must be allowed to see them.
///
/// # Errors
/// NotReadable.
fn require_readable(destination: &Relation) -> Result<()> {
    let readable = spi::is_true("SELECT pg_catalog.has_table_privilege($1, 'SELECT')", &[oid_arg(destination.oid)])?;
    if readable {
        return Ok(());
    }
    let name = destination.name();
    let fix = grant::on_table("SELECT", &name, &role_name(current_role())?);
    Err(Error::NotReadable { destination: name.plain(), fix })
}
