//! Reading a queue together with the rows of the table.

use super::keys::{key_column, qualified, QueueKey, TypedColumn};
use crate::backend::name::{literal, quote, Name};

/// The queries that read a part of a queue with the rows that are now in the table. They run under the source role's own
/// search_path, as the user's condition expects, so all names in them are qualified.
pub struct Changes<'a> {
    pub queue: &'a Name,
    /// From `rows_query`.
    pub rows: &'a str,
    pub key: &'a QueueKey,
    /// Up to this mimeo_seq.
    pub until: i64,
    /// Queries of further keys.
    pub further: &'a [String],
}

impl Changes<'_> {
    fn range(&self) -> String {
        format!(
            "\"mimeo_op\" OPERATOR(pg_catalog.<>) ALL ('{{P,T,F}}'::pg_catalog.\"char\"[]) AND {}
             AND \"mimeo_seq\" OPERATOR(pg_catalog.<=) {}::pg_catalog.int8",
            self.key.is_known(),
            self.until
        )
    }

    /// The rows of the queue, with the key in the table's types and these columns.
    fn queued(&self, more: &str) -> String {
        format!("(SELECT {}{more} FROM {} WHERE {}) \"mimeo_q\"", self.key.typed_list(), self.queue, self.range())
    }

    /// The keys, each once.
    pub fn keys(&self) -> String {
        let mut query = format!("SELECT DISTINCT {} FROM {}", self.key.list(""), self.queued(""));
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
            self.key.list(""),
            self.rows,
            self.key.is_of("\"mimeo_r\"", "\"mimeo_k\"")
        )
    }

    fn absent(&self) -> String {
        let same = self.key.is_of("\"mimeo_r\"", "\"mimeo_k\"");
        format!("NOT EXISTS (SELECT FROM ({}) \"mimeo_r\" WHERE {same})", self.rows)
    }

    /// The keys for which there is no row now.
    pub fn gone(&self) -> String {
        format!("SELECT {} FROM ({}) \"mimeo_k\" WHERE {}", self.key.list("\"mimeo_k\""), self.keys(), self.absent())
    }

    /// Whether a row of a logdel queue tells under which names its values are: columns that have only exchanged their names among each
    /// other leave no trace in it.
    pub fn tells_names(&self, renamed: &[(String, String)]) -> bool {
        let is_old = |name: &str| renamed.iter().any(|(old, _)| old == name);
        let taken = |(_, new): &&(String, String)| is_old(new);
        self.key.typed
            || renamed.iter().filter(taken).all(|(_, new)| successor(new, renamed).is_some_and(|next| !is_old(next)))
    }

    /// How many deleted rows have a renamed column under none of the names that are known, as text.
    pub fn nameless(&self, renamed: &[(String, String)]) -> String {
        format!(
            "SELECT pg_catalog.count(*)::pg_catalog.text FROM {} WHERE {} AND \"mimeo_row\" IS NOT NULL AND NOT {}",
            self.queue,
            self.range(),
            self.is_named(renamed, "\"mimeo_row\"")
        )
    }

    /// Whether a row holds each renamed column under one of its names.
    fn is_named(&self, renamed: &[(String, String)], row: &str) -> String {
        if self.key.typed || renamed.is_empty() {
            return "true".to_string();
        }
        let present = |name: &str| format!("({row} OPERATOR(pg_catalog.->) {}) IS NOT NULL", literal(name));
        let named = renamed.iter().map(|(_, new)| {
            let olds = renamed.iter().filter(|(_, other)| other == new).map(|(old, _)| present(old));
            format!("({})", std::iter::once(present(new)).chain(olds).collect::<Vec<_>>().join(" OR "))
        });
        format!("({})", named.collect::<Vec<_>>().join(" AND "))
    }

    /// Of a logdel queue: the rows that were deleted, with their last values and the time. `table` is the source table; what the queue holds
    /// under other names is in `renamed`, by today's name. Not those that have a renamed column under no name that is known. See `tells_names`.
    pub fn deleted(&self, table: &Name, columns: &[TypedColumn], renamed: &[(String, String)]) -> String {
        let list = self.key.list("");
        // The key comes typed from the queue, the rest from the row.
        let values: Vec<_> = columns
            .iter()
            .map(|column| {
                let name = quote(&column.column);
                if let Some(ordinal) = self.key.columns.iter().position(|key| key.column == column.column) {
                    format!("\"mimeo_k\".{}", key_column(ordinal))
                } else if self.key.typed {
                    format!("\"mimeo_v\".{name}")
                } else {
                    column.read(&kept_value(&column.column, renamed))
                }
            })
            .collect();
        let typed = if self.key.typed {
            format!(", LATERAL pg_catalog.json_populate_record(NULL::{table}, \"mimeo_k\".\"mimeo_row\") \"mimeo_v\"")
        } else {
            String::new()
        };
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT DISTINCT ON ({list}) {list}, \"mimeo_at\", \"mimeo_row\" FROM {}
                 WHERE \"mimeo_row\" IS NOT NULL ORDER BY {list}, \"mimeo_at\" DESC, \"mimeo_seq\" DESC) \"mimeo_k\"{typed} WHERE {} AND {}",
            values.join(", "),
            self.queued(", \"mimeo_at\", \"mimeo_seq\", \"mimeo_row\""),
            self.is_named(renamed, "\"mimeo_k\".\"mimeo_row\""),
            self.absent()
        )
    }

    /// Of a logdel queue: keys of rows that the job no longer sees and whose values were not queued, or cannot be read (`all`, or none of the
    /// names is known), and since when.
    pub fn left(&self, all: bool, renamed: &[(String, String)]) -> String {
        let list = self.key.list("");
        let having = if all {
            "true".to_string()
        } else {
            let named = self.is_named(renamed, "\"mimeo_row\"");
            format!("pg_catalog.bool_and(\"mimeo_row\" IS NULL OR NOT {named})")
        };
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT {list}, pg_catalog.max(\"mimeo_at\") AS \"mimeo_at\" FROM {}
                 GROUP BY {list} HAVING {having}) \"mimeo_k\" WHERE {}",
            self.key.list("\"mimeo_k\""),
            self.queued(", \"mimeo_at\", \"mimeo_row\""),
            self.absent()
        )
    }
}

/// The name of today of the column that was called so.
fn successor<'a>(old: &str, renamed: &'a [(String, String)]) -> Option<&'a str> {
    renamed.iter().find(|(before, _)| before == old).map(|(_, new)| new.as_str())
}

/// The value of a column, as text, in a row that was queued when it was deleted, under the name that the column had then.
fn kept_value(column: &str, renamed: &[(String, String)]) -> String {
    let row = "\"mimeo_k\".\"mimeo_row\"";
    let value = |name: &str| format!("{row} OPERATOR(pg_catalog.->>) {}", literal(name));
    let present = |name: &str| format!("({row} OPERATOR(pg_catalog.->) {}) IS NOT NULL", literal(name));
    let olds: Vec<&str> =
        renamed.iter().filter(|(old, new)| new == column && old != column).map(|(old, _)| old.as_str()).collect();
    // Another column had this name: the value is that one's unless the other has its own name of today.
    let condition = match successor(column, renamed) {
        Some(next) => present(next),
        None if olds.is_empty() => return value(column),
        None => present(column),
    };
    let mut cases = format!("WHEN {condition} THEN {}", value(column));
    for old in olds {
        cases.push_str(&format!(" WHEN {} THEN {}", present(old), value(old)));
    }
    format!("CASE {cases} END")
}

/// What columns are called now that were renamed before (`pending`) and since: old names, newest last, and the name of today.
pub fn names_since(pending: &[(String, String)], since: &[(String, String)]) -> Vec<(String, String)> {
    let now = |name: &String| since.iter().find(|(old, _)| old == name).map_or(name, |(_, new)| new).clone();
    let mut names: Vec<(String, String)> = pending.iter().map(|(old, new)| (old.clone(), now(new))).collect();
    names.extend(since.iter().filter(|pair| !names.contains(pair)).cloned().collect::<Vec<_>>());
    names.retain(|(old, new)| old != new);
    names
}

#[cfg(test)]
mod tests {
    use super::{kept_value, names_since};

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(old, new)| ((*old).to_string(), (*new).to_string())).collect()
    }

    #[test]
    fn a_deleted_row_is_read_under_the_names_of_its_time() {
        let of = |column| format!("\"mimeo_k\".\"mimeo_row\" OPERATOR(pg_catalog.->>) '{column}'");
        let has = |column| format!("(\"mimeo_k\".\"mimeo_row\" OPERATOR(pg_catalog.->) '{column}') IS NOT NULL");
        let renamed = pairs(&[("v", "w")]);
        assert_eq!(kept_value("id", &renamed), of("id"));
        let either = format!("CASE WHEN {} THEN {} WHEN {} THEN {} END", has("w"), of("w"), has("v"), of("v"));
        assert_eq!(kept_value("w", &renamed), either);
        // Another column has the name now, which did not exist before.
        assert_eq!(kept_value("v", &renamed), format!("CASE WHEN {} THEN {} END", has("w"), of("v")));
    }

    #[test]
    fn names_go_on_until_the_queue_is_read() {
        assert_eq!(names_since(&pairs(&[("a", "b")]), &pairs(&[("b", "c")])), pairs(&[("a", "c"), ("b", "c")]));
        assert_eq!(names_since(&pairs(&[("a", "b")]), &[]), pairs(&[("a", "b")]));
        assert_eq!(names_since(&pairs(&[("a", "b")]), &pairs(&[("b", "a")])), pairs(&[("b", "a")]));
        assert_eq!(names_since(&[], &pairs(&[("x", "y")])), pairs(&[("x", "y")]));
    }
}
