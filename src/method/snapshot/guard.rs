//! What has to hold before new data shows.

use crate::backend::parse::is_one_statement;
use crate::backend::relation::Relation;
use crate::backend::spi;
use crate::backend::subtransaction::caught;
use crate::error::{Error, Result};
use crate::job::config::Job;

/// Asks max_shrink_percent and guard, as the destination's owner. `old` is the table with the rows before, and how many those were, if
/// that is known; `new` the one that holds the new ones, and how many these are.
///
/// # Errors
/// Refused; what the guard itself raises.
pub fn check(job: &Job, old: (&Relation, Option<u64>), (new, rows): (&Relation, u64)) -> Result<()> {
    let refused = |reason: String| Err(Error::Refused { destination: job.dest_table.clone(), reason });
    if let Some(percent) = job.max_shrink_percent {
        let before = match old {
            (_, Some(before)) => before,
            (table, None) => spi::number(&format!("SELECT count(*) FROM {}", table.name()), &[])? as u64,
        };
        if has_shrunk(before, rows, percent as u64) {
            return refused(format!(
                "{rows} rows are fewer than the {before} that are there now, by more than {percent} percent"
            ));
        }
    }
    let Some(guard) = &job.guard else { return Ok(()) };
    let query = guard.trim_end_matches([';', ' ', '\t', '\r', '\n']).replace("{new}", &new.name().to_string());
    let query = format!("SELECT ({query}\n) IS TRUE");
    let passed = caught(|| Ok(if is_one_statement(&query)? { Some(spi::is_true(&query, &[])?) } else { None }))
        .map_err(|error| error.while_doing(&format!("In the guard: {guard}")))?;
    match passed {
        Some(true) => Ok(()),
        Some(false) => refused("the guard does not return true".to_string()),
        None => refused("the guard is not one query".to_string()),
    }
}

fn has_shrunk(before: u64, now: u64, percent: u64) -> bool {
    u128::from(before.saturating_sub(now)) * 100 > u128::from(before) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::has_shrunk;

    #[test]
    fn a_fall_counts_when_it_is_by_more() {
        assert!(!has_shrunk(100, 80, 20));
        assert!(has_shrunk(100, 79, 20));
        assert!(!has_shrunk(0, 0, 0));
        assert!(!has_shrunk(10, 20, 0));
        assert!(has_shrunk(10, 9, 0));
        assert!(!has_shrunk(10, 0, 100));
        assert!(has_shrunk(u64::MAX, 0, 99));
    }
}
