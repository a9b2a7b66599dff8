//! All rows of a snapshot, in the live twin: where other members of its group change in place.

use super::decide::Present;
use super::delta::Changed;
use super::refresh::{pull_into, ChangedTwin, Refresh};
use super::trust::Learned;
use crate::backend::ownership;
use crate::backend::relation::lock_to_write_if_free;
use crate::backend::spi;
use crate::destination::row_versions::{has_rules, Hidden};
use crate::destination::written::Written;
use crate::destination::{references, table};
use crate::error::Result;
use crate::job::run::Run;
use crate::method::load::patience;
use crate::shape::Difference;
use crate::source::connection::Connection;

impl Refresh<'_> {
    /// Whether the rows of the live twin can be replaced as they are, by rows in the columns that it has. It is locked then.
    pub(super) fn can_stay_in_place(&self, present: &Present) -> Result<bool> {
        let live = self.twins.live.oid;
        let [mut shape] = table::describe([live])?;
        let has = Hidden::take_from(&mut shape, present.columns.iter().chain(&self.before.columns));
        let wanted = present.versions.as_ref().map(|versions| versions.hidden);
        Ok(!self.job.keep_previous
            && Difference::between(&self.before.columns, &present.columns).is_empty()
            && table::conforms(&shape, &present.columns, &self.before.columns)
            && wanted.is_none_or(|wanted| wanted == has)
            && !has_rules(live)
            && !references::is_referenced(live)?
            && lock_to_write_if_free(live))
    }

    /// Deletes all rows of the live twin, and has those of the source come.
    pub(super) fn replace_in_place(
        &self,
        source: &mut Connection,
        present: Present,
        learned: Learned,
        run: &mut Run,
    ) -> Result<ChangedTwin> {
        let live = &self.twins.live;
        run.note("replaced in place: other tables of its group change in place");
        ownership::require_tables(&[live.oid])?;
        references::trust_actions(live.oid, patience())?;
        table::check_at_once(live.oid)?;
        let written = Written::to(live.oid)?;
        let [mut shape] = table::describe([live.oid])?;
        Hidden::take_from(&mut shape, present.columns.iter().chain(&self.before.columns));
        run.phase("delete");
        let there = spi::number(
            &format!("WITH gone AS (DELETE FROM {} RETURNING 1) SELECT count(*) FROM gone", live.name()),
            &[],
        )? as u64;
        run.phase("copy");
        pull_into((&shape, false), source, &present, self.job, run)?.finish();
        let copied = self.leave(source, &present)?;
        run.phase("analyze");
        table::analyze(&live.name())?;
        let changed = Changed { came: run.rows, deleted: there, there };
        Ok(ChangedTwin { present, changed, written, copied, learned })
    }
}
