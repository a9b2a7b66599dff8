//! What is configured, and what happened.

pub mod config;
pub mod failure;
pub mod history;
pub mod jobmon;
pub mod lock;
pub mod method;
pub mod record;
pub mod renamed;
pub mod run;
