//! How each method makes, refreshes and destroys a job, and what all of them share.

pub mod columns;
pub mod connecting;
pub mod dispatch;
mod follow;
pub mod group;
pub mod incremental;
mod left;
mod load;
pub mod making;
pub mod plan;
pub mod replay;
pub mod rights;
pub mod row_key;
pub mod running;
pub mod snapshot;
mod sources;
mod steps;
pub mod table;
mod wishes;
