//! Table: the whole table into a plain table, which has its own identity, defaults and foreign keys.

mod destroy;
mod make;
mod refresh;

pub use destroy::destroy;
pub use make::{make, Request};

pub use refresh::{opening, plan, refresh, Options};
