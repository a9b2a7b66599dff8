//! Rows that have come, on their way into the destination by key.

use super::decide::Decision;
use super::dml::{self, is_written_anew};
use super::logdel;
use super::work::Rows;
use crate::backend::relation::Relation;
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::destination::references;
use crate::destination::upsert::{is_rewritable, Collected};
use crate::error::Result;
use crate::job::config::Job;
use crate::job::run::Run;

/// Rows that are ready to be merged.
pub struct Merge {
    rows: Rows,
    rest: Rest,
    /// As far as the columns of the rows need it.
    following: Following,
    /// The table is written anew with them.
    anew: bool,
}

/// What becomes of the other rows.
enum Rest {
    /// They go.
    Replaced,
    /// Of a dml job: those with these keys go, and how many keys these are.
    Deleted(Collected, u64),
    /// Of a logdel job: those with these keys are stamped; how many deleted rows have come; and whether rows that have not come are stamped.
    Stamped(Collected, u64, bool),
}

impl Merge {
    /// All rows of a dml job.
    pub fn all(
        job: &Job,
        rows: Rows,
        destination: &Relation,
        (decision, in_place): (&Decision, bool),
    ) -> Result<Merge> {
        rows.ready(job, &decision.present)?;
        let in_place = in_place && decision.columns.following.is_empty() && !references::has_any(destination.oid)?;
        let anew = !in_place && is_rewritable(&decision.columns.local)?;
        Ok(Merge { rows, rest: Rest::Replaced, following: decision.columns.following.clone(), anew })
    }

    /// Rows of keys that have changed, and keys that are gone.
    pub fn changed(
        job: &Job,
        rows: Rows,
        (gone, deleted): (Collected, u64),
        destination: &Relation,
        (decision, in_place): (&Decision, bool),
        run: &mut Run,
    ) -> Result<Merge> {
        rows.ready(job, &decision.present)?;
        if deleted > 0 {
            run.note(format!("{deleted} keys without a row"));
            gone.ready(job.pk_name.as_deref().unwrap_or_default())?;
        }
        let following = decision.columns.following.clone();
        let local = &decision.columns.local;
        let anew = is_written_anew(&rows.collected, destination, local, (&following, in_place), (run.rows, &[]))?;
        Ok(Merge { rows, rest: Rest::Deleted(gone, deleted), following, anew })
    }

    /// Rows that live and rows that were deleted, and keys that are left without either.
    pub fn stamped(
        job: &Job,
        rows: Rows,
        (left, deleted, stamps): (Collected, u64, bool),
        destination: &Relation,
        (decision, in_place): (&Decision, bool),
        run: &mut Run,
    ) -> Result<Merge> {
        if deleted > 0 {
            run.note(format!("{deleted} deleted rows"));
        }
        rows.ready(job, &decision.present)?;
        let key = job.pk_name.clone().unwrap_or_default();
        let local = &decision.columns.local;
        let following = logdel::following(job, &rows.collected, decision)?;
        let anew = is_written_anew(&rows.collected, destination, local, (&following, in_place), (run.rows, &key))?;
        Ok(Merge { rows, rest: Rest::Stamped(left, deleted, stamps), following, anew })
    }

    /// Columns of the destination are altered before the rows can be merged.
    pub fn alters(&self) -> bool {
        !self.following.is_empty() && !self.anew
    }

    /// What is to be exchanged, if the table is written anew.
    pub fn carry_out(
        self,
        job: &Job,
        destination: &Relation,
        decision: &Decision,
        run: &mut Run,
    ) -> Result<Option<Box<Exchange>>> {
        let Merge { rows, rest, following, anew } = self;
        let how = (&following, anew);
        if anew && !matches!(rest, Rest::Replaced) {
            run.note("so many rows that the table is written anew");
        }
        match rest {
            Rest::Replaced => dml::replace_all(job, rows, destination, decision, how),
            Rest::Deleted(gone, deleted) => dml::merge(job, rows, (gone, deleted), destination, decision, how),
            Rest::Stamped(left, deleted, stamps) => {
                logdel::merge(job, rows, (left, deleted, stamps), destination, decision, how)
            }
        }
    }
}
