//! Privileges: what a role has or lacks, and the statement that gives it, ready to paste. Makers put these statements in their
//! hints, check_permissions in its rows.

use crate::backend::name::{quote, quote_list, Name};

/// One thing that a role needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Right {
    /// As messages show it.
    pub object: String,
    pub privilege: String,
    pub granted: bool,
    /// The statement that grants it. None if the role has it.
    pub fix: Option<String>,
}

impl Right {
    pub fn new(
        object: impl Into<String>,
        privilege: impl Into<String>,
        granted: bool,
        fix: impl FnOnce() -> String,
    ) -> Right {
        let fix = (!granted).then(fix);
        Right { object: object.into(), privilege: privilege.into(), granted, fix }
    }
}

/// The statements that give what is missing; None if nothing is.
pub fn fixes(rights: &[Right]) -> Option<String> {
    let mut statements: Vec<&str> = rights.iter().filter_map(|right| right.fix.as_deref()).collect();
    statements.dedup();
    (!statements.is_empty()).then(|| statements.join(" "))
}

pub fn on_schema(privilege: &str, schema: &str, role: &str) -> String {
    format!("GRANT {privilege} ON SCHEMA {} TO {};", quote(schema), quote(role))
}

pub fn on_table(privilege: &str, table: &Name, role: &str) -> String {
    format!("GRANT {privilege} ON {table} TO {};", quote(role))
}

pub fn on_columns(privilege: &str, columns: &[String], table: &Name, role: &str) -> String {
    let columns = quote_list(columns.iter().map(String::as_str));
    format!("GRANT {privilege} ({columns}) ON {table} TO {};", quote(role))
}

pub fn on_function(function: &Name, role: &str) -> String {
    format!("GRANT EXECUTE ON FUNCTION {function} TO {};", quote(role))
}

pub fn on_database(privilege: &str, database: &str, role: &str) -> String {
    format!("GRANT {privilege} ON DATABASE {} TO {};", quote(database), quote(role))
}

pub fn on_foreign_server(server: &str, role: &str) -> String {
    format!("GRANT USAGE ON FOREIGN SERVER {} TO {};", quote(server), quote(role))
}

/// In two statements: AUTHORIZATION would take membership in the role.
pub fn create_schema(schema: &str, role: &str) -> String {
    let schema_name = quote(schema);
    format!("CREATE SCHEMA {schema_name}; {}", on_schema("USAGE, CREATE", schema, role))
}
