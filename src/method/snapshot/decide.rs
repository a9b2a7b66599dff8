//! Whether a snapshot has to be copied, and what decides that.

use super::state::{changes, live_file, Seen, State};
use super::trust::{self, Now, Trust};
use crate::backend::identity::{keeps_its_snapshot, system};
use crate::backend::parse::{is_plain_condition, names_only};
use crate::backend::relation::{lock_exclusively, lock_if_free, Patience};
use crate::destination::row_versions::Hidden;
use crate::destination::table;
use crate::destination::twins::Twins;
use crate::destination::written::Written;
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::job::run::Run;
use crate::method::columns::{names, selected_columns};
use crate::method::load::patience;
use crate::settings;
use crate::shape::{Column, Difference, Shape};
use crate::source::catalog::SourceTable;
use crate::source::changes::{Counted, Counters};
use crate::source::connection::Connection;
use crate::source::row_versions::Origin;
use pgrx::pg_sys;
use std::time::Duration;

/// Why nothing is copied.
pub const UNCHANGED: &str = "unchanged on the source";

/// What a refresh of a snapshot does.
pub struct Decision {
    /// Why, for the history.
    pub reason: String,
    /// None: nothing, for the live twin holds just what the source holds.
    pub copy: Option<Box<Present>>,
    /// The idle twin is locked. A delta does without.
    pub idle_locked: bool,
}

/// What a group knows of its member.
#[derive(Default)]
pub struct InGroup {
    /// When it began.
    pub moment: i64,
    /// The source's counters, from before the group's snapshot, and the table that they are of.
    pub counted: Option<(SourceTable, Counted)>,
    /// Those of the table that was seen last.
    pub known: Option<Counted>,
    /// The idle twin is waited for, because a group before this one would have needed it.
    pub wait: bool,
    pub idle_locked: bool,
    /// All rows are replaced in the live twin.
    pub in_place: bool,
}

/// What the source is now, in the snapshot that is open there.
pub struct Present {
    pub table: SourceTable,
    pub shape: Shape,
    pub columns: Vec<Column>,
    /// None if there are no counters there.
    pub fingerprint: Option<Counters>,
    /// What to compare with next time; None if nothing there proves anything.
    pub seen: Option<Seen>,
    /// The versions of its rows; None if the job does not copy them, or there are none that prove anything.
    pub versions: Option<Versions>,
}

impl Present {
    /// Why all rows are to be copied, or nothing is said about that.
    fn take_versions(&mut self, versions: std::result::Result<Option<Versions>, String>) -> Option<String> {
        self.versions = match versions {
            Ok(versions) => versions,
            Err(obstacle) => return Some(obstacle),
        };
        self.versions.as_ref().and_then(|versions| versions.trust.as_ref().err().cloned())
    }

    fn copies_all(&self) -> bool {
        self.versions.as_ref().is_none_or(|versions| versions.trust.is_err())
    }
}

/// The versions of a source's rows.
pub struct Versions {
    pub origin: Origin,
    /// The columns that the twins keep them in.
    pub hidden: Hidden,
    /// What the live twin holds of them; or why all rows have to be copied.
    pub trust: std::result::Result<Trust, String>,
}

/// A look at the source, for a job.
pub struct Look<'a> {
    pub job: &'a Job,
    pub before: &'a State,
    pub twins: &'a Twins,
    /// None is what the job says.
    pub check_stats: Option<bool>,
    pub pull_data: bool,
    /// Why this refresh copies all rows, if a delta has failed.
    pub failed: Option<String>,
}

/// What a comparison with the last copy tells.
#[derive(Debug, PartialEq)]
struct Comparison {
    same: bool,
    reason: String,
}

impl Look<'_> {
    /// Looks at the source, and leaves a snapshot open there if anything is to be copied. A refresh (`run`) that copies all rows locks the idle
    /// twin then; if that was not free at once (a dump, an autovacuum), it is waited for without a snapshot open on the source.
    pub fn decide(&self, source: &mut Connection, mut run: Option<&mut Run>) -> Result<Decision> {
        // The usual case costs one query on the source: the table is the one that was seen last, and unchanged.
        let mut known = self.before.seen.as_ref().map(|seen| seen.fingerprint.oid);
        let mut locked = run.is_none() || lock_if_free(self.twins.idle.oid);
        let mut refused: Option<String> = None;
        loop {
            let mut table = None;
            let oid = match known {
                Some(oid) => oid,
                None => table.insert(source.find_table(&self.job.source_table)?).oid,
            };
            let counted = source.counters(oid)?;
            let proof = self.proof(source.endpoint(), &counted)?;
            let Comparison { same, mut reason } = compare(self.before.seen.as_ref(), &proof, self.pull_data);
            let seen = proof.ok();
            let mut described = None;
            if same {
                if !seen.as_ref().is_some_and(|seen| seen.fingerprint.assigned_types) {
                    return Ok(Decision { reason, copy: None, idle_locked: locked });
                }
                let shape = source.snapshot_of(oid)?;
                if shape.types == self.before.types {
                    return Ok(Decision { reason, copy: None, idle_locked: locked });
                }
                reason = "copied: a type of the source has changed".to_string();
                described = Some(shape);
            }
            if let (false, Some(run), false) = (locked, &mut run, self.may_try_a_delta()) {
                self.wait_for_idle(source, run)?;
                (locked, known) = (true, None);
                continue;
            }
            let table = match table {
                Some(table) => table,
                None => source.find_table(&self.job.source_table)?,
            };
            if table.oid != oid {
                // The name now means another table than last time.
                known = None;
                continue;
            }
            let columns = self.columns(source, &table, described);
            // A run that fails here also records why the copy was not skipped.
            let (shape, columns) = columns.inspect_err(|_| {
                if let Some(run) = &mut run {
                    run.note(reason.clone());
                }
            })?;
            let mut present = Present { table, shape, columns, fingerprint: counted.ok(), seen, versions: None };
            let why = match self.versions(source, &present, refused.as_deref()) {
                // It may lack a function: then its transaction is over, too.
                Err(Error::Remote { report, .. }) if refused.is_none() => {
                    source.roll_back()?;
                    (refused, known) = (Some(report.message), None);
                    continue;
                }
                versions => versions?,
            };
            let why = present.take_versions(why);
            let copies_all = present.copies_all();
            if let (false, Some(run), true) = (locked, &mut run, copies_all) {
                self.wait_for_idle(source, run)?;
                (locked, known) = (true, None);
                continue;
            }
            if let Some(why) = why {
                reason = format!("{reason}; no delta: {why}");
            }
            return Ok(Decision { reason, copy: Some(Box::new(present)), idle_locked: locked });
        }
    }

    /// The source's shape, in a snapshot that is opened for it unless it is known, and the columns that are copied.
    fn columns(
        &self,
        source: &mut Connection,
        table: &SourceTable,
        described: Option<Shape>,
    ) -> Result<(Shape, Vec<Column>)> {
        let shape = match described {
            Some(shape) => shape,
            None => source.locked_snapshot_of(table, self.job.condition.as_deref())?,
        };
        let columns = selected_columns(&shape, self.job.filter.as_deref(), source.label())?;
        source.require_readable(table, &names(&columns), self.job.filter.is_some())?;
        Ok((shape, columns))
    }

    /// Whether counters, of the table that was seen last, prove that nothing has changed. No snapshot is open on the source.
    pub fn is_unchanged(&self, source: &mut Connection, counted: &Counted) -> Result<bool> {
        let proof = self.proof(source.endpoint(), counted)?;
        if !compare(self.before.seen.as_ref(), &proof, self.pull_data).same {
            return Ok(false);
        }
        match proof.ok().map(|seen| seen.fingerprint).filter(|fingerprint| fingerprint.assigned_types) {
            None => Ok(true),
            Some(fingerprint) => {
                let shape = source.snapshot_of(fingerprint.oid)?;
                source.end_snapshot()?;
                Ok(shape.types == self.before.types)
            }
        }
    }

    /// In the one snapshot of a group, which is open, whatever the counters say: what was committed last they may not count yet, and the other
    /// members have it. Row versions tell exactly.
    ///
    /// # Errors
    /// Beside those of `decide`: ChangedMeanwhile, if the group has to begin again.
    pub fn decide_in_group(&self, source: &mut Connection, in_group: &InGroup) -> Result<Decision> {
        let again = |why: &str| Error::ChangedMeanwhile(format!("\"{}\": {why}", self.job.dest_table));
        let (table, counted) = in_group.counted.as_ref().ok_or_else(|| again("nothing is counted"))?;
        let proof = self.proof(source.endpoint(), counted)?;
        let Comparison { same, mut reason } = compare(self.before.seen.as_ref(), &proof, self.pull_data);
        if same {
            reason = "copied: of one moment with the group's other tables".to_string();
        }
        let (mut refused, mut described) = (None, None);
        let (mut present, why) = loop {
            let (shape, columns) = self.columns(source, table, described.take())?;
            let (table, fingerprint, seen) = (table.clone(), counted.clone().ok(), proof.clone().ok());
            let present = Present { table, shape, columns, fingerprint, seen, versions: None };
            match self.versions(source, &present, refused.as_deref()) {
                Err(Error::Remote { report, .. }) if refused.is_none() => {
                    source.roll_back()?;
                    refused = Some(report.message);
                }
                versions => break (present, versions?),
            }
        };
        let why = present.take_versions(why);
        let copies_all = present.copies_all();
        let idle_locked = in_group.idle_locked || copies_all && lock_if_free(self.twins.idle.oid);
        if copies_all && !idle_locked {
            return Err(again("the idle twin is in use"));
        }
        if let Some(why) = why {
            reason = format!("{reason}; no delta: {why}");
        }
        Ok(Decision { reason, copy: Some(Box::new(present)), idle_locked })
    }

    pub fn may_try_a_delta(&self) -> bool {
        self.job.delta == Some(true) && self.pull_data && self.failed.is_none() && self.before.copied.is_some()
    }

    /// Ends the source's snapshot, and locks the idle twin.
    fn wait_for_idle(&self, source: &mut Connection, run: &mut Run) -> Result<()> {
        source.end_snapshot()?;
        self.lock_idle(run)?;
        run.phase("look");
        Ok(())
    }

    pub fn lock_idle(&self, run: &mut Run) -> Result<()> {
        run.phase("wait for the idle twin");
        lock_exclusively(&[self.twins.idle.oid], &self.twins.idle.name(), idle_patience(), "emptied")
    }

    /// The versions of the source's rows, if the job copies them; or why there are none. In the open snapshot.
    fn versions(
        &self,
        source: &mut Connection,
        present: &Present,
        has_refused: Option<&str>,
    ) -> Result<std::result::Result<Option<Versions>, String>> {
        let refused = |reason: &str| Ok(Err(reason.to_string()));
        if self.job.delta != Some(true) || !self.pull_data {
            return Ok(Ok(None));
        }
        if self.job.condition.as_deref().is_some_and(|condition| !is_plain_condition(condition)) {
            return refused("what the condition selects may change without the table");
        }
        if present.shape.names_things(&present.columns) {
            return refused("it has columns whose values are names of other things");
        }
        if let Some(why) = has_refused {
            return refused(why);
        }
        let origin = match source.origin(&present.table)? {
            Ok(origin) => origin,
            Err(obstacle) => return Ok(Err(obstacle)),
        };
        let all: Vec<_> = present.shape.columns.iter().map(|column| column.name.as_str()).collect();
        if origin.has_parts() && self.job.condition.as_deref().is_some_and(|condition| !names_only(condition, &all)) {
            return refused("the condition names a table, and the rows lie in others");
        }
        let hidden = Hidden::fitting(&present.columns, origin.has_parts());
        if hidden == Hidden::None || !hidden.has_room([self.twins.live.oid, self.twins.idle.oid])? {
            return refused("there is no room for the hidden columns");
        }
        let trust = self.trust(present, &origin, hidden)?;
        Ok(Ok(Some(Versions { origin, hidden, trust })))
    }

    /// Whether a delta can be tried, and is worth it.
    fn trust(&self, present: &Present, origin: &Origin, hidden: Hidden) -> Result<std::result::Result<Trust, String>> {
        let refused = |reason: &str| Ok(Err(reason.to_string()));
        if let Some(why) = &self.failed {
            return refused(why);
        }
        let Some(mut live) = relation_shape(self.twins.live.oid)? else { return refused("the live twin is gone") };
        let has = Hidden::take_from(&mut live, present.columns.iter().chain(&self.before.columns));
        let changed = !Difference::between(&self.before.columns, &present.columns).is_empty()
            || self.before.types != present.shape.types
            || !table::conforms(&live, &present.columns, &self.before.columns);
        if changed {
            return refused("its columns have changed");
        }
        if self.job.keep_previous {
            return refused("keep_previous keeps the rows that a swap replaces");
        }
        if keeps_its_snapshot() {
            return refused("this transaction keeps one snapshot");
        }
        let written = Written::to(self.twins.live.oid)?;
        let now = Now {
            origin,
            source_table: &self.job.source_table,
            filter: self.job.filter.as_deref(),
            condition: self.job.condition.as_deref(),
            live: live_file(self.twins.live.oid)?,
            system: &system(),
            written: written.as_ref(),
            hidden: (has, hidden),
        };
        let learned = &self.before.learned;
        Ok(trust::trust(self.before.copied.as_ref(), &now).and_then(|trust| {
            let changes = changes(self.before.seen.as_ref(), present.seen.as_ref());
            let vain = trust::in_vain(trust.rows, changes, learned, settings::delta_limit_percent());
            vain.map_or(Ok(trust), Err)
        }))
    }

    /// The proof to compare with the one of last time; or why there is none.
    fn proof(&self, endpoint: &str, counted: &Counted) -> Result<std::result::Result<Seen, String>> {
        if !self.check_stats.unwrap_or(self.job.check_stats.unwrap_or(true)) {
            return Ok(Err("check_stats is off".to_string()));
        }
        if self.job.condition.as_deref().is_some_and(|condition| !is_plain_condition(condition)) {
            return Ok(Err("what the condition selects may change without the table".to_string()));
        }
        let fingerprint = match counted {
            Err(obstacle) => return Ok(Err(obstacle.clone())),
            Ok(fingerprint) => fingerprint.clone(),
        };
        Ok(Ok(Seen {
            endpoint: endpoint.to_string(),
            source_table: self.job.source_table.clone(),
            fingerprint,
            filter: self.job.filter.clone(),
            condition: self.job.condition.clone(),
            live: live_file(self.twins.live.oid)?,
            system: system(),
            written: Written::to(self.twins.live.oid)?,
        }))
    }
}

fn relation_shape(oid: pg_sys::Oid) -> Result<Option<Shape>> {
    Ok(table::describe_present([oid])?.map(|[shape]| shape))
}

/// Whether the proof is the one of last time.
fn compare(before: Option<&Seen>, now: &std::result::Result<Seen, String>, pull_data: bool) -> Comparison {
    let now = match now {
        Ok(now) => now,
        Err(obstacle) => return Comparison { same: false, reason: format!("copied: {obstacle}") },
    };
    let reason = match before {
        None => "copied: there is no earlier copy to compare with",
        Some(_) if !pull_data => "emptied: p_pulldata is false",
        Some(seen) if seen.holds(now) => {
            return Comparison { same: true, reason: UNCHANGED.to_string() };
        }
        Some(seen) if seen.condition != now.condition || seen.filter != now.filter => {
            "copied: the filter or the condition has changed"
        }
        Some(seen) if seen.live != now.live || seen.system != now.system || !seen.is_untouched(now) => {
            "copied: the live twin is not as the last refresh left it"
        }
        Some(_) => "copied: the source has changed",
    };
    Comparison { same: false, reason: reason.to_string() }
}

/// Long enough in the queue for PostgreSQL to cancel an autovacuum that is in the way.
fn idle_patience() -> Patience {
    // SAFETY: reads a setting.
    let deadlock = Duration::from_millis(unsafe { pg_sys::DeadlockTimeout } as u64);
    let patience = patience();
    Patience { queue: deadlock + patience.queue, ..patience }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let fingerprint = Counters {
            oid: 1,
            table: "app.t".into(),
            files: vec![(1, 1)],
            columns: String::new(),
            parts: String::new(),
            assigned_types: false,
            changes: (100, 0, 0),
            started: String::new(),
            resets: (None, None),
        };
        Seen {
            endpoint: "here".into(),
            source_table: "app.t".into(),
            fingerprint,
            filter: None,
            condition: None,
            live: (2, 2),
            system: "1".into(),
            written: None,
        }
    }

    #[test]
    fn a_copy_is_left_out_only_on_proof() {
        let counted = |changes| {
            let before = seen();
            Seen { fingerprint: Counters { changes, ..before.fingerprint.clone() }, ..before }
        };
        let filtered = Seen { filter: Some(vec!["id".into()]), ..seen() };
        type Case<'a> = (Option<Seen>, std::result::Result<Seen, String>, bool, bool, &'a str);
        let cases: [Case<'_>; 8] = [
            (None, Ok(seen()), true, false, "copied: there is no earlier copy to compare with"),
            (Some(seen()), Ok(seen()), true, true, "unchanged on the source"),
            (Some(seen()), Ok(seen()), false, false, "emptied: p_pulldata is false"),
            (Some(seen()), Err("it is a view".into()), true, false, "copied: it is a view"),
            (Some(seen()), Ok(counted((101, 0, 0))), true, false, "copied: the source has changed"),
            (Some(seen()), Ok(filtered), true, false, "copied: the filter or the condition has changed"),
            (
                Some(seen()),
                Ok(Seen { live: (2, 3), ..seen() }),
                true,
                false,
                "copied: the live twin is not as the last refresh left it",
            ),
            (
                Some(seen()),
                Ok(Seen { system: "2".into(), ..seen() }),
                true,
                false,
                "copied: the live twin is not as the last refresh left it",
            ),
        ];
        for (before, now, pull_data, same, reason) in cases {
            let expected = Comparison { same, reason: reason.to_string() };
            assert_eq!(compare(before.as_ref(), &now, pull_data), expected);
        }
    }
}
