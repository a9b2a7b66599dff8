//! The steps of a refresh.
//!
//! 1. *prepare*: locks here, bounds, waiting for writers: what needs no snapshot of the source, or must come before it.
//! 2. *decide*: looks at both sides in a snapshot of the source, which stays open, and says what follows. Where something on the source
//!    has to be repaired first, that is done between two looks. plan_refresh tells a decision, a refresh carries it out.
//! 3. *load*: rows of that snapshot go where nobody sees them yet, or only this transaction does. It ends the snapshot.
//! 4. *publish*: foreign keys, swap, state. Locks that readers feel are taken here alone.

use crate::error::Result;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::source::connection::Connection;

/// One refresh of a job, with the job's lock held.
pub trait Steps {
    /// What follows from what is there; it holds all that `load` needs to know.
    type Decision;
    /// What `load` leaves for `publish`.
    type Loaded;

    fn prepare(&mut self, source: &mut Connection, run: &mut Run) -> Result<()>;

    /// Changes nothing here.
    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Self::Decision>;

    fn load(&mut self, source: &mut Connection, decision: Self::Decision, run: &mut Run) -> Result<Self::Loaded>;

    fn publish(&mut self, loaded: Self::Loaded, run: &mut Run) -> Result<Status>;
}

/// A refresh by itself. The connection is given back before anything is published.
pub fn refresh(mut steps: impl Steps, mut source: Connection, run: &mut Run) -> Result<Status> {
    steps.prepare(&mut source, run)?;
    let decision = steps.decide(&mut source, run)?;
    let loaded = steps.load(&mut source, decision, run)?;
    drop(source);
    steps.publish(loaded, run)
}
