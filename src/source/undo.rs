//! Undoing what was done on a source, if the local transaction is rolled back.
//!
//! A maker has to commit on the source before it can pull data. Should the maker fail, or the transaction around it be rolled
//! back later, what it has created on the source is dropped again.

use crate::source::connection::Connection;
use crate::source::libpq::{run_detached, Outcome};
use pgrx::{register_xact_callback, PgXactCallbackEvent};
use std::cell::{Cell, RefCell};

struct Undo {
    /// With the password.
    parameters: Vec<(String, String)>,
    label: String,
    vouched: bool,
    script: String,
    /// Asked before the commit: whether what was done is still wanted.
    wanted: Box<dyn Fn() -> bool>,
}

impl Undo {
    fn run(&self) -> Outcome {
        let outcome = run_detached(&self.parameters, &self.script, self.vouched);
        if outcome != Outcome::Done {
            self.leave();
        }
        outcome
    }

    fn leave(&self) {
        pgrx::log!(
            "mimeo: objects that were created on {} are left there; run on that source: {}",
            self.label,
            self.script
        );
    }
}

thread_local! {
    static PENDING: RefCell<Vec<Undo>> = const { RefCell::new(Vec::new()) };
    /// The callbacks of this transaction are registered.
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// The number of entries that this transaction would undo.
pub fn pending() -> usize {
    PENDING.with_borrow(Vec::len)
}

/// Runs `script` on the source when this transaction is rolled back, or if `wanted` is false when it is about to commit.
pub fn undo_later(source: &Connection, script: String, wanted: impl Fn() -> bool + 'static) {
    // To the server that it was made on, and without looking its name up again, which nobody could cancel.
    let address = source.link.address();
    let kept =
        source.parameters.iter().filter(|(keyword, _)| !["host", "hostaddr", "port"].contains(&keyword.as_str()));
    let undo = Undo {
        parameters: kept.cloned().chain(address).collect(),
        label: source.label().to_string(),
        vouched: source.is_vouched(),
        script,
        wanted: Box::new(wanted),
    };
    PENDING.with_borrow_mut(|pending| pending.push(undo));
    if REGISTERED.replace(true) {
        return;
    }
    register_xact_callback(PgXactCallbackEvent::Abort, || {
        REGISTERED.set(false);
        undo_from(0);
    });
    register_xact_callback(PgXactCallbackEvent::Commit, || {
        REGISTERED.set(false);
        PENDING.take();
    });
    register_xact_callback(PgXactCallbackEvent::Prepare, || {
        REGISTERED.set(false);
        PENDING.take();
    });
    register_xact_callback(PgXactCallbackEvent::PreCommit, undo_unwanted);
    register_xact_callback(PgXactCallbackEvent::PrePrepare, || {
        if pending() > 0 {
            pgrx::error!("a transaction that has made a dml or logdel job cannot be prepared");
        }
    });
}

/// Before the commit. An error in it leaves the rest to the rollback.
fn undo_unwanted() {
    for position in (0..pending()).rev() {
        // Taken out for the question, which runs queries, and put back at once.
        let undo = PENDING.with_borrow_mut(|pending| pending.remove(position));
        let wanted = {
            let kept = Kept(Some(undo), position);
            let answer = kept.0.as_ref().is_some_and(|undo| (undo.wanted)());
            drop(kept);
            answer
        };
        if !wanted {
            PENDING.with_borrow_mut(|pending| pending.remove(position)).run();
        }
    }
}

/// Puts an entry back, also when an error unwinds.
struct Kept(Option<Undo>, usize);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            PENDING.with_borrow_mut(|pending| pending.insert(self.1, undo));
        }
    }
}

/// Undoes at once what was done since there were so many entries.
pub fn undo_from(first: usize) {
    let since = PENDING.with_borrow_mut(|pending| pending.split_off(first.min(pending.len())));
    // Nobody can cancel this: a source that did not answer once is not tried again.
    let mut silent: Vec<&[(String, String)]> = Vec::new();
    for undo in &since {
        if silent.contains(&undo.parameters.as_slice()) {
            undo.leave();
        } else if undo.run() == Outcome::Late {
            silent.push(&undo.parameters);
        }
    }
}
