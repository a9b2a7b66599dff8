//! Which rows differ. Neither side is ever held as a whole: the keys are spread over buckets, and only some of those whose sums
//! differ are compared row by row.

use super::compare::Comparison;
use super::row_sums::{sums, RowSums, Rows};
use crate::backend::interrupts;
use crate::backend::name::{literal, quote};
use crate::backend::spi;
use crate::error::{Error, Result};
use pgrx::notice;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Rows that are compared together, at most, if they are spread evenly.
const AT_ONCE: i64 = 100_000;

/// Hexadecimal digits of a key's hash that say which bucket it is in: 4096 buckets or 65536.
fn digits(rows: i64) -> u32 {
    if rows > 10_000_000 {
        4
    } else {
        3
    }
}

/// A key whose rows differ.
pub struct Found {
    /// As a record writes it.
    pub text: String,
    /// `{"column": value, …}`
    pub key: serde_json::Value,
    /// In words.
    pub how: String,
}

/// Keys whose rows differ.
pub struct Differences {
    /// The columns of the key.
    pub key: Vec<String>,
    /// The expression that writes such a key on the source.
    pub text: String,
    pub found: Vec<Found>,
}

/// Up to `limit` keys whose rows differ. None if there is no key to name them by.
///
/// 1. Count and sums of each bucket, on both sides.
/// 2. Of the buckets that differ, some at a time: key and hash of each row. A bucket that differs holds at least one such key.
pub fn find(sides: &mut Comparison, rows: &Rows, most_rows: i64, limit: usize) -> Result<Option<Differences>> {
    let key = key(sides)?;
    let compared: Vec<_> =
        key.iter().filter_map(|name| rows.columns.iter().find(|column| column.name == *name)).collect();
    if key.is_empty() || compared.len() != key.len() {
        return Ok(None);
    }
    let keys = [0, 1].map(|side| {
        let list: Vec<_> =
            compared.iter().map(|column| if side == 0 { &column.source } else { &column.here }).cloned().collect();
        let pairs: Vec<_> = key.iter().map(|name| format!("{}, \"mimeo\".{}", literal(name), quote(name))).collect();
        Key {
            hash: rows.hash(list.iter()),
            text: format!("ROW({})::pg_catalog.text", list.join(", ")),
            json: format!("pg_catalog.json_build_object({})", pairs.join(", ")),
        }
    });
    let names = compared.iter().map(|column| column.name.clone()).collect();
    let mut differences = Differences { key: names, text: keys[0].text.clone(), found: Vec::new() };
    let query = Query { keys, hashes: rows.row_hashes(), digits: digits(most_rows) };

    let [there, here]: [BTreeMap<String, RowSums>; 2] = query.buckets(sides)?;
    let differing: Vec<&String> = there
        .keys()
        .chain(here.keys().filter(|bucket| !there.contains_key(*bucket)))
        .filter(|bucket| there.get(*bucket) != here.get(*bucket))
        .collect();
    let per_bucket = (most_rows >> (4 * query.digits)).max(1);
    let group = (AT_ONCE / per_bucket).max(1) as usize;
    for some in differing[..differing.len().min(limit)].chunks(group) {
        for (text, (key, [there, here])) in query.rows(sides, some)? {
            interrupts::check();
            if there == here {
                continue;
            }
            if differences.found.len() == limit {
                return Ok(Some(differences));
            }
            differences.found.push(Found { text, key, how: how(&there, &here) });
        }
    }
    Ok(Some(differences))
}

/// Reports up to `show` keys whose rows differ, each in a NOTICE.
pub fn show(sides: &mut Comparison, rows: &Rows, most_rows: i64, show: usize) -> Result<()> {
    let dest_table = sides.job.dest_table.clone();
    match find(sides, rows, most_rows, show)? {
        None => notice!("\"{dest_table}\": there is no key by which rows that differ could be named"),
        Some(Differences { key, found, .. }) => {
            for Found { text, how, .. } in found {
                notice!("\"{dest_table}\": key ({})={text} is {how}", key.join(", "));
            }
        }
    }
    Ok(())
}

/// How the rows of one key differ, by their hashes on the source (`there`) and on the destination (`here`).
fn how(there: &[String], here: &[String]) -> String {
    match (there.len(), here.len()) {
        (_, 0) => "only on the source".to_string(),
        (0, _) => "only here".to_string(),
        (there, here) if there == here => "different".to_string(),
        (there, here) => format!("{there} times on the source, {here} times here"),
    }
}

/// That of the job, else that of the source.
fn key(sides: &mut Comparison) -> Result<Vec<String>> {
    if let Some(names) = &sides.job.pk_name {
        return Ok(names.clone());
    }
    sides.shape.indexes = sides.source.indexes(&sides.table)?;
    Ok(sides.shape.key().map(|index| index.columns.clone()).unwrap_or_default())
}

struct Key {
    hash: String,
    text: String,
    json: String,
}

/// The same queries for both sides: first the source, then the destination.
struct Query {
    keys: [Key; 2],
    hashes: [String; 2],
    digits: u32,
}

impl Query {
    fn ask<T: DeserializeOwned + Default>(
        &self,
        sides: &mut Comparison,
        query: impl Fn(&Key, &str, &str) -> String,
    ) -> Result<[T; 2]> {
        let [there, here] = [0, 1].map(|side| {
            let rows = if side == 0 { &sides.source_rows } else { &sides.local_rows };
            query(&self.keys[side], &self.hashes[side], rows)
        });
        let (there, here) = sides.source.value_meanwhile(&there, "comparing its rows", || spi::json(&here, &[]))?;
        sides.source.require_seen()?;
        let there = there.map(|document| serde_json::from_str(&document)).transpose()?;
        Ok([there.unwrap_or_default(), here.unwrap_or_default()])
    }

    fn bucket(&self, key: &Key) -> String {
        format!("pg_catalog.substr({}, 1, {})", key.hash, self.digits)
    }

    fn buckets(&self, sides: &mut Comparison) -> Result<[BTreeMap<String, RowSums>; 2]> {
        let found: [BTreeMap<String, RowSums>; 2] = self.ask(sides, |key, hash, rows| {
            format!(
                "SELECT pg_catalog.json_object_agg(b.bucket, b.sums)::pg_catalog.text
                   FROM (SELECT r.bucket, {} AS sums
                           FROM (SELECT {} AS bucket, {hash} AS hash {rows} OFFSET 0) r GROUP BY r.bucket) b",
                sums(),
                self.bucket(key)
            )
        })?;
        // They go into the next query, which is run on this server, too.
        if let Some(bucket) = found.iter().flat_map(BTreeMap::keys).find(|bucket| !is_bucket(bucket, self.digits)) {
            return Err(Error::Internal(format!("the source's hash of a key begins with {bucket}")));
        }
        Ok(found)
    }

    /// The keys in these buckets, as JSON, and the hashes of their rows on the source and on the destination.
    fn rows(&self, sides: &mut Comparison, buckets: &[&String]) -> Result<BTreeMap<String, Rowed>> {
        let list = buckets.iter().map(|bucket| bucket.as_str()).collect::<Vec<_>>().join(",");
        let list = literal(&format!("{{{list}}}"));
        let [there, here]: [Vec<(String, String, serde_json::Value)>; 2] = self.ask(sides, |key, hash, rows| {
            format!(
                "SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.key, r.hash, r.json) ORDER BY r.hash)::pg_catalog.text
                   FROM (SELECT {} AS bucket, {} AS key, {} AS json, {hash} AS hash {rows} OFFSET 0) r
                  WHERE r.bucket OPERATOR(pg_catalog.=) ANY ({list}::pg_catalog.text[])",
                self.bucket(key),
                key.text,
                key.json
            )
        })?;
        let mut found: BTreeMap<String, Rowed> = BTreeMap::new();
        for (side, rows) in [there, here].into_iter().enumerate() {
            for (key, hash, json) in rows {
                found.entry(key).or_insert_with(|| (json, Default::default())).1[side].push(hash);
            }
        }
        Ok(found)
    }
}

/// A key as JSON, and the hashes of its rows on the source and on the destination.
type Rowed = (serde_json::Value, [Vec<String>; 2]);

/// Whether it is the beginning of a hash: so many hexadecimal digits.
fn is_bucket(text: &str, digits: u32) -> bool {
    text.len() == digits as usize && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::is_bucket;

    #[test]
    fn a_bucket_is_hexadecimal() {
        assert!(is_bucket("0af", 3) && is_bucket("", 0));
        for text in ["0a", "0aff", "0aF", "0a'", "0a,", "}'x"] {
            assert!(!is_bucket(text, 3), "{text}");
        }
    }
}
