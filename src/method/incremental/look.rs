//! What a refresh by a control column finds on both sides.

use super::asked::Asked;
use super::bound::Bound;
use super::decide::{Choice, Decision, Repull};
use super::refresh::{beyond, Refresh};
use super::state::State;
use crate::backend::name::quote;
use crate::backend::spi;
use crate::destination::column_map;
use crate::destination::following::Following;
use crate::destination::table;
use crate::error::{Error, Report, Result};
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::follow;
use crate::source::bounds::{digest, Kind, Range, Slice};
use crate::source::catalog::rows_query;
use crate::source::connection::Connection;

impl Refresh<'_> {
    /// In one snapshot: shape, the range, its greatest value.
    pub(super) fn look(&self, source: &mut Connection, bound: &Bound) -> Result<Decision> {
        let job = self.job;
        let Asked { table, control, values, start, .. } = &self.asked;
        let mut shape = source.locked_snapshot_of(table, job.condition.as_deref())?;
        if job.method().facts().by_key {
            shape.indexes = source.indexes(table)?;
        }
        let seen = source.seen(table)?;
        let columns = selected_columns(&shape, job.filter.as_deref(), source.label())?;
        source.require_readable(table, &names(&columns), job.filter.is_some())?;
        if !columns.iter().any(|column| column.name == control.name) {
            return Err(Error::FilterLacks {
                table: table.table().plain(),
                what: "the control column",
                columns: vec![control.name.clone()],
            });
        }
        let [local] = table::describe([self.destination.oid])?;
        column_map::require_loadable(&local)?;
        let before = self.state.seen.as_ref();
        let renamed = before.map(|before| before.renamed(&seen)).unwrap_or_default();
        let (destination, columns) = (&self.destination, columns.as_slice());
        let (now, anew) = (&seen, self.repulls_all());
        let sides = follow::Sides { job, destination, local: &local, shape: &shape, columns, before, now, anew };
        let following = follow::following(source, table, &sides)?;
        let local = following.project(&local);
        let column_map = column_map::map(&local, &shape, columns, &renamed)?;
        values.require_comparable(&local)?;
        let text = column_map::obstacle_to_binary(&local, &shape, columns);
        source.use_own_search_path()?;
        let rows = rows_query(&table.table(), (&names(columns), &[]), job.condition.as_deref())?;

        let again = before.and_then(|before| before.why_again(&seen, &column_map.columns, &following.given()));
        let lacking = again.clone().filter(|_| matches!(self.repull, Repull::Range(..)));
        let again = again.filter(|_| self.repulls_nothing());
        let repulls = again.is_some() && self.may_repull(source, &rows, &following)?;
        let merges_all = again.is_some() && job.method().facts().by_key && bound.upper.is_some();
        let take = Choice {
            method: job.method(),
            bound,
            redo: self.redo.as_ref(),
            start,
            repull_range: self.asked.repull_range.clone(),
            repull_all: self.repulls_all() || repulls,
            merges_all,
            limit: self.options.limit.or(job.batch_limit).filter(|limit| *limit > 0).map(i64::from),
            whole: self.in_group,
        }
        .take();
        let nothing_is_safe = bound.upper.is_none() && self.repulls_nothing() && !repulls && !self.in_group;
        Ok(Decision {
            take,
            rows,
            shape,
            local,
            column_map,
            following,
            repulls,
            text,
            seen: seen.after(before),
            nothing_is_safe,
            again,
            merges_all,
            lacking,
            is_cut: false,
            greatest: None,
        })
    }

    /// Whether an inserter that follows columns may copy all rows anew: the destination has the control values that the source has, and no row
    /// that is gone there.
    fn may_repull(&self, source: &mut Connection, rows: &str, following: &Following) -> Result<bool> {
        if !self.job.follows_columns() || self.job.method().facts().by_key {
            return Ok(false);
        }
        let Asked { control, kind, start, .. } = &self.asked;
        let range = Range { upper: Some(start.clone()), to_upper: true, ..Range::default() };
        let slice = Slice { rows, control, range: &range };
        let there = source.value(&slice.digest(*kind), &[], "comparing the control values")?;
        source.require_seen()?;
        // The destination still has the name that the column had.
        let own = following.before(&control.name).unwrap_or(&control.name);
        let here = spi::text(&digest(*kind, &quote(own), &self.job.destination.to_string()), &[])?;
        Ok(here.is_some() && here == there)
    }

    /// Whether the bound has not moved for two periods of the job, because a transaction on the source holds it back: then the reason names it.
    pub(super) fn stands_still(&self, source: &mut Connection, run: &mut Run) -> Result<bool> {
        let bound = &self.bound;
        let standing = match (bound.at, self.state.candidates.first()) {
            (Some(at), _) => at,
            (None, Some(oldest)) => oldest.at,
            (None, None) => return Ok(false),
        };
        if bound.waits_for.is_empty() || !self.catalog.is_late(&self.job.dest_table, standing)? {
            return Ok(false);
        }
        if let Some(who) = source.who_waits(&bound.waits_for)? {
            run.note(format!("the bound stands still: a transaction on the source keeps rows back ({who})"));
        }
        Ok(true)
    }

    /// Whether last_value is later than the source's clock.
    pub(super) fn is_ahead(&self) -> bool {
        let Asked { kind, values, start, .. } = &self.asked;
        let newest = self.bound.newest.as_deref();
        self.redo.is_none()
            && newest.is_some_and(|newest| *kind == Kind::Time && values.is_after(start, newest).unwrap_or(false))
    }

    /// Ends what is taken after so many rows, between two control values, and finds the greatest value of it.
    pub(super) fn measure(&self, source: &mut Connection, decision: &mut Decision, run: &mut Run) -> Result<()> {
        let Asked { control, values, table, .. } = &self.asked;
        let rows = decision.rows.clone();
        if let (Some(limit), Some(upper)) = (decision.take.limit, &self.bound.upper) {
            let slice = Slice { rows: &rows, control, range: &decision.take.range };
            let cut = source.value(&slice.after(limit), &[], "finding the end of the batch")?;
            if let Some(cut) = cut {
                if values.is_after(&cut, upper)? {
                    return Err(beyond(upper, &cut));
                }
                decision.take.range.upper = Some(cut);
                decision.is_cut = true;
                run.note(format!("batch limit of {limit} rows reached"));
            }
        }
        let slice = Slice { rows: &rows, control, range: &decision.take.range };
        if !decision.nothing_is_safe {
            decision.greatest = source.value(&slice.greatest(), &[], "reading the greatest control value")?;
        }
        if decision.greatest.is_none() && decision.is_cut {
            let state = State { redo: self.redo.clone(), ..self.state.clone() };
            return Err(Error::EndlessBatch {
                table: table.table().plain(),
                column: control.name.clone(),
                value: decision.take.range.upper.clone().unwrap_or_default(),
                limit: decision.take.limit.unwrap_or_default(),
                state: serde_json::to_value(&state)?,
            });
        }
        if let (Some(parent), true, Some(_)) = (table.as_parent(), self.job.method().facts().by_key, &decision.greatest)
        {
            let key = self.job.pk_name.clone().unwrap_or_default();
            let operators = source.key_operators(table, &key)?;
            let shared = slice.shared_keys(&key, &operators);
            if source.value(&shared, &[], "looking for keys that are there twice")?.is_some() {
                return Err(Error::SharedKey { table: parent, report: Report::default() });
            }
        }
        Ok(())
    }
}
