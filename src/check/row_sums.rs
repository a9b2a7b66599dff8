//! A number for the contents of rows, whatever their order, and whichever server reads them: a hash of the text of the columns of
//! each row, and the sum of these. Two rows that are the same count twice.

use super::compare::Comparison;
use crate::backend::encoding;
use crate::backend::foreign_text::ForeignText;
use crate::backend::name::quote;
use crate::backend::relation::lock_to_read;
use crate::backend::spi;
use crate::destination::table;
use crate::error::{quoted_list, Error, Result};
use crate::shape::{Column, Shape};
use pgrx::notice;
use serde::Deserialize;

/// How many rows there are, and the sums of both halves of their hashes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "(i64, String, String)")]
pub struct RowSums {
    pub rows: i64,
    sums: (i128, i128),
}

impl From<(i64, String, String)> for RowSums {
    fn from((rows, high, low): (i64, String, String)) -> RowSums {
        let number = |text: String| text.parse().unwrap_or_default();
        RowSums { rows, sums: (number(high), number(low)) }
    }
}

impl RowSums {
    /// 32 hexadecimal digits.
    pub fn text(&self) -> String {
        format!("{:016x}{:016x}", self.sums.0 as u64, self.sums.1 as u64)
    }
}

/// What is compared of each row, on the source and on the destination. Of the columns that the job copies, those that both sides have.
pub struct Rows {
    pub columns: Vec<Compared>,
    /// The encodings of the databases differ, so that the same text would be other bytes.
    recode: bool,
}

/// A column, and how both sides write it.
pub struct Compared {
    pub name: String,
    pub source: String,
    pub here: String,
}

impl Rows {
    pub fn of(sides: &mut Comparison) -> Result<Rows> {
        // The columns that are described must be those that are read, even if others want to alter the table meanwhile.
        lock_to_read(sides.destination.oid);
        let [local] = table::describe([sides.destination.oid])?;
        let mut columns = Vec::new();
        let mut missing = Vec::new();
        for column in &sides.columns {
            match local.column(&column.name) {
                None => missing.push(column.name.clone()),
                // What the destination computes itself is not copied.
                Some(own) if own.generated.as_deref().unwrap_or_default() != "" => {}
                Some(own) => columns.push(compared((column, &sides.shape), (own, &local))),
            }
        }
        if columns.is_empty() {
            return Err(Error::UnsupportedDestination {
                destination: local.table().plain(),
                reason: "it has none of the source's columns".to_string(),
            });
        }
        if !missing.is_empty() {
            notice!(
                "\"{}\": columns are not compared, because the destination does not have them: {}",
                sides.job.dest_table,
                quoted_list(&missing)
            );
        }
        let encoding = sides.source.script("SHOW server_encoding", "looking at its encoding")?;
        Ok(Rows { columns, recode: encoding.is_some_and(|there| there != encoding::of_database()) })
    }

    /// The hash of these columns of a row; `of` gives an expression for each.
    pub fn hash<'a>(&self, expressions: impl Iterator<Item = &'a String>) -> String {
        let list: Vec<_> = expressions.map(String::as_str).collect();
        let text = format!("ROW({})::pg_catalog.text", list.join(", "));
        if self.recode {
            return format!("pg_catalog.md5(pg_catalog.convert_to({text}, 'UTF8'))");
        }
        format!("pg_catalog.md5({text})")
    }

    /// The hash of a whole row, on the source and on the destination.
    pub fn row_hashes(&self) -> [String; 2] {
        [
            self.hash(self.columns.iter().map(|column| &column.source)),
            self.hash(self.columns.iter().map(|column| &column.here)),
        ]
    }
}

/// 64 bits of a hash (of 128), as a number.
pub fn half(hash: &str, first: u32) -> String {
    format!("('x' OPERATOR(pg_catalog.||) pg_catalog.substr({hash}, {first}, 16))::pg_catalog.bit(64)::pg_catalog.int8")
}

/// Count and sums over rows whose hash is the column `hash` of `rows`; what `RowSums` reads.
pub fn sums() -> String {
    let sum = |first| format!("coalesce(pg_catalog.sum({}), 0)::pg_catalog.text", half("r.hash", first));
    format!("pg_catalog.json_build_array(pg_catalog.count(*), {}, {})", sum(1), sum(17))
}

/// Of both sides, which read at the same time.
pub fn of_both(sides: &mut Comparison, rows: &Rows) -> Result<[RowSums; 2]> {
    // OFFSET 0: each hash is made once.
    let [there, here] = [&sides.source_rows, &sides.local_rows];
    let [hash_there, hash_here] = rows.row_hashes();
    let query = |hash: &str, from: &str| {
        format!("SELECT {}::pg_catalog.text FROM (SELECT {hash} AS hash {from} OFFSET 0) r", sums())
    };
    let (there, here) = (query(&hash_there, there), query(&hash_here, here));
    let (there, here) = sides.source.value_meanwhile(&there, "reading its rows", || spi::json(&here, &[]))?;
    sides.source.require_seen()?;
    let here = here.ok_or_else(|| Error::Internal("a sum of no rows".to_string()))?;
    Ok([serde_json::from_str(&there.unwrap_or_default())?, here])
}

/// How both sides write a column so that the same values read the same. A record writes each of its values as the type does,
/// with the formats that are pinned on both sides, as COPY does; the rest is what this leaves open.
fn compared((theirs, shape): (&Column, &Shape), (own, local): (&Column, &Shape)) -> Compared {
    let [there, here] = [shape.base_type(theirs), local.base_type(own)].map(known);
    let column = format!("\"mimeo\".{}", quote(&theirs.name));
    let both =
        |expression: String| Compared { name: theirs.name.clone(), source: expression.clone(), here: expression };
    match (there, here) {
        // Older servers write fewer digits, or more.
        ("real", "real") => both(format!("pg_catalog.float4send({column}::pg_catalog.float4)")),
        ("double precision", "double precision") => both(format!("pg_catalog.float8send({column}::pg_catalog.float8)")),
        // From PostgreSQL 19 on it is written with leading zeros.
        ("pg_lsn", "pg_lsn") | ("pg_lsn[]", "pg_lsn[]") => {
            both(format!("pg_catalog.regexp_replace({column}::pg_catalog.text, '/0+([0-9A-F])', '/\\1', 'g')"))
        }
        // Lengths may differ, and blanks at the end mean nothing.
        ("character", "character") => both(format!("{column}::pg_catalog.text")),
        _ => {
            let converted = match here {
                // Wider types write numbers and times differently.
                "real" | "double precision" if is_number(there) => Some(here),
                "timestamp without time zone" if there == "date" => Some(here),
                "timestamp with time zone" if ["date", "timestamp without time zone"].contains(&there) => Some(here),
                _ => None,
            };
            let source = match converted {
                // By way of text, as it was loaded.
                Some(type_name) => format!("{column}::pg_catalog.text::{type_name}"),
                None => written(&column, there),
            };
            Compared { name: theirs.name.clone(), source, here: written(&column, here) }
        }
    }
}

/// 1.0 and 1 are the same number.
fn written(column: &str, type_name: &str) -> String {
    if type_name != "numeric" {
        return column.to_string();
    }
    let text = format!("{column}::pg_catalog.text");
    format!(
        "CASE WHEN pg_catalog.strpos({text}, '.') OPERATOR(pg_catalog.>) 0
              THEN pg_catalog.rtrim(pg_catalog.rtrim({text}, '0'), '.') ELSE {text} END"
    )
}

fn is_number(type_name: &str) -> bool {
    ["smallint", "integer", "bigint", "numeric", "real"].contains(&type_name)
}

/// Which of the types that need a form of their own this is; empty for all others.
fn known(type_name: &ForeignText) -> &'static str {
    const KNOWN: [&str; 12] = [
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "real",
        "double precision",
        "character",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "pg_lsn",
        "pg_lsn[]",
    ];
    KNOWN.iter().find(|known| *type_name == **known).copied().unwrap_or_default()
}
