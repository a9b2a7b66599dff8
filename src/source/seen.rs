//! What a refresh has seen of a source's columns, so that the next one notices changes that no trigger and no control column shows: a column that
//! was added with values in existing rows, or whose values were rewritten.

use crate::error::Result;
use crate::shape::{Column, Shape};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The columns of a table, and the files of it and of what belongs to it.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    columns: Vec<SeenColumn>,
    files: String,
    /// Names of columns that are gone there, and may still be here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kept: Vec<String>,
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
    /// None in a state of an older release.
    #[serde(default)]
    not_null: Option<bool>,
}

/// A column as it was, or is, on the source.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub name: &'a str,
    pub number: i16,
    pub not_null: Option<bool>,
}

/// What the source says of columns that have come, by their names.
#[derive(Debug, Default, Deserialize)]
pub struct Arrivals {
    /// The one value that all rows have that are older than the column, as text.
    #[serde(default)]
    pub given: BTreeMap<String, String>,
    #[serde(default)]
    pub comments: BTreeMap<String, String>,
}

/// $1: the table.
const SEEN: &str = r"
WITH RECURSIVE tree(oid, kind) AS (
    SELECT $1::oid, 'r'::pg_catalog.char
    UNION SELECT i.inhrelid, c.relkind FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid
)
SELECT json_build_object(
    'columns', (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'number', a.attnum, 'type', a.atttypid::bigint,
                    'typmod', a.atttypmod, 'not_null', a.attnotnull, 'collation', a.attcollation::bigint, 'version', a.xmin::pg_catalog.text,
                    'filled', EXISTS (SELECT FROM tree t JOIN pg_attribute x ON x.attrelid = t.oid AND x.attname = a.attname
                               WHERE (to_jsonb(x) ->> 'atthasmissing')::boolean OR t.oid <> $1::oid AND (x.attislocal OR t.kind = 'f'))) ORDER BY a.attnum), '[]')
                  FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped),
    'files', (SELECT coalesce(md5(string_agg(concat(c.oid, ' ', c.relfilenode), ',' ORDER BY c.oid)), '')
                FROM tree t JOIN pg_class c ON c.oid = t.oid))::pg_catalog.text";

/// $1: the table, $2: names of columns, a JSON array. A value is given if each table of the tree that has rows keeps the same one.
const ARRIVALS: &str = r"
WITH RECURSIVE tree(oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
), wanted AS (
    SELECT n.name FROM json_array_elements_text($2::json) n (name)
)
SELECT json_build_object(
    'given', (SELECT coalesce(json_object_agg(g.name, g.value), '{}') FROM (
        SELECT w.name, min(v.value) AS value FROM wanted w CROSS JOIN LATERAL (
            SELECT CASE WHEN c.relkind = 'r' AND (t.oid = $1::oid OR NOT x.attislocal) THEN {value} END AS value
              FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relkind IN ('r', 'f')
              JOIN pg_attribute x ON x.attrelid = t.oid AND x.attname = w.name::name) v
         GROUP BY w.name HAVING count(*) = count(v.value) AND count(DISTINCT v.value) = 1) g),
    'comments', (SELECT coalesce(json_object_agg(a.attname, d.description), '{}') FROM wanted w
        JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attname = w.name::name AND NOT a.attisdropped
        JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = a.attrelid AND d.objsubid = a.attnum))::pg_catalog.text";

impl Connection {
    /// What old rows have in columns that have come. In the open snapshot, with the pinned search_path.
    pub fn arrivals(&mut self, table: &SourceTable, names: &[&str]) -> Result<Arrivals> {
        let list = serde_json::to_string(names)?;
        let query = ARRIVALS.replace("{value}", self.server().missing_value());
        let document = self.value(&query, &[&table.oid.to_string(), &list], "looking at columns that have come")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// In the open snapshot, with the pinned search_path.
    pub fn seen(&mut self, table: &SourceTable) -> Result<Seen> {
        let document = self.value(SEEN, &[&table.oid.to_string()], "looking at the table's columns")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }
}

impl Seen {
    /// Of a job that copies all rows each time: names and numbers are all that it asks for.
    pub fn of(shape: &Shape) -> Seen {
        let column = |column: &Column| SeenColumn {
            name: column.name.clone(),
            number: column.number,
            type_oid: column.type_oid,
            typmod: column.typmod,
            collation: 0,
            version: String::new(),
            filled: false,
            not_null: Some(column.not_null),
        };
        Seen { columns: shape.columns.iter().map(column).collect(), files: String::new(), kept: Vec::new() }
    }

    /// The same, after it was seen otherwise: what has gone since is remembered.
    pub fn after(mut self, before: Option<&Seen>) -> Seen {
        let Some(before) = before else { return self };
        let is_there = |name: &str| self.columns.iter().any(|column| column.name == name);
        let moved = |old: &&SeenColumn| self.columns.iter().any(|column| column.number == old.number);
        let gone = before.columns.iter().filter(|old| !moved(old)).map(|old| &old.name);
        let mut kept: Vec<String> = before.kept.iter().chain(gone).filter(|name| !is_there(name)).cloned().collect();
        kept.sort_unstable();
        kept.dedup();
        self.kept = kept;
        self
    }

    /// Names of columns that are gone there, and may still be here.
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// The columns, in the source's order.
    pub fn known(&self) -> impl Iterator<Item = Known<'_>> {
        self.columns.iter().map(|column| Known { name: &column.name, number: column.number, not_null: column.not_null })
    }

    /// Of these columns it is yet to be noticed that they are NOT NULL.
    pub fn postpone(&mut self, names: &[&str]) {
        for column in self.columns.iter_mut().filter(|column| names.contains(&column.name.as_str())) {
            column.not_null = Some(false);
        }
    }

    /// Why rows of the destination may lack values of these columns, or hold old ones, although no other change was seen. Of the columns in
    /// `followed` they have the values: they were renamed there, too, or added with the value that they have on the source.
    pub fn why_again(&self, now: &Seen, copied: &[String], followed: &[&str]) -> Option<String> {
        let rewritten = self.files != now.files;
        now.columns.iter().filter(|column| copied.contains(&column.name)).find_map(|column| {
            let name = &column.name;
            let followed = followed.contains(&name.as_str());
            let same = |before: &&SeenColumn| (before.name == *name || followed) && before.number == column.number;
            let Some(before) = self.columns.iter().find(same) else {
                let other = self.columns.iter().find(|before| before.number == column.number);
                return match other {
                    Some(other) => Some(format!("column \"{name}\" was called \"{}\" before", other.name)),
                    None if followed => None,
                    None if self.columns.iter().any(|before| before.name == *name) || self.kept.contains(name) => {
                        Some(format!("column \"{name}\" was dropped, and added anew"))
                    }
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
        SeenColumn {
            name: name.into(),
            number,
            type_oid,
            typmod: -1,
            collation: 0,
            version: version.into(),
            filled,
            not_null: Some(false),
        }
    }

    fn seen(columns: &[SeenColumn], files: &str) -> Seen {
        Seen { columns: columns.to_vec(), files: files.into(), kept: Vec::new() }
    }

    #[test]
    fn what_old_rows_lack_is_noticed() {
        let (id, v) = (column("id", 1, 23, "700", false), column("v", 2, 25, "700", false));
        let before = seen(&[id.clone(), v.clone()], "a");
        let copied = ["id".to_string(), "v".to_string(), "n".to_string()];
        let why = |columns: &[SeenColumn], files| before.why_again(&seen(columns, files), &copied, &[]);
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
        assert_eq!(
            why(&[id.clone(), v.clone(), column("o", 3, 23, "701", true)], "a"),
            None,
            "a column that is not copied"
        );
        let followed = |columns: &[SeenColumn], followed| before.why_again(&seen(columns, "a"), &copied, followed);
        let given = with(column("n", 3, 23, "701", true));
        assert_eq!(followed(&given, &["n"]), None, "the rows here have got it");
        let renamed = [id.clone(), column("n", 2, 25, "701", false)];
        assert_eq!(followed(&renamed, &["n"]), None, "renamed here, too");
        let retyped = [id.clone(), column("n", 2, 20, "701", false)];
        assert!(followed(&retyped, &["n"]).is_some(), "renamed here, too, but of another type");
        let anew = [id.clone(), column("v", 3, 25, "701", false)];
        assert!(followed(&anew, &[]).is_some(), "dropped, and added anew without values");
        let without = seen(std::slice::from_ref(&id), "a").after(Some(&before));
        assert_eq!(without.kept(), ["v"]);
        assert!(
            without.why_again(&seen(&anew, "a"), &copied, &[]).is_some(),
            "dropped, and added anew after a refresh"
        );
        assert!(seen(&anew, "a").after(Some(&without)).kept().is_empty());
        let later = seen(&[column("number", 1, 23, "702", false)], "a");
        assert_eq!(before.renamed(&later), [("id".to_string(), "number".to_string())]);
    }
}
