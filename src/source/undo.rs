//! Taking back what was done on a source, if the transaction here comes to nothing.
//!
//! A maker has to commit on the source before it can pull data. Should the maker fail, or the transaction around it be rolled
//! back later, what it has made there goes again.

use crate::source::connection::Connection;
use crate::source::libpq::run_detached;
use pgrx::{register_xact_callback, PgXactCallbackEvent};
use std::cell::RefCell;

struct Undo {
    /// With the password.
    parameters: Vec<(String, String)>,
    label: String,
    script: String,
    /// Asked before the commit: whether what was done is still wanted.
    wanted: Box<dyn Fn() -> bool>,
}

impl Undo {
    fn run(self) {
        if !run_detached(&self.parameters, &self.script) {
            pgrx::log!("mimeo: what was made on {} is left there; to be run there: {}", self.label, self.script);
        }
    }
}

thread_local! {
    static PENDING: RefCell<Vec<Undo>> = const { RefCell::new(Vec::new()) };
}

/// Runs `script` on the source when this transaction is rolled back, or if `wanted` is false when it is about to commit.
pub fn undo_later(source: &Connection, script: String, wanted: impl Fn() -> bool + 'static) {
    let undo = Undo {
        parameters: source.parameters.clone(),
        label: source.label().to_string(),
        script,
        wanted: Box::new(wanted),
    };
    let first = PENDING.with_borrow_mut(|pending| {
        pending.push(undo);
        pending.len() == 1
    });
    if first {
        register_xact_callback(PgXactCallbackEvent::Abort, undo_now);
        register_xact_callback(PgXactCallbackEvent::PreCommit, || {
            let (_, unwanted): (Vec<_>, Vec<_>) = PENDING.take().into_iter().partition(|undo| (undo.wanted)());
            unwanted.into_iter().for_each(Undo::run);
        });
    }
}

/// Takes back at once what this transaction has done so far.
pub fn undo_now() {
    PENDING.take().into_iter().for_each(Undo::run);
}
