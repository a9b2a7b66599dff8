//! dml and logdel: triggers on the source queue the keys that change, and a refresh replays them.
//!
//! Exactly once: a refresh reads, in one snapshot of the source, the queue and the rows that its keys have now, applies them
//! here, and stores that snapshot and the last row of the queue with the data, in one transaction. Nothing is removed from the
//! queue yet. The next refresh removes what the stored snapshot saw, and only then goes on.

mod convert;
mod decide;
mod destroy;
mod dml;
mod logdel;
mod make;
mod merge;
mod options;
mod refresh;
mod repair;
mod stamp;
mod state;
mod tell;
mod wanted;
mod work;

pub use destroy::destroy;
pub use make::{make, Request};
pub use options::Options;
pub use refresh::{opening, plan, refresh};
pub use stamp::DELETED;
pub use state::queue_of;
