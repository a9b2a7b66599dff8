//! inserter and updater: new rows, or new and changed ones, by a control column.

mod bound;
mod destroy;
mod make;
mod refresh;
mod state;
mod values;

pub use destroy::destroy;
pub use make::{make, Request};
pub use refresh::plan::plan;
pub use refresh::{refresh, Options, Repull};
pub use state::{kind_of, next_range};
pub use values::Values;
