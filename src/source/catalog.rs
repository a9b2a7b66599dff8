//! What a source says about one of its tables.

use crate::backend::grant::{self, Right};
use crate::backend::name::{literal, quote, readings, Name};
use crate::backend::parse::{is_plain_condition, select};
use crate::error::{told, Error, Result};
use crate::shape::{ColumnDefault, IndexDefinition, Shape, COLUMNS, INDEXES, TYPES};
use crate::source::connection::{pinned_in_transaction, Connection};
use pgrx::PgSqlErrorCode;
use serde::Deserialize;
use std::collections::HashSet;

/// No table has more columns (MaxHeapAttributeNumber).
const MOST_COLUMNS: usize = 1600;

/// A table of a source, found and readable.
#[derive(Debug, Clone, Deserialize)]
pub struct SourceTable {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// pg_class.relkind
    pub kind: char,
    /// Other tables inherit from it, whose rows it shows, too.
    has_children: bool,
    schema_usage: bool,
    /// On the table, or on each column.
    readable: bool,
    /// Names of the columns that the role may read, if it may not read the table as a whole.
    readable_columns: HashSet<String>,
    /// A view that LOCK TABLE takes, with what it reads: from 11 on.
    #[serde(default)]
    lockable_view: bool,
    /// Policies, which may read other tables, decide which rows the role sees.
    #[serde(default)]
    has_policies: bool,
}

impl SourceTable {
    pub fn table(&self) -> Name {
        Name::new(&self.schema, &self.name)
    }

    /// Locks it as its readers do, if the role may: tables, with their children or `ONLY `, and views, with what they read. Nothing else can
    /// be locked.
    pub(super) fn lock(&self, only: &str) -> String {
        let can_be_locked = ['r', 'p'].contains(&self.kind) || (self.lockable_view && only.is_empty());
        if self.readable && self.schema_usage && can_be_locked {
            return format!("LOCK TABLE {only}{} IN ACCESS SHARE MODE;", self.table());
        }
        String::new()
    }

    /// Whether the rows that the job's `condition` selects come from nothing but what that locks.
    pub(super) fn is_read_alone(&self, condition: Option<&str>) -> bool {
        ['r', 'p'].contains(&self.kind)
            && !self.lock("").is_empty()
            && !self.has_policies
            && condition.is_none_or(is_plain_condition)
    }

    /// Its name, if others inherit from it.
    pub fn as_parent(&self) -> Option<String> {
        self.has_children.then(|| self.table().plain())
    }
}

/// $1: the readings of the name, best first, as JSON. The search_path is the source role's own, so every
/// operator is spelled out.
const FIND: &str = r"
SELECT pg_catalog.json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
       'has_children', c.relkind OPERATOR(pg_catalog.=) 'r' AND EXISTS (
            SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) c.oid),
       'schema_usage', pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       'readable', pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       'lockable_view', c.relkind OPERATOR(pg_catalog.=) 'v'
            AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 110000,
       'has_policies', pg_catalog.row_security_active(c.oid),
       'readable_columns', (SELECT coalesce(pg_catalog.json_agg(a.attname), '[]') FROM pg_catalog.pg_attribute a
            WHERE NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') AND a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0
              AND NOT a.attisdropped AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')))::pg_catalog.text
  FROM pg_catalog.json_to_recordset($1::pg_catalog.json)
       AS reading(ordinal pg_catalog.int4, schema pg_catalog.text, name pg_catalog.text)
  JOIN pg_catalog.pg_class c ON c.relname OPERATOR(pg_catalog.=) reading.name::pg_catalog.name
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE CASE WHEN reading.schema IS NULL THEN pg_catalog.pg_table_is_visible(c.oid)
            ELSE n.nspname OPERATOR(pg_catalog.=) reading.schema::pg_catalog.name END
   AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.char[])
 ORDER BY reading.ordinal LIMIT 1";

impl Connection {
    /// The table that a job names, along the source role's search_path if the name is bare.
    ///
    /// # Errors
    /// SourceTableMissing; InvalidName.
    pub fn find_table(&mut self, written: &str) -> Result<SourceTable> {
        let readings: Vec<_> = readings(written)?
            .into_iter()
            .enumerate()
            .map(|(ordinal, (schema, name))| serde_json::json!({"ordinal": ordinal, "schema": schema, "name": name}))
            .collect();
        let readings = serde_json::Value::from(readings).to_string();
        match self.value(FIND, &[&readings], "looking the table up")? {
            Some(document) => Ok(serde_json::from_str(&document)?),
            None => {
                let (table, source_label) = (written.to_string(), self.label().to_string());
                Err(Error::SourceTableMissing { table, source_label, fix: None })
            }
        }
    }

    /// # Errors
    /// SourcePrivilege, with the GRANT that is missing, if the role may not read all of `columns`, which are some only if they are `filtered`.
    pub fn require_readable(&self, table: &SourceTable, columns: &[String], filtered: bool) -> Result<()> {
        let Some(fix) = grant::fixes(&self.reading_rights(table, columns, filtered)) else { return Ok(()) };
        Err(Error::SourcePrivilege {
            role: self.role().to_string(),
            table: table.table().plain(),
            source_label: self.label().to_string(),
            fix,
        })
    }

    /// What the role needs to read these columns of a table; with `filtered` no right on the others is asked for.
    pub fn reading_rights(&self, table: &SourceTable, columns: &[String], filtered: bool) -> Vec<Right> {
        let (role, name) = (self.role(), table.table());
        let mut rights = vec![Right::new(format!("schema {}", table.schema), "USAGE", table.schema_usage, || {
            grant::on_schema("USAGE", &table.schema, role)
        })];
        let (readable, missing): (Vec<String>, Vec<String>) =
            columns.iter().cloned().partition(|column| table.readable || table.readable_columns.contains(column));
        if missing.is_empty() || readable.is_empty() && !filtered {
            rights.push(Right::new(name.plain(), "SELECT", missing.is_empty(), || {
                grant::on_table("SELECT", &name, role)
            }));
        } else {
            let list = |columns: &[String]| format!("SELECT ({})", columns.join(", "));
            if !readable.is_empty() {
                rights.push(Right::new(name.plain(), list(&readable), true, String::new));
            }
            rights.push(Right::new(name.plain(), list(&missing), false, || {
                grant::on_columns("SELECT", &missing, &name, role)
            }));
        }
        rights
    }

    /// Opens the one snapshot that covers shape and data, which lasts until `end_snapshot` or the end of the
    /// connection, and reads the columns of a table and the types behind them.
    pub fn snapshot_of(&mut self, oid: u32) -> Result<Shape> {
        self.begin_snapshot("")?;
        self.shape_of(oid)
    }

    /// The same, with the table locked first as its readers lock it: nobody rewrites it after the snapshot, which would then
    /// see no rows. A role that may only read some of its columns cannot lock it, nor can what functions, policies or the job's `condition`
    /// read besides be locked: see `require_seen`.
    ///
    /// # Errors
    /// ChangedMeanwhile, if the name means another table by now.
    pub fn locked_snapshot_of(&mut self, table: &SourceTable, condition: Option<&str>) -> Result<Shape> {
        self.require_locked(table)?;
        match self.begin_snapshot(&table.lock("")) {
            // Before 13, who locks a table must have the rights on its children, too.
            Err(Error::Remote { report, .. }) if report.sqlstate == PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE => {
                self.roll_back()?;
                self.begin_snapshot(&table.lock("ONLY "))?;
                self.reads_unlocked = true;
            }
            opened => opened?,
        }
        self.reads_unlocked |= !table.is_read_alone(condition);
        let shape = self.shape_of(table.oid)?;
        if (&shape.schema, &shape.name) != (&table.schema, &table.name) {
            return Err(Error::ChangedMeanwhile(format!("table \"{}\" is another one now", table.table().plain())));
        }
        Ok(shape)
    }

    /// After the rows were read: that the snapshot could see those of every table that was read for them. What empties or rewrites a table
    /// (TRUNCATE, some forms of ALTER TABLE, REPACK (CONCURRENTLY) of PostgreSQL 19) leaves nothing of it to snapshots from before, nor does
    /// a table that came later; REFRESH MATERIALIZED VIEW shows them rows of another moment.
    ///
    /// # Errors
    /// WrittenAnew, if one of them has other files than in the snapshot, or is not there.
    pub fn require_seen(&mut self) -> Result<()> {
        if !self.reads_unlocked {
            return Ok(());
        }
        match self.value(WRITTEN_ANEW, &[], "looking whether tables were written anew")? {
            Some(table) => Err(Error::WrittenAnew(told(table))),
            None => Ok(()),
        }
    }

    pub(super) fn begin_snapshot(&mut self, lock: &str) -> Result<()> {
        self.reads_unlocked = lock.is_empty() || self.sharing.leaves_children();
        if self.sharing.is_open() {
            return self.begin_member();
        }
        self.script(
            &format!(
                "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; {lock} {} SET LOCAL search_path = pg_catalog",
                pinned_in_transaction()
            ),
            "opening a snapshot",
        )?;
        Ok(())
    }

    fn shape_of(&mut self, oid: u32) -> Result<Shape> {
        let document = self.value(COLUMNS, &[&format!("{{{oid}}}")], "reading the table's columns")?;
        let mut shapes: Vec<Shape> = serde_json::from_str(&document.unwrap_or_default())?;
        let mut shape = shapes.pop().ok_or_else(|| Error::SourceTableMissing {
            table: format!("OID {oid}"),
            source_label: self.label().to_string(),
            fix: None,
        })?;
        if shape.columns.len() > MOST_COLUMNS {
            let reason = format!("it has {} columns", shape.columns.len());
            let (table, source_label) = (format!("OID {oid}"), self.label().to_string());
            return Err(Error::UnsupportedSource { table, source_label, reason });
        }
        if shape.uses_assigned_types() {
            let types = self.value(TYPES, &[&oid.to_string()], "reading the types of the columns")?;
            shape.types = serde_json::from_str(&types.unwrap_or_default())?;
            shape.require_finite_types(self.label())?;
        }
        Ok(shape)
    }

    /// Ends the snapshot, while the caller waits for something. One that others share stays.
    pub fn end_snapshot(&mut self) -> Result<()> {
        if self.sharing.is_open() {
            return Ok(());
        }
        self.script("COMMIT", "closing a snapshot")?;
        Ok(())
    }

    /// The valid indexes of a table. In the open snapshot.
    pub fn indexes(&mut self, table: &SourceTable) -> Result<Vec<IndexDefinition>> {
        let document = self.value(INDEXES, &[&table.oid.to_string()], "reading the table's indexes")?;
        let indexes: Vec<IndexDefinition> = serde_json::from_str(&document.unwrap_or_default())?;
        // An index has at most 32 columns (INDEX_MAX_KEYS), unless the server was built otherwise.
        if indexes.iter().any(|index| index.columns.len() > 1600) {
            return Err(Error::UnsupportedSource {
                table: table.table().plain(),
                source_label: self.label().to_string(),
                reason: "it has an index on more than 1600 columns".to_string(),
            });
        }
        Ok(indexes)
    }

    /// The defaults and generated columns of a table. In the open snapshot, with the pinned search_path.
    pub fn defaults(&mut self, table: &SourceTable) -> Result<Vec<ColumnDefault>> {
        let document = self.value(DEFAULTS, &[&table.oid.to_string()], "reading the table's defaults")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// From here on, only PostgreSQL's own names are found without a schema.
    pub fn use_pinned_search_path(&mut self) -> Result<()> {
        self.script("SET LOCAL search_path = pg_catalog", "pinning the search_path")?;
        Ok(())
    }

    /// Settings that decide what values are written as, as long as the snapshot lasts.
    pub fn use_formats(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        let statements: Vec<_> =
            settings.iter().map(|(name, value)| format!("SET LOCAL {name} = {};", literal(value))).collect();
        self.script(&statements.join(" "), "setting the session up")?;
        Ok(())
    }

    /// From here on, names are looked up along the source role's own search_path, as the user's condition expects.
    pub fn use_own_search_path(&mut self) -> Result<()> {
        self.script("SET LOCAL search_path TO DEFAULT", "restoring the search_path")?;
        Ok(())
    }
}

/// A table that this transaction has locked, as reading does, and whose file is not the one that its snapshot knows; an index may have come
/// meanwhile. The search_path is the source role's own.
const WRITTEN_ANEW: &str = r"
SELECT CASE WHEN c.oid IS NULL THEN pg_catalog.concat('OID ', l.relation) ELSE pg_catalog.concat(n.nspname, '.', c.relname) END
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) l.relation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE l.locktype OPERATOR(pg_catalog.=) 'relation' AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
   AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
   AND CASE WHEN c.oid IS NULL THEN pg_catalog.pg_relation_filenode(l.relation) IS NOT NULL AND pg_catalog.pg_get_indexdef(l.relation) IS NULL
            ELSE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,m}'::pg_catalog.char[]) AND c.relfilenode OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
             AND coalesce(pg_catalog.pg_relation_filenode(c.oid), 0::pg_catalog.oid) OPERATOR(pg_catalog.<>) c.relfilenode END
 LIMIT 1";

/// $1: the table.
const DEFAULTS: &str = r"
SELECT coalesce(json_agg(json_build_object('column', a.attname, 'expression', pg_get_expr(d.adbin, d.adrelid),
            'generated', coalesce(to_jsonb(a) ->> 'attgenerated' = 's', false))), '[]')::pg_catalog.text
  FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE d.adrelid = $1 AND coalesce(to_jsonb(a) ->> 'attgenerated', '') <> 'v'";

/// The query whose rows are copied: these columns, and system columns, qualified by the table's own name, and the user's condition as
/// it was written. Nothing in the condition reaches beyond the query: it is one SELECT, and whatever follows it begins on a line of
/// its own.
///
/// # Errors
/// Condition.
pub fn rows_query(table: &Name, (columns, system): (&[String], &[&str]), condition: Option<&str>) -> Result<String> {
    let columns = columns.iter().map(|column| format!("{table}.{}", quote(column)));
    let list: Vec<_> = columns.chain(system.iter().map(|column| format!("{table}.{column}"))).collect();
    let Some(condition) = condition else { return Ok(format!("SELECT {} FROM {table}", list.join(", "))) };
    let query = format!("SELECT {} FROM {table} {condition}\n", list.join(", "));
    // A comment at its end ends with the line.
    Ok(format!("{}\n", select(&query)?))
}

/// A condition of one WHERE, without a semicolon at its end and what follows that; empty if there is none.
///
/// # Errors
/// Condition.
pub fn plain_condition(condition: Option<&str>) -> Result<String> {
    const BEFORE: &str = "SELECT FROM t ";
    let Some(condition) = condition else { return Ok(String::new()) };
    let query = format!("{BEFORE}{condition}\n");
    Ok(select(&query)?.strip_prefix(BEFORE).unwrap_or_default().to_string())
}
