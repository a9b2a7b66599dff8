//! Why a source refuses the connection, and what to do about it.

use crate::backend::grant::{self, Right};
use crate::backend::identity::{current_role, role_name};
use crate::backend::name::{literal, quote};
use crate::error::{told, Error, Result, SqlState};
use crate::job::config::Catalog;
use crate::source::connection::{may_be_told, Mapping, Target};
use pgrx::PgSqlErrorCode as E;

/// The row of a source that could not be reached: its error as a comment, then the statement that helps.
pub fn right(error: &Error, mapping: &Mapping, catalog: &Catalog) -> Result<Right> {
    let advice = Advice {
        target: mapping.target(current_role()),
        role: role_name(current_role())?,
        id: mapping.data_source_id,
        server: mapping.foreign_server().filter(|name| may_be_told(name)),
        table: catalog.table("dblink_mapping_mimeo").to_string(),
    };
    let error = error.kind();
    let (label, reason) = match error {
        Error::Unreachable { source_label, reason, .. }
        | Error::ConnectionLost { source_label, reason }
        | Error::InvalidSource { source_label, reason, .. } => (source_label.clone(), reason.clone()),
        Error::PasswordRequired(source_label) => (source_label.clone(), error.to_string()),
        Error::Remote { source_label, report, .. } => (source_label.clone(), report.message.clone()),
        other => (format!("data source {}", advice.id), other.to_string()),
    };
    let reason = reason.lines().next().unwrap_or_default().trim().to_string();
    let fix = advice.fix(error, &reason);
    Ok(Right::new(told(label), "connection", false, || told(format!("-- {reason}\n{fix}"))))
}

/// The target of the connection, and where it is configured.
struct Advice<'a> {
    target: Target,
    /// The current role on this server.
    role: String,
    id: i32,
    server: Option<&'a str>,
    /// dblink_mapping_mimeo, quoted.
    table: String,
}

impl Advice<'_> {
    fn fix(&self, error: &Error, reason: &str) -> String {
        let user = self.target.user.as_deref();
        let (role, database) = (user.unwrap_or("…"), self.target.database.as_deref().or(user).unwrap_or("…"));
        let code = match error {
            Error::Unreachable { code, .. } => *code,
            Error::PasswordRequired(_) if !self.target.has_password => return self.give("password"),
            Error::PasswordRequired(_) => {
                return format!(
                    "-- the source does not ask for the password: let its pg_hba.conf say scram-sha-256; or, as a superuser \
                     on the destination:\nUPDATE {} SET password_required = false WHERE data_source_id = {};",
                    self.table, self.id
                )
            }
            Error::InvalidSource { forbidden: true, .. } => return self.allow(),
            Error::ForeignServer { fix, .. } => return fix.clone(),
            Error::UserMapping { fix, .. } => return fix.clone(),
            Error::OldSource { .. } => return "-- upgrade the source: no privilege helps".to_string(),
            _ => None,
        };
        match code.map(SqlState::code) {
            Some(E::ERRCODE_INVALID_PASSWORD) => format!(
                "-- on the destination, if this is not the password of the role:\n{}\n-- on the source, if the role has another one, or \
                 does not exist:\nALTER ROLE {1} PASSWORD '…';\nCREATE ROLE {1} LOGIN PASSWORD '…';",
                self.give("password"),
                quote(role)
            ),
            Some(E::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION) if reason.contains("pg_hba.conf") => format!(
                "-- a line for the source's pg_hba.conf, then SELECT pg_reload_conf(); on the source:\n{}",
                hba_line(reason, database, role)
            ),
            Some(E::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION) if reason.contains("not permitted to log in") => {
                format!("-- on the source:\nALTER ROLE {} LOGIN;", quote(role))
            }
            Some(E::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION) if reason.contains("does not exist") => {
                format!("-- on the source:\nCREATE ROLE {} LOGIN PASSWORD '…';", quote(role))
            }
            Some(E::ERRCODE_INSUFFICIENT_PRIVILEGE) => format!("-- on the source:\n{}", grant::on_database("CONNECT", database, role)),
            Some(E::ERRCODE_INVALID_CATALOG_NAME) => format!(
                "-- on the source, if this is the right database:\nCREATE DATABASE {};\n-- else on the destination:\n{}",
                quote(database),
                self.give("address")
            ),
            Some(E::ERRCODE_TOO_MANY_CONNECTIONS) => format!("-- on the source:\nALTER ROLE {} CONNECTION LIMIT -1;", quote(role)),
            None if reason.contains("no password supplied") => self.give("password"),
            _ => format!(
                "-- is the server up, does it listen on this port, does a firewall let this host through? If it is elsewhere:\n{}",
                self.give("address")
            ),
        }
    }

    /// What helps if only a superuser may give a connection parameter.
    fn allow(&self) -> String {
        match self.server {
            Some(server) => format!(
                "-- on the destination, where it is one of the options:\nALTER SERVER {0} OPTIONS (DROP …);\n\
                 ALTER USER MAPPING FOR {1} SERVER {0} OPTIONS (DROP …);",
                quote(server),
                quote(&self.role)
            ),
            None => format!(
                "-- take it out of data_source; or, as a superuser on the destination:\n\
                 UPDATE {} SET password_required = false WHERE data_source_id = {};",
                self.table, self.id
            ),
        }
    }

    /// The statement that corrects the row of this source, or the foreign server behind it.
    fn give(&self, what: &str) -> String {
        let id = self.id;
        match (self.server, what) {
            (None, "password") => {
                let user = self.target.user.as_deref().map_or("…".to_string(), str::to_string);
                let (table, user) = (&self.table, literal(&user));
                format!("UPDATE {table} SET username = {user}, pwd = '…' WHERE data_source_id = {id};")
            }
            (None, _) => {
                format!(
                    "UPDATE {} SET data_source = 'host=… port=… dbname=…', pwd = '…' WHERE data_source_id = {id};",
                    self.table
                )
            }
            (Some(server), "password") => {
                let verb = if self.target.has_password { "SET" } else { "ADD" };
                format!(
                    "ALTER USER MAPPING FOR {} SERVER {} OPTIONS ({verb} password '…');",
                    quote(&self.role),
                    quote(server)
                )
            }
            (Some(server), _) => {
                format!("ALTER SERVER {} OPTIONS (SET host '…', SET port '…', SET dbname '…');", quote(server))
            }
        }
    }
}

/// The line of pg_hba.conf that lets this server in. The source's error has the address of this server: `no pg_hba.conf entry for host "10.0.0.7", user …`.
fn hba_line(reason: &str, database: &str, role: &str) -> String {
    let (database, role) = (quote(database), quote(role));
    match reason.split('"').find(|part| part.parse::<std::net::IpAddr>().is_ok()) {
        Some(address) => {
            let kind = if reason.contains("SSL") && !reason.contains("SSL off") { "hostssl" } else { "host" };
            let bits = if address.contains(':') { 128 } else { 32 };
            format!("{kind} {database} {role} {address}/{bits} scram-sha-256")
        }
        None if reason.contains("[local]") => format!("local {database} {role} scram-sha-256"),
        None => format!("host {database} {role} <address of this server>/32 scram-sha-256"),
    }
}

#[cfg(test)]
mod tests {
    use super::hba_line;

    #[test]
    fn the_line_for_pg_hba_conf_names_the_address_that_the_server_saw() {
        let line = |text: &str| hba_line(&format!("failed: FATAL:  no pg_hba.conf entry for {text}"), "d b", "r");
        assert_eq!(
            line("host \"10.0.0.7\", user \"r\", database \"d b\", no encryption"),
            "host \"d b\" \"r\" 10.0.0.7/32 scram-sha-256"
        );
        assert_eq!(
            line("host \"fe80::1\", user \"r\", database \"d b\", SSL encryption"),
            "hostssl \"d b\" \"r\" fe80::1/128 scram-sha-256"
        );
        assert_eq!(line("host \"[local]\", user \"r\", database \"d b\""), "local \"d b\" \"r\" scram-sha-256");
    }
}
