//! What a refresh has seen of a source's columns, so that the next one notices changes that no trigger and no control column shows: a column that
//! was added with values in existing rows, or whose values were rewritten.

use crate::error::Result;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};

/// The columns of a table, and the files of it and of what belongs to it.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    columns: Vec<SeenColumn>,
    files: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SeenColumn {
    name: String,
    /// pg_attribute.attnum: it survives a rename.
    number: i16,
    #[serde(rename = "type")]
    type_oid: u32,
    typmod: i32,
    collation: u32,
    /// The transaction that has changed its definition last.
    version: String,
    /// Rows that are older than the column have a value in it. Of a partitioned table its partitions know that.
    filled: bool,
}

/// $1: the table.
const SEEN: &str = r"
WITH RECURSIVE tree(oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
)
SELECT json_build_object(
    'columns', (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'number', a.attnum, 'type', a.atttypid::bigint,
                    'typmod', a.atttypmod, 'collation', a.attcollation::bigint, 'version', a.xmin::pg_catalog.text,
                    'filled', EXISTS (SELECT FROM tree t JOIN pg_attribute x ON x.attrelid = t.oid AND x.attname = a.attname
                               WHERE (to_jsonb(x) ->> 'atthasmissing')::boolean)) ORDER BY a.attnum), '[]')
                  FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped),
    'files', (SELECT coalesce(md5(string_agg(concat(c.oid, ' ', c.relfilenode), ',' ORDER BY c.oid)), '')
                FROM tree t JOIN pg_class c ON c.oid = t.oid))::pg_catalog.text";

impl Connection {
    /// In the open snapshot, with the pinned search_path.
    pub fn seen(&mut self, table: &SourceTable) -> Result<Seen> {
        let document = self.value(SEEN, &[&table.oid.to_string()], "looking at the table's columns")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }
}

impl Seen {
    /// Why rows of the destination may lack values of these columns, or hold old ones, although no other change was seen.
    pub fn why_again(&self, now: &Seen, copied: &[String]) -> Option<String> {
        let rewritten = self.files != now.files;
        now.columns.iter().filter(|column| copied.contains(&column.name)).find_map(|column| {
            let name = &column.name;
            let before = self.columns.iter().find(|before| before.name == *name && before.number == column.number);
            let Some(before) = before else {
                let other = self.columns.iter().find(|before| before.number == column.number);
                return match other {
                    Some(other) => Some(format!("column \"{name}\" was called \"{}\" before", other.name)),
                    None if column.filled => {
                        Some(format!("column \"{name}\" was added with a value in the existing rows"))
                    }
                    None if rewritten => Some(format!("column \"{name}\" was added, and the rows were written anew")),
                    None => None,
                };
            };
            if before.type_oid != column.type_oid || before.collation != column.collation {
                return Some(format!("the type of column \"{name}\" has changed"));
            }
            if rewritten && before.typmod != column.typmod {
                return Some(format!("the type of column \"{name}\" has changed"));
            }
            (rewritten && before.version != column.version)
                .then(|| format!("column \"{name}\" may have been written anew (ALTER COLUMN TYPE … USING)"))
        })
    }

    /// Old and new names of columns that have been renamed.
    pub fn renamed(&self, now: &Seen) -> Vec<(String, String)> {
        let old = |column: &SeenColumn| {
            self.columns.iter().find(|before| before.number == column.number && before.name != column.name)
        };
        now.columns.iter().filter_map(|column| old(column).map(|old| (old.name.clone(), column.name.clone()))).collect()
    }

    /// Whether these columns have the types that they had.
    pub fn has_same_types(&self, now: &Seen, names: &[String]) -> bool {
        let of = |seen: &Seen, name: &String| {
            seen.columns.iter().find(|column| column.name == *name).map(|column| column.type_oid)
        };
        names.iter().all(|name| of(self, name).is_none() || of(self, name) == of(now, name))
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, SeenColumn};

    fn column(name: &str, number: i16, type_oid: u32, version: &str, filled: bool) -> SeenColumn {
        SeenColumn { name: name.into(), number, type_oid, typmod: -1, collation: 0, version: version.into(), filled }
    }

    fn seen(columns: &[SeenColumn], files: &str) -> Seen {
        Seen { columns: columns.to_vec(), files: files.into() }
    }

    #[test]
    fn what_old_rows_lack_is_noticed() {
        let (id, v) = (column("id", 1, 23, "700", false), column("v", 2, 25, "700", false));
        let before = seen(&[id.clone(), v.clone()], "a");
        let copied = ["id".to_string(), "v".to_string(), "n".to_string()];
        let why = |columns: &[SeenColumn], files| before.why_again(&seen(columns, files), &copied);
        assert_eq!(why(&[id.clone(), v.clone()], "a"), None, "nothing");
        assert_eq!(why(&[id.clone(), v.clone()], "b"), None, "VACUUM FULL");
        let with = |new: SeenColumn| [id.clone(), v.clone(), new];
        assert_eq!(why(&with(column("n", 3, 23, "701", false)), "a"), None, "a column of NULLs");
        assert!(why(&with(column("n", 3, 23, "701", true)), "a").is_some(), "a constant default");
        assert!(why(&with(column("n", 3, 23, "701", false)), "b").is_some(), "a default that differs from row to row");
        assert!(why(&[id.clone(), column("n", 2, 25, "701", false)], "a").is_some(), "renamed");
        assert!(why(&[id.clone(), column("v", 2, 20, "701", false)], "b").is_some(), "another type");
        assert!(why(&[id.clone(), column("v", 2, 25, "701", false)], "b").is_some(), "the same type USING something");
        assert_eq!(why(&[id.clone(), column("v", 2, 25, "701", false)], "a"), None, "NOT NULL, statistics, a comment");
        assert_eq!(why(&[id, v, column("o", 3, 23, "701", true)], "a"), None, "a column that is not copied");
        let later = seen(&[column("number", 1, 23, "702", false)], "a");
        assert_eq!(before.renamed(&later), [("id".to_string(), "number".to_string())]);
    }
}
