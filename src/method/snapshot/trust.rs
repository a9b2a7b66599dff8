//! Whether the live twin's rows can be compared with the source's by their versions, and whether that is worth trying. Why an equal version is
//! an equal row: docs/architecture.md, "Versions of rows".

use crate::backend::row_version::Recent;
use crate::destination::row_versions::Hidden;
use crate::destination::written::Written;
use crate::source::row_versions::{Origin, Part};
use serde::{Deserialize, Serialize};

/// Transactions between two refreshes, at most: after twice as many a transaction ID comes again.
const MOST_TRANSACTIONS: u64 = 1 << 31;

/// After so many refreshes in a row at most is a delta tried again that was in vain.
const MOST_PASSED_OVER: u32 = 32;

/// Copies of versions that the live twin holds, as the last refresh left it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    pub origin: Origin,
    pub source_table: String,
    pub filter: Option<Vec<String>>,
    pub condition: Option<String>,
    /// The live twin's OID and file.
    pub live: (u32, u32),
    /// This server.
    pub system: String,
    pub written: Written,
    pub rows: u64,
}

/// Milliseconds that nobody notices.
const NOTICED: u64 = 100;

/// What earlier refreshes have taught.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// How long the last copy of all rows took, in milliseconds, and how many rows that were.
    #[serde(default)]
    pub copy: Option<(u64, u64)>,
    /// Deltas in a row that were in vain, or took longer than a copy.
    #[serde(default)]
    pub in_vain: u32,
    /// Refreshes that copy all rows before a delta is tried again.
    #[serde(default)]
    pub passing_over: u32,
}

impl Learned {
    /// A delta was in vain, or took so long.
    #[must_use]
    pub fn tried(self, took: Option<u64>) -> Learned {
        let worth_it = match (took, self.copy) {
            (None, _) => false,
            (Some(took), Some((copy, _))) => took <= copy.max(NOTICED),
            (Some(_), None) => true,
        };
        let in_vain = if worth_it { 0 } else { self.in_vain.saturating_add(1) };
        let passing_over = if worth_it { 0 } else { 4_u32.saturating_pow(in_vain).min(MOST_PASSED_OVER) };
        Learned { in_vain, passing_over, ..self }
    }

    /// All rows were copied: so many, in so many milliseconds.
    #[must_use]
    pub fn copied(self, rows: u64, took: u64) -> Learned {
        Learned { copy: Some((took, rows)), passing_over: self.passing_over.saturating_sub(1), ..self }
    }
}

/// What the sides are now.
pub struct Now<'a> {
    pub origin: &'a Origin,
    pub source_table: &'a str,
    pub filter: Option<&'a [String]>,
    pub condition: Option<&'a str>,
    pub live: (u32, u32),
    pub system: &'a str,
    pub written: Option<&'a Written>,
    /// Those that the live twin has, and those that it has to have.
    pub hidden: (Hidden, Hidden),
}

/// Which tables of the source hold the versions that were copied, in their order now, and what may be mistaken for newer ones.
#[derive(Debug, PartialEq)]
pub struct Trust {
    pub tables: Vec<bool>,
    pub recent: Option<Recent>,
    /// As the last refresh left it.
    pub rows: u64,
    /// What was written to the live twin so far, as it was compared.
    pub written: Written,
}

/// Whether versions that were copied are still what they were. The error is why not.
pub fn trust(before: Option<&Copied>, now: &Now<'_>) -> Result<Trust, String> {
    let Some(before) = before else { return Err("the last copy did not keep versions of rows".to_string()) };
    let (then, at) = (&before.origin, now.origin);
    let reason = if now.hidden.0 != now.hidden.1 || now.hidden.1 == Hidden::None {
        "the live twin does not have the hidden columns"
    } else if before.live != now.live || before.system != now.system {
        "the live twin is not as the last refresh left it"
    } else if now.written.is_none_or(|written| !before.written.stands(written)) {
        "somebody may have written to the live twin"
    } else if (then.database, then.oid) != (at.database, at.oid) || before.source_table != now.source_table {
        "the source table is another one"
    } else if before.filter.as_deref() != now.filter || before.condition.as_deref() != now.condition {
        "the filter or the condition has changed"
    } else if (&then.system, then.timeline) != (&at.system, at.timeline) {
        "the source is another server, or has another timeline"
    } else if then.started != at.started {
        "the source was restarted"
    } else if at.position < then.position || at.next < then.next {
        "the source is behind what was copied"
    } else if at.next - then.oldest.min(at.next) >= MOST_TRANSACTIONS {
        "too many transactions have run on the source"
    } else {
        let same = |part: &Part| {
            let known = then.tables.iter().find(|known| known.oid == part.oid);
            known.is_some_and(|known| known.file == part.file && known.columns == part.columns)
        };
        let tables: Vec<bool> = at.tables.iter().map(same).collect();
        if !tables.contains(&true) {
            return Err("the rows of the source were written anew".to_string());
        }
        let written = now.written.unwrap_or(&before.written).clone();
        return Ok(Trust { tables, recent: Recent::of(then.oldest, at.next), rows: before.rows, written });
    };
    Err(reason.to_string())
}

/// Why it is not worth trying, although it could be done.
pub fn in_vain(rows: u64, changes: Option<u64>, learned: &Learned, limit: u64) -> Option<String> {
    if limit == 0 {
        return Some("mimeo.delta_limit_percent is 0".to_string());
    }
    if let Some(changes) = changes {
        if is_more(changes, rows, limit) {
            return Some(format!("about {} percent of the rows have changed", percent(changes, rows)));
        }
    }
    (learned.passing_over > 0).then(|| "the last one was not faster than a copy".to_string())
}

/// Whether these are more than `limit` percent of the rows.
pub fn is_more(changes: u64, rows: u64, limit: u64) -> bool {
    u128::from(changes) * 100 > u128::from(rows) * u128::from(limit)
}

pub fn percent(changes: u64, rows: u64) -> u64 {
    (u128::from(changes) * 100 / u128::from(rows.max(1))).min(100) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        serde_json::from_value(serde_json::json!({
            "system": "1", "timeline": 1, "started": "a", "database": 5, "oid": 20000, "oldest": 700, "next": 710,
            "position": 1000, "tables": [{"oid": 20000, "file": 20000, "columns": "c"}]
        }))
        .unwrap()
    }

    fn written(updated: i64) -> Written {
        serde_json::from_value(serde_json::json!({
            "inserted": 10, "updated": updated, "deleted": 0, "started": "x", "reset": null
        }))
        .unwrap()
    }

    fn copied() -> Copied {
        Copied {
            origin: origin(),
            source_table: "app.t".into(),
            filter: None,
            condition: Some("WHERE a > 1".into()),
            live: (3, 4),
            system: "9".into(),
            written: written(0),
            rows: 10,
        }
    }

    fn now<'a>(origin: &'a Origin, written: &'a Written) -> Now<'a> {
        Now {
            origin,
            source_table: "app.t",
            filter: None,
            condition: Some("WHERE a > 1"),
            live: (3, 4),
            system: "9",
            written: Some(written),
            hidden: (Hidden::Version, Hidden::Version),
        }
    }

    fn refused(change: impl FnOnce(&mut Now<'_>, &mut Origin)) -> Option<String> {
        let (mut at, unchanged, left) = (origin(), origin(), written(0));
        let mut now = now(&unchanged, &left);
        change(&mut now, &mut at);
        trust(Some(&copied()), &Now { origin: &at, ..now }).err()
    }

    #[test]
    fn each_premise_is_asked_for() {
        assert_eq!(refused(|_, _| {}), None);
        assert_eq!(refused(|_, at| (at.next, at.oldest, at.position) = (5000, 4000, 9000)), None, "time has passed");
        let other = written(1);
        type Change<'a> = Box<dyn FnOnce(&mut Now<'_>, &mut Origin) + 'a>;
        let cases: [(Change<'_>, &str); 17] = [
            (Box::new(|now, _| now.hidden.0 = Hidden::None), "hidden"),
            (Box::new(|now, _| now.hidden = (Hidden::None, Hidden::None)), "hidden"),
            (Box::new(|now, _| now.live = (3, 5)), "live twin"),
            (Box::new(|now, _| now.system = "8"), "live twin"),
            (Box::new(|now, _| now.written = None), "written"),
            (Box::new(|_, at| at.database = 6), "another one"),
            (Box::new(|_, at| at.oid = 20001), "another one"),
            (Box::new(|now, _| now.source_table = "app.u"), "another one"),
            (Box::new(|now, _| now.condition = None), "condition"),
            (Box::new(|now, _| now.filter = Some(&[])), "filter"),
            (Box::new(|_, at| at.system = "2".into()), "another server"),
            (Box::new(|_, at| at.timeline = 2), "timeline"),
            (Box::new(|_, at| at.started = "b".into()), "restarted"),
            (Box::new(|_, at| at.position = 999), "behind"),
            (Box::new(|_, at| at.next = 709), "behind"),
            (Box::new(|_, at| at.next = 700 + (1 << 31)), "too many"),
            (Box::new(|_, at| at.tables[0].file = 1), "written anew"),
        ];
        for (number, (change, reason)) in cases.into_iter().enumerate() {
            let told = refused(change).unwrap_or_else(|| panic!("case {number} ({reason}) was trusted"));
            assert!(told.contains(reason), "{number}: {told}");
        }
        assert!(refused(|_, at| at.tables[0].columns = "d".into()).unwrap().contains("written anew"));
        let before = Copied { written: other, ..copied() };
        let (at, left) = (origin(), written(0));
        let now = now(&at, &left);
        assert!(trust(Some(&before), &now).unwrap_err().contains("written"));
        assert!(trust(None, &now).is_err());
    }

    #[test]
    fn what_is_not_faster_is_tried_less_often() {
        let learned = Learned::default().copied(100, 1000);
        assert_eq!(in_vain(100, Some(30), &learned, 30), None);
        assert!(in_vain(100, Some(31), &learned, 30).unwrap().contains("31 percent"));
        assert!(in_vain(100, None, &learned, 0).is_some());
        let slow = learned.clone().tried(Some(1001));
        assert_eq!((slow.in_vain, slow.passing_over), (1, 4));
        assert!(in_vain(100, Some(1), &slow, 30).is_some());
        let again = (0..4).fold(slow, |learned, _| learned.copied(100, 1000));
        assert_eq!(in_vain(100, Some(1), &again, 30), None);
        let twice = again.tried(None);
        assert_eq!((twice.in_vain, twice.passing_over), (2, 16));
        let fast = twice.tried(Some(10));
        assert_eq!((fast.in_vain, fast.passing_over), (0, 0));
        let mut never = Learned::default();
        for _ in 0..40 {
            never = never.tried(None);
        }
        assert_eq!(never.passing_over, MOST_PASSED_OVER);
    }
}
