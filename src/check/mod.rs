//! Checks: they compare jobs with their sources, and look for what is missing. They change nothing on either side.
//!
//! Above the methods, whose steps they share; nothing below knows them.

mod columns;
mod compare;
mod content;
mod difference;
mod each;
mod missing;
mod permissions;
mod range;
mod row_sums;
mod rowcount;
mod snapshots;
mod waiting;

pub use columns::source_columns;
pub use content::{content, differences};
pub use missing::source_tables;
pub use permissions::permissions;
pub use range::Intervals;
pub use rowcount::rowcount;
pub use snapshots::snapshots;
