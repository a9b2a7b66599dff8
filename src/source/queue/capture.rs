//! What a job wants to have queued, and how its functions tell what they were made for.

use crate::shape::{Column, Shape};
use crate::source::catalog::SourceTable;
use crate::source::server::Server;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is to be queued.
pub struct Capture<'a> {
    pub table: &'a SourceTable,
    /// In the open snapshot.
    pub shape: &'a Shape,
    pub key: &'a [String],
    /// An UPDATE counts only if it changes one of these.
    pub compared: Option<&'a [String]>,
    /// Deleted rows are kept with their values.
    pub keeps_rows: bool,
    /// These columns of them, with their types.
    pub kept: Vec<(String, u32)>,
    /// They are all that the table has.
    pub all: bool,
    /// For a comment.
    pub destination: &'a str,
    /// Triggers fire once a row, because the table is partitioned, or because statements may name its parent.
    pub rows: bool,
    /// Partitions get the triggers of the table by themselves.
    pub cloned: bool,
    /// Its version decides what is created.
    pub server: Server,
    /// INSERT, UPDATE and DELETE have functions of their own. Not with `rows`.
    pub by_statement: bool,
    /// Tells a queue that is made from all others.
    pub number: i64,
    /// How large the queue may become, in bytes; None is no limit.
    pub max_size: Option<i64>,
    /// The queue is still one of 2.1.
    pub typed: bool,
}

/// A setting that text of some types depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sensitive {
    Dates,
    Intervals,
    Floats,
    Money,
}

impl Sensitive {
    pub(super) const ALL: [Sensitive; 4] =
        [Sensitive::Dates, Sensitive::Intervals, Sensitive::Floats, Sensitive::Money];

    pub(super) fn name(self) -> &'static str {
        match self {
            Sensitive::Dates => "datestyle",
            Sensitive::Intervals => "intervalstyle",
            Sensitive::Floats => "extra_float_digits",
            Sensitive::Money => "lc_monetary",
        }
    }

    pub(super) fn value(self) -> &'static str {
        match self {
            Sensitive::Dates => "ISO, YMD",
            Sensitive::Intervals => "postgres",
            Sensitive::Floats => "3",
            Sensitive::Money => "C",
        }
    }

    /// Those that text of a type depends on; for a type that is not a plain built-in one, possibly all.
    fn of(shape: &Shape, type_oid: u32) -> &'static [Sensitive] {
        let mut oid = type_oid;
        while let Some(found) = shape.types.get(&oid).filter(|found| found.kind == 'd') {
            oid = found.base;
        }
        if shape.types.get(&oid).is_some_and(|found| found.kind == 'e') {
            return &[];
        }
        match oid {
            16..=21
            | 23
            | 25..=28
            | 114
            | 142
            | 650
            | 774
            | 829
            | 869
            | 1042
            | 1043
            | 1560
            | 1562
            | 1700
            | 2950
            | 3220
            | 3802
            | 1083
            | 1266 => &[],
            1082 | 1114 | 1184 => &[Sensitive::Dates],
            1186 => &[Sensitive::Intervals],
            600..=604 | 628 | 700 | 701 | 718 => &[Sensitive::Floats],
            790 => &[Sensitive::Money],
            _ => &Sensitive::ALL,
        }
    }
}

/// What functions and triggers are made for, as the function's comment keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Form {
    pub layout: u32,
    pub compared: Option<Vec<String>>,
    pub row_triggers: bool,
    #[serde(rename = "apart")]
    pub by_statement: bool,
    /// Row triggers name the table by its OID.
    pub table: u32,
    pub key: Vec<String>,
    pub kept: Vec<(String, u32)>,
    pub all: bool,
    pub sensitive: Vec<String>,
}

/// The layout number of the `Form`s of this release.
const LAYOUT: u32 = 1;

/// What a function's comment says.
#[derive(Debug, Clone)]
pub enum Found {
    /// The function is gone.
    Nothing,
    Form(Form),
    /// What 2.0 and 2.1 have made: what is compared, and whether the triggers fire once a row.
    Typed(Option<Vec<String>>, bool),
    Unreadable,
}

impl Form {
    /// Whether what is queued is the same.
    pub fn captures_as(&self, other: &Form) -> bool {
        (&self.compared, self.row_triggers, self.key.len()) == (&other.compared, other.row_triggers, other.key.len())
    }
}

impl Capture<'_> {
    pub fn form(&self) -> Form {
        let sensitive: BTreeSet<_> = self.sensitive_keys().union(&self.sensitive_rows()).copied().collect();
        Form {
            layout: LAYOUT,
            compared: self.compared.map(<[String]>::to_vec),
            row_triggers: self.rows,
            by_statement: self.by_statement,
            table: if self.rows { self.table.oid } else { 0 },
            key: self.key.to_vec(),
            kept: self.kept.clone(),
            all: self.all,
            sensitive: sensitive.iter().map(|setting| setting.name().to_string()).collect(),
        }
    }

    pub(super) fn sensitive_keys(&self) -> BTreeSet<Sensitive> {
        let columns = self.shape.columns.iter().filter(|column| self.key.contains(&column.name));
        columns.flat_map(|column| Sensitive::of(self.shape, column.type_oid)).copied().collect()
    }

    pub(super) fn sensitive_rows(&self) -> BTreeSet<Sensitive> {
        self.kept.iter().flat_map(|(_, oid)| Sensitive::of(self.shape, *oid)).copied().collect()
    }
}

/// The columns of which deleted rows are kept, with their types.
pub fn kept(columns: &[Column], filter: Option<&[String]>) -> Vec<(String, u32)> {
    let is_kept = |column: &&Column| filter.is_none_or(|filter| filter.contains(&column.name));
    columns.iter().filter(is_kept).map(|column| (column.name.clone(), column.type_oid)).collect()
}
