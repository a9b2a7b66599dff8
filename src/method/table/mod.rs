//! Table: the whole table into a plain table, which has its own identity, defaults and foreign keys.

mod make;
mod plan;
mod refresh;

pub use make::{make, Request};
pub use plan::plan;
pub use refresh::{refresh, Options};

use crate::error::Result;
use crate::method::{destroy_job, Method};

/// Ends a job. Its destination stays as it is, or is dropped without `keep`.
pub fn destroy(destination: &str, keep: bool, debug: bool) -> Result<()> {
    destroy_job("table_destroyer", Method::Table, destination, keep, debug)
}
