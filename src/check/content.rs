//! validate_content.

use super::compare::Comparison;
use super::difference;
use super::fingerprint::{self, Fingerprint};
use super::range::Intervals;
use crate::backend::grant;
use crate::backend::identity::{current_role, role_name};
use crate::backend::relation::{oid_arg, Relation};
use crate::backend::spi;
use crate::error::{Error, Result};
use crate::method::about;

/// What both sides hold.
pub struct Contents {
    pub source: Fingerprint,
    pub destination: Fingerprint,
}

/// Compares what the rows of a job's source and destination hold, and tells of up to `show` keys whose rows differ.
pub fn content(destination: &str, intervals: Intervals<'_>, show: i32) -> Result<Contents> {
    about(&format!("Comparing the rows of {destination}."), || {
        let mut sides = Comparison::begin(destination, intervals, |destination| {
            if show > 0 {
                require_readable(destination)?;
            }
            Ok(())
        })?;
        let rows = fingerprint::Rows::of(&mut sides)?;
        let [source, here] = fingerprint::of_both(&mut sides, &rows)?;
        if source != here && show > 0 {
            difference::show(&mut sides, &rows, source.rows.max(here.rows), show as usize)?;
        }
        Ok(Contents { source, destination: here })
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
