//! Up to where a refresh may go.

use super::state::State;
use super::values::Values;
use crate::backend::interrupts;
use crate::backend::moment::Moment;
use crate::backend::spi;
use crate::error::Result;
use crate::settings;
use crate::source::bounds::{Candidate, Control, Kind, MOST_TRANSACTIONS};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

/// A value below which no more rows will appear.
pub struct Bound {
    /// Exclusive. None: nothing is known to be safe yet, or the table is empty.
    pub upper: Option<String>,
    pub kind: BoundKind,
    /// Up to which moment all rows are below it: by the source's clock.
    pub at: Option<Moment>,
    /// The greatest value that the source can hold now, where that is known.
    pub newest: Option<String>,
    /// The transactions that keep it from being that, as pg_locks.virtualtransaction names them.
    pub waits_for: Vec<String>,
}

impl Bound {
    pub fn new(upper: Option<String>, kind: BoundKind, at: Option<Moment>) -> Bound {
        Bound { upper, kind, at, newest: None, waits_for: Vec::new() }
    }
}

/// What a bound is based on; its text is for the history.
#[derive(Debug, Clone, PartialEq)]
pub enum BoundKind {
    SourceIsEmpty,
    /// Nothing is known to be safe yet.
    WritersOpen,
    /// No row can appear below it any more.
    Proven(Since),
    /// The same, of values that a sequence gives in order.
    ProvenOfSequence(Since),
    /// By an earlier run: since then transactions are open that might write.
    ProvenEarlier,
    /// The job's boundary, and why no more is known.
    Boundary(String, Because),
    /// The boundary, which a user has chosen.
    Asked(String),
}

/// Since when a bound is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Now,
    /// An earlier run: since then a transaction is open that writes.
    Earlier,
}

/// Why the boundary counts.
#[derive(Debug, Clone, PartialEq)]
pub enum Because {
    /// Writers cannot be seen on the source.
    Unseen(String),
    NoSequence,
    ValuesGiven,
    OlderOpen,
}

impl fmt::Display for BoundKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |since: &Since| match since {
            Since::Now => "proven",
            Since::Earlier => "proven by an earlier run, since when a transaction that writes is open",
        };
        match self {
            BoundKind::SourceIsEmpty => write!(out, "the source is empty"),
            BoundKind::WritersOpen => {
                write!(out, "nothing yet, transactions that began to write earlier are still open")
            }
            BoundKind::Proven(when) => write!(out, "{}", since(when)),
            BoundKind::ProvenOfSequence(when) => write!(
                out,
                "{}, for values of the sequence that are inserted by the transaction that took them",
                since(when)
            ),
            BoundKind::ProvenEarlier => {
                write!(out, "proven by an earlier run, since when older transactions are open")
            }
            BoundKind::Boundary(boundary, because) => match because {
                Because::Unseen(obstacle) => write!(out, "boundary {boundary}, because {obstacle}"),
                Because::NoSequence => {
                    write!(out, "boundary {boundary}, because the values do not come from a sequence without a cache")
                }
                Because::ValuesGiven => write!(out, "boundary {boundary}, because the application gives the values"),
                Because::OlderOpen => write!(out, "boundary {boundary}, because older transactions are open"),
            },
            BoundKind::Asked(boundary) => write!(out, "boundary {boundary}, as configured"),
        }
    }
}

/// Candidates that are kept, at most.
const KEPT: usize = 32;

/// Finds the bound, and remembers in the state what the next run may need. To be called before the snapshot that reads
/// the data is opened.
///
/// 1. A source where writers cannot be seen: the boundary is all there is.
/// 2. A new candidate; its writers mostly end within milliseconds, so they are waited for, for mimeo.writer_wait.
/// 3. The newest candidate whose writers have ended counts, one of an earlier run if need be.
/// 4. A time column: as far as older transactions may still come to the table, the boundary counts. A serial column:
///    the boundary counts unless a sequence gives its values.
/// 5. A boundary that a user has chosen always counts: only who writes the application knows how long a value that was taken may wait for
///    its row.
pub fn find(
    source: &mut Connection,
    table: &SourceTable,
    control: &Control,
    kind: Kind,
    boundary: &str,
    condition: Option<&str>,
    state: &mut State,
) -> Result<Bound> {
    // A row of another table may commit late, and add rows to the result that are much older.
    let joins = condition.is_some_and(|text| !text.trim_start().to_lowercase().starts_with("where"));
    let obstacle = control.obstacle().or(joins.then_some("the condition reads other tables"));
    if let Some(obstacle) = obstacle {
        let margin = source.margin(table, control, kind, boundary)?;
        state.candidates.clear();
        let kind = BoundKind::Boundary(boundary.to_string(), Because::Unseen(obstacle.to_string()));
        return Ok(Bound::new(margin.value, kind, Some(margin.at)));
    }
    let taken_at = format!(
        "{} {} {} {} {}",
        source.endpoint(),
        table.oid,
        control.name,
        control.type_name.for_message(),
        control.started()
    );
    if state.taken_at != taken_at {
        state.candidates.clear();
        state.taken_at = taken_at;
    }
    let looked = Moment::now();
    let Some(newest) = source.candidate(table, control, kind)? else {
        return Ok(Bound::new(None, BoundKind::SourceIsEmpty, Some(looked)));
    };
    let greatest = Some(newest.value.clone());
    state.candidates.push(newest);
    wait_for_writers(source, &mut state.candidates)?;
    let waits_for =
        state.candidates.last().map(|newest| newest.writers.iter().chain(&newest.running).cloned().collect());
    let waits_for: Vec<String> = waits_for.unwrap_or_default();

    let settled = state.candidates.iter().rev().find(|candidate| candidate.writers.is_empty()).cloned();
    let proven = state
        .candidates
        .iter()
        .rev()
        .find(|candidate| candidate.writers.is_empty() && candidate.running.is_empty())
        .cloned();
    forget(&mut state.candidates, settled.as_ref(), proven.as_ref());

    let Some(settled) = settled else {
        return Ok(Bound { newest: greatest, waits_for, ..Bound::new(None, BoundKind::WritersOpen, None) });
    };
    let since = if state.candidates.last() == Some(&settled) { Since::Now } else { Since::Earlier };
    let bound = proven_bound(source, table, control, kind, boundary, (settled, proven), since)?;
    let bound = Bound { newest: greatest, waits_for, ..bound };
    if !state.is_explicit(boundary, kind)? {
        return Ok(bound);
    }
    let margin = source.margin(table, control, kind, boundary)?;
    match (&bound.upper, margin.value) {
        (Some(upper), Some(value)) if Values::of(control).is_after(upper, &value)? => {
            let at = if kind == Kind::Time { Some(margin.at) } else { bound.at };
            Ok(Bound { upper: Some(value), kind: BoundKind::Asked(boundary.to_string()), at, ..bound })
        }
        _ => Ok(bound),
    }
}

/// How far it is proven that no row can be missed, by the newest candidate whose writers have ended and the newest below which no row
/// can appear any more.
fn proven_bound(
    source: &mut Connection,
    table: &SourceTable,
    control: &Control,
    kind: Kind,
    boundary: &str,
    (settled, proven): (Candidate, Option<Candidate>),
    since: Since,
) -> Result<Bound> {
    let proven_bound = |kind| Bound::new(Some(settled.value.clone()), kind, Some(settled.at));
    let by_boundary = |because| BoundKind::Boundary(boundary.to_string(), because);
    match kind {
        Kind::Serial if control.is_ordered() => Ok(proven_bound(BoundKind::ProvenOfSequence(since))),
        Kind::Serial => {
            let margin = source.margin(table, control, kind, boundary)?;
            let Some(margin) = margin.value else { return Ok(proven_bound(BoundKind::Proven(since))) };
            let upper = spi::text(
                "SELECT least($1::pg_catalog.numeric, $2::pg_catalog.numeric)::pg_catalog.text",
                &[margin.into(), settled.value.as_str().into()],
            )?;
            Ok(Bound::new(upper, by_boundary(Because::NoSequence), Some(settled.at)))
        }
        Kind::Time => {
            let margin = source.margin(table, control, kind, boundary)?;
            if !control.is_given() && margin.at < settled.at {
                return Ok(Bound::new(margin.value, by_boundary(Because::ValuesGiven), Some(margin.at)));
            }
            if proven.as_ref().is_some_and(|proven| proven.at >= settled.at) {
                return Ok(proven_bound(BoundKind::Proven(since)));
            }
            let (floor, kind) = match proven {
                Some(proven) if proven.at >= margin.at => (Some((proven.value, proven.at)), BoundKind::ProvenEarlier),
                _ => (margin.value.clone().map(|value| (value, margin.at)), by_boundary(Because::OlderOpen)),
            };
            match floor {
                Some((value, at)) if at < settled.at => Ok(Bound::new(Some(value), kind, Some(at))),
                _ => Ok(proven_bound(BoundKind::Proven(since))),
            }
        }
    }
}

/// Waits for transactions that write; for those that only might, a tenth of the time, because one may be a dump that runs for hours.
fn wait_for_writers(source: &mut Connection, candidates: &mut [Candidate]) -> Result<()> {
    let patience = settings::writer_wait();
    let mut looks = Looks::default();
    looks.look(source, candidates)?;
    let newest = |candidates: &[Candidate]| candidates.last().cloned();
    let write = |candidate: &Candidate| !candidate.writers.is_empty();
    let might = |candidate: &Candidate| !candidate.running.is_empty();
    for (busy, patience) in [(&write as &dyn Fn(&Candidate) -> bool, patience), (&might, patience / 10)] {
        let end = Instant::now() + patience;
        let mut pause = Duration::from_millis(2);
        while newest(candidates).is_some_and(|candidate| busy(&candidate)) && Instant::now() < end {
            interrupts::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
            looks.look(source, candidates)?;
        }
    }
    looks.look(source, candidates)
}

/// A backend that has run so many more transactions has read a new message since.
const TRANSACTIONS_A_MESSAGE: u64 = 8;

/// What was seen of the transactions that run.
#[derive(Default)]
struct Looks {
    /// How often a transaction's backend was seen without any.
    idle: BTreeMap<String, u32>,
}

impl Looks {
    /// Strikes out those that have ended.
    ///
    /// now() is the moment when the message came in. The transaction after COMMIT AND CHAIN, or a later one of several in a
    /// message, has a now() from before it began: so the end of a transaction that might write is not enough. Its backend
    /// must have been seen without a transaction twice, or have run several more.
    fn look(&mut self, source: &mut Connection, candidates: &mut [Candidate]) -> Result<()> {
        let known: BTreeSet<String> = candidates
            .iter()
            .flat_map(|candidate| candidate.writers.iter().chain(&candidate.running))
            .cloned()
            .collect();
        let shown = source.shown(&known.iter().map(String::as_str).collect::<Vec<_>>())?;
        // The furthest transaction of each backend.
        let mut furthest: HashMap<&str, u64> = HashMap::new();
        for other in &shown {
            interrupts::check();
            let number = number(other);
            furthest.entry(backend(other)).and_modify(|furthest| *furthest = number.max(*furthest)).or_insert(number);
        }
        for transaction in &known {
            interrupts::check();
            if !furthest.contains_key(backend(transaction)) {
                *self.idle.entry(transaction.clone()).or_default() += 1;
            }
        }
        let still: HashSet<&str> = shown.iter().map(String::as_str).collect();
        for candidate in candidates {
            candidate.writers.retain(|transaction| still.contains(transaction.as_str()));
            candidate.running.retain(|transaction| {
                interrupts::check();
                let idle = self.idle.get(transaction).copied().unwrap_or_default();
                let furthest = furthest.get(backend(transaction)).copied().unwrap_or_default();
                idle < 2 && furthest.saturating_sub(number(transaction)) < TRANSACTIONS_A_MESSAGE
            });
        }
        Ok(())
    }
}

/// The two parts of pg_locks.virtualtransaction.
fn backend(transaction: &str) -> &str {
    transaction.split('/').next().unwrap_or_default()
}

fn number(transaction: &str) -> u64 {
    transaction.split('/').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Drops the candidates that no later run can need: those before the newest ones that have become safe.
fn forget(candidates: &mut Vec<Candidate>, settled: Option<&Candidate>, proven: Option<&Candidate>) {
    if let (Some(settled), Some(proven)) = (settled, proven) {
        let oldest = settled.at.min(proven.at);
        candidates.retain(|candidate| candidate.at >= oldest);
    }
    let others = |candidates: &[Candidate]| {
        candidates.iter().map(|candidate| candidate.writers.len() + candidate.running.len()).sum::<usize>()
    };
    while candidates.len() > KEPT || (candidates.len() > 1 && others(candidates) > MOST_TRANSACTIONS) {
        candidates.remove(candidates.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: usize) -> Candidate {
        let at = serde_json::from_value(number.into()).unwrap();
        Candidate { value: number.to_string(), at, writers: Vec::new(), running: Vec::new() }
    }

    fn values(candidates: &[Candidate]) -> Vec<&str> {
        candidates.iter().map(|kept| kept.value.as_str()).collect()
    }

    #[test]
    fn a_candidate_is_kept_until_a_newer_one_is_safe() {
        let mut candidates: Vec<_> = (1..=5).map(candidate).collect();
        let (settled, proven) = (candidates[3].clone(), candidates[1].clone());
        forget(&mut candidates, Some(&settled), Some(&proven));
        assert_eq!(values(&candidates), ["2", "3", "4", "5"]);
        forget(&mut candidates, None, None);
        assert_eq!(candidates.len(), 4);
    }

    #[test]
    fn many_unsafe_candidates_do_not_pile_up() {
        let mut candidates: Vec<_> = (0..1000).map(candidate).collect();
        forget(&mut candidates, None, None);
        assert_eq!(candidates.len(), KEPT);
        assert_eq!(
            (values(&candidates)[0], values(&candidates)[KEPT - 1]),
            ("0", "999"),
            "the oldest and the newest stay"
        );
    }
}
