//! What dml and logdel have in common when rows come: the queries, the temporary tables, and how their rows are found by key.

use super::decide::{Columns, Decision, Extent, Present};
use super::options::Options;
use super::stamp::require_stamp;
use crate::backend::identity::Caller;
use crate::backend::name::quote_list;
use crate::backend::parse::is_plain_condition;
use crate::backend::relation::Relation;
use crate::destination::copy_in::Target;
use crate::destination::upsert::Collected;
use crate::error::{Error, Result};
use crate::job::config::Job;
use crate::job::run::Run;
use crate::method::load::{self, pull};
use crate::shape::Shape;
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::Connection;
use crate::source::queue::{Changes, TypedColumn};

/// Both sides, when the rows are about to come.
pub struct Work<'a> {
    pub job: &'a Job,
    pub options: &'a Options<'a>,
    pub decision: &'a Decision,
    pub destination: &'a Relation,
    /// Nothing is written anew beside the rows that are there.
    pub in_place: bool,
    pub caller: Caller,
    pub key: Vec<String>,
    /// From `rows_query`.
    pub rows: String,
    /// A row may come several times.
    pub joined: bool,
    /// Of a logdel job: how the values of deleted rows are read.
    pub typed: Vec<TypedColumn>,
    pub further: Vec<String>,
}

/// What has come, and where it is.
pub enum Loaded {
    Nothing,
    /// All rows, where nobody sees them.
    All(load::Loaded),
    /// In the destination already, with these keys left to be forgotten.
    There(Collected),
    /// All rows of a dml job, in a temporary table.
    Whole(Rows),
    /// Of a dml job: the rows of keys that have changed, the keys without rows, and how many these are.
    Changed(Rows, Collected, u64),
    /// Of a logdel job: rows that live and rows that were deleted, and how many the latter are; keys that are left without either.
    Stamped(Rows, Collected, u64),
}

/// Rows in a temporary table.
pub struct Rows {
    pub collected: Collected,
    /// Some may differ and have the same key.
    pub joined: bool,
}

/// Of the rows that the job selects.
pub struct Selected {
    /// The source table has a unique index on the key.
    pub unique: bool,
    /// The condition joins tables, so a row may come more than once.
    pub joined: bool,
}

impl Selected {
    /// In the open snapshot, with the pinned search_path.
    pub fn of(
        job: &Job,
        source: &mut Connection,
        table: &SourceTable,
        shape: &Shape,
        key: &[String],
    ) -> Result<Selected> {
        let condition = job.condition.as_deref();
        let joined = condition.is_some_and(|text| !text.trim_start().to_lowercase().starts_with("where"));
        let indexes = source.indexes(table)?;
        Ok(Selected { unique: Shape { indexes, ..shape.clone() }.is_unique(key), joined })
    }
}

impl<'a> Work<'a> {
    pub fn prepare(
        job: &'a Job,
        options: &'a Options<'a>,
        source: &mut Connection,
        (decision, in_place): (&'a Decision, bool),
        destination: &'a Relation,
        caller: Caller,
    ) -> Result<Work<'a>> {
        let Decision { present, columns: Columns { local, column_map, .. }, portion, .. } = decision;
        let mut typed = Vec::new();
        if job.method().facts().keeps_gone {
            require_stamp(local)?;
            typed = source.typed_columns(&present.table, &column_map.columns)?;
        }
        let key = job.pk_name.clone().unwrap_or_default();
        let missing: Vec<_> = key.iter().filter(|column| !column_map.columns.contains(column)).cloned().collect();
        if !missing.is_empty() {
            let table = local.table().plain();
            return Err(Error::FilterLacks { table, what: "columns of the key", columns: missing });
        }
        let condition = job.condition.as_deref();
        let Selected { unique, joined } = Selected::of(job, source, &present.table, &present.shape, &key)?;
        // Mostly the keys are few compared with the table, and keys that change together are close together. The planner may only
        // know how large the queue once was: by a unique index it reads the rows in linear time nevertheless.
        let nested = if unique && (!joined || portion.taken < 1000) { "on" } else { "off" };
        source.script(
            &format!(
                "SET LOCAL enable_nestloop = {nested}; SET LOCAL random_page_cost = 1.1; {}",
                source.server().without_jit()
            ),
            "preparing to read the rows",
        )?;
        // Nor does it know the keys, and might read the whole table instead.
        let single = unique && present.members.len() == 1 && condition.is_none_or(is_plain_condition);
        if single && matches!(portion.extent, Extent::Changes(_)) {
            source.prefer_key_index(&present.table, &key, portion.taken)?;
        }
        source.use_own_search_path()?;
        let rows = rows_query(&present.table.table(), (&column_map.columns, &[]), condition)?;
        let further = further_keys(present, &key);
        let joined = joined || !unique;
        Ok(Work { job, options, decision, destination, in_place, caller, key, rows, joined, typed, further })
    }

    /// The columns that are copied.
    pub fn columns(&self) -> &'a [String] {
        &self.decision.columns.column_map.columns
    }

    /// All rows that the job selects.
    pub fn everything(&self) -> String {
        format!("SELECT {} FROM ({}) q", quote_list(self.columns().iter().map(String::as_str)), self.rows)
    }

    pub fn changes(&self, until: i64) -> Changes<'_> {
        let present = &self.decision.present;
        Changes { queue: &present.queue, rows: &self.rows, key: &present.key, until, further: &self.further }
    }

    /// A temporary table.
    pub fn make(&self, columns: &[String]) -> Result<Collected> {
        Collected::make(&self.job.destination, columns, &self.decision.columns.following, self.caller)
    }

    /// Pulls rows into a temporary table; they are added to those of the run.
    pub fn collect(
        &self,
        source: &mut Connection,
        query: &str,
        into: &Collected,
        columns: &[String],
        run: &mut Run,
    ) -> Result<()> {
        let (rows, bytes) = (run.rows, run.bytes);
        let target = Target { oid: into.oid, columns, binary: self.decision.columns.column_map.binary, emptied: true };
        pull(source, query, &self.job.destination, &target, run)?;
        run.rows += rows;
        run.bytes += bytes;
        Ok(())
    }
}

/// Queries for the keys of rows that have come with a partition or a child.
fn further_keys(present: &Present, key: &[String]) -> Vec<String> {
    let list = quote_list(key.iter().map(String::as_str));
    let table = present.table.table();
    let mut queries: Vec<_> = present.added.iter().map(|added| format!("SELECT {list} FROM ONLY {added}")).collect();
    if !present.added_unreadable.is_empty() {
        let oids: Vec<_> = present.added_unreadable.iter().map(u32::to_string).collect();
        queries.push(format!(
            "SELECT {list} FROM {table} WHERE {table}.tableoid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.oid[])",
            oids.join(",")
        ));
    }
    queries
}

impl Rows {
    /// Makes them ready to be found by key.
    ///
    /// # Errors
    /// AmbiguousKey: one row would be here for several.
    pub fn ready(&self, job: &Job, present: &Present) -> Result<()> {
        let key = job.pk_name.clone().unwrap_or_default();
        self.collected.ready(&key)?;
        if self.joined && self.collected.shares_keys(&key)? {
            return Err(Error::AmbiguousKey { table: present.table.table().plain(), key });
        }
        Ok(())
    }
}
