//! Connecting to a source: from a row of dblink_mapping_mimeo (or a foreign server) to a session that is set up.

use crate::backend::encoding;
use crate::backend::grant;
use crate::backend::identity::{is_superuser, role_name};
use crate::backend::name::{literal, quote};
use crate::error::{Error, Result};
use crate::settings;
use crate::source::connection_cache;
use crate::source::libpq::{is_parameter, parse_connection_string, Link, NO_FILE};
use crate::source::server::Server;
use crate::source::sharing::Sharing;
use pgrx::PgSqlErrorCode;
use pgrx::{pg_sys, PgList};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::raw::c_char;
use std::time::Duration;

/// A row of dblink_mapping_mimeo.
#[derive(Clone, Deserialize)]
pub struct Mapping {
    pub data_source_id: i32,
    pub data_source: String,
    pub username: Option<String>,
    pub pwd: Option<String>,
    pub password_required: bool,
}

/// Shows no password, and no connection string, which may contain one.
impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data source {}", self.data_source_id)
    }
}

/// The role and the database of a data source, as far as it names them.
#[derive(Debug, Clone, Default)]
pub struct Target {
    pub user: Option<String>,
    pub database: Option<String>,
    pub has_password: bool,
}

impl Mapping {
    /// Where it leads for destinations of this owner.
    pub fn target(&self, owner: pg_sys::Oid) -> Target {
        // A user mapping that is missing is an error of PostgreSQL's own.
        let parameters = crate::backend::subtransaction::attempt(|| parameters(self, owner));
        let Ok((parameters, _)) = parameters else { return Target::default() };
        let filled = |keyword| parameters.get(keyword).filter(|value| !value.is_empty()).cloned();
        Target { user: filled("user"), database: filled("dbname"), has_password: filled("password").is_some() }
    }

    /// The foreign server that it names, if it is not a connection string.
    pub fn foreign_server(&self) -> Option<&str> {
        let text = self.data_source.trim();
        let is_connection_string =
            text.contains('=') || text.starts_with("postgresql://") || text.starts_with("postgres://");
        (!is_connection_string).then_some(text)
    }
}

/// Who connects.
pub struct Applicant<'a> {
    /// The owner of the destination, whose user mapping counts for a foreign server.
    pub owner: pg_sys::Oid,
    /// Both the caller and the owner are superusers, who may use the server's own identity.
    pub trusted: bool,
    /// For application_name.
    pub destination: &'a str,
}

/// A session on a source, set up.
pub struct Connection {
    pub(super) link: ManuallyDrop<Link>,
    label: String,
    role: String,
    endpoint: String,
    /// A superuser answers for the source: see `parameters`.
    vouched: bool,
    /// A pooler may give each transaction another session.
    pooled: bool,
    /// With the password: to connect once more.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) sharing: Sharing,
    /// The open snapshot may be older than the lock on a table that is read in it.
    pub(super) reads_unlocked: bool,
}

/// Settings that are pinned on sources: text that they send and read, and the rows that they find, do not depend on a role, a database or a server.
const PINNED: [(&str, &str); 15] = [
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("timezone", "GMT"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("lc_monetary", "C"),
    ("standard_conforming_strings", "on"),
    ("backslash_quote", "safe_encoding"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    ("row_security", "on"),
    // It leaves out rows that an index finds.
    ("gin_fuzzy_search_limit", "0"),
];

/// The same for each transaction: behind a pooler, what is set for a session may be set in the session of another client.
pub(super) fn pinned_in_transaction() -> String {
    PINNED.iter().map(|(name, value)| format!("SET LOCAL {name} = {}; ", literal(value))).collect()
}

/// Sets them for the session of a connection, unless that is a pooler's, where other clients would inherit them. Returns the pid of the
/// server process, and the role.
fn pinned_in_session(link: &Link) -> String {
    let settings: Vec<_> =
        PINNED.iter().map(|(name, value)| format!("({}, {})", literal(name), literal(value))).collect();
    format!(
        "SELECT pg_catalog.concat(p.pid, ' ', current_user, pg_catalog.left((
                SELECT pg_catalog.string_agg(pg_catalog.set_config(s.name, s.value, false), '') FROM (VALUES {}) s(name, value)
                 WHERE p.pid OPERATOR(pg_catalog.=) {}), 0))
           FROM (SELECT pg_catalog.pg_backend_pid() AS pid OFFSET 0) p",
        settings.join(", "),
        link.process()
    )
}

impl Connection {
    /// # Errors
    /// InvalidSource, PasswordRequired, Unreachable, NoDescriptor, OldSource; Remote if the session cannot be set up.
    pub fn open(mapping: &Mapping, applicant: &Applicant<'_>) -> Result<Connection> {
        let (mut parameters, password_required) = parameters(mapping, applicant.owner)?;
        let label = label(mapping, &parameters);
        let must_use_password = password_required && !applicant.trusted;
        if must_use_password && parameters.get("password").is_none_or(String::is_empty) {
            return Err(Error::PasswordRequired(label));
        }

        let timeout = time_limit(&parameters);
        let defaults = [
            ("fallback_application_name", "mimeo".to_string()),
            ("tcp_user_timeout", settings::tcp_user_timeout().as_millis().to_string()),
            ("keepalives_idle", settings::keepalives_idle().as_secs().to_string()),
        ];
        for (keyword, value) in defaults {
            parameters.entry(keyword.to_string()).or_insert(value);
        }
        parameters.insert("client_encoding".to_string(), encoding::of_database());
        let vouched = !password_required;
        if !vouched {
            // Nothing of this server's own: no client certificate, no password file, no Kerberos ticket.
            for (keyword, value) in [("sslcert", NO_FILE), ("passfile", NO_FILE), ("gssencmode", "disable")] {
                parameters.insert(keyword.to_string(), value.to_string());
            }
        }
        let own_name = parameters.get("application_name").cloned();
        let name = own_name.unwrap_or_else(|| application_name(applicant.destination));
        let mut parameters: Vec<_> = parameters.into_iter().collect();
        let reused = connection_cache::take(&parameters).and_then(|link| set_up_again(link, &name, &label));
        let (link, (pooled, role)) = match reused {
            Some((link, role)) => (link, (false, role)),
            None => {
                let end = parameters.len();
                if !parameters.iter().any(|(keyword, _)| keyword == "application_name") {
                    parameters.push(("application_name".to_string(), name));
                }
                let mut link = Link::open(&parameters, &label, timeout, vouched)?;
                parameters.truncate(end);
                let set_up = set_up(&mut link, "")?;
                (link, set_up)
            }
        };
        if must_use_password && !link.used_password() {
            return Err(Error::PasswordRequired(label));
        }
        if link.server() < Server::OLDEST {
            let (version, oldest) = (link.server().major(), Server::OLDEST.major());
            return Err(Error::OldSource { source_label: label, version, oldest });
        }
        let endpoint = endpoint(&parameters.iter().cloned().collect());
        let (link, sharing) = (ManuallyDrop::new(link), Sharing::default());
        Ok(Connection { link, label, role, endpoint, vouched, pooled, parameters, sharing, reads_unlocked: false })
    }

    /// How errors and notices name the source: `data source 1 (host=… dbname=…)`, without a password.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where the connection leads (host, port, database): a change means other data.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn server(&self) -> Server {
        self.link.server()
    }

    /// # Errors
    /// SourceStandby.
    pub fn require_primary(&mut self) -> Result<()> {
        if self.is_standby()? {
            return Err(Error::SourceStandby { source_label: self.label.clone() });
        }
        Ok(())
    }

    pub fn is_standby(&mut self) -> Result<bool> {
        let standby = self.value("SELECT pg_catalog.pg_is_in_recovery()", &[], "asking whether it is a standby")?;
        Ok(standby.as_deref() == Some("t"))
    }

    /// Whether this server's environment and files may be used for it.
    pub fn is_vouched(&self) -> bool {
        self.vouched
    }

    /// The role on the source.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Runs one statement with text parameters; the first column of its first row.
    pub fn value(&mut self, sql: &str, parameters: &[&str], doing: &str) -> Result<Option<String>> {
        self.pinned(|this| {
            this.link.send(sql, parameters)?;
            Ok(this.link.answers(doing)?.and_then(|answer| answer.value()))
        })
    }

    /// Behind a pooler, runs what is outside of a transaction in a transaction of its own, with the settings pinned.
    fn pinned<T>(&mut self, ask: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if !self.pooled || !self.link.is_idle() {
            return ask(self);
        }
        self.link.send_script(&format!("BEGIN; {}", pinned_in_transaction()))?;
        self.link.answers("pinning settings")?;
        let answer = ask(self);
        match &answer {
            Ok(_) => {
                self.link.send_script("COMMIT")?;
                self.link.answers("ending a transaction")?;
            }
            Err(Error::Remote { .. }) => self.roll_back()?,
            Err(_) => {}
        }
        answer
    }

    /// Runs a statement, and `meanwhile` while the source is at work; the first column of the first row, and what that gave.
    pub fn value_meanwhile<T>(
        &mut self,
        sql: &str,
        doing: &str,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(Option<String>, T)> {
        self.link.send(sql, &[])?;
        let result = meanwhile()?;
        Ok((self.link.answers(doing)?.and_then(|answer| answer.value()), result))
    }

    /// Whether all rows of a query can be read: false if a value is not valid for its type. In the open snapshot, which stays.
    pub fn is_readable(&mut self, query: &str, doing: &str) -> Result<bool> {
        self.script("SAVEPOINT mimeo", doing)?;
        let counted = self.value(&format!("SELECT pg_catalog.count(q.*) FROM ({query}) q"), &[], doing);
        match counted {
            Ok(_) => {}
            Err(Error::Remote { report, .. })
                if report.sqlstate.is_of_class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION) =>
            {
                let _ = self.link.answers(doing);
                self.script("ROLLBACK TO SAVEPOINT mimeo", doing)?;
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.script("RELEASE SAVEPOINT mimeo", doing)?;
        Ok(true)
    }

    /// After an error: reads what is left of its answer, and ends the transaction; of a snapshot that is shared, what this member has done.
    pub fn roll_back(&mut self) -> Result<()> {
        let _ = self.link.answers("ending a transaction");
        if self.sharing.is_open() {
            return self.begin_member();
        }
        self.script("ROLLBACK", "ending a transaction")?;
        Ok(())
    }

    /// Runs statements without parameters; the first column of the last one's first row.
    pub fn script(&mut self, sql: &str, doing: &str) -> Result<Option<String>> {
        let ask = |this: &mut Self, sql: &str| {
            this.link.send_script(sql)?;
            Ok(this.link.answers(doing)?.and_then(|answer| answer.value()))
        };
        // One that begins a transaction itself.
        match sql.split_once(';').filter(|(begin, _)| begin.trim_start().starts_with("BEGIN")) {
            Some((begin, rest)) if self.pooled => ask(self, &format!("{begin}; {}{rest}", pinned_in_transaction())),
            Some(_) => ask(self, sql),
            None => self.pinned(|this| ask(this, sql)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: taken once, and never used after this.
        let link = unsafe { ManuallyDrop::take(&mut self.link) };
        if !std::thread::panicking() && !self.pooled {
            connection_cache::give(&self.parameters, link);
        }
    }
}

/// Sets a session up, after `first`; returns whether it is a pooler's, and its role.
fn set_up(link: &mut Link, first: &str) -> Result<(bool, String)> {
    let script = format!("{first}{}", pinned_in_session(link));
    link.send_script(&script)?;
    let answer = link.answers("setting the session up")?.and_then(|answer| answer.value()).unwrap_or_default();
    let (process, role) = answer.split_once(' ').unwrap_or_default();
    Ok((process != link.process().to_string(), role.to_string()))
}

/// The same for a session that another job has used. None if it has been lost meanwhile.
fn set_up_again(mut link: Link, application_name: &str, label: &str) -> Option<(Link, String)> {
    link.belongs_to(label);
    link.answers("ending a transaction").ok()?;
    // A condition may have changed more of the session than its settings.
    let first = format!(
        "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP; SELECT pg_catalog.pg_advisory_unlock_all(); \
         SET application_name = {}; ",
        literal(application_name)
    );
    let (_, role) = set_up(&mut link, &first).ok()?;
    Some((link, role))
}

/// Connection parameters that any role may give that may write to dblink_mapping_mimeo, or has a foreign server. The others read or write
/// files of this server, or use its identity (passfile, service, sslkey, sslkeylogfile, gssdelegation), or change the kind of the session
/// (replication). Newer versions of libpq add more of these.
const HARMLESS: [&str; 32] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "options",
    "password",
    "port",
    "require_auth",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcompression",
    // Certificates: the content of a file that holds none is not shown.
    "sslcrl",
    "sslcrldir",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// # Errors
/// InvalidSource.
fn require_harmless(parameters: &BTreeMap<String, String>, label: &str) -> Result<()> {
    match parameters.keys().find(|keyword| !HARMLESS.contains(&keyword.as_str())) {
        None => Ok(()),
        Some(keyword) => Err(Error::InvalidSource {
            source_label: label.to_string(),
            reason: format!("only a superuser may give it the connection parameter \"{keyword}\""),
            forbidden: true,
        }),
    }
}

fn invalid(label: &str, reason: impl Into<String>) -> Error {
    Error::InvalidSource { source_label: label.to_string(), reason: reason.into(), forbidden: false }
}

/// The libpq parameters of a data source, and whether a password is required. Parameters that are not harmless are allowed only in parts that a superuser
/// has written: a row without password_required, which nobody else can write, a foreign server that a superuser
/// owns, or a user mapping without password_required.
///
/// # Errors
/// InvalidSource, ForeignServer.
fn parameters(mapping: &Mapping, owner: pg_sys::Oid) -> Result<(BTreeMap<String, String>, bool)> {
    let label = format!("data source {}", mapping.data_source_id);
    let mut required = mapping.password_required;
    let mut parameters: BTreeMap<String, String> = match mapping.foreign_server() {
        None => {
            let parameters = parse_connection_string(mapping.data_source.trim())
                .ok_or_else(|| invalid(&label, "its data_source is not a connection string that libpq can read"))?
                .into_iter()
                .collect();
            if required {
                require_harmless(&parameters, &label)?;
            }
            parameters
        }
        Some(server) => {
            let (parameters, server_requires) = foreign_server(server, owner, &label)?;
            if required && mapping.pwd.as_ref().is_some_and(|password| !password.is_empty()) {
                // The owner of the foreign server may point it elsewhere.
                return Err(invalid(&label, "the password for a foreign server belongs in a user mapping, not in pwd"));
            }
            required &= server_requires;
            parameters
        }
    };
    for (keyword, value) in [("user", &mapping.username), ("password", &mapping.pwd)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            parameters.insert(keyword.to_string(), value.clone());
        }
    }
    // The source would report that no database of that name exists, and the name may contain a password.
    let is_connection_string =
        |name: &String| name.contains("://") || parse_connection_string(name).is_some_and(|found| !found.is_empty());
    if parameters.get("dbname").is_some_and(is_connection_string) {
        return Err(invalid(&label, "its dbname is a connection string"));
    }
    Ok((parameters, required))
}

/// The options of a foreign server and of the owner's user mapping for it, as far as libpq knows them, and whether a password is
/// required.
///
/// # Errors
/// InvalidSource, ForeignServer, UserMapping.
fn foreign_server(name: &str, owner: pg_sys::Oid, label: &str) -> Result<(BTreeMap<String, String>, bool)> {
    let c_name = CString::new(name).map_err(|_| invalid(label, "its name holds a NUL byte"))?;
    // SAFETY: with missing_ok the result is null or a server in the current memory context.
    let server = unsafe { pg_sys::GetForeignServerByName(c_name.as_ptr(), true) };
    if server.is_null() {
        let written = if may_be_told(name) { format!(" ({name})") } else { String::new() };
        let reason = "its data_source is neither a connection string nor the name of a foreign server";
        return Err(invalid(label, format!("{reason}{written}")));
    }
    // SAFETY: not null.
    let (server_id, server_owner) = unsafe { ((*server).serverid, (*server).owner) };
    if !may_use_server(server_id, owner) {
        let role = role_name(owner)?;
        let fix = grant::on_foreign_server(name, &role);
        return Err(Error::ForeignServer { source_label: label.to_string(), role, server: name.to_string(), fix });
    }
    if !has_user_mapping(server_id, owner)? {
        let role = role_name(owner)?;
        let fix = format!(
            "CREATE USER MAPPING FOR {} SERVER {} OPTIONS (user '…', password '…');",
            quote(&role),
            quote(name)
        );
        return Err(Error::UserMapping { source_label: label.to_string(), role, server: name.to_string(), fix });
    }
    // SAFETY: not null; both lists hold what foreign options are, and a mapping is there.
    let (mut parameters, mut user_options) =
        unsafe { (options((*server).options), options((*pg_sys::GetUserMapping(owner, server_id)).options)) };
    let waived = user_options.get("password_required").is_some_and(|value| value == "false");
    let required = !(waived && is_of_postgres_fdw(server_id)?);
    for (options, is_of_superuser) in [(&mut parameters, is_superuser(server_owner)), (&mut user_options, !required)] {
        options.retain(|keyword, _| is_parameter(keyword));
        if !is_of_superuser {
            require_harmless(options, label)?;
        }
    }
    parameters.append(&mut user_options);
    Ok((parameters, required))
}

/// # Safety
/// A list of DefElem whose arguments are strings, as foreign options are.
unsafe fn options(list: *mut pg_sys::List) -> BTreeMap<String, String> {
    // SAFETY: as the caller has promised.
    unsafe {
        let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().to_string();
        PgList::<pg_sys::DefElem>::from_pg(list)
            .iter_ptr()
            .map(|option| (text((*option).defname), text(pg_sys::defGetString(option))))
            .collect()
    }
}

/// Only its validator sees to it that a superuser has written a user mapping with password_required = false.
fn is_of_postgres_fdw(server: pg_sys::Oid) -> Result<bool> {
    crate::backend::spi::is_true(
        "SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 2
           FROM pg_catalog.pg_foreign_server s
           JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw
           JOIN pg_catalog.pg_proc p
             ON p.oid OPERATOR(pg_catalog.=) w.fdwhandler AND p.proname OPERATOR(pg_catalog.=) 'postgres_fdw_handler'
             OR p.oid OPERATOR(pg_catalog.=) w.fdwvalidator AND p.proname OPERATOR(pg_catalog.=) 'postgres_fdw_validator'
           JOIN pg_catalog.pg_depend d
             ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
            AND d.objid OPERATOR(pg_catalog.=) p.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
            AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           JOIN pg_catalog.pg_extension e
             ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'postgres_fdw'
          WHERE s.oid OPERATOR(pg_catalog.=) $1",
        &[server.into()],
    )
}

fn has_user_mapping(server: pg_sys::Oid, role: pg_sys::Oid) -> Result<bool> {
    crate::backend::spi::is_true(
        "SELECT true FROM pg_catalog.pg_user_mappings m
          WHERE m.srvid OPERATOR(pg_catalog.=) $1 AND (m.umuser OPERATOR(pg_catalog.=) $2 OR m.umuser OPERATOR(pg_catalog.=) 0::pg_catalog.oid) LIMIT 1",
        &[server.into(), role.into()],
    )
}

/// Whether what should be a server's name can be shown: it may be a connection string that is spelled wrong, with a password.
pub fn may_be_told(name: &str) -> bool {
    !name.contains(['=', '@', ':', '/'])
}

fn may_use_server(server: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    crate::backend::spi::is_true(
        "SELECT pg_catalog.has_server_privilege($1, $2, 'USAGE')",
        &[role.into(), server.into()],
    )
    .unwrap_or(false)
}

/// A database may have any name; one that looks like a connection string is not shown.
fn label(mapping: &Mapping, parameters: &BTreeMap<String, String>) -> String {
    let mut shown = parameters.clone();
    shown.retain(|keyword, value| keyword != "dbname" || !value.contains(['=', '@', ':']));
    format!("data source {} ({})", mapping.data_source_id, endpoint(&shown))
}

fn endpoint(parameters: &BTreeMap<String, String>) -> String {
    ["service", "host", "hostaddr", "port", "dbname", "user"]
        .iter()
        .filter_map(|keyword| parameters.get(*keyword).map(|value| format!("{keyword}={value}")))
        .collect::<Vec<_>>()
        .join(" ")
}

/// connect_timeout counts for each host, as in libpq.
fn time_limit(parameters: &BTreeMap<String, String>) -> Duration {
    let hosts = parameters.get("host").or(parameters.get("hostaddr")).map_or(1, |hosts| hosts.split(',').count());
    let seconds = parameters.get("connect_timeout").and_then(|text| text.trim().parse::<u64>().ok());
    let one = match seconds {
        Some(0) => Duration::from_secs(365 * 24 * 3600),
        Some(seconds) => Duration::from_secs(seconds.clamp(2, 24 * 3600)),
        None => settings::connect_timeout(),
    };
    one.saturating_mul(hosts as u32)
}

fn application_name(destination: &str) -> String {
    crate::backend::name::cut_middle(&format!("mimeo/{destination}"), crate::backend::name::MAX_BYTES)
}
