//! Running the jobs that are due, each in a transaction of its own: what CALL run_refresh, its background workers and
//! the scheduler do.

mod call;
mod due;
mod scheduler;
mod tasks;
mod work;
mod worker_pool;

pub use call::{run, Request};
pub use scheduler::{look_after, register, work_in};
pub use worker_pool::work as work_in_pool;
