//! What is known about an error, and what a user sees of it.

use super::sqlstate::SqlState;

/// What was known about an error that PostgreSQL itself raised, here or on a source.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sqlstate: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// CONTEXT, and the names of what it is about.
    pub location: ErrorLocation,
}

/// Where an error came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorLocation {
    /// Lines of CONTEXT, the innermost first.
    pub context: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub data_type: Option<String>,
    pub constraint: Option<String>,
}

impl ErrorLocation {
    /// The names, as psql's \errverbose calls them.
    pub fn names(&self) -> Vec<(&'static str, &String)> {
        let all = [
            ("SCHEMA NAME", &self.schema),
            ("TABLE NAME", &self.table),
            ("COLUMN NAME", &self.column),
            ("DATATYPE NAME", &self.data_type),
            ("CONSTRAINT NAME", &self.constraint),
        ];
        all.into_iter().filter_map(|(label, name)| name.as_ref().map(|name| (label, name))).collect()
    }

    /// The same with every text changed.
    pub fn map(self, change: impl Fn(String) -> String) -> ErrorLocation {
        ErrorLocation {
            context: self.context.map(&change),
            schema: self.schema.map(&change),
            table: self.table.map(&change),
            column: self.column.map(&change),
            data_type: self.data_type.map(&change),
            constraint: self.constraint.map(&change),
        }
    }
}
