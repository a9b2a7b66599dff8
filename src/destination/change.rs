//! A change of one column of a destination.

use crate::destination::alter::Clause;
use crate::destination::table::LocalColumn;

/// Types whose values stay as they are when their length or precision grows.
const LONGER_AS_IT_IS: [&str; 8] = [
    "numeric",
    "character varying",
    "bit varying",
    "timestamp without time zone",
    "timestamp with time zone",
    "time without time zone",
    "time with time zone",
    "interval",
];

/// What is changed about one column. `own` is its name here before.
#[derive(Debug, Clone)]
pub enum Change {
    /// Renamed on the source.
    Rename { own: String, to: String },
    /// Added on the source.
    Add {
        column: LocalColumn,
        /// What the rows that are older than the column have in it, as text. None is NULL, or that all rows are copied.
        given: Option<String>,
        comment: Option<String>,
        /// PostgreSQL writes all rows anew for it: a domain, or an expression of the row.
        rewrites: bool,
        /// NOT NULL from the beginning, if the source has it and the old rows get a value.
        at_once: bool,
        /// `GENERATED … AS IDENTITY`, or an expression in its place: only of a table job.
        clause: Clause,
    },
    /// Wider on the source.
    Widen {
        own: String,
        column: LocalColumn,
        /// Its type here before, for messages.
        from: String,
    },
    /// Gone on the source: it takes NULL from here on, and no default.
    Leave { own: String, not_null: bool, default: bool },
    /// NOT NULL has been dropped on the source.
    Relax { own: String },
    /// NOT NULL has been set on the source, and is set here if no row has a NULL there.
    Require { name: String },
}

impl Change {
    /// For the history, notices and plan_refresh.
    pub fn summary(&self) -> String {
        match self {
            Change::Rename { own, to } => format!("\"{own}\" renamed to \"{to}\""),
            Change::Add { column, given: Some(_), .. } => {
                format!("\"{}\" added, with the value that the rows of the source have", column.source.name)
            }
            Change::Add { column, .. } => format!("\"{}\" added", column.source.name),
            Change::Widen { column, from, .. } => {
                format!("type of \"{}\" changed from {from} to {}", column.source.name, column.sql_type)
            }
            Change::Leave { own, .. } => format!("\"{own}\" kept, which the source has no longer"),
            Change::Relax { own } => format!("NOT NULL of \"{own}\" dropped"),
            Change::Require { name, .. } => format!("NOT NULL of \"{name}\" set, if no row has a NULL"),
        }
    }

    /// Its rows are written anew when the type is changed in place.
    pub fn rewrites(&self) -> bool {
        match self {
            Change::Widen { column, from, .. } => {
                // Of a numeric without a scale every digit stays.
                let same_scale = scale(&column.sql_type).is_none() || scale(from) == scale(&column.sql_type);
                let (from, to) = (without_length(from), without_length(&column.sql_type));
                let longer = from == to && LONGER_AS_IT_IS.contains(&from.as_str()) && same_scale;
                !(longer || from == "character varying" && to == "text")
            }
            Change::Add { rewrites, .. } => *rewrites,
            _ => false,
        }
    }
}

/// `2)` of `numeric(8,2)`.
fn scale(sql_type: &str) -> Option<&str> {
    sql_type.split_once(',').map(|(_, scale)| scale)
}

/// A type as format_type prints it, without `(…)`, which stands in the middle of some.
fn without_length(sql_type: &str) -> String {
    match (sql_type.find('('), sql_type.rfind(')')) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &sql_type[..from], &sql_type[to + 1..]),
        _ => sql_type.to_string(),
    }
}
