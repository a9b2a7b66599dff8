//! Snapshot: the whole table into the idle one of two twins, then the view in front is swapped to it.

mod decide;
mod delta;
mod destroy;
mod empty;
mod guard;
mod in_place;
mod make;
mod many;
mod refresh;
mod rollback;
mod state;
mod tell;
mod trust;

pub use decide::InGroup;
pub use destroy::destroy;
pub use empty::{after_commit_of_group as empty_twins_after_commit, work as empty_twin};
pub use make::make;
pub use many::unchanged;
pub use refresh::{opening, plan, refresh, Options};
pub use rollback::rollback;
pub use state::is_as_copied;
