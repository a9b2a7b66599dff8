//! What a refresh of a dml or logdel job finds, and what follows.

use super::repair::{carry_out, Done, Facts, Repair};
use super::state::State;
use super::wanted::{capture, compared, storage_ids, Wanted};
use crate::backend::name::Name;
use crate::backend::relation::Relation;
use crate::destination::column_map::{self, ColumnMap};
use crate::destination::following::Following;
use crate::destination::table;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::follow;
use crate::shape::Shape;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::{has_disabled_triggers, names_since, Found, Member, QueueKey, Summary};
use crate::source::seen::Seen;
use std::collections::HashSet;

/// What the source is now, in the snapshot that is open there.
pub struct Present {
    pub table: SourceTable,
    pub shape: Shape,
    pub members: Vec<Member>,
    /// Whether its partitions get its triggers by themselves.
    pub cloned: bool,
    /// Partitions and children that were added to it, with rows whose keys were not queued.
    pub added: Vec<Name>,
    /// Such partitions that cannot be read by themselves.
    pub added_unreadable: Vec<u32>,
    pub key: QueueKey,
    pub seen: Seen,
    pub queue: Name,
    /// Made by this refresh: the rows of the queue before it are gone.
    pub queue_is_new: bool,
    pub summary: Summary,
    /// Triggers are disabled or gone, so changes were missed and will be.
    pub has_disabled_triggers: bool,
    /// Triggers of a partition or child were missing.
    pub missed: bool,
    /// Its triggers are left to an older release, which makes its own.
    pub unwatched: bool,
}

impl Present {
    /// Whether rows were added that were not queued.
    pub fn has_added(&self) -> bool {
        !self.added.is_empty() || !self.added_unreadable.is_empty()
    }
}

/// The columns of both sides, which have to fit whether or not anything has changed.
pub struct Columns {
    /// What the destination is once `following` is applied.
    pub local: Shape,
    pub column_map: ColumnMap,
    pub following: Following,
    /// Why the rows come as text.
    pub text: Option<String>,
    /// Old and new names of columns that were renamed on the source since all that waits in the queue was written.
    pub renamed: Vec<(String, String)>,
}

impl Columns {
    pub fn of(
        job: &Job,
        state: &State,
        source: &mut Connection,
        present: &Present,
        (destination, repull): (&Relation, bool),
    ) -> Result<Columns> {
        let shape = &present.shape;
        let columns = selected_columns(shape, job.filter.as_deref(), source.label())?;
        source.require_readable(&present.table, &names(&columns), job.filter.is_some())?;
        let [local] = table::describe([destination.oid])?;
        column_map::require_loadable(&local)?;
        let renamed = state.seen.as_ref().map(|before| before.renamed(&present.seen)).unwrap_or_default();
        let renamed = names_since(&state.renamed, &renamed);
        let (before, now) = (state.seen.as_ref(), &present.seen);
        let columns_of = columns.as_slice();
        let sides =
            follow::Sides { job, destination, local: &local, shape, columns: columns_of, before, now, anew: repull };
        let following = follow::following(source, &present.table, &sides)?;
        let local = following.project(&local);
        let column_map = column_map::map(&local, shape, &columns, &renamed)?;
        let text = column_map::obstacle_to_binary(&local, shape, &columns);
        Ok(Columns { local, column_map, following, text, renamed })
    }
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Nothing,
    /// The keys of the queue up to this row of it.
    Changes(i64),
    All,
}

/// How much of a queue is taken.
#[derive(Debug, PartialEq)]
pub struct Portion {
    pub extent: Extent,
    /// mimeo_seq of the last row of the queue that this covers.
    pub until: i64,
    /// Nothing is left in the queue after it.
    pub whole: bool,
    /// Rows of the queue.
    pub taken: u64,
}

impl Portion {
    /// `rows` wait, the last of them is `last`; a batch of `limit` rows ends at `cut`. `all`: all rows are copied. `added`: rows were added
    /// that were not queued.
    pub fn choose(rows: u64, last: i64, cut: Option<i64>, limit: Option<i64>, all: bool, added: bool) -> Portion {
        let until = if all { last } else { cut.unwrap_or(last) };
        let taken = match limit {
            Some(limit) if until < last => limit as u64,
            _ => rows,
        };
        let extent = match (all, rows > 0 || added) {
            (true, _) => Extent::All,
            (false, true) => Extent::Changes(until),
            (false, false) => Extent::Nothing,
        };
        Portion { extent, until, whole: all || until == last, taken }
    }
}

/// What a refresh does.
pub struct Decision {
    pub present: Present,
    pub columns: Columns,
    /// Why all rows are copied although nobody has asked for it.
    pub unexpected: Option<String>,
    pub portion: Portion,
    /// The types of the columns are those that were queued.
    pub same_types: bool,
}

/// Why all rows are copied.
const MISSED: &str = "triggers of a partition or child of the source were missing";

/// What a refresh has repaired so far.
#[derive(Debug, Default)]
pub struct Repaired {
    done: Done,
    /// The queue was made anew: the rows that were in it are gone.
    queue_is_new: bool,
    /// Triggers of a partition or child were missing.
    missed: bool,
}

/// A look at the source, for a job.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    pub catalog: &'a Catalog,
    pub job: &'a Job,
    pub state: &'a State,
    /// Rows of the queue, at most.
    pub limit: Option<i64>,
}

impl Look<'_> {
    /// Opens the snapshot. What has to be repaired on the source is repaired first, step by step, with a new look after each.
    /// In a snapshot that others share, nothing can be repaired.
    ///
    /// # Errors
    /// ChangedMeanwhile, if it would have to.
    pub fn mended(
        self,
        source: &mut Connection,
        table: SourceTable,
        repaired: &mut Repaired,
        run: &mut Run,
    ) -> Result<Present> {
        let Look { catalog, job, state, .. } = self;
        let wanted = Wanted::of(job, &state.objects);
        // A few rounds are enough, unless others change the table meanwhile.
        'look: for _ in 0..16 {
            let shape = source.locked_snapshot_of(&table, job.condition.as_deref())?;
            let members = source.members(&table, Some(&state.objects))?;
            let mut capture = capture(&wanted, source, &table, &shape, &members);
            let summary = source.summary(&state.objects, wanted.key.len(), wanted.keeps_rows(), self.limit)?;
            let facts = Facts::of(catalog, job, state, &table, &capture, &members, &summary);
            capture.typed = matches!(facts.found, Found::Typed(..));
            while let Some(repair) = facts.next(repaired.done) {
                if source.shares_snapshot() {
                    let table = table.table().plain();
                    return Err(Error::ChangedMeanwhile(format!("the triggers on \"{table}\" are not as they were")));
                }
                repaired.done.note(repair);
                if repair == Repair::AddTriggers {
                    let known: HashSet<u32> = state.members.iter().map(|(oid, ..)| *oid).collect();
                    repaired.missed |= facts.untriggered.iter().any(|child| known.contains(child));
                }
                repaired.queue_is_new |= repair == Repair::MakeAnew;
                if repaired.missed {
                    // They are about to be there, and nothing will tell that they were not.
                    let state = State { copy_all: Some(MISSED.to_string()), ..state.clone() };
                    run.keep(serde_json::to_value(&state)?);
                }
                if carry_out(repair, source, (catalog, job, state), &mut capture, &members, run)? {
                    continue 'look;
                }
            }
            let typed = capture.typed;
            let (has_disabled_triggers, cloned) = (has_disabled_triggers(&capture, &members), capture.cloned);
            let unwatched = facts.is_unwatched();
            let found = (shape, members, summary);
            let present = self.present(source, &table, found, (typed, cloned))?;
            let Repaired { missed, queue_is_new, .. } = *repaired;
            return Ok(Present { has_disabled_triggers, missed, queue_is_new, unwatched, ..present });
        }
        Err(Error::Internal(
            "whatever is done to the triggers on the source, they are not as they should be".to_string(),
        ))
    }

    pub fn present(
        self,
        source: &mut Connection,
        table: &SourceTable,
        (shape, members, summary): (Shape, Vec<Member>, Summary),
        (typed, cloned): (bool, bool),
    ) -> Result<Present> {
        let key = source.queue_key(table, self.job.pk_name.as_deref().unwrap_or_default(), typed)?;
        let seen = source.seen(table)?.after(self.state.seen.as_ref());
        let (added, unreadable): (Vec<_>, Vec<_>) =
            added(self.state, &members).partition(|member| member.is_readable());
        let added = added.iter().map(|member| member.table()).collect();
        let added_unreadable = unreadable.iter().map(|member| member.oid).collect();
        Ok(Present {
            table: table.clone(),
            shape,
            members,
            cloned,
            added,
            added_unreadable,
            key,
            seen,
            queue: self.state.objects.queue.clone(),
            queue_is_new: false,
            summary,
            has_disabled_triggers: false,
            missed: false,
            unwatched: false,
        })
    }

    /// What follows. `applied` rows of the queue are applied here already, and not removed there yet.
    pub fn decide(self, present: Present, columns: Columns, repull: bool, applied: u64) -> Decision {
        let summary = &present.summary;
        let missed = present.missed.then(|| MISSED.to_string());
        let unexpected = missed.or_else(|| self.why_all(&present, &columns));
        let all = repull || unexpected.is_some() || summary.truncated.is_some();
        let rows = summary.rows.saturating_sub(applied);
        let last = summary.last.unwrap_or(0);
        let portion = Portion::choose(rows, last, summary.cut, self.limit, all, present.has_added());
        let before = self.state.seen.as_ref();
        let mut columns = columns;
        if !portion.whole {
            columns.following.set_incomplete();
        }
        let same_types = self.job.renamed.is_none()
            && before.is_none_or(|seen| seen.has_same_types(&present.seen, &columns.column_map.columns));
        Decision { present, columns, unexpected, portion, same_types }
    }

    /// Why the queue does not tell all that has changed.
    fn why_all(self, present: &Present, columns: &Columns) -> Option<String> {
        let Look { job, state, .. } = self;
        let Present { summary, members, .. } = present;
        if let Some(reason) = &state.copy_all {
            return Some(reason.clone());
        }
        if !state.system.is_empty() && state.system != summary.system {
            return Some("the source is another cluster now".to_string());
        }
        if state.filter != job.filter || state.condition != job.condition {
            return Some("the filter or the condition has changed".to_string());
        }
        if present.unwatched {
            return Some(
                "the extension's version here is older: its package will make queue and triggers anew".to_string(),
            );
        }
        if present.queue_is_new {
            return Some("something else is queued now than before".to_string());
        }
        // An earlier try may have removed the rows of the present position, and then have been rolled back here.
        let removed = summary.removed.unwrap_or(0);
        if removed != state.removed && state.position.as_ref().is_none_or(|position| position.number != removed) {
            return Some(
                "changes that are not applied here were removed from the queue, by another copy of this job"
                    .to_string(),
            );
        }
        if summary.is_stopped() || summary.was_full {
            return Some(format!(
                "the queue had reached max_queue_size ({} bytes), and took no more changes",
                summary.max_size.as_deref().unwrap_or("NULL")
            ));
        }
        if summary.unknown > 0 {
            return Some("rows have changed while columns of the key had other names on the source".to_string());
        }
        if job.renamed.is_some() && compared(job.filter.as_deref(), job.condition.as_deref()).is_some() {
            return Some("changes of columns of the filter were not queued while these had other names".to_string());
        }
        let key = job.pk_name.as_deref().unwrap_or_default();
        let taken = |(old, new): &(String, String)| key.contains(new) && present.shape.column(old).is_some();
        if job.renamed.as_ref().is_some_and(|renamed| renamed.renamed.iter().any(taken)) {
            return Some("rows have changed while another column had the name of one of the key".to_string());
        }
        let (copied, given) = (&columns.column_map.columns, columns.following.given());
        if let Some(reason) = state.seen.as_ref().and_then(|seen| seen.why_again(&present.seen, copied, &given)) {
            return Some(reason);
        }
        let now: HashSet<_> = storage_ids(members, present.cloned).into_iter().collect();
        if state.members.iter().any(|before| !now.contains(before)) {
            return Some("a partition or child of the source was detached, truncated or rewritten".to_string());
        }
        None
    }
}

/// Tables that were added to the source as partitions or children since the last refresh, and hold rows.
pub fn added<'a>(state: &'a State, members: &'a [Member]) -> impl Iterator<Item = &'a Member> {
    let known: HashSet<u32> = state.members.iter().map(|(oid, ..)| *oid).collect();
    let is_known = move |member: &Member| known.contains(&member.oid);
    members.iter().skip(1).filter(move |member| !is_known(member) && member.has_rows())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_where_the_queue_is_cut() {
        let portion = |extent, until, whole, taken| Portion { extent, until, whole, taken };
        for (chosen, expected) in [
            (Portion::choose(0, 0, None, None, false, false), portion(Extent::Nothing, 0, true, 0)),
            (Portion::choose(0, 7, None, None, false, true), portion(Extent::Changes(7), 7, true, 0)),
            (Portion::choose(9, 9, None, None, false, false), portion(Extent::Changes(9), 9, true, 9)),
            (Portion::choose(9, 9, Some(4), Some(4), false, false), portion(Extent::Changes(4), 4, false, 4)),
            (Portion::choose(9, 9, None, Some(20), false, false), portion(Extent::Changes(9), 9, true, 9)),
            (Portion::choose(9, 9, Some(4), Some(4), true, false), portion(Extent::All, 9, true, 9)),
            (Portion::choose(0, 0, None, None, true, false), portion(Extent::All, 0, true, 0)),
        ] {
            assert_eq!(chosen, expected);
        }
    }
}
