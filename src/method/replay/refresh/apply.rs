//! Rows of the source take their places here: those of the keys that were queued, or all.

use super::{Columns, Present, Refresh};
use crate::backend::identity::Identity;
use crate::backend::name::{quote, quote_list};
use crate::backend::parse::is_plain_condition;
use crate::backend::relation::Relation;
use crate::backend::spi;
use crate::destination::copy_in::Target;
use crate::destination::fit::Fit;
use crate::destination::table;
use crate::destination::upsert::{is_replaceable, Collected, MUCH_TO_COPY, MUCH_TO_MERGE};
use crate::error::{Error, Result};
use crate::job::record::Status;
use crate::job::run::Run;
use crate::method::load::{leave, patience, pull, pull_after, replace_all, Everything};
use crate::method::replay::stamp::require_stamp;
use crate::method::replay::stamp::DELETED;
use crate::shape::Shape;
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;
use crate::source::queue::{Changes, TypedColumn};

/// Both sides, when the rows are about to come.
pub(super) struct Work<'a> {
    present: &'a Present,
    destination: &'a Relation,
    owner: &'a Identity,
    local: Shape,
    fit: Fit,
    key: Vec<String>,
    /// From `rows_query`.
    rows: String,
    /// A row may come several times.
    joined: bool,
    /// Old and new names of columns that were renamed on the source since the last refresh.
    renamed: Vec<(String, String)>,
    /// Of a logdel job: how the values of deleted rows are read.
    typed: Vec<TypedColumn>,
}

impl Work<'_> {
    /// # Errors
    /// AmbiguousKey: one row would be here for several.
    fn require_distinct(&self, collected: &Collected) -> Result<()> {
        if self.joined && collected.shares_keys(&self.key)? {
            return Err(Error::AmbiguousKey { table: self.present.table.table().plain(), key: self.key.clone() });
        }
        Ok(())
    }

    fn changes<'a>(&'a self, until: i64, further: &'a [String]) -> Changes<'a> {
        Changes { queue: &self.present.queue, rows: &self.rows, key: &self.present.key, until, further }
    }
}

/// Of the rows that the job selects.
pub(super) struct Selected {
    /// The source table has a unique index on the key.
    pub unique: bool,
    /// The condition joins tables, so a row may come more than once.
    pub joined: bool,
}

/// What is taken.
pub(super) enum Extent {
    /// The keys of the queue up to this row of it.
    Changes(i64),
    All,
}

impl Refresh<'_> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn prepare<'a>(
        &self,
        source: &mut Connection,
        present: &'a Present,
        destination: &'a Relation,
        owner: &'a Identity,
        columns: Columns,
        renamed: Vec<(String, String)>,
        (extent, taken): (&Extent, u64),
    ) -> Result<Work<'a>> {
        let shape = &present.shape;
        table::check_at_once(destination.oid)?;
        let Columns { local, fit } = columns;
        let mut typed = Vec::new();
        if self.job.method().facts().keeps_gone {
            require_stamp(&local)?;
            typed = source.typed_columns(&present.table, &fit.columns)?;
        }
        let key = self.job.pk_name.clone().unwrap_or_default();
        let missing: Vec<_> = key.iter().filter(|column| !fit.columns.contains(column)).cloned().collect();
        if !missing.is_empty() {
            let table = local.table().plain();
            return Err(Error::FilterLacks { table, what: "columns of the key", columns: missing });
        }
        let condition = self.job.condition.as_deref();
        let Selected { unique, joined } = self.selected(source, &present.table, shape, &key)?;
        // The keys are few against the table, mostly, and those that change together lie together. The planner may only know
        // how full the queue once was: by a unique index it reads the rows in linear time all the same.
        let nested = if unique && (!joined || taken < 1000) { "on" } else { "off" };
        source.script(
            &format!(
                "SET LOCAL enable_nestloop = {nested}; SET LOCAL random_page_cost = 1.1; {}",
                source.server().without_jit()
            ),
            "preparing to read the rows",
        )?;
        // Nor does it know which keys there are, and might rather read the whole table.
        let single = unique && present.members.len() == 1 && condition.is_none_or(is_plain_condition);
        if single && matches!(extent, Extent::Changes(_)) {
            source.prefer_key_index(&present.table, &key, taken)?;
        }
        source.use_own_search_path()?;
        let rows = rows_query(&present.table.table(), &fit.columns, condition)?;
        Ok(Work { present, destination, owner, local, fit, key, rows, joined: joined || !unique, renamed, typed })
    }

    /// In the open snapshot, with the pinned search_path.
    pub(super) fn selected(
        &self,
        source: &mut Connection,
        table: &SourceTable,
        shape: &Shape,
        key: &[String],
    ) -> Result<Selected> {
        let condition = self.job.condition.as_deref();
        let joined = condition.is_some_and(|text| !text.trim_start().to_lowercase().starts_with("where"));
        let indexes = source.indexes(table)?;
        Ok(Selected { unique: Shape { indexes, ..shape.clone() }.is_unique(key), joined })
    }

    /// Keys of rows that have come with a partition or a child.
    fn further_keys(&self, work: &Work<'_>) -> Vec<String> {
        let list = quote_list(work.key.iter().map(String::as_str));
        let table = work.present.table.table();
        let mut queries: Vec<_> =
            work.present.added.iter().map(|added| format!("SELECT {list} FROM ONLY {added}")).collect();
        if !work.present.added_unreadable.is_empty() {
            let oids: Vec<_> = work.present.added_unreadable.iter().map(u32::to_string).collect();
            queries.push(format!(
                "SELECT {list} FROM {table} WHERE {table}.tableoid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.oid[])",
                oids.join(",")
            ));
        }
        queries
    }

    /// Rows go into the destination while they come, rather than after all of them have.
    pub(super) fn straight(&self) -> bool {
        self.options.insert_on_fetch.or(self.job.insert_on_fetch).unwrap_or(true)
    }

    pub(super) fn apply_dml(
        &self,
        source: &mut Connection,
        work: &Work<'_>,
        extent: &Extent,
        run: &mut Run,
    ) -> Result<()> {
        let Work { local, fit, key, .. } = work;
        let flush = work.present.summary.unflushed;
        let until = match extent {
            Extent::All => {
                let query =
                    format!("SELECT {} FROM ({}) q", quote_list(fit.columns.iter().map(String::as_str)), work.rows);
                run.phase("copy");
                if self.straight() && !work.joined {
                    let rows = Everything { source, query: &query, flush, dest_table: &self.job.dest_table };
                    return replace_all(rows, work.destination, local, fit, false, run);
                }
                let collected = Collected::make(&self.job.destination, &fit.columns, work.owner)?;
                self.collect(source, &query, &collected, &fit.columns, fit.binary, run)?;
                leave(source, flush)?;
                self.catalog.lock_to_record(&self.job.dest_table)?;
                run.phase("merge");
                let rows = collected.rows(&fit.columns, key, &key[0], !work.joined);
                collected.ready(key)?;
                work.require_distinct(&collected)?;
                collected.replace_all(work.destination, local, &fit.columns, key, &rows, patience())?;
                return collected.drop();
            }
            Extent::Changes(until) => *until,
        };
        let further = self.further_keys(work);
        let changes = work.changes(until, &further);
        let gone = Collected::make(&self.job.destination, key, work.owner)?;
        if self.straight() && !work.joined && is_replaceable(local, fit.columns.len())? {
            run.phase("keys");
            self.collect(source, &changes.keys(), &gone, key, fit.binary, run)?;
            if !gone.is_much(local, run.rows, MUCH_TO_COPY)? {
                run.phase("delete");
                let keys = std::mem::take(&mut run.rows);
                let target =
                    Target { oid: local.local_oid(), columns: &fit.columns, binary: fit.binary, emptied: false };
                pull_after(source, &changes.present(&fit.columns), &self.job.destination, &target, run, |run| {
                    gone.ready(key)?;
                    gone.delete_from(local, key)?;
                    run.phase("copy");
                    Ok(())
                })?;
                leave(source, flush)?;
                if keys > run.rows {
                    run.note(format!("{} keys without a row", keys - run.rows));
                    run.rows = keys;
                }
                return gone.drop();
            }
            run.rows = 0;
        }
        gone.drop()?;
        let gone = Collected::make(&self.job.destination, key, work.owner)?;
        run.phase("copy");
        let collected = Collected::make(&self.job.destination, &fit.columns, work.owner)?;
        self.collect(source, &changes.present(&fit.columns), &collected, &fit.columns, fit.binary, run)?;
        let before = run.rows;
        self.collect(source, &changes.gone(), &gone, key, fit.binary, run)?;
        let deleted = run.rows - before;
        leave(source, flush)?;
        self.catalog.lock_to_record(&self.job.dest_table)?;

        run.phase("merge");
        let rows = collected.rows(&fit.columns, key, &key[0], !work.joined);
        collected.ready(key)?;
        work.require_distinct(&collected)?;
        if deleted > 0 {
            run.note(format!("{deleted} keys without a row"));
            gone.ready(key)?;
        }
        if collected.is_much(local, run.rows, MUCH_TO_MERGE)? {
            run.note("so many rows that the table is written anew");
            let kept = format!("NOT {}", gone.holds(local.local_oid(), key)?);
            collected.rewrite(work.destination, &fit.columns, key, &rows, &kept, patience())?;
        } else {
            if deleted > 0 {
                gone.delete_from(local, key)?;
            }
            collected.merge_into(local, &fit.columns, key, &rows)?;
        }
        gone.drop()?;
        collected.drop()
    }

    pub(super) fn apply_logdel(
        &self,
        source: &mut Connection,
        work: &Work<'_>,
        extent: &Extent,
        changed: Option<&mut Status>,
        run: &mut Run,
    ) -> Result<()> {
        let Work { local, fit, key, .. } = work;
        let table = work.present.table.table();
        let summary = &work.present.summary;
        let flush = summary.unflushed;
        let columns = &fit.columns;
        let mut stamped = columns.clone();
        stamped.push(DELETED.to_string());
        let mut stamped_key = key.clone();
        stamped_key.push(DELETED.to_string());
        let further = self.further_keys(work);
        let until = match extent {
            Extent::Changes(until) => *until,
            Extent::All => summary.last.unwrap_or(0),
        };
        let changes = work.changes(until, &further);

        run.phase("copy");
        let all = matches!(extent, Extent::All);
        let empty = all && spi::is_true(&format!("SELECT NOT EXISTS (SELECT FROM {})", &self.job.destination), &[])?;
        let everything = format!("SELECT {} FROM ({}) q", quote_list(columns.iter().map(String::as_str)), work.rows);
        if empty && summary.rows == 0 && !work.joined {
            let rows = Everything { source, query: &everything, flush, dest_table: &self.job.dest_table };
            return replace_all(rows, work.destination, local, fit, false, run);
        }
        let collected = Collected::make(&self.job.destination, &stamped, work.owner)?;
        let left = Collected::make(&self.job.destination, &stamped_key, work.owner)?;
        let present = if all { everything } else { changes.present(columns) };
        self.collect(source, &present, &collected, columns, fit.binary, run)?;
        let live = run.rows;
        let gone = changes.deleted(&table, &work.typed, &work.renamed);
        // What was queued before the type of a column has changed may be no value of the new one.
        let mut readable = true;
        if let Some(status) = changed {
            readable = source.is_readable(&gone, "reading deleted rows")?;
            if !readable {
                run.note("deleted rows hold what the new types of the columns cannot hold: their values are those of the last refresh");
                *status = Status::Warning;
            }
        }
        if readable {
            self.collect(source, &gone, &collected, &stamped, fit.binary, run)?;
        }
        let deleted = run.rows - live;
        if !all {
            self.collect(source, &changes.left(), &left, &stamped_key, fit.binary, run)?;
        }
        leave(source, flush)?;

        run.phase("merge");
        if deleted > 0 {
            run.note(format!("{deleted} deleted rows"));
        }
        collected.ready(key)?;
        work.require_distinct(&collected)?;
        let (name, stamp) = (&self.job.destination, quote(DELETED));
        let oid = local.local_oid();
        if deleted > 0 && self.job.condition.is_some() {
            // Whether the condition ever selected a row that has come and gone is not known: only those that are here count.
            let here = collected.is_in(local, key)?;
            collected.retain(&format!("r.{stamp} IS NULL OR {here}"))?;
        }
        if all {
            let absent = format!("d.{stamp} IS NULL AND NOT {}", collected.holds(oid, key)?);
            let stamps = summary.truncated.is_some() || !self.options.repull;
            if stamps {
                let at = summary.truncated.as_deref();
                spi::run(
                    &format!(
                        "UPDATE {name} d SET {stamp} = coalesce($1::timestamptz, clock_timestamp()) WHERE {absent}"
                    ),
                    &[at.map(str::to_string).into()],
                )?;
            } else {
                spi::run(&format!("DELETE FROM {name} d WHERE {absent}"), &[])?;
            }
        } else {
            left.stamp(local, key, DELETED)?;
        }
        let rows = collected.rows(&stamped, key, DELETED, !work.joined);
        if collected.is_much(local, run.rows, MUCH_TO_MERGE)? {
            run.note("so many rows that the table is written anew");
            collected.rewrite(work.destination, &stamped, key, &rows, "true", patience())?;
        } else {
            collected.merge_into(local, &stamped, key, &rows)?;
        }
        left.drop()?;
        collected.drop()
    }

    /// Pulls rows into a temporary table; they are added to those of the run.
    fn collect(
        &self,
        source: &mut Connection,
        query: &str,
        into: &Collected,
        columns: &[String],
        binary: bool,
        run: &mut Run,
    ) -> Result<()> {
        let (rows, bytes) = (run.rows, run.bytes);
        let target = Target { oid: into.oid, columns, binary, emptied: true };
        pull(source, query, &self.job.destination, &target, run)?;
        run.rows += rows;
        run.bytes += bytes;
        Ok(())
    }
}
