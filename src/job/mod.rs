//! What is configured, and what happened.

pub mod config;
pub mod history;
pub mod lock;
