//! A job among others of a group: its method's steps, with what is between them kept in place.

use crate::destination::exchange::Exchange;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::incremental;
use crate::method::replay;
use crate::method::running::Call;
use crate::method::snapshot;
use crate::method::steps::{Manner, Opening, Steps};
use crate::method::table;
use crate::source::changes::Counted;
use crate::source::connection::Connection;
use pgrx::pg_sys;

/// The arguments of a refresh as it is configured, whatever its method.
pub enum Options<'a> {
    Snapshot(snapshot::Options<'a>),
    Table(table::Options<'a>),
    Incremental(incremental::Options<'a>),
    Replay(replay::Options<'a>),
}

impl<'a> Options<'a> {
    pub fn of(job: &'a Job) -> Options<'a> {
        let call = Call::of(&job.dest_table);
        match job.method() {
            Method::Snapshot => Options::Snapshot(snapshot::Options::of(call)),
            Method::Table => Options::Table(table::Options::of(call)),
            Method::Inserter | Method::Updater => Options::Incremental(incremental::Options::of(call)),
            Method::Dml | Method::Logdel => Options::Replay(replay::Options::of(call)),
        }
    }

    /// `moment`: that of the group; `wait`: an idle twin is waited for, whether or not it will be needed.
    pub fn opening(
        &'a self,
        catalog: &'a Catalog,
        job: &'a Job,
        (moment, wait): (i64, bool),
    ) -> Result<Box<dyn Entrant<'a> + 'a>> {
        Ok(match self {
            Options::Snapshot(options) => {
                let in_group = snapshot::InGroup { moment, wait, ..snapshot::InGroup::default() };
                Box::new(snapshot::opening(options, catalog, job, Some(in_group))?)
            }
            Options::Table(options) => Box::new(table::opening(options, catalog, job)?),
            Options::Incremental(options) => Box::new(incremental::opening(options, catalog, job, true)?),
            Options::Replay(options) => Box::new(replay::opening(options, catalog, job, true)?),
        })
    }
}

/// A member whose source is not reached yet.
pub trait Entrant<'a> {
    fn owner(&self) -> pg_sys::Oid;
    fn pause(&self) -> Result<Option<&'static str>>;
    fn open(self: Box<Self>, source: &mut Connection, run: &mut Run) -> Result<Box<dyn Member + 'a>>;
}

impl<'a, O: Opening + 'a> Entrant<'a> for O
where
    O::Steps: 'a,
{
    fn owner(&self) -> pg_sys::Oid {
        Opening::owner(self)
    }

    fn pause(&self) -> Result<Option<&'static str>> {
        Opening::pause(self)
    }

    fn open(self: Box<Self>, source: &mut Connection, run: &mut Run) -> Result<Box<dyn Member + 'a>> {
        let steps = Opening::open(*self, source, run)?;
        Ok(Box::new(UnderWay { steps, decision: None, loaded: None, ready: None }))
    }
}

/// A member, from step to step: see `steps`.
pub trait Member {
    fn counted_table(&self) -> Option<u32>;
    fn moment(&self) -> Option<i64>;
    fn is_unchanged(&mut self, source: &mut Connection, counted: Counted) -> Result<bool>;
    fn skip(&mut self, run: &mut Run) -> Result<Status>;
    fn prepare(&mut self, source: &mut Connection, run: &mut Run) -> Result<()>;
    fn lock(&mut self, run: &mut Run) -> Result<()>;
    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Manner>;
    fn stay_in_place(&mut self);
    fn load(&mut self, source: &mut Connection, run: &mut Run) -> Result<()>;
    fn settle(&mut self, source: &mut Connection, run: &mut Run) -> Result<()>;
    fn ready(&mut self, company: &[pg_sys::Oid], run: &mut Run) -> Result<()>;
    fn exchange(&mut self) -> Option<&mut Exchange>;
    fn locks(&self) -> Result<Vec<pg_sys::Oid>>;
    fn publish(&mut self, run: &mut Run) -> Result<Status>;
}

struct UnderWay<S: Steps> {
    steps: S,
    decision: Option<S::Decision>,
    loaded: Option<S::Loaded>,
    ready: Option<S::Ready>,
}

/// The step before was not taken.
fn missing() -> Error {
    Error::Internal("a step of a group was left out".to_string())
}

impl<S: Steps> Member for UnderWay<S> {
    fn counted_table(&self) -> Option<u32> {
        self.steps.counted_table()
    }

    fn moment(&self) -> Option<i64> {
        self.steps.moment()
    }

    fn is_unchanged(&mut self, source: &mut Connection, counted: Counted) -> Result<bool> {
        self.steps.is_unchanged(source, counted)
    }

    fn skip(&mut self, run: &mut Run) -> Result<Status> {
        self.steps.skip(run)
    }

    fn prepare(&mut self, source: &mut Connection, run: &mut Run) -> Result<()> {
        self.steps.prepare(source, run)?;
        self.steps.repair(source, run)
    }

    fn lock(&mut self, run: &mut Run) -> Result<()> {
        self.steps.lock(run)
    }

    fn decide(&mut self, source: &mut Connection, run: &mut Run) -> Result<Manner> {
        let decision = self.steps.decide(source, run)?;
        let manner = self.steps.manner(&decision)?;
        self.decision = Some(decision);
        Ok(manner)
    }

    fn stay_in_place(&mut self) {
        self.steps.stay_in_place();
    }

    fn load(&mut self, source: &mut Connection, run: &mut Run) -> Result<()> {
        source.begin_member()?;
        let decision = self.decision.take().ok_or_else(missing)?;
        self.loaded = Some(self.steps.load(source, decision, run)?);
        Ok(())
    }

    fn settle(&mut self, source: &mut Connection, run: &mut Run) -> Result<()> {
        match &mut self.loaded {
            Some(loaded) => self.steps.settle(source, loaded, run),
            None => Ok(()),
        }
    }

    fn ready(&mut self, company: &[pg_sys::Oid], run: &mut Run) -> Result<()> {
        if self.ready.is_some() {
            return Ok(());
        }
        let loaded = self.loaded.take().ok_or_else(missing)?;
        self.ready = Some(self.steps.ready(loaded, company, run)?);
        Ok(())
    }

    fn exchange(&mut self) -> Option<&mut Exchange> {
        self.steps.exchange(self.ready.as_mut()?)
    }

    fn locks(&self) -> Result<Vec<pg_sys::Oid>> {
        self.steps.locks(self.ready.as_ref().ok_or_else(missing)?)
    }

    fn publish(&mut self, run: &mut Run) -> Result<Status> {
        let ready = self.ready.take().ok_or_else(missing)?;
        self.steps.publish(ready, run)
    }
}
