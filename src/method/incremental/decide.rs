//! Which rows a refresh by a control column takes.

use super::bound::Bound;
use super::state::{range_from, Redo};
use crate::destination::column_map::ColumnMap;
use crate::destination::following::Following;
use crate::job::method::Method;
use crate::shape::Shape;
use crate::source::bounds::Range;
use crate::source::seen::Seen;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// What is copied again, whatever last_value says.
#[derive(Debug, Clone, Copy)]
pub enum Repull<'a> {
    Nothing,
    All,
    /// Both exclusive; one of them is there.
    Range(Option<&'a str>, Option<&'a str>),
}

impl<'a> Repull<'a> {
    /// A range by itself asks for nothing, as in 1.x; a WARNING says so.
    pub fn from_arguments(repull: bool, start: Option<&'a str>, end: Option<&'a str>) -> Repull<'a> {
        match (repull, start, end) {
            (false, None, None) => Repull::Nothing,
            (false, ..) => {
                let hint = "Give p_repull := true with it to have the range copied again.";
                ErrorReport::new(
                    PgSqlErrorCode::ERRCODE_WARNING,
                    "p_repull_start and p_repull_end are ignored without p_repull",
                    "mimeo",
                )
                .set_hint(hint)
                .report(PgLogLevel::WARNING);
                Repull::Nothing
            }
            (true, None, None) => Repull::All,
            (true, start, end) => Repull::Range(start, end),
        }
    }
}

/// What a refresh takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Take {
    pub range: Range,
    /// Rows of the range are deleted here first.
    pub delete: bool,
    /// Rows that are taken, at most.
    pub limit: Option<i64>,
}

/// What of both sides decides which rows are taken.
pub struct Choice<'a> {
    pub method: Method,
    pub bound: &'a Bound,
    pub redo: Option<&'a Redo>,
    /// The job's last value.
    pub start: &'a str,
    /// The bounds of `Repull::Range`, as the source reads them.
    pub repull_range: Option<(Option<String>, Option<String>)>,
    pub repull_all: bool,
    /// Rows of the destination lack values, and all of them can be merged by key.
    pub merges_all: bool,
    pub limit: Option<i64>,
    /// All that the snapshot shows is taken.
    pub whole: bool,
}

impl Choice<'_> {
    pub fn take(self) -> Take {
        if let Some((lower, upper)) = self.repull_range {
            return Take { range: Range { lower, upper, ..Range::default() }, delete: true, limit: None };
        }
        if self.repull_all {
            return Take { range: Range { known: true, ..Range::default() }, delete: false, limit: None };
        }
        if self.merges_all {
            // By key, and nothing is deleted: rows that are gone on the source stay.
            let range = Range { upper: self.upper(), known: self.whole, ..Range::default() };
            return Take { range, delete: false, limit: None };
        }
        Take {
            range: Range { upper: self.upper(), known: self.whole, ..range_from(self.redo, self.start) },
            // An updater's rows are merged by key; a deleted one whose control value has grown since would be lost.
            delete: self.redo.is_some() && self.method == Method::Inserter,
            limit: self.limit.filter(|_| !self.whole),
        }
    }

    fn upper(&self) -> Option<String> {
        self.bound.upper.clone().filter(|_| !self.whole)
    }
}

/// What a refresh does, once both sides are looked at.
pub struct Decision {
    pub take: Take,
    /// The rows of the source that the job selects, as a query.
    pub rows: String,
    pub shape: Shape,
    pub local: Shape,
    pub column_map: ColumnMap,
    /// `local` is what the destination is once this is applied.
    pub following: Following,
    /// All rows are copied anew because of `again`, as p_repull does it.
    pub repulls: bool,
    /// Why the rows come as text.
    pub text: Option<String>,
    pub seen: Seen,
    /// Nobody knows yet that no row can be missed, and nothing was asked for.
    pub nothing_is_safe: bool,
    /// Why all rows are merged, or why rows of the destination lack values until a repull of all.
    pub again: Option<String>,
    /// `take` has all rows because of `again`.
    pub merges_all: bool,
    /// A range is copied anew, and rows beyond it lack values: why.
    pub lacking: Option<String>,
    /// `take` ends at the batch limit.
    pub is_cut: bool,
    /// Of the rows that are taken; None if there are none.
    pub greatest: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_goes_before_what_is_due() {
        let bound = Bound::new(Some("100".into()), crate::method::incremental::bound::BoundKind::SourceIsEmpty, None);
        let from = |value: &str| Redo::From(value.into());
        let range = |lower: Option<&str>, from_lower, upper: Option<&str>| Range {
            lower: lower.map(str::to_string),
            from_lower,
            upper: upper.map(str::to_string),
            ..Range::default()
        };
        let choice = |method, redo, repull_range, repull_all, merges_all| {
            let limit = Some(7);
            let whole = false;
            Choice { method, bound: &bound, redo, start: "40", repull_range, repull_all, merges_all, limit, whole }
                .take()
        };
        let again = from("30");
        let asked = Some((Some("1".to_string()), None));
        use Method::{Inserter, Updater};
        for (taken, range, delete, limit) in [
            (choice(Inserter, None, None, false, false), range(Some("40"), false, Some("100")), false, Some(7)),
            (choice(Inserter, Some(&again), None, false, false), range(Some("30"), true, Some("100")), true, Some(7)),
            (choice(Updater, Some(&again), None, false, false), range(Some("30"), true, Some("100")), false, Some(7)),
            (choice(Updater, Some(&again), None, false, true), range(None, false, Some("100")), false, None),
            (choice(Updater, None, asked, false, true), range(Some("1"), false, None), true, None),
            (choice(Inserter, None, None, true, false), Range { known: true, ..Range::default() }, false, None),
        ] {
            assert_eq!(taken, Take { range, delete, limit });
        }
    }
}
