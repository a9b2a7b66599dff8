//! inserter_destroyer and updater_destroyer.

use crate::error::Result;
use crate::method::{destroy_job, Method};

/// Ends a job. Its destination stays as it is, or is dropped without `keep`.
pub fn destroy(method: Method, destination: &str, keep: bool, debug: bool) -> Result<()> {
    let function = if method == Method::Inserter { "inserter_destroyer" } else { "updater_destroyer" };
    destroy_job(function, method, destination, keep, debug)
}
