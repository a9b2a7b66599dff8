//! The steps of a refresh.
//!
//! 1. *open*: what the job and the call say, as its source reads it.
//! 2. *prepare*: what has to be done on the source before its snapshot: a queue is purged, bounds are taken, writers are waited for.
//! 3. *lock*: locks here that readers do not feel.
//! 4. *decide*: looks at both sides in a snapshot of the source, which stays open, and says what follows. Where something on the source
//!    has to be repaired first, that is done between two looks; in a group before (*repair*). plan_refresh tells a decision, a refresh
//!    carries it out.
//! 5. *load*: rows of that snapshot go where nobody sees them yet, or only this transaction does. It ends the snapshot; in a group that
//!    waits until all have loaded. What comes after its end is *settle*.
//! 6. *ready*: all that takes time: rows are merged, indexes and statistics made, guards asked. Then foreign keys are *checked*.
//! 7. *publish*: swap, exchange, state. Locks that readers feel are taken here alone.
//!
//! A refresh by itself takes them one after the other. A group takes each of them with all of its members: see `group`.

use crate::backend::identity::act_as;
use crate::backend::relation::Relation;
use crate::destination::exchange::Exchange;
use crate::destination::together::Together;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::connecting::connect_job;
use crate::method::load::{flush_wal, patience};
use crate::source::changes::Counted;
use crate::source::connection::Connection;
use pgrx::pg_sys;

/// A job that is about to be refreshed: what is known here, before its source is reached.
pub trait Opening {
    type Steps: Steps;

    /// As whom it is refreshed.
    fn owner(&self) -> pg_sys::Oid;

    /// Nothing is to be done now, and why. It is recorded as skipped.
    fn pause(&self) -> Result<Option<&'static str>> {
        Ok(None)
    }

    /// As the caller.
    fn open(self, source: &mut Connection, run: &mut Run) -> Result<Self::Steps>;
}

/// One of a method with a plain table as destination.
pub struct Opened<'a, Options> {
    pub options: &'a Options,
    pub catalog: &'a Catalog,
    pub job: &'a Job,
    pub destination: Relation,
    pub in_group: bool,
}

/// How new rows become visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// There are none.
    Unchanged,
    /// By the commit, to each snapshot that is taken after it.
    InPlace,
    /// To every query from the commit on, also of an older snapshot.
    AtOnce,
}

/// One refresh of a job, with the job's lock held. All of it runs as the owner.
pub trait Steps {
    /// What follows from what is there; it holds all that `load` needs to know.
    type Decision;
    /// What `load` leaves.
    type Loaded;
    /// What has only to be shown.
    type Ready;

    /// The table of the source whose counters may prove that nothing has changed.
    fn counted_table(&self) -> Option<u32> {
        None
    }

    /// The group that has copied it last, as a moment of that, if nothing has since.
    fn moment(&self) -> Option<i64> {
        None
    }

    /// Whether they do, so that `skip` is all that is to be done.
    fn is_unchanged(&mut self, _: &mut Connection, _: Counted) -> Result<bool> {
        Ok(false)
    }

    /// # Errors
    /// Internal, of a method that has no such proof.
    fn skip(&mut self, _: &mut Run) -> Result<Status> {
        Err(Error::Internal("nothing proves that it is unchanged".to_string()))
    }

    fn prepare(&mut self, _: &mut Connection, _: &mut Run) -> Result<()> {
        Ok(())
    }

    /// In a group, where no look can be followed by another one: what else has to be done on the source.
    fn repair(&mut self, _: &mut Connection, _: &mut Run) -> Result<()> {
        Ok(())
    }

    fn lock(&mut self, run: &mut Run) -> Result<()>;

    /// Changes nothing here.
    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Self::Decision>;

    fn manner(&self, decision: &Self::Decision) -> Result<Manner>;

    /// Other members of its group change in place: rows are not to become visible at once, as far as that can be helped.
    fn stay_in_place(&mut self);

    fn load(&mut self, source: &mut Connection, decision: Self::Decision, run: &mut Run) -> Result<Self::Loaded>;

    fn settle(&mut self, _: &mut Connection, _: &mut Self::Loaded, _: &mut Run) -> Result<()> {
        Ok(())
    }

    /// `company`: the tables of a group, whose rows may still be to come.
    fn ready(&mut self, loaded: Self::Loaded, company: &[pg_sys::Oid], run: &mut Run) -> Result<Self::Ready>;

    /// The storage that is going to be exchanged.
    fn exchange<'a>(&self, _: &'a mut Self::Ready) -> Option<&'a mut Exchange> {
        None
    }

    /// What `publish` locks exclusively.
    fn locks(&self, ready: &Self::Ready) -> Result<Vec<pg_sys::Oid>>;

    fn publish(&mut self, ready: Self::Ready, run: &mut Run) -> Result<Status>;
}

/// A refresh by itself. The connection is given back before anything is published.
pub fn refresh(opening: impl Opening, catalog: &Catalog, job: &Job, run: &mut Run) -> Result<Status> {
    if let Some(why) = opening.pause()? {
        return pause(why, catalog, job, run);
    }
    let owner = opening.owner();
    let mut source = connect_job(catalog, job, owner)?;
    let mut steps = opening.open(&mut source, run)?;
    let _identity = act_as(owner, true)?;
    steps.prepare(&mut source, run)?;
    steps.lock(run)?;
    let decision = steps.decide(&mut source, run)?;
    let mut loaded = steps.load(&mut source, decision, run)?;
    steps.settle(&mut source, &mut loaded, run)?;
    drop(source);
    let mut ready = steps.ready(loaded, &[], run)?;
    catalog.lock_to_record(&[&job.dest_table])?;
    if let Some(exchange) = steps.exchange(&mut ready) {
        exchange.check(&Together::default(), true, patience())?;
    }
    if !steps.locks(&ready)?.is_empty() {
        flush_wal();
    }
    steps.publish(ready, run)
}

/// Records that nothing is done now.
pub fn pause(why: &str, catalog: &Catalog, job: &Job, run: &mut Run) -> Result<Status> {
    pgrx::notice!("\"{}\" pauses: {why}", job.dest_table);
    run.note(format!("paused: {why}"));
    catalog.record_run(&job.dest_table, run.started(), None, None, None)?;
    Ok(Status::Skipped)
}
