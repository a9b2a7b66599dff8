//! What a source says about all of its tables, and of their sizes.

use crate::backend::name::Name;
use crate::error::{Error, Result};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::Deserialize;

/// A table or view of a source.
#[derive(Debug, Clone, Deserialize)]
pub struct Listed {
    pub schema: String,
    pub name: String,
    /// pg_class.relkind
    pub kind: char,
    /// It is a part of another table.
    pub partition: bool,
    /// Its name without a schema finds it.
    pub visible: bool,
}

/// $1: a schema that does not count.
const TABLES: &str = r"
SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
            'partition', coalesce((pg_catalog.to_jsonb(c) OPERATOR(pg_catalog.->>) 'relispartition')::pg_catalog.bool, false),
            'visible', pg_catalog.pg_table_is_visible(c.oid)) ORDER BY n.nspname, c.relname), '[]')::pg_catalog.text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.char[])
   AND n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['information_schema', $1]::pg_catalog.name[])
   AND pg_catalog.left(n.nspname::pg_catalog.text, 3) OPERATOR(pg_catalog.<>) 'pg_'";

/// Columns of a relation ($1), their types with length or precision, and the same without the schema of an extension, which may be another one
/// there. To be run, here and there, with pg_catalog as the whole search_path.
pub const COLUMN_TYPES: &str = r"
SELECT coalesce(json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod), coalesce((
            SELECT concat_ws(' ', e.extname, x.typname, x.oid <> t.oid, a.atttypmod) FROM pg_type x
              JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = x.oid AND d.deptype = 'e'
              JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
             WHERE x.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END),
            format_type(a.atttypid, a.atttypmod))) ORDER BY a.attnum), '[]')::pg_catalog.text
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";

/// Bytes of a table ($1) and of what belongs to it.
const SIZE: &str = r"
WITH RECURSIVE tree(oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
)
SELECT sum(pg_table_size(t.oid))::bigint::pg_catalog.text FROM tree t";

impl Connection {
    /// Tables, views, materialized views and foreign tables, but for those of PostgreSQL and of one schema more.
    pub fn tables(&mut self, except: &str) -> Result<Vec<Listed>> {
        let document = self.value(TABLES, &[except], "listing its tables")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// The columns of a table, with their types: see `COLUMN_TYPES`.
    pub fn column_types(&mut self, table: &SourceTable) -> Result<Vec<(String, String, String)>> {
        self.begin_snapshot("")?;
        let document = self.value(COLUMN_TYPES, &[&table.oid.to_string()], "reading the table's columns")?;
        self.end_snapshot()?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// Rows and bytes of a table, its partitions and children included.
    pub fn extent(&mut self, table: &SourceTable) -> Result<(i64, i64)> {
        let name: Name = table.table();
        self.begin_snapshot("")?;
        let rows = self.value(&format!("SELECT count(*)::pg_catalog.text FROM {name}"), &[], "counting its rows")?;
        let bytes = self.value(SIZE, &[&table.oid.to_string()], "measuring it")?;
        self.end_snapshot()?;
        let number = |text: Option<String>| {
            let Some(text) = text else { return Ok(0) };
            text.parse().map_err(|_| Error::Internal(format!("'{text}' where a number was asked for")))
        };
        Ok((number(rows)?, number(bytes)?))
    }
}
