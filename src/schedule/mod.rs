//! Running the jobs whose turn it is, each in a transaction of its own: what CALL run_refresh, its background workers and
//! the scheduler do.

mod call;
mod crew;
mod due;
mod scheduler;
mod tasks;
mod work;

pub use call::{run, Request};
pub use crew::work as work_in_crew;
pub use scheduler::{look_after, register, work_in};
