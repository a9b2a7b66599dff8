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

    /// Whether the rows of a logdel queue tell if they were deleted before columns were renamed, or after: a row from after has a name that
    /// no column had before. None of them does if columns have only changed names among each other.
    pub fn tells_names(&self, renamed: &[(String, String)]) -> bool {
        self.key.typed || renamed.is_empty() || fresh(renamed).next().is_some()
    }

    /// Of a logdel queue: the rows that were deleted, with their last values and the time. `table` is the source table; what the queue holds
    /// under another name is in `renamed`, by today's name. See `tells_names`.
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
                 WHERE \"mimeo_row\" IS NOT NULL ORDER BY {list}, \"mimeo_at\" DESC, \"mimeo_seq\" DESC) \"mimeo_k\"{typed} WHERE {}",
            values.join(", "),
            self.queued(", \"mimeo_at\", \"mimeo_seq\", \"mimeo_row\""),
            self.absent()
        )
    }

    /// Of a logdel queue: keys of rows that the job no longer sees and whose values were not queued, or cannot be read (`all`), and since
    /// when.
    pub fn left(&self, all: bool) -> String {
        let list = self.key.list("");
        let having = if all { "true" } else { "pg_catalog.bool_and(\"mimeo_row\" IS NULL)" };
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT {list}, pg_catalog.max(\"mimeo_at\") AS \"mimeo_at\" FROM {}
                 GROUP BY {list} HAVING {having}) \"mimeo_k\" WHERE {}",
            self.key.list("\"mimeo_k\""),
            self.queued(", \"mimeo_at\", \"mimeo_row\""),
            self.absent()
        )
    }
}

/// The names of today that no column had before.
fn fresh(renamed: &[(String, String)]) -> impl Iterator<Item = &str> {
    let is_old = |name: &str| renamed.iter().any(|(old, _)| old == name);
    renamed.iter().map(|(_, new)| new.as_str()).filter(move |new| !is_old(new))
}

/// The value of a column, as text, in a row that was queued when it was deleted, under the names that the columns had then.
fn kept_value(column: &str, renamed: &[(String, String)]) -> String {
    let row = "\"mimeo_k\".\"mimeo_row\"";
    let value = |name: &str| format!("{row} OPERATOR(pg_catalog.->>) {}", literal(name));
    let old = renamed.iter().find(|(_, new)| new == column).map(|(old, _)| old);
    let taken = renamed.iter().any(|(old, _)| old == column);
    if old.is_none() && !taken {
        return value(column);
    }
    let after = fresh(renamed).map(|new| format!("({row} OPERATOR(pg_catalog.->) {}) IS NOT NULL", literal(new)));
    let after = after.collect::<Vec<_>>().join(" AND ");
    let before = old.map_or("NULL".to_string(), |old| value(old));
    format!("CASE WHEN {after} THEN {} ELSE {before} END", value(column))
}

#[cfg(test)]
mod tests {
    use super::{fresh, kept_value};

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(old, new)| ((*old).to_string(), (*new).to_string())).collect()
    }

    #[test]
    fn a_deleted_row_is_read_under_the_names_of_its_time() {
        let of = |column| format!("\"mimeo_k\".\"mimeo_row\" OPERATOR(pg_catalog.->>) '{column}'");
        let after = "(\"mimeo_k\".\"mimeo_row\" OPERATOR(pg_catalog.->) 'v_old') IS NOT NULL";
        let renamed = pairs(&[("v", "v_old")]);
        assert_eq!(kept_value("id", &renamed), of("id"));
        assert_eq!(
            kept_value("v_old", &renamed),
            format!("CASE WHEN {after} THEN {} ELSE {} END", of("v_old"), of("v"))
        );
        // Another column has the name now, which was not there before.
        assert_eq!(kept_value("v", &renamed), format!("CASE WHEN {after} THEN {} ELSE NULL END", of("v")));
        assert_eq!(fresh(&pairs(&[("a", "b"), ("b", "a")])).count(), 0, "they have changed places");
    }
}
