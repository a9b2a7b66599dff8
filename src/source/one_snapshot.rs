//! One snapshot of a source for several tables, which members of a group read one after the other.

use crate::error::{told, Error, Result};
use crate::source::catalog::{rows_query, SourceTable};
use crate::source::connection::{pinned_in_transaction, Connection};
use crate::source::sharing::ToRead;
use pgrx::PgSqlErrorCode;

/// $1: OIDs, schemas and names. Gives a table that is not called so any more. In the open snapshot.
const OTHER: &str = "
SELECT pg_catalog.concat(t.known OPERATOR(pg_catalog.->>) 1, '.', t.known OPERATOR(pg_catalog.->>) 2)
  FROM pg_catalog.json_array_elements($1::pg_catalog.json) t(known)
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                    WHERE c.oid OPERATOR(pg_catalog.=) (t.known OPERATOR(pg_catalog.->>) 0)::pg_catalog.oid
                      AND n.nspname OPERATOR(pg_catalog.=) (t.known OPERATOR(pg_catalog.->>) 1)::pg_catalog.name
                      AND c.relname OPERATOR(pg_catalog.=) (t.known OPERATOR(pg_catalog.->>) 2)::pg_catalog.name) LIMIT 1";

/// Where each member of a group begins, and where an error of it leads back to.
const SAVEPOINT: &str = "mimeo_member";

impl Connection {
    /// Whether others read in the open snapshot, too.
    pub fn shares_snapshot(&self) -> bool {
        self.sharing.is_open()
    }

    /// A table that is read in the snapshot of `open_snapshot_for_all`.
    ///
    /// # Errors
    /// Condition.
    pub fn will_read(&mut self, table: &SourceTable, condition: Option<&str>) -> Result<()> {
        let query =
            (!table.is_read_alone(condition)).then(|| rows_query(&table.table(), (&[], &[]), condition)).transpose()?;
        self.sharing.will_read(ToRead {
            oid: table.oid,
            name: table.table(),
            lock: [table.lock(""), table.lock("ONLY ")],
            query,
        });
        Ok(())
    }

    /// Begins the transaction, and locks the tables that are going to be read as their readers lock them.
    pub fn lock_all(&mut self) -> Result<()> {
        let begin = |locks: String| {
            format!(
                "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; {locks} {} \
                 SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL search_path = pg_catalog",
                pinned_in_transaction()
            )
        };
        let [locks, only] = self.sharing.locks();
        match self.script(&begin(locks), "locking the tables of a group") {
            // Before 13, who locks a table must have the rights on its children, too.
            Err(Error::Remote { report, .. }) if report.sqlstate == PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE => {
                self.roll_back()?;
                self.script(&begin(only), "locking the tables of a group")?;
                self.sharing.leave_children();
            }
            locked => {
                locked?;
            }
        }
        self.sharing.open();
        Ok(())
    }

    /// Opens the snapshot, or the one that another connection to the same database has exported. With `export`: the name of the snapshot, for others.
    ///
    /// # Errors
    /// ChangedMeanwhile, if one of the names now means another table.
    pub fn open_snapshot_for_all(&mut self, exported: Option<&str>, export: bool) -> Result<Option<String>> {
        let open = match exported {
            Some(name) => format!("SET TRANSACTION SNAPSHOT {}; ", crate::backend::name::literal(name)),
            None => String::new(),
        };
        let name = if export { "pg_catalog.pg_export_snapshot()" } else { "NULL::pg_catalog.text" };
        self.script(&format!("{open}SELECT pg_catalog.now()"), "opening the snapshot of a group")?;
        let tables = self.sharing.take();
        let named: Vec<_> = tables.iter().map(|table| (table.oid, &table.name.schema, &table.name.name)).collect();
        let other = self.value(OTHER, &[&serde_json::to_string(&named)?], "opening the snapshot of a group")?;
        if let Some(other) = other {
            return Err(Error::ChangedMeanwhile(format!("table \"{}\" is another one now", told(other))));
        }
        let name = self.value(&format!("SELECT {name}"), &[], "exporting the snapshot of a group")?;
        self.lock_what_is_read(&tables)?;
        self.script(&format!("SAVEPOINT {SAVEPOINT}"), "opening the snapshot of a group")?;
        Ok(name)
    }

    /// What could not be locked before the snapshot: tables beneath views, those of which the role may read some columns, and others that a
    /// condition reads. Planning a query locks all of it, until the end of the transaction.
    fn lock_what_is_read(&mut self, tables: &[ToRead]) -> Result<()> {
        self.use_own_search_path()?;
        for ToRead { name, query, .. } in tables {
            let Some(query) = query else { continue };
            let planned = self.value(&format!("EXPLAIN {query}"), &[], "planning the query of a member");
            planned
                .map_err(|error| error.while_doing(&format!("It reads table \"{}\" of the source.", name.plain())))?;
        }
        self.use_pinned_search_path()
    }

    /// Ends it, and sees to it that what it showed is on the source's disk, where a member has asked for that.
    pub fn close_snapshot_of_all(&mut self) -> Result<()> {
        let flush = self.sharing.close();
        self.script("COMMIT", "closing the snapshot of a group")?;
        if flush {
            self.flush_wal()?;
        }
        Ok(())
    }

    /// To where a member begins: its settings and errors are gone, the snapshot stays.
    pub fn begin_member(&mut self) -> Result<()> {
        self.script(
            &format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}; SET LOCAL search_path = pg_catalog"),
            "opening a snapshot",
        )?;
        Ok(())
    }

    /// # Errors
    /// ChangedMeanwhile, if rows of that table may have been written anew since the snapshot was opened, which would not see them.
    pub(super) fn require_locked(&self, table: &SourceTable) -> Result<()> {
        if self.sharing.is_new(table.oid) {
            return Err(Error::ChangedMeanwhile(format!("table \"{}\" is another one now", table.table().plain())));
        }
        Ok(())
    }

    /// Flushes at once, or when the snapshot that members share has ended.
    pub fn flush_when_over(&mut self) -> Result<()> {
        if self.sharing.is_open() {
            self.sharing.flush_when_over();
            return Ok(());
        }
        self.flush_wal()
    }
}
