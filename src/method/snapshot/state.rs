//! What a snapshot job remembers, and what that proves.

use super::trust::{Copied, Learned};
use crate::backend::parse::is_plain_condition;
use crate::destination::table;
use crate::destination::written::Written;
use crate::error::Result;
use crate::job::config::Job;
use crate::shape::{Column, Type};
use crate::source::changes::Counters;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a snapshot job remembers from run to run, in refresh_config.state.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What the source was when the live twin was filled.
    #[serde(default)]
    pub seen: Option<Seen>,
    /// The source's columns that the twins were last brought in line with.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// The types of those that are not built in: a renamed label of an enum changes what is read, for one.
    #[serde(default)]
    pub types: BTreeMap<u32, Type>,
    /// What the live twin's statistics were made from.
    #[serde(default)]
    pub analyzed: Option<Analyzed>,
    /// What the live twin's hidden columns are worth. None if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
    #[serde(default)]
    pub learned: Learned,
    /// The moment of the group that has copied it last; None if it was refreshed by itself since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<i64>,
    /// What rollback_snapshot goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
}

/// The data that the last swap replaced, as long as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// OID and file of the twin that holds it.
    pub twin: (u32, u32),
    /// What the job remembered when that twin was live, but for what was kept then.
    pub state: Box<State>,
    /// When the run began that replaced it: microseconds since 2000-01-01 UTC.
    pub replaced_by: i64,
}

/// What a twin held when it was analyzed. As long as few rows have changed since, its statistics will do for the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Analyzed {
    pub fingerprint: Counters,
    pub rows: u64,
    pub filter: Option<Vec<String>>,
    pub condition: Option<String>,
    /// OID and file of the twin that has them now.
    pub live: (u32, u32),
}

impl Analyzed {
    /// Whether fewer than a tenth of the rows have changed, which is when autovacuum would analyze a table again.
    pub fn still_holds(&self, now: &Analyzed) -> bool {
        let total = |fingerprint: &Counters| {
            let (inserted, updated, deleted) = fingerprint.changes;
            inserted.saturating_add(updated).saturating_add(deleted)
        };
        let same = Counters { changes: now.fingerprint.changes, ..self.fingerprint.clone() } == now.fingerprint;
        let few = |changes: u64| changes.saturating_mul(10) < self.rows;
        same && self.filter == now.filter
            && self.condition == now.condition
            && self.live == now.live
            && few(total(&now.fingerprint).abs_diff(total(&self.fingerprint)))
            && few(now.rows.abs_diff(self.rows))
    }
}

/// If none of it has changed, the live twin holds what the source holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Where the connection led.
    #[serde(rename = "place")]
    pub endpoint: String,
    /// As the job named it.
    pub source_table: String,
    pub fingerprint: Counters,
    pub filter: Option<Vec<String>>,
    pub condition: Option<String>,
    /// The live twin's OID and file: nobody emptied it or restored it from a dump.
    pub live: (u32, u32),
    /// This server: OIDs and files of another one prove nothing.
    pub system: String,
    /// What was written to the live twin: nobody has changed rows in it. None of a job of an older release, and where nothing is counted.
    #[serde(default)]
    pub written: Option<Written>,
}

impl Seen {
    /// Whether nothing has changed until `now`, on the source or here.
    pub fn holds(&self, now: &Seen) -> bool {
        let but_written = |seen: &Seen| Seen { written: None, ..seen.clone() };
        but_written(self) == but_written(now) && self.is_untouched(now)
    }

    pub fn is_untouched(&self, now: &Seen) -> bool {
        match (&self.written, &now.written) {
            (None, _) => true,
            (Some(left), Some(now)) => left.stands(now),
            (Some(_), None) => false,
        }
    }
}

/// Row versions that have come in between, or that have gone if those are more, as far as counters tell.
pub fn changes(before: Option<&Seen>, now: Option<&Seen>) -> Option<u64> {
    let (before, now) = (&before?.fingerprint, &now?.fingerprint);
    if before.started != now.started || before.resets != now.resets {
        return None;
    }
    let came = |(inserted, updated, _): (i64, i64, i64)| inserted.saturating_add(updated);
    let went = |(_, updated, deleted): (i64, i64, i64)| deleted.saturating_add(updated);
    let since = |count: fn((i64, i64, i64)) -> i64| count(now.changes).saturating_sub(count(before.changes));
    u64::try_from(since(came).max(since(went))).ok()
}

/// Whether the next refresh would copy nothing, as far as the source's counters and the job tell.
pub fn is_as_copied(job: &Job, now: &Counters) -> bool {
    let state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
    job.check_stats.unwrap_or(true)
        && job.condition.as_deref().is_none_or(is_plain_condition)
        && state.seen.is_some_and(|seen| {
            seen.fingerprint == *now && seen.filter == job.filter && seen.condition == job.condition
        })
}

/// OID and file of a twin.
pub fn live_file(twin: pg_sys::Oid) -> Result<(u32, u32)> {
    Ok((twin.to_u32(), table::file_of(twin)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analyzed(rows: u64, updated: i64) -> Analyzed {
        let fingerprint = Counters {
            oid: 1,
            table: "app.t".into(),
            files: vec![(1, 1)],
            columns: String::new(),
            parts: String::new(),
            assigned_types: false,
            changes: (100, updated, 0),
            started: String::new(),
            resets: (None, None),
        };
        Analyzed { fingerprint, rows, filter: None, condition: None, live: (2, 2) }
    }

    #[test]
    fn statistics_hold_until_a_tenth_has_changed() {
        let before = analyzed(1000, 0);
        assert!(before.still_holds(&analyzed(1000, 99)));
        assert!(!before.still_holds(&analyzed(1000, 100)));
        assert!(!before.still_holds(&analyzed(900, 0)));
        let truncated = Counters { files: vec![(1, 2)], ..before.fingerprint.clone() };
        assert!(!before.still_holds(&Analyzed { fingerprint: truncated, ..before.clone() }));
        assert!(!before.still_holds(&Analyzed { live: (2, 3), ..before.clone() }));
    }
}
