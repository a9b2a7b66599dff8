//! What is left to be done of a refresh when all that takes time is done.

use crate::backend::relation::Relation;
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::error::Result;
use pgrx::pg_sys;

/// `M`: rows that can only be merged once columns are altered.
pub enum Left<M> {
    Nothing,
    /// Storage is exchanged.
    Exchange(Box<Exchange>),
    /// Columns are altered, and rows merged, while readers wait.
    Merge(Box<M>),
    /// Columns are altered.
    Change,
}

impl<M> Left<M> {
    pub fn exchange(&mut self) -> Option<&mut Exchange> {
        match self {
            Left::Exchange(exchange) => Some(exchange),
            _ => None,
        }
    }

    /// What is locked exclusively for it.
    pub fn locks(&self, following: &Following, destination: &Relation) -> Result<Vec<pg_sys::Oid>> {
        match self {
            Left::Nothing => Ok(Vec::new()),
            Left::Exchange(exchange) => exchange.locks(),
            Left::Merge(_) | Left::Change => following.locked(destination),
        }
    }
}

impl<M> From<Option<Box<Exchange>>> for Left<M> {
    fn from(exchange: Option<Box<Exchange>>) -> Left<M> {
        exchange.map_or(Left::Nothing, Left::Exchange)
    }
}
