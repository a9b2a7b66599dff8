//! Proving that a source table has not changed since it was last copied.
//!
//! The counters are read before the snapshot that reads the data, in a transaction of their own: what they
//! count was committed by then, so the data has it. A change that the counters do not show yet costs one copy
//! more, never one less: it is in the data, or it moves the counters later.

use crate::error::Result;
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};

/// Values that stay the same as long as nothing changes the rows of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    pub oid: u32,
    /// `schema.table`
    pub table: String,
    /// OID and file of the table, its partitions and its children: TRUNCATE and rewrites change the file, ATTACH
    /// and DETACH the list.
    pub files: Vec<(u32, u32)>,
    /// A digest of its columns: names, types, NOT NULL, collations. Equal digests mean equal columns as long as the
    /// types are built in ones.
    pub columns: String,
    /// A digest of what else decides what its rows hold: the columns of its partitions and children, with the values that old rows have in
    /// younger columns, and the expressions of columns that are generated when they are read. Empty if there is none of these.
    #[serde(default)]
    pub parts: String,
    /// Whether one of the columns has a type that is not.
    pub assigned_types: bool,
    /// Rows inserted, updated and deleted, over all of them.
    pub changes: (i64, i64, i64),
    /// When the server started.
    pub started: String,
    /// When the database's counters, and those that a crash resets, were last reset.
    pub resets: (Option<String>, Option<String>),
}

#[derive(Deserialize)]
struct Evidence {
    /// Why the counters prove nothing here; None if they do.
    obstacle: Option<String>,
    #[serde(flatten)]
    fingerprint: Counters,
}

/// $1: the tables. As one array, in their order.
const COUNT: &str = r"
SELECT pg_catalog.json_agg(counted.document ORDER BY asked.ordinal)::pg_catalog.text
  FROM pg_catalog.unnest($1::pg_catalog.oid[]) WITH ORDINALITY asked(oid, ordinal)
 CROSS JOIN LATERAL (
WITH RECURSIVE tree(oid) AS (
    SELECT asked.oid
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent OPERATOR(pg_catalog.=) t.oid
     WHERE coalesce(pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.->>) 'inhdetachpending', 'false') OPERATOR(pg_catalog.=) 'false'
)
SELECT pg_catalog.json_build_object(
    'oid', asked.oid::bigint,
    'table', (SELECT pg_catalog.concat(n.nspname, '.', k.relname)
                FROM pg_catalog.pg_class k JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) k.relnamespace
               WHERE k.oid OPERATOR(pg_catalog.=) asked.oid),
    'obstacle', CASE
        WHEN pg_catalog.pg_is_in_recovery() THEN 'the source is a standby'
        WHEN NOT pg_catalog.current_setting('track_counts')::pg_catalog.bool THEN 'track_counts is off on the source'
        WHEN pg_catalog.bool_or(c.relkind OPERATOR(pg_catalog.<>) ALL ('{r,p}'::pg_catalog.char[]))
            THEN 'only tables have counters'
        WHEN pg_catalog.bool_or(pg_catalog.row_security_active(c.oid)) THEN 'row security decides what is visible'
    END,
    'files', pg_catalog.json_agg(pg_catalog.json_build_array(c.oid::bigint, c.relfilenode::bigint)
                                 ORDER BY c.oid),
    'columns', (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attnum, a.attname, a.atttypid,
                       a.atttypmod, a.attcollation, a.attnotnull), ',' ORDER BY a.attnum))
                  FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) asked.oid
                   AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped),
    'parts', (SELECT coalesce(pg_catalog.md5(pg_catalog.string_agg(p.text, ',' ORDER BY p.oid, p.attnum)), '') FROM (
        SELECT a.attrelid AS oid, a.attnum, pg_catalog.concat_ws(' ', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,
               pg_catalog.to_jsonb(a) OPERATOR(pg_catalog.->>) 'attmissingval') AS text
          FROM tree t JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) t.oid
         WHERE t.oid OPERATOR(pg_catalog.<>) asked.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
        UNION ALL
        SELECT a.attrelid, a.attnum, pg_catalog.concat_ws(' ', a.attnum, d.adbin::pg_catalog.text)
          FROM tree t JOIN pg_catalog.pg_attrdef d ON d.adrelid OPERATOR(pg_catalog.=) t.oid
          JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid AND a.attnum OPERATOR(pg_catalog.=) d.adnum
         -- Of older servers nothing is looked at.
         WHERE pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 180000
           AND pg_catalog.to_jsonb(a) OPERATOR(pg_catalog.->>) 'attgenerated' OPERATOR(pg_catalog.=) 'v') p),
    'assigned_types', EXISTS (SELECT FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid OPERATOR(pg_catalog.=) asked.oid AND a.attnum OPERATOR(pg_catalog.>) 0
                   AND NOT a.attisdropped AND a.atttypid OPERATOR(pg_catalog.>=) 10000::pg_catalog.oid),
    'changes', pg_catalog.json_build_array(
        coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(c.oid)), 0),
        coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_updated(c.oid)), 0),
        coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_deleted(c.oid)), 0)),
    'started', pg_catalog.pg_postmaster_start_time(),
    'resets', pg_catalog.json_build_array(
        pg_catalog.pg_stat_get_db_stat_reset_time((SELECT d.oid FROM pg_catalog.pg_database d
            WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())),
        pg_catalog.pg_stat_get_bgwriter_stat_reset_time())
) AS document
FROM tree t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.oid) counted";

/// Counters, or why there are none.
pub type Counted = std::result::Result<Counters, String>;

impl Connection {
    /// The counters of the table with this OID, or why there are none. To be called before the snapshot is opened.
    pub fn counters(&mut self, oid: u32) -> Result<Counted> {
        let mut counted = self.counters_of(&[oid])?;
        Ok(counted.pop().unwrap_or_else(|| Err(ANOTHER.to_string())))
    }

    /// The same of several tables, in their order.
    pub fn counters_of(&mut self, oids: &[u32]) -> Result<Vec<Counted>> {
        let list: Vec<_> = oids.iter().map(u32::to_string).collect();
        let document = self.value(COUNT, &[&format!("{{{}}}", list.join(","))], "reading the counters of tables")?;
        let documents: Vec<serde_json::Value> = serde_json::from_str(&document.unwrap_or_default()).unwrap_or_default();
        let mut counted: Vec<Counted> = documents.into_iter().map(counted).collect();
        counted.resize_with(oids.len(), || Err(ANOTHER.to_string()));
        // Whatever order the source has given them.
        let agrees = |(counted, oid): (&Counted, &u32)| counted.as_ref().map_or(true, |found| found.oid == *oid);
        if !counted.iter().zip(oids).all(agrees) {
            return Ok(oids.iter().map(|_| Err(ANOTHER.to_string())).collect());
        }
        Ok(counted)
    }
}

const ANOTHER: &str = "the table is another one";

/// Without such a table there is nothing to read.
fn counted(document: serde_json::Value) -> Counted {
    match serde_json::from_value::<Evidence>(document) {
        Ok(Evidence { obstacle: Some(obstacle), .. }) => Err(obstacle),
        Ok(Evidence { obstacle: None, fingerprint }) => Ok(fingerprint),
        Err(_) => Err(ANOTHER.to_string()),
    }
}
