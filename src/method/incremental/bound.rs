//! Up to where a refresh may go.

use super::State;
use crate::backend::interrupts;
use crate::backend::spi;
use crate::error::Result;
use crate::settings;
use crate::source::bounds::{Candidate, Control, Kind};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use std::time::{Duration, Instant};

/// Below it nothing will appear any more.
pub struct Bound {
    /// Exclusive. None: nothing is known to be safe yet, or the table is empty.
    pub upper: Option<String>,
    /// For the history.
    pub how: String,
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
pub fn find(
    source: &mut Connection,
    table: &SourceTable,
    control: &Control,
    kind: Kind,
    boundary: &str,
    condition: Option<&str>,
    state: &mut State,
) -> Result<Bound> {
    // A row of another table may commit late, and bring in rows that are long there.
    let joins = condition.is_some_and(|text| !text.trim_start().to_lowercase().starts_with("where"));
    let obstacle = control.obstacle().or(joins.then_some("the condition reads other tables"));
    if let Some(obstacle) = obstacle {
        let margin = source.margin(table, control, kind, boundary)?;
        state.candidates.clear();
        let how = format!("boundary {boundary}, because {obstacle}");
        return Ok(Bound { upper: margin.value, how });
    }
    let place =
        format!("{} {} {} {} {}", source.place(), table.oid, control.name, control.type_name, control.started());
    if state.taken_at != place {
        state.candidates.clear();
        state.taken_at = place;
    }
    let Some(newest) = source.candidate(table, control, kind)? else {
        return Ok(Bound { upper: None, how: "the source is empty".to_string() });
    };
    wait_for_writers(source, &newest)?;
    state.candidates.push(newest);

    let involved: Vec<String> = state
        .candidates
        .iter()
        .flat_map(|candidate| candidate.writers.iter().chain(&candidate.running))
        .cloned()
        .collect();
    let alive = source.alive(&involved)?;
    let ended = |transactions: &[String]| !transactions.iter().any(|transaction| alive.contains(transaction));
    let settled = state.candidates.iter().rev().find(|candidate| ended(&candidate.writers)).cloned();
    let proven =
        state.candidates.iter().rev().find(|candidate| ended(&candidate.writers) && ended(&candidate.running)).cloned();
    forget(&mut state.candidates, settled.as_ref(), proven.as_ref());

    let Some(settled) = settled else {
        let how = "nothing yet, transactions that began to write earlier are still open".to_string();
        return Ok(Bound { upper: None, how });
    };
    let waiting = if state.candidates.last() == Some(&settled) {
        "proven"
    } else {
        "proven by an earlier run, since when a transaction that writes is open"
    };
    let proven_bound = |how: &str| Bound { upper: Some(settled.value.clone()), how: how.to_string() };
    match kind {
        Kind::Serial if control.is_ordered() => Ok(proven_bound(waiting)),
        Kind::Serial => {
            let margin = source.margin(table, control, kind, boundary)?;
            let Some(margin) = margin.value else { return Ok(proven_bound(waiting)) };
            let upper = spi::text(
                "SELECT least($1::pg_catalog.numeric, $2::pg_catalog.numeric)::text",
                &[margin.into(), settled.value.as_str().into()],
            )?;
            Ok(Bound {
                upper,
                how: format!("boundary {boundary}, because no sequence without a cache gives the values"),
            })
        }
        Kind::Time => {
            let margin = source.margin(table, control, kind, boundary)?;
            if !control.is_given() && margin.at < settled.at {
                let how = format!("boundary {boundary}, because whoever inserts gives the values");
                return Ok(Bound { upper: margin.value, how });
            }
            if proven.as_ref().is_some_and(|proven| proven.at >= settled.at) {
                return Ok(proven_bound(waiting));
            }
            let (floor, how) = match proven {
                Some(proven) if proven.at >= margin.at => (
                    Some((proven.value, proven.at)),
                    "proven by an earlier run, since when older transactions are open".to_string(),
                ),
                _ => (
                    margin.value.clone().map(|value| (value, margin.at)),
                    format!("boundary {boundary}, because older transactions are open"),
                ),
            };
            match floor {
                Some((value, at)) if at < settled.at => Ok(Bound { upper: Some(value), how }),
                _ => Ok(proven_bound(waiting)),
            }
        }
    }
}

/// Waits for those who write; for those who only might, a tenth of that, because a dump among them runs for hours.
fn wait_for_writers(source: &mut Connection, candidate: &Candidate) -> Result<()> {
    let patience = settings::writer_wait();
    for (transactions, patience) in [(&candidate.writers, patience), (&candidate.running, patience / 10)] {
        let end = Instant::now() + patience;
        let mut pause = Duration::from_millis(2);
        while !source.alive(transactions)?.is_empty() && Instant::now() < end {
            interrupts::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Drops the candidates that no later run can need: those before the newest ones that have become safe.
fn forget(candidates: &mut Vec<Candidate>, settled: Option<&Candidate>, proven: Option<&Candidate>) {
    if let (Some(settled), Some(proven)) = (settled, proven) {
        let oldest = settled.at.min(proven.at);
        candidates.retain(|candidate| candidate.at >= oldest);
    }
    while candidates.len() > KEPT {
        candidates.remove(candidates.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(at: f64) -> Candidate {
        Candidate { value: at.to_string(), at, writers: Vec::new(), running: Vec::new() }
    }

    #[test]
    fn a_candidate_is_kept_until_a_newer_one_is_safe() {
        let mut candidates: Vec<_> = (1..=5).map(|at| candidate(f64::from(at))).collect();
        let (settled, proven) = (candidates[3].clone(), candidates[1].clone());
        forget(&mut candidates, Some(&settled), Some(&proven));
        assert_eq!(candidates.iter().map(|kept| kept.at as i32).collect::<Vec<_>>(), [2, 3, 4, 5]);
        forget(&mut candidates, None, None);
        assert_eq!(candidates.len(), 4);
    }

    #[test]
    fn many_unsafe_candidates_do_not_pile_up() {
        let mut candidates: Vec<_> = (0..1000).map(|at| candidate(f64::from(at))).collect();
        forget(&mut candidates, None, None);
        assert_eq!(candidates.len(), KEPT);
        assert_eq!((candidates[0].at, candidates[KEPT - 1].at), (0.0, 999.0), "the oldest and the newest stay");
    }
}
