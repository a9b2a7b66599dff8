//! inserter and updater: new rows, or new and changed ones, by a control column.

mod asked;
mod bound;
mod decide;
mod destroy;
mod ended;
mod look;
mod make;
mod merge;
mod refresh;
mod state;
mod tell;
mod values;

pub use decide::Repull;
pub use destroy::destroy;
pub use make::{make, Request};
pub use refresh::{opening, plan, refresh, Options};
pub use state::{kind_of, next_range};
pub use values::Values;
