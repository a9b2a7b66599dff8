//! The column of a logdel destination that tells when a row was deleted.

use crate::backend::name::quote;
use crate::error::{Error, Result};

/// In a logdel destination: when the row was deleted on the source; NULL as long as it lives.
pub const DELETED: &str = "mimeo_source_deleted";

/// # Errors
/// BrokenDestination, if there is no place for the time of a deletion.
pub fn require_stamp(destination: &crate::shape::Shape) -> Result<()> {
    if destination.column(DELETED).is_some_and(|column| column.type_name == "timestamp with time zone") {
        return Ok(());
    }
    let name = destination.table();
    Err(Error::BrokenDestination {
        destination: name.plain(),
        reason: format!("it has no column \"{DELETED}\" of type timestamptz"),
        hint: format!("ALTER TABLE {name} ADD COLUMN {} timestamptz;", quote(DELETED)),
    })
}
