//! Groups: jobs that are refreshed together. All of them show one moment of their source, and show it at one moment here.
//!
//! The steps of all members (see `steps`) lie in one transaction, in one subtransaction of it: whatever fails takes all of them back. Each
//! step of a member runs as the owner of its destination.
//!
//! 1. Counters of all members that have been seen before are read in one query. If all of these are snapshots, and unchanged, nothing is done.
//!    Otherwise counters prove nothing: they may not count yet what was committed last, which other members have.
//! 2. On the sources: queues are purged, triggers repaired, bounds taken. Then locks here that readers do not feel, in the order of OIDs. In
//!    this order, because sources may be tables of this database.
//! 3. On each source all tables are locked as readers lock them, and then one snapshot is opened. All members load in it, those first that
//!    others refer to, and it is closed. Either all of them change in place, or all become visible at once (`Manner`), as far as that can be
//!    had: a transaction in REPEATABLE READ with an older snapshot sees the old rows of the former, and the new ones of the latter.
//! 4. All that takes time is done, then foreign keys are checked once, with the new rows at both ends.
//! 5. All exclusive locks are tried together, in the order of OIDs, and given back if one of them is not to be had at once. From the first one
//!    to the commit, readers wait.

mod member;

use crate::backend::identity::{act_as, pin_settings, read_the_latest, require_writable, role_name, without_triggers};
use crate::backend::interrupts;
use crate::backend::name::{quote, quote_list};
use crate::backend::relation::{self, lock_together, Patience};
use crate::backend::spi;
use crate::backend::subtransaction::{attempt, caught};
use crate::destination::references;
use crate::destination::together::Together;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::lock::{self, Wait};
use crate::job::method::Method;
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::follow::{renamed_job, told};
use crate::method::load::{flush_wal, patience};
use crate::method::running::{what, why_again, without_rows};
use crate::method::snapshot;
use crate::method::sources::Sources;
use crate::method::steps::{self, Manner};
use member::{Member, Options};
use pgrx::{pg_sys, warning};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much longer than for one lock it may take to get each further one.
const FURTHER: Duration = Duration::from_millis(10);

/// How often a group begins again because tables have changed before its snapshot was opened.
const MOST_BEGINNINGS: u32 = 10;

/// Takes the locks of jobs; None if all of them are held, else one that another session holds for longer than the caller waits.
pub fn lock_all(jobs: &[Job], wait: Wait) -> Result<Option<&Job>> {
    let since = Instant::now();
    for job in jobs {
        let left = match wait {
            // The rest of the time that all of them may take; it is never no time at all, which would be no limit.
            Wait::Seconds(seconds) => Wait::Seconds((seconds - since.elapsed().as_secs() as i32).max(1)),
            wait => wait,
        };
        if !lock::take(&job.dest_table, left)? {
            return Ok(Some(job));
        }
    }
    Ok(None)
}

/// refresh_group: refreshes all jobs of a group as they are configured.
///
/// # Errors
/// UnknownGroup; that of the member that has failed, which has taken back all of them.
pub fn refresh(group: &str, wait: Wait, debug: bool) -> Result<()> {
    require_writable("refresh_group")?;
    read_the_latest();
    let catalog = Catalog::find()?;
    let function = catalog.table("refresh_group");
    let begin = |jobs: &[Job]| -> Result<Vec<Run>> {
        jobs.iter().map(|job| Run::of_member(&function, group, job, debug)).collect()
    };
    let jobs = loop {
        let jobs = catalog.group(group)?;
        if jobs.is_empty() {
            return Err(Error::UnknownGroup(group.to_string()));
        }
        if let Some(busy) = lock_all(&jobs, wait)? {
            warning!(
                "another refresh of \"{}\" is running, nothing of group \"{group}\" is refreshed",
                busy.dest_table
            );
            for mut run in begin(&jobs)? {
                run.note(format!("another refresh of \"{}\" was running", busy.dest_table));
                run.end(&catalog, Status::Concurrent)?;
            }
            return Ok(());
        }
        // While this call waited for the locks, members may have been changed or destroyed, or have come.
        let now = catalog.latest_group(group)?;
        if now.iter().map(|job| &job.dest_table).eq(jobs.iter().map(|job| &job.dest_table)) {
            break now;
        }
    };
    let mut runs = begin(&jobs)?;
    Attempts { catalog: &catalog, group, jobs, wait_for_idle: false, tries: 1, beginnings: 1 }.run(&mut runs)
}

struct Attempts<'a> {
    catalog: &'a Catalog,
    group: &'a str,
    jobs: Vec<Job>,
    /// Idle twins are waited for before it is known whether they are needed.
    wait_for_idle: bool,
    tries: u64,
    beginnings: u32,
}

impl Attempts<'_> {
    fn run(mut self, runs: &mut [Run]) -> Result<()> {
        loop {
            // The member whose step has failed.
            let at = Cell::new(None);
            let (mut state, mut again, mut changed) = (None, None, false);
            // In a subtransaction, so that a failure is rolled back before it is recorded.
            let outcome = attempt(|| {
                let work = Work {
                    catalog: self.catalog,
                    group: self.group,
                    jobs: &self.jobs,
                    runs,
                    at: &at,
                    wait_for_idle: self.wait_for_idle,
                };
                let outcome = caught(|| work.run());
                outcome.map_err(|error| {
                    state = error.state().cloned();
                    changed = error.is_of_change();
                    again = if changed { None } else { why_again(&error, self.tries) };
                    self.told(error, at.get(), runs)
                })
            });
            let Err(error) = outcome else { return Ok(()) };
            for (job, run) in self.jobs.iter_mut().zip(runs.iter()) {
                job.remember(run.kept());
            }
            let error = match self.begins_again(&error, at.get(), again, changed) {
                Ok(Some(why)) => {
                    runs.iter_mut().for_each(|run| run.begin_again(&why));
                    continue;
                }
                Ok(None) => error,
                Err(cancelled) => self.told(cancelled, at.get(), runs),
            };
            let error = match at.get() {
                Some(member) => without_rows(error, &self.jobs[member].destination),
                None => error,
            };
            if let (Some(failed), Some(state)) = (at.get(), state) {
                runs[failed].keep(state);
            }
            Run::fail_together(runs, at.get(), self.group, &error);
            return Err(error);
        }
    }

    /// Why all of it is tried once more; None if it is not.
    ///
    /// # Errors
    /// Cancelled.
    fn begins_again(
        &mut self,
        error: &Error,
        at: Option<usize>,
        again: Option<String>,
        changed: bool,
    ) -> Result<Option<String>> {
        if again.is_some() {
            attempt(|| {
                interrupts::sleep(Duration::from_secs(self.tries));
                Ok(())
            })?;
            self.tries += 1;
            return Ok(again);
        }
        if changed && self.beginnings < MOST_BEGINNINGS {
            self.beginnings += 1;
            self.wait_for_idle = true;
            return Ok(Some("begun again, because something was changed before the group's snapshot".to_string()));
        }
        let Some(member) = at else { return Ok(None) };
        // The job's own columns may be called otherwise now.
        match attempt(|| renamed_job(self.catalog, &self.jobs[member], error)) {
            Ok(Some(renamed)) => {
                self.jobs[member] = renamed;
                Ok(Some("begun again, because a job's columns are called otherwise on the source now".to_string()))
            }
            Err(error) if error.is_cancel() => Err(error),
            _ => Ok(None),
        }
    }

    /// The error with what it is about.
    fn told(&self, error: Error, at: Option<usize>, runs: &[Run]) -> Error {
        let of_group = format!("Refreshing group \"{}\", of which nothing is changed now.", self.group);
        match at {
            Some(member) => {
                let job = &self.jobs[member];
                let error = runs[member].explain(error).of_job(self.catalog, job);
                error.while_doing(&what(job)).while_doing(&of_group)
            }
            None => error.while_doing(&of_group),
        }
    }
}

/// One attempt.
struct Work<'a, 'r> {
    catalog: &'a Catalog,
    group: &'a str,
    jobs: &'a [Job],
    runs: &'r mut [Run],
    at: &'a Cell<Option<usize>>,
    wait_for_idle: bool,
}

/// A member, and what is known of its destination.
struct Place<'a> {
    /// That of the job, and of the run.
    number: usize,
    member: Box<dyn Member + 'a>,
    owner: pg_sys::Oid,
    /// The destination, if it is not a view.
    table: Option<pg_sys::Oid>,
    oid: pg_sys::Oid,
    /// Its foreign keys are checked when the rows of all members have come.
    checked_later: bool,
    /// The number of its source.
    source: usize,
}

impl Work<'_, '_> {
    fn run(mut self) -> Result<()> {
        let options: Vec<_> = self.jobs.iter().map(Options::of).collect();
        let mut sources = Sources::default();
        let Some(mut places) = self.open(&options, &mut sources)? else { return Ok(()) };
        if self.skip(&mut places, &mut sources)? {
            return Ok(());
        }
        let order = self.load(&mut places, sources)?;
        self.show(&mut places, &order)
    }

    /// Runs a step of each member, as its owner.
    fn each<'p>(
        &mut self,
        places: &mut [Place<'p>],
        order: &[usize],
        mut step: impl FnMut(&mut Place<'p>, &mut Run) -> Result<()>,
    ) -> Result<()> {
        for &number in order {
            self.at.set(Some(number));
            let place = &mut places[number];
            let _identity = act_as(place.owner, true)?;
            if place.checked_later {
                without_triggers();
            }
            step(place, &mut self.runs[number])?;
        }
        self.at.set(None);
        Ok(())
    }

    /// Finds the members here, and connects to their sources. None if one of them pauses, and therefore all of them.
    fn open<'p>(&mut self, options: &'p [Options<'p>], sources: &mut Sources) -> Result<Option<Vec<Place<'p>>>>
    where
        Self: 'p,
    {
        let (catalog, jobs) = (self.catalog, self.jobs);
        let moment = self.runs.first().map(Run::started).unwrap_or_default();
        let mut entrants = Vec::new();
        for (number, job) in jobs.iter().enumerate() {
            self.at.set(Some(number));
            self.runs[number].phase("connect");
            entrants.push(options[number].opening(catalog, job, (moment, self.wait_for_idle))?);
        }
        for entrant in &entrants {
            let Some(why) = entrant.pause()? else { continue };
            for (job, run) in jobs.iter().zip(self.runs.iter_mut()) {
                let status = steps::pause(why, catalog, job, run)?;
                run.end(catalog, status)?;
            }
            return Ok(None);
        }
        let mut places = Vec::new();
        for (number, (job, entrant)) in jobs.iter().zip(entrants).enumerate() {
            self.at.set(Some(number));
            let owner = entrant.owner();
            let source = sources.of(catalog, job, owner)?;
            let destination =
                relation::find(&job.destination)?.ok_or_else(|| Error::UnknownJob(job.dest_table.clone()))?;
            let member = entrant.open(sources.connection(source), &mut self.runs[number])?;
            let table = (job.method() != Method::Snapshot).then_some(destination.oid);
            places.push(Place { number, member, owner, table, oid: destination.oid, checked_later: false, source });
        }
        self.at.set(None);
        Ok(Some(places))
    }

    /// Whether all of them are proven to be unchanged; that is recorded then.
    fn skip(&mut self, places: &mut [Place<'_>], sources: &mut Sources) -> Result<bool> {
        let tables: Vec<_> = places.iter().map(|place| place.member.counted_table()).collect();
        // Each of them is as it was copied; only if all were by one group, that was one moment.
        let moment = places.first().and_then(|place| place.member.moment());
        let same = moment.is_some() && places.iter().all(|place| place.member.moment() == moment);
        if !same || tables.iter().any(Option::is_none) {
            return Ok(false);
        }
        let mut counted = sources.counters(places.iter().zip(&tables).map(|(place, table)| (place.source, *table)))?;
        let all: Vec<_> = (0..places.len()).collect();
        let mut unchanged = true;
        self.each(places, &all, |place, _| {
            let connection = sources.connection(place.source);
            unchanged &= place.member.is_unchanged(connection, counted.next(place.source))?;
            Ok(())
        })?;
        if !unchanged {
            return Ok(false);
        }
        let names: Vec<_> = self.jobs.iter().map(|job| job.dest_table.as_str()).collect();
        self.catalog.lock_to_record(&names)?;
        for (number, place) in places.iter_mut().enumerate() {
            let status = place.member.skip(&mut self.runs[number])?;
            self.runs[number].end(self.catalog, status)?;
        }
        Ok(true)
    }

    /// Until all rows have come. The order of the members: those that others refer to come first.
    fn load(&mut self, places: &mut [Place<'_>], mut sources: Sources) -> Result<Vec<usize>> {
        let _pinned = pin_settings()?;
        let company: Vec<_> = places.iter().filter_map(|place| place.table).collect();
        let order = order(places, &references::between(&company)?);
        self.each(places, &order, |place, run| place.member.prepare(sources.connection(place.source), run))?;
        let mut by_oid = order.clone();
        by_oid.sort_by_key(|&number| places[number].oid.to_u32());
        self.each(places, &by_oid, |place, run| place.member.lock(run))?;
        let keeps = |place: &&Place<'_>| self.jobs[place.number].method().facts().keeps_gone;
        let keeping: Vec<_> = places.iter().filter(keeps).filter_map(|place| place.table).collect();
        for place in places.iter_mut() {
            // A table job's rows are exchanged.
            let is_table = self.jobs[place.number].method() == Method::Table;
            if let (Some(table), false) = (place.table, is_table) {
                place.checked_later = references::can_wait(table, &company, &keeping)?;
            }
        }
        sources.open_snapshots()?;
        let mut manners = Vec::new();
        self.each(places, &order, |place, run| {
            manners.push(place.member.decide(sources.connection(place.source), run)?);
            Ok(())
        })?;
        let changed = manners.iter().filter(|manner| **manner != Manner::Unchanged).count();
        if changed > 1 && manners.contains(&Manner::InPlace) {
            // A transaction that keeps an older snapshot would see the new rows of some, and the old ones of others.
            places.iter_mut().for_each(|place| place.member.stay_in_place());
        }
        let keys = references::between(&company)?;
        self.each(places, &order, |place, run| {
            place.member.load(sources.connection(place.source), run)?;
            // Where PostgreSQL checks foreign keys row by row, those come first that others refer to.
            match place.table {
                Some(_) if !keys.is_empty() => place.member.ready(&[], run),
                _ => Ok(()),
            }
        })?;
        sources.close_snapshots()?;
        self.each(places, &order, |place, run| place.member.settle(sources.connection(place.source), run))?;
        Ok(order)
    }

    /// All that is left: readers see all of it with the commit.
    fn show(&mut self, places: &mut [Place<'_>], order: &[usize]) -> Result<()> {
        let _pinned = pin_settings()?;
        let (tables, snapshots): (Vec<_>, Vec<_>) = order.iter().partition(|&&number| places[number].table.is_some());
        self.each(places, &tables, |place, run| place.member.ready(&[], run))?;
        let exchanged: Vec<_> =
            places.iter_mut().filter_map(|place| place.member.exchange().is_some().then_some(place.table?)).collect();
        self.each(places, &snapshots, |place, run| place.member.ready(&exchanged, run))?;
        let mut together = Together::default();
        for place in places.iter_mut() {
            let Some(table) = place.table else { continue };
            let checked = place.checked_later;
            together.add(table, place.member.exchange().map(|exchange| exchange.rows()), checked);
        }
        self.let_owners_read(places, &together)?;
        let mut around = Vec::new();
        for place in places.iter_mut() {
            match place.member.exchange() {
                Some(exchange) => around.extend(exchange.around()?),
                None if place.checked_later => {
                    around.extend(references::around(place.table.unwrap_or_default())?);
                }
                None => {}
            }
        }
        let names: Vec<_> = self.jobs.iter().map(|job| job.dest_table.as_str()).collect();
        self.catalog.lock_to_record(&names)?;
        references::lock(&around, patience())?;
        // Rows for which columns are altered first come with the exclusive locks: then all foreign keys are checked after them.
        let mut late = false;
        for &number in order {
            let place = &mut places[number];
            let _identity = act_as(place.owner, true)?;
            late |= place.table.is_some() && place.member.exchange().is_none() && !place.member.locks()?.is_empty();
        }
        let jobs = self.jobs;
        let check_in_place = |place: &Place<'_>, table| {
            references::check_in_place(table, &jobs[place.number].destination, &together, patience())
        };
        self.each(places, order, |place, _| match (place.member.exchange(), place.table) {
            (Some(exchange), _) => exchange.check(&together, !late, patience()),
            (None, Some(table)) if place.checked_later && !late => check_in_place(place, table),
            _ => Ok(()),
        })?;
        let exchanged: Vec<_> = places.iter_mut().map(|place| place.member.exchange().is_some()).collect();
        let swapped = self.lock_exclusively(places)?;
        // A foreign key of a snapshot's twin needs the new rows of the table that it refers to.
        let first: Vec<_> = tables.iter().chain(&snapshots).copied().collect();
        let mut statuses = vec![Status::Ok; places.len()];
        self.each(places, &first, |place, run| {
            statuses[place.number] = place.member.publish(run)?;
            Ok(())
        })?;
        if late {
            let together = Together::default();
            self.each(places, order, |place, _| match place.table {
                Some(table) if place.checked_later || exchanged[place.number] => {
                    references::check_in_place(table, &jobs[place.number].destination, &together, patience())
                }
                _ => Ok(()),
            })?;
        }
        for (number, job) in self.jobs.iter().enumerate() {
            let run = &mut self.runs[number];
            if let Some(renamed) = &job.renamed {
                self.catalog.set_columns(job)?;
                run.note(told(renamed));
            }
            run.end(self.catalog, statuses[number])?;
        }
        if swapped {
            snapshot::empty_twins_after_commit(self.group);
        }
        Ok(())
    }

    /// Foreign keys are checked as the owner of the referencing table. Where that may read the referenced one, it may read its new rows.
    fn let_owners_read(&mut self, places: &mut [Place<'_>], together: &Together) -> Result<()> {
        let tables: Vec<_> = places.iter().filter_map(|place| Some((place.table?, place.owner))).collect();
        let owner_of = |table: pg_sys::Oid| tables.iter().find(|(oid, _)| *oid == table).map(|(_, owner)| *owner);
        let company: Vec<_> = tables.iter().map(|(oid, _)| *oid).collect();
        for (from, to) in references::between(&company)? {
            let (Some(reader), Some(owner), Some(shadow)) = (owner_of(from), owner_of(to), together.shadow_of(to))
            else {
                continue;
            };
            let _identity = act_as(owner, true)?;
            let columns = if reader == owner { Vec::new() } else { relation::readable_columns(reader, to)? };
            if !columns.is_empty() {
                let (list, role) = (quote_list(columns.iter().map(String::as_str)), quote(&role_name(reader)?));
                spi::run(&format!("GRANT SELECT ({list}) ON {shadow} TO {role}"), &[])?;
            }
        }
        Ok(())
    }

    /// All exclusive locks, or none. From here to the commit readers wait, so only brief things are left.
    ///
    /// Returns whether views are among them, whose twins have to be emptied.
    fn lock_exclusively(&mut self, places: &[Place<'_>]) -> Result<bool> {
        let mut swapped = false;
        let mut wanted = BTreeMap::new();
        for (number, place) in places.iter().enumerate() {
            self.at.set(Some(number));
            let _identity = act_as(place.owner, true)?;
            let locks = place.member.locks()?;
            swapped |= place.table.is_none() && !locks.is_empty();
            for oid in locks {
                wanted.entry(oid.to_u32()).or_insert(number);
            }
        }
        self.at.set(None);
        if wanted.is_empty() {
            return Ok(false);
        }
        flush_wal();
        let oids: Vec<_> = wanted.keys().map(|oid| pg_sys::Oid::from(*oid)).collect();
        let name = |oid: pg_sys::Oid| {
            let number = wanted.get(&oid.to_u32()).copied();
            self.at.set(number);
            Ok(number.map(|number| self.jobs[number].destination.plain()).unwrap_or_default())
        };
        let patience = patience();
        let together = patience.queue + FURTHER * oids.len() as u32;
        let wait = Patience { together: Some(together), ..patience };
        lock_together(&oids, pg_sys::AccessExclusiveLock, name, wait, "replaced with its group")?;
        Ok(swapped)
    }
}

/// The members, those first that others refer to. Where they do so in a circle, one of it is the first.
fn order(places: &[Place<'_>], keys: &[(pg_sys::Oid, pg_sys::Oid)]) -> Vec<usize> {
    let number = |table: pg_sys::Oid| places.iter().position(|place| place.table == Some(table));
    let keys: Vec<_> = keys.iter().filter_map(|(from, to)| Some((number(*from)?, number(*to)?))).collect();
    sorted(places.len(), &keys)
}

/// `keys`: what comes later, and what comes before it.
fn sorted(count: usize, keys: &[(usize, usize)]) -> Vec<usize> {
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (later, earlier) in keys {
        before[*later].push(*earlier);
    }
    let (mut order, mut begun) = (Vec::new(), vec![false; count]);
    for start in 0..count {
        // What is still to come before the one in front of it.
        let mut path = vec![(start, 0)];
        if std::mem::replace(&mut begun[start], true) {
            continue;
        }
        while let Some((number, next)) = path.last_mut() {
            match before[*number].get(*next) {
                Some(&earlier) => {
                    *next += 1;
                    if !std::mem::replace(&mut begun[earlier], true) {
                        path.push((earlier, 0));
                    }
                }
                None => {
                    order.push(*number);
                    path.pop();
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::sorted;

    #[test]
    fn what_others_refer_to_comes_first() {
        assert_eq!(sorted(3, &[]), [0, 1, 2]);
        assert_eq!(sorted(3, &[(0, 1), (1, 2)]), [2, 1, 0]);
        assert_eq!(sorted(4, &[(0, 3), (1, 3), (2, 0)]), [3, 0, 1, 2]);
        assert_eq!(sorted(3, &[(0, 1), (1, 2), (2, 0)]), [2, 1, 0], "a circle");
        let chain: Vec<_> = (0..100_000).map(|number| (number, number + 1)).collect();
        assert_eq!(sorted(100_001, &chain)[0], 100_000);
    }
}
