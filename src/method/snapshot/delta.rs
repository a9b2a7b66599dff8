//! A refresh of a snapshot that copies the row versions that have changed on the source, and deletes those that are gone: in place, in the
//! live twin, in the refresh's transaction.

use super::decide::Present;
use super::trust::{is_more, percent, Trust};
use crate::backend::identity::Caller;
use crate::backend::ownership;
use crate::backend::relation::lock_to_write_if_free;
use crate::backend::row_version::{Grouping, Position};
use crate::backend::sorter::Sorter;
use crate::destination::column_map::obstacle_to_binary;
use crate::destination::copy_in::{self, Target};
use crate::destination::row_versions::{self as copies, Compared, Copies, Hidden};
use crate::destination::twins::Twins;
use crate::destination::{references, table};
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::job::run::Run;
use crate::method::columns::names;
use crate::method::load::patience;
use crate::settings;
use crate::shape::Shape;
use crate::source::catalog::plain_condition;
use crate::source::connection::Connection;
use crate::source::row_versions::{rows_at, Origin};
use pgrx::pg_sys;

/// kB of memory for the rows that are compared one by one, and for the places of those that differ.
const COMPARED: i32 = 16 * 1024;
const PLACES: i32 = 4 * 1024;

/// Rows whose versions travel without being condensed first, which saves a round trip.
const FEW: u64 = 2000;

/// Rows that are asked for at a time.
const BATCH: usize = 20_000;

/// What a delta needs to know.
pub struct Delta<'a> {
    pub job: &'a Job,
    pub twins: &'a Twins,
    pub present: &'a Present,
    pub origin: &'a Origin,
    pub trust: &'a Trust,
    pub hidden: Hidden,
    pub caller: Caller,
}

/// What a delta did.
pub enum Outcome {
    Done(Changed),
    /// Nothing was changed: all rows are to be copied, and why.
    InVain(String),
    /// The same, and nothing was read for it.
    Refused(String),
}

#[derive(Debug, Clone, Copy)]
pub struct Changed {
    pub came: u64,
    pub deleted: u64,
    /// Rows that were there before.
    pub there: u64,
}

impl Changed {
    pub fn text(&self) -> String {
        format!("delta: {} rows came, {} were deleted, {} were there", self.came, self.deleted, self.there)
    }

    /// Rows that are there now.
    pub fn rows(&self) -> u64 {
        self.there.saturating_sub(self.deleted) + self.came
    }
}

/// Rows that differ.
struct Differences {
    /// Places of rows here that are gone on the source.
    gone: Sorter,
    /// Places of rows on the source that are not here.
    new: Sorter,
    /// Rows that were compared, here and there.
    ours: u64,
    theirs: u64,
}

impl Delta<'_> {
    /// 1. Each side condenses its versions, at the same time, to one sum for each group of blocks, unless there are few rows.
    /// 2. Of the groups that differ, the versions are compared one by one. So far nothing is changed.
    /// 3. Rows that are gone are deleted here, then those that are new come in batches.
    pub fn apply(&self, source: &mut Connection, run: &mut Run) -> Result<Outcome> {
        let in_vain = |reason: &str| Ok(Outcome::InVain(reason.to_string()));
        let refused = |reason: &str| Ok(Outcome::Refused(reason.to_string()));
        let Some(grouping) = self.origin.grouping() else { return refused("it has too many blocks") };
        if !lock_to_write_if_free(self.twins.live.oid) {
            return refused("somebody has locked the live twin");
        }
        ownership::require_tables(&[self.twins.live.oid])?;
        if copies::has_rules(self.twins.live.oid) {
            return refused("the live twin has rules");
        }
        references::trust_actions(self.twins.live.oid, patience())?;
        let limit = settings::delta_limit_percent();
        let rows = Copies {
            twin: self.twins.live.oid,
            hidden: self.hidden,
            grouping: &grouping,
            trusted: &self.trust.tables,
            now: self.origin.now,
            recent: self.trust.recent,
        };

        source.prepare_for_versions()?;
        let condition = plain_condition(self.job.condition.as_deref())?;
        let condition = condition.as_str();
        let (differs, known) = if self.trust.rows > FEW {
            run.phase("condense");
            let table = self.present.table.table();
            let (theirs, (there, ours)) =
                source.condense(self.origin, &grouping, (&table, condition), || rows.condense())?;
            run.bytes += theirs.bytes;
            let differs: Vec<bool> = theirs.sums.iter().zip(&ours).map(|(theirs, ours)| theirs != ours).collect();
            let proven: u64 = ours.iter().map(|sum| sum.count).sum();
            let least = differs.iter().filter(|differs| **differs).count() as u64;
            if least == 0 && there == proven && (!self.origin.has_parts() || source.keeps_files(self.origin)?) {
                return Ok(Outcome::Done(Changed { came: 0, deleted: 0, there }));
            }
            if is_more(least, there, limit) {
                return Ok(Outcome::InVain(format!("{} percent of the rows or more differ", percent(least, there))));
            }
            (differs, Some((theirs.rows, there)))
        } else {
            (vec![true; grouping.groups()], None)
        };

        run.phase("compare");
        let compared = known.map_or(self.trust.rows, |(_, there)| there);
        let most = compared.saturating_mul(limit) / 100;
        let Some(differences) = self.differences(source, &rows, (&differs, condition), most, run)? else {
            source.abandon_copy()?;
            return Ok(Outcome::InVain(format!("more than {limit} percent of the rows differ")));
        };
        let (theirs, there) = known.unwrap_or((differences.theirs, differences.ours));
        let changed = Changed { came: differences.new.count(), deleted: differences.gone.count(), there };
        if self.origin.has_parts() && !source.keeps_files(self.origin)? {
            return in_vain("a part of the source was written anew meanwhile");
        }
        if changed.rows() != theirs {
            return in_vain("the numbers of rows do not agree");
        }
        if is_more(changed.came.max(changed.deleted), there, limit) {
            let differ = changed.came.max(changed.deleted);
            return Ok(Outcome::InVain(format!("{} percent of the rows differ", percent(differ, there))));
        }
        run.phase("change");
        self.change(source, &grouping, differences, run)?;
        if is_more(changed.came.max(changed.deleted), there, 10) {
            run.phase("analyze");
            table::analyze(&self.twins.live.name())?;
        }
        Ok(Outcome::Done(changed))
    }

    /// Compares the versions of groups that differ, which come from both sides in the same order. None if more than `most` are new.
    fn differences(
        &self,
        source: &mut Connection,
        rows: &Copies<'_>,
        (differs, condition): (&[bool], &str),
        most: u64,
        run: &mut Run,
    ) -> Result<Option<Differences>> {
        let (mut gone, mut new) = (Sorter::new(PLACES), Sorter::new(PLACES));
        let (mut ours, mut theirs) =
            source.versions(self.origin, rows.grouping, (differs, condition), || rows.sorted(differs, COMPARED))?;
        let mut next = ours.next().map(copies::unpack);
        let mut count = 0;
        while let Some((position, xmin)) = theirs.next()? {
            count += 1;
            if new.count() > most {
                return Ok(None);
            }
            while let Some(Compared { position: Some(own), tid, .. }) = next {
                if own >= position {
                    break;
                }
                gone.put(&copies::place(tid));
                next = ours.next().map(copies::unpack);
            }
            match &next {
                Some(own) if own.position == Some(position) => {
                    if own.xmin != xmin {
                        gone.put(&copies::place(own.tid));
                        new.put(&copies::place((position.block, position.offset)));
                    }
                    next = ours.next().map(copies::unpack);
                }
                _ => new.put(&copies::place((position.block, position.offset))),
            }
        }
        run.bytes += theirs.bytes()?;
        drop(theirs);
        while let Some(own) = next {
            gone.put(&copies::place(own.tid));
            next = ours.next().map(copies::unpack);
        }
        gone.sort();
        new.sort();
        Ok(Some(Differences { gone, new, ours: ours.count(), theirs: count }))
    }

    fn change(
        &self,
        source: &mut Connection,
        grouping: &Grouping,
        Differences { mut gone, mut new, .. }: Differences,
        run: &mut Run,
    ) -> Result<()> {
        let live = &self.twins.live;
        if copies::is_simple(live.oid) {
            copies::delete(live.oid, &mut gone);
            return self.insert(source, grouping, &mut new, live.oid, run);
        }
        // What is checked later would be checked as somebody else.
        table::check_at_once(live.oid)?;
        let beside = {
            // A restricted role may not make temporary tables; nothing but their definitions runs here.
            let _unrestricted = self.caller.unrestricted();
            copies::Beside::make(&live.name())?
        };
        self.insert(source, grouping, &mut new, beside.oid, run)?;
        beside.replace(&live.name(), &mut gone, &self.columns())
    }

    /// The columns that come: those of the source, and the hidden ones.
    fn columns(&self) -> Vec<String> {
        let hidden = self.hidden.names().map(str::to_string);
        names(&self.present.columns).into_iter().chain(hidden).collect()
    }

    /// Has the rows at these places come, in batches.
    fn insert(
        &self,
        source: &mut Connection,
        grouping: &Grouping,
        places: &mut Sorter,
        into: pg_sys::Oid,
        run: &mut Run,
    ) -> Result<()> {
        let [live]: [Shape; 1] = table::describe([self.twins.live.oid])?;
        let binary = obstacle_to_binary(&live, &self.present.shape, &self.present.columns).is_none();
        let (columns, all) = (names(&self.present.columns), self.columns());
        let system: Vec<_> = self.hidden.sources().collect();
        let target = Target { oid: into, columns: &all, binary, emptied: false };
        loop {
            let mut positions = Vec::new();
            while let Some(value) = (positions.len() < BATCH).then(|| places.next()).flatten() {
                let (block, offset) = copies::placed(value);
                positions.push(Position { block, offset });
            }
            if positions.is_empty() {
                return Ok(());
            }
            let query = rows_at(self.origin, grouping, &positions, (&columns, &system))?;
            let source_label = source.label().to_string();
            let mut stream = source.copy_out(&query, binary)?;
            let mut read = |buffer: &mut [u8], at_least: usize| stream.read(buffer, at_least);
            let loaded = copy_in::load(&target, &mut read)?;
            let (sent, bytes) = stream.totals()?;
            run.rows += sent;
            run.bytes += bytes;
            let wanted = positions.len() as u64;
            if sent != wanted || loaded.exact && loaded.rows != wanted {
                let table = live.table().plain();
                return Err(Error::RowCount { source_label, sent: wanted, loaded: loaded.rows.min(sent), table });
            }
        }
    }
}
