//! The key of a queue's rows. The queue holds it as text, whatever its types are or become; a refresh reads it in the types that the
//! table's columns have then.

use crate::backend::name::{quote, Name, Operator};
use crate::error::{Error, Result};
use crate::shape::KEY_OPERATORS;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::Deserialize;

/// A column as values of it are read from text: in the type below its domains.
#[derive(Debug, Clone, Deserialize)]
pub struct TypedColumn {
    pub column: String,
    /// Schema and name of the type.
    #[serde(rename = "type")]
    base: Name,
    /// If it is not the database's default.
    collation: Option<Name>,
}

impl TypedColumn {
    /// A text, in the column's type.
    pub fn read(&self, text: &str) -> String {
        match &self.collation {
            Some(collation) => format!("({text})::{} COLLATE {collation}", self.base),
            None => format!("({text})::{}", self.base),
        }
    }
}

/// The key that a queue is read by.
#[derive(Debug, Clone)]
pub struct QueueKey {
    pub columns: Vec<TypedColumn>,
    pub operators: Vec<Operator>,
    /// A queue that 2.1 has made, and nobody has converted yet: its columns are called as those of the table, and have their types.
    pub typed: bool,
}

/// The name that the column of the key with this ordinal, from 0, has in a queue.
pub fn key_column(ordinal: usize) -> String {
    format!("mimeo_key{}", ordinal + 1)
}

impl QueueKey {
    /// `(mimeo_key1)::int AS mimeo_key1, …`: the key of the queue's rows in the table's types. The names are ours, because those of the table may be anything.
    pub fn typed_list(&self) -> String {
        let list = self.columns.iter().enumerate().map(|(ordinal, key)| {
            let name = key_column(ordinal);
            if self.typed {
                format!("{} AS {name}", quote(&key.column))
            } else {
                format!("{} AS {name}", key.read(&name))
            }
        });
        list.collect::<Vec<_>>().join(", ")
    }

    /// The names that `typed_list` gives, in a FROM item if one is named.
    pub fn list(&self, alias: &str) -> String {
        let dot = if alias.is_empty() { "" } else { "." };
        (0..self.columns.len())
            .map(|ordinal| format!("{alias}{dot}{}", key_column(ordinal)))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// `k.mimeo_key1 AS "id", …`: under the table's names.
    pub fn named(&self, alias: &str) -> String {
        let named = |(ordinal, key): (usize, &TypedColumn)| {
            format!("{alias}.{} AS {}", key_column(ordinal), quote(&key.column))
        };
        self.columns.iter().enumerate().map(named).collect::<Vec<_>>().join(", ")
    }

    /// Whether a row of the table has the key of a row of `typed_list`.
    pub fn is_of(&self, row: &str, key: &str) -> String {
        let same = self.columns.iter().zip(&self.operators).enumerate().map(|(ordinal, (column, operator))| {
            format!("{row}.{} {operator} {key}.{}", quote(&column.column), key_column(ordinal))
        });
        same.collect::<Vec<_>>().join(" AND ")
    }

    /// Rows of the queue whose key is known.
    pub fn is_known(&self) -> String {
        let known = |(ordinal, key): (usize, &TypedColumn)| {
            let name = if self.typed { quote(&key.column) } else { key_column(ordinal) };
            format!("{name} IS NOT NULL")
        };
        self.columns.iter().enumerate().map(known).collect::<Vec<_>>().join(" AND ")
    }
}

/// $1: the table, $2: names of columns, a JSON array.
const TYPED: &str = r"
SELECT coalesce(json_agg(json_build_object('column', k.name,
            'type', json_build_object('schema', n.nspname, 'name', t.typname),
            'collation', (SELECT json_build_object('schema', cn.nspname, 'name', co.collname)
                            FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace
                           WHERE co.oid = a.attcollation AND co.collname <> 'default')) ORDER BY k.ordinal), '[]')::pg_catalog.text
  FROM json_array_elements_text($2::json) WITH ORDINALITY k(name, ordinal)
  JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attname = k.name::name AND NOT a.attisdropped
 CROSS JOIN LATERAL (WITH RECURSIVE base(oid, depth) AS (
            SELECT a.atttypid, 0
            UNION ALL SELECT d.typbasetype, b.depth + 1 FROM base b JOIN pg_type d ON d.oid = b.oid WHERE d.typtype = 'd' AND b.depth < 64)
        SELECT b.oid FROM base b ORDER BY b.depth DESC LIMIT 1) b
  JOIN pg_type t ON t.oid = b.oid JOIN pg_namespace n ON n.oid = t.typnamespace";

impl Connection {
    /// Columns of a table, with the types that their values are read in. In the open snapshot, with the pinned search_path.
    ///
    /// # Errors
    /// KeyGone, if one of them is not there.
    pub fn typed_columns(&mut self, table: &SourceTable, names: &[String]) -> Result<Vec<TypedColumn>> {
        let list = serde_json::to_string(names)?;
        let document = self.value(TYPED, &[&table.oid.to_string(), &list], "looking the columns' types up")?;
        let columns: Vec<TypedColumn> = serde_json::from_str(&document.unwrap_or_default())?;
        if columns.len() == names.len() {
            return Ok(columns);
        }
        let is_there = |name: &&String| columns.iter().any(|column| column.column == **name);
        Err(Error::KeyGone {
            table: table.table().plain(),
            source_label: self.label().to_string(),
            columns: names.iter().filter(|name| !is_there(name)).cloned().collect(),
        })
    }

    /// The key that a queue is read by. In the open snapshot, with the pinned search_path.
    ///
    /// # Errors
    /// KeyGone.
    pub fn queue_key(&mut self, table: &SourceTable, key: &[String], typed: bool) -> Result<QueueKey> {
        let columns = self.typed_columns(table, key)?;
        Ok(QueueKey { columns, operators: self.key_operators(table, key)?, typed })
    }
}

impl Connection {
    /// The operators that compare the key's columns with themselves. In the open snapshot, with the pinned search_path.
    pub fn key_operators(&mut self, table: &SourceTable, key: &[String]) -> Result<Vec<Operator>> {
        let names = serde_json::to_string(key)?;
        let sql = KEY_OPERATORS.replace("$2", "(SELECT array_agg(j) FROM json_array_elements_text($2::json) j)");
        let document = self.value(&sql, &[&table.oid.to_string(), &names], "looking the key's operators up")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// Lets this transaction find so many rows by a unique index on columns of the key, one after the other, if it can serve the
    /// key's own operators, and if these are less than a tenth of the table's rows.
    pub fn prefer_key_index(&mut self, table: &SourceTable, key: &[String], rows: u64) -> Result<()> {
        let sql = "SELECT set_config('enable_hashjoin', 'off', true) || set_config('enable_mergejoin', 'off', true)
              FROM pg_class c
             WHERE c.oid = $1::oid AND c.reltuples > 10 * $3::float8 AND NOT row_security_active(c.oid)
               AND EXISTS (SELECT FROM pg_index i
                            WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                              AND NOT EXISTS (SELECT FROM generate_series(0, coalesce((to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts) - 1) p
                                                LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[p]
                                                LEFT JOIN pg_opclass o ON o.oid = i.indclass[p]
                                               WHERE (o.opcdefault AND i.indcollation[p] = a.attcollation AND a.attname IN
                                                          (SELECT json_array_elements_text($2::json))) IS NOT TRUE))";
        let names = serde_json::to_string(key)?;
        self.value(sql, &[&table.oid.to_string(), &names, &rows.to_string()], "looking for the key's index")?;
        Ok(())
    }
}

/// `n."a", n."b"`
pub(super) fn qualified(alias: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{alias}.{}", quote(column))).collect::<Vec<_>>().join(", ")
}

/// A value as text. No cast is used: users may have defined one.
pub(super) fn text(value: &str) -> String {
    format!("CASE WHEN num_nulls({value}) = 0 THEN concat({value}) END")
}
