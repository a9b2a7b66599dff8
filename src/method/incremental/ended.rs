//! What remains of a refresh by a control column: how far it has come, and what the next one takes again.

use super::asked::Asked;
use super::decide::{Decision, Repull};
use super::state::Redo;
use super::values::Values;
use crate::backend::name::Name;
use crate::error::Result;
use crate::source::bounds::Range;

/// A refresh whose rows are in the destination.
pub struct Ended<'a> {
    pub asked: &'a Asked,
    pub repull: Repull<'a>,
    /// What was to be taken again before it.
    pub redo: Option<&'a Redo>,
    /// Below it nothing will appear any more.
    pub safe: Option<&'a str>,
    pub decision: &'a Decision,
    /// All rows were merged, by the values of another control column than before.
    pub anew: bool,
    /// All that the snapshot showed was taken, beyond what is safe, too.
    pub whole: bool,
}

impl Ended<'_> {
    /// After a repull of a range the true maximum that the destination holds; else the greatest value that was taken.
    pub fn last_value(&self, destination: &Name) -> Result<String> {
        let Asked { values, start, .. } = self.asked;
        let greatest = self.decision.greatest.as_deref();
        let last = match self.repull {
            Repull::Nothing if self.redo == Some(&Redo::Empty) => greatest.map(str::to_string),
            Repull::All => greatest.map(str::to_string),
            Repull::Nothing if self.anew => greatest.map(str::to_string),
            Repull::Range(..) => values.greatest_in(destination)?,
            Repull::Nothing => greatest.map(|greatest| values.greater(greatest, start)).transpose()?,
        };
        Ok(last.unwrap_or_else(|| start.clone()))
    }

    /// What the next refresh takes again.
    pub fn next_redo(&self, last: &str) -> Result<Option<Redo>> {
        let Asked { values, start, control, .. } = self.asked;
        let (redo, done) = (self.redo.cloned(), &self.decision.take.range);
        if self.decision.greatest.is_none() {
            return match self.repull {
                Repull::All => Ok(Some(Redo::Empty)),
                _ if self.decision.nothing_is_safe || redo == Some(Redo::Empty) => Ok(redo),
                Repull::Nothing if self.whole => self.taken_early(redo, last),
                _ => rest(redo, done, last, values),
            };
        }
        Ok(match (self.repull, self.safe) {
            // Rows from the bound on may come in late, and have to be taken again.
            (Repull::All, None) => Some(Redo::All),
            (Repull::All, Some(safe)) => {
                let beyond = values.is_after(last, safe)? || (last == safe && !control.has_no_ties());
                beyond.then(|| Redo::From(safe.to_string()))
            }
            (Repull::Range(..), safe) => {
                let mut safe = safe.unwrap_or(start);
                // A range that begins beyond last_value leaves a gap.
                let gap = match &done.lower {
                    Some(lower) => values.is_after(lower, start)? && values.is_after(last, start)?,
                    None => false,
                };
                if gap && values.is_after(safe, start)? {
                    safe = start;
                }
                match redo {
                    Some(Redo::From(earlier)) if values.is_after(&earlier, safe)? => Some(Redo::From(safe.to_string())),
                    None if values.is_after(last, safe)? => Some(Redo::From(safe.to_string())),
                    redo => redo,
                }
            }
            (Repull::Nothing, _) if self.whole => self.taken_early(redo, last)?,
            (Repull::Nothing, _) => rest(redo, done, last, values)?,
        })
    }
}

impl Ended<'_> {
    /// After all that a snapshot showed: what was not safe yet, as long as last_value is beyond it. Rows that come in late lie there, also if
    /// those that were taken early are gone.
    fn taken_early(&self, redo: Option<Redo>, last: &str) -> Result<Option<Redo>> {
        let Asked { values, start, control, .. } = self.asked;
        let safe = match (self.safe, &redo) {
            (Some(safe), Some(Redo::From(earlier))) if values.is_after(earlier, safe)? => earlier,
            (Some(safe), _) => safe,
            (None, Some(_)) => return Ok(redo),
            (None, None) => start,
        };
        let beyond = values.is_after(last, safe)? || (last == safe && !control.has_no_ties());
        Ok(beyond.then(|| Redo::From(safe.to_string())))
    }
}

/// What remains to be taken again after a range was: what the destination holds beyond it.
fn rest(redo: Option<Redo>, done: &Range, last: &str, values: &Values) -> Result<Option<Redo>> {
    Ok(match (redo, &done.upper) {
        (None, _) => None,
        (Some(Redo::Empty), _) => None,
        (Some(_), Some(done)) if values.is_after(last, done)? => Some(Redo::From(done.clone())),
        (Some(_), Some(_)) => None,
        (redo, None) => redo,
    })
}
