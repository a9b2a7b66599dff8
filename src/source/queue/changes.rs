//! Reading a queue together with the rows of the table.

use super::{qualified, same};
use crate::backend::name::{quote, quote_list, Name, Operator};

/// The queries that read a part of a queue with the rows that are now in the table. They run under the source role's own
/// search_path, as the user's condition expects, so all names in them are qualified.
pub struct Changes<'a> {
    pub queue: &'a Name,
    /// From `rows_query`.
    pub rows: &'a str,
    pub key: &'a [String],
    pub operators: &'a [Operator],
    /// Up to this mimeo_seq.
    pub until: i64,
    /// Queries of further keys.
    pub further: &'a [String],
}

impl Changes<'_> {
    fn range(&self) -> String {
        format!(
            "\"mimeo_op\" OPERATOR(pg_catalog.<>) ALL ('{{P,T}}'::pg_catalog.\"char\"[])
             AND \"mimeo_seq\" OPERATOR(pg_catalog.<=) {}::pg_catalog.int8",
            self.until
        )
    }

    /// The keys, each once.
    pub fn keys(&self) -> String {
        let list = quote_list(self.key.iter().map(String::as_str));
        let mut query = format!("SELECT DISTINCT {list} FROM {} WHERE {}", self.queue, self.range());
        for further in self.further {
            query = format!("{query} UNION {further}");
        }
        query
    }

    /// These columns of the rows that are there now, each once.
    pub fn present(&self, columns: &[String]) -> String {
        // In the order of the key, neighbours are read together there, and written together here.
        format!(
            "SELECT {} FROM ({} ORDER BY {}) \"mimeo_k\" JOIN ({}) \"mimeo_r\" ON {}",
            qualified("\"mimeo_r\"", columns),
            self.keys(),
            quote_list(self.key.iter().map(String::as_str)),
            self.rows,
            same("\"mimeo_r\"", "\"mimeo_k\"", self.key, self.operators)
        )
    }

    fn absent(&self, alias: &str) -> String {
        let same = same("\"mimeo_r\"", alias, self.key, self.operators);
        format!("NOT EXISTS (SELECT FROM ({}) \"mimeo_r\" WHERE {same})", self.rows)
    }

    /// The keys of which there is no row now.
    pub fn gone(&self) -> String {
        format!(
            "SELECT {} FROM ({}) \"mimeo_k\" WHERE {}",
            qualified("\"mimeo_k\"", self.key),
            self.keys(),
            self.absent("\"mimeo_k\"")
        )
    }

    /// Of a logdel queue: the rows that were deleted, with their last values and the time. `table` is the source table.
    pub fn deleted(&self, table: &Name, columns: &[String]) -> String {
        let list = quote_list(self.key.iter().map(String::as_str));
        // The key comes typed from the queue, the rest from the row.
        let values: Vec<_> = columns
            .iter()
            .map(|column| {
                let alias = if self.key.contains(column) { "mimeo_k" } else { "mimeo_v" };
                format!("\"{alias}\".{}", quote(column))
            })
            .collect();
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT DISTINCT ON ({list}) {list}, \"mimeo_at\", \"mimeo_row\" FROM {}
                 WHERE {} AND \"mimeo_row\" IS NOT NULL ORDER BY {list}, \"mimeo_at\" DESC, \"mimeo_seq\" DESC) \"mimeo_k\",
             LATERAL pg_catalog.json_populate_record(NULL::{table}, \"mimeo_k\".\"mimeo_row\") \"mimeo_v\" WHERE {}",
            values.join(", "),
            self.queue,
            self.range(),
            self.absent("\"mimeo_k\"")
        )
    }

    /// Of a logdel queue: keys of rows that are out of sight without having been deleted, and since when.
    pub fn left(&self) -> String {
        let list = quote_list(self.key.iter().map(String::as_str));
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT {list}, pg_catalog.max(\"mimeo_at\") AS \"mimeo_at\" FROM {}
                 WHERE {} GROUP BY {list} HAVING pg_catalog.bool_and(\"mimeo_row\" IS NULL)) \"mimeo_k\" WHERE {}",
            qualified("\"mimeo_k\"", self.key),
            self.queue,
            self.range(),
            self.absent("\"mimeo_k\"")
        )
    }
}
