//! All that talks to the other database. It knows nothing of local tables.

pub mod bounds;
pub mod catalog;
pub mod changes;
pub mod connection;
pub mod connection_cache;
pub mod copy_out;
mod libpq;
pub mod one_snapshot;
pub mod queue;
pub mod row_versions;
pub mod seen;
pub mod server;
mod sharing;
pub mod survey;
pub mod undo;
