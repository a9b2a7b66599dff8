//! table_destroyer.

use crate::error::Result;
use crate::job::method::Method;
use crate::method::running::destroy_job;

/// Ends a job. Its destination stays as it is, or is dropped without `keep`.
pub fn destroy(destination: &str, keep: bool, debug: bool) -> Result<()> {
    destroy_job(Method::Table, destination, keep, debug)
}
