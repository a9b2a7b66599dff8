//! How far a refresh by a control column may go without ever missing a row that commits late.
//!
//! Two kinds of transactions can still write below a value that is visible now. Writers hold a lock on the table
//! (taken before nextval() or now() is evaluated for the row), and pg_locks shows it to every role. For a time column,
//! a transaction that began before may also come to the table later, with an old now(). So a candidate is taken, and
//! after it the transactions that could still write below it; once all of these have ended, the candidate is proven.

use crate::backend::foreign_text::ForeignText;
use crate::backend::interrupts;
use crate::backend::moment::Moment;
use crate::backend::name::{quote, Name, Operator};
use crate::error::{Error, Result};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What kind of values a control column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Serial,
    Time,
}

impl Kind {
    /// # Errors
    /// InvalidArgument.
    pub fn of(p_type: &str) -> Result<Kind> {
        match p_type {
            "time" => Ok(Kind::Time),
            "serial" => Ok(Kind::Serial),
            other => Err(Error::InvalidArgument(format!("p_type is '{other}', it must be 'time' or 'serial'"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Serial => "serial",
            Kind::Time => "time",
        }
    }
}

/// A control column, and what the source tells of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Control {
    pub name: String,
    /// As format_type prints it, without length or precision.
    #[serde(rename = "type")]
    pub type_name: ForeignText,
    /// Why the writers of this table cannot be seen; None if they can.
    obstacle: Option<String>,
    /// With length or precision: a bound has to be cast to it, as the values are.
    sql_type: ForeignText,
    /// Its values come from a sequence without a cache.
    sequence: bool,
    /// Its values come from a default or a trigger on the source, and not from the client.
    given: bool,
    /// No two rows have the same value.
    unique: bool,
    /// A numeric can be infinite there.
    infinite: bool,
    /// The time zone of the source role, which writes zoneless times.
    zone: String,
    /// When the source's server started: observations from before that are void.
    started: String,
    /// What a writer has locked before it gets a value: the table, its partitions, children and ancestors, and the
    /// sequences of the column, which a nextval() locks until its transaction ends.
    locked: Vec<u32>,
}

/// $1: the table, $2: the column.
const CONTROL: &str = r"
WITH RECURSIVE tree(oid) AS (
    SELECT $1::pg_catalog.oid
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree t ON i.inhparent OPERATOR(pg_catalog.=) t.oid
), ancestors(oid) AS (
    SELECT $1::pg_catalog.oid
    UNION
    SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN ancestors t ON i.inhrelid OPERATOR(pg_catalog.=) t.oid
      JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhparent AND c.relkind OPERATOR(pg_catalog.=) 'p'
)
SELECT pg_catalog.json_build_object(
    'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, NULL),
    'sql_type', pg_catalog.format_type(a.atttypid, a.atttypmod),
    'given', a.atthasdef OR EXISTS (SELECT FROM pg_catalog.pg_trigger g
        WHERE g.tgrelid OPERATOR(pg_catalog.=) a.attrelid AND NOT g.tgisinternal
          AND (g.tgtype::pg_catalog.int4 OPERATOR(pg_catalog.&) 3) OPERATOR(pg_catalog.=) 3),
    'obstacle', CASE
        WHEN pg_catalog.pg_is_in_recovery() THEN 'the source is a standby'
        WHEN EXISTS (SELECT FROM tree t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.oid
                      WHERE c.relkind OPERATOR(pg_catalog.<>) ALL ('{r,p}'::pg_catalog.char[]))
            THEN 'the source is not a table'
    END,
    'sequence', EXISTS (
        SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid OPERATOR(pg_catalog.=) d.objid
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND d.refobjid OPERATOR(pg_catalog.=) a.attrelid AND d.refobjsubid OPERATOR(pg_catalog.=) a.attnum
           AND d.deptype OPERATOR(pg_catalog.=) 'i'
           AND s.seqcache OPERATOR(pg_catalog.=) 1 AND s.seqincrement OPERATOR(pg_catalog.>) 0 AND NOT s.seqcycle
        UNION ALL
        SELECT FROM pg_catalog.pg_attrdef f
          JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                                     AND d.objid OPERATOR(pg_catalog.=) f.oid
          JOIN pg_catalog.pg_sequence s ON s.seqrelid OPERATOR(pg_catalog.=) d.refobjid
         WHERE f.adrelid OPERATOR(pg_catalog.=) a.attrelid AND f.adnum OPERATOR(pg_catalog.=) a.attnum
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
           AND s.seqcache OPERATOR(pg_catalog.=) 1 AND s.seqincrement OPERATOR(pg_catalog.>) 0 AND NOT s.seqcycle),
    'unique', EXISTS (SELECT FROM pg_catalog.pg_index x WHERE x.indrelid OPERATOR(pg_catalog.=) a.attrelid
                        AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL
                        AND coalesce((pg_catalog.to_jsonb(x) OPERATOR(pg_catalog.->>) 'indnkeyatts')::pg_catalog.int4, x.indnatts)
                            OPERATOR(pg_catalog.=) 1 AND x.indkey[0] OPERATOR(pg_catalog.=) a.attnum),
    'infinite', pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 140000,
    'zone', (SELECT s.reset_val FROM pg_catalog.pg_settings s
              WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) 'timezone'),
    'started', pg_catalog.concat(pg_catalog.pg_postmaster_start_time(), ' ', pg_catalog.pg_stat_get_bgwriter_stat_reset_time()),
    'locked', (SELECT pg_catalog.json_agg(l.oid::bigint) FROM (
        SELECT t.oid FROM tree t
        UNION SELECT p.oid FROM ancestors p
        UNION SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid OPERATOR(pg_catalog.=) d.objid
               WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND d.refobjid OPERATOR(pg_catalog.=) a.attrelid AND d.refobjsubid OPERATOR(pg_catalog.=) a.attnum
        UNION SELECT d.refobjid FROM pg_catalog.pg_attrdef f
          JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                                     AND d.objid OPERATOR(pg_catalog.=) f.oid
          JOIN pg_catalog.pg_sequence s ON s.seqrelid OPERATOR(pg_catalog.=) d.refobjid
         WHERE f.adrelid OPERATOR(pg_catalog.=) a.attrelid AND f.adnum OPERATOR(pg_catalog.=) a.attnum) l))::pg_catalog.text
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid AND a.attname OPERATOR(pg_catalog.=) $2::pg_catalog.name
   AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped";

/// Of the relations in $1: the transactions that may write to them, and all that run in this database. Left out are
/// autovacuum, which inserts no rows and may run for hours; and a backend that is still starting, whose first command
/// comes after this.
const BLOCKERS: &str = r"
SELECT pg_catalog.json_build_object(
    'writers', (SELECT coalesce(pg_catalog.json_agg(DISTINCT l.virtualtransaction), '[]')
                  FROM pg_catalog.pg_locks l
                 WHERE l.locktype OPERATOR(pg_catalog.=) 'relation'
                   AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                        WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
                   AND l.relation OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])
                   AND l.mode OPERATOR(pg_catalog.=) ANY ('{RowExclusiveLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::pg_catalog.text[])
                   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()),
    'running', (SELECT coalesce(pg_catalog.json_agg(DISTINCT l.virtualtransaction), '[]')
                  FROM pg_catalog.pg_locks l
                  JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
                 WHERE l.locktype OPERATOR(pg_catalog.=) 'virtualxid'
                   AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
                   AND a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
                   AND a.usesysid IS NOT NULL))::pg_catalog.text";

/// Which of the transactions in $1 have not ended, and which run in the backends in $2.
const SHOWN: &str = r"
SELECT coalesce(pg_catalog.json_agg(DISTINCT l.virtualtransaction), '[]')::pg_catalog.text FROM pg_catalog.pg_locks l
 WHERE l.virtualtransaction OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])
    OR l.locktype OPERATOR(pg_catalog.=) 'virtualxid'
       AND pg_catalog.split_part(l.virtualtransaction, '/', 1) OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.text[])";

/// The oldest of the transactions in $1, as text. What the role may not see is left out.
const WHO: &str = r"
SELECT pg_catalog.concat_ws(', ', 'pid ' OPERATOR(pg_catalog.||) l.pid::pg_catalog.text,
           'application_name ' OPERATOR(pg_catalog.||) nullif(a.application_name, ''), 'user ' OPERATOR(pg_catalog.||) a.usename::pg_catalog.text,
           'since ' OPERATOR(pg_catalog.||) a.xact_start::pg_catalog.text,
           CASE WHEN l.pid IS NULL THEN 'a prepared transaction: see pg_prepared_xacts' END)
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) l.pid
 WHERE l.virtualtransaction OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])
 ORDER BY a.xact_start NULLS LAST, l.pid LIMIT 1";

/// How long after the arrival of its first command a transaction is certain to be visible in pg_locks.
const UNTIL_SHOWN: Duration = Duration::from_millis(20);

/// A bound that is safe as soon as these transactions have ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// In the control column's type.
    pub value: String,
    /// By the source's clock.
    pub at: Moment,
    /// Those that could write to the table when it was taken, as pg_locks.virtualtransaction names them, and have not ended.
    pub writers: Vec<String>,
    /// All transactions that ran then, and whose backends may still have an old now(); only for a time column.
    #[serde(default)]
    pub running: Vec<String>,
}

/// PostgreSQL's MAX_BACKENDS.
pub const MOST_TRANSACTIONS: usize = 262_143;

#[derive(Deserialize)]
struct Blockers {
    writers: Vec<String>,
    running: Vec<String>,
}

/// The bound that the configured boundary gives.
#[derive(Debug, Clone, Deserialize)]
pub struct Margin {
    /// None on an empty table.
    pub value: Option<String>,
    /// The moment that it stands for, of a time column, by the source's clock.
    pub at: Moment,
}

impl Control {
    /// # Errors
    /// UnsupportedControl.
    pub fn require(&self, kind: Kind, table: &SourceTable) -> Result<()> {
        let fits: &[&str] = match kind {
            Kind::Serial => &["smallint", "integer", "bigint", "numeric"],
            Kind::Time => &["timestamp with time zone", "timestamp without time zone", "date"],
        };
        if fits.iter().any(|name| self.type_name == *name) && precise(&self.sql_type).is_some() {
            return Ok(());
        }
        Err(Error::UnsupportedControl {
            table: table.table().plain(),
            column: self.name.clone(),
            reason: format!(
                "its type is {}; p_type '{}' takes {}",
                self.type_name.for_message(),
                kind.name(),
                fits.join(", ")
            ),
        })
    }

    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    pub fn started(&self) -> &str {
        &self.started
    }

    /// Whether its values come from a default or a trigger: otherwise the client may have taken a value long before.
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// Values are given in order, so that no boundary has to be kept.
    pub fn is_ordered(&self) -> bool {
        self.sequence
    }

    /// No row can come to share the greatest value.
    pub fn has_no_ties(&self) -> bool {
        self.unique || self.sequence
    }

    /// The source's clock, in the column's type; $1 is the zone.
    fn clock(&self, margin: &str) -> String {
        let now = format!("(clock.now{margin})");
        let now = if self.type_name == "timestamp with time zone" {
            now
        } else {
            format!("pg_catalog.timezone($1::pg_catalog.text, {now})")
        };
        // `require` has checked that it is one of these.
        format!("{now}::{}", precise(&self.sql_type).unwrap_or_default())
    }

    fn greatest(&self, table: &Name) -> String {
        let column = quote(&self.name);
        let finite = if self.type_name == "numeric" {
            let beyond = if self.infinite { "NaN,Infinity,-Infinity" } else { "NaN" };
            format!(
                " WHERE {column} OPERATOR(pg_catalog.<>) ALL ('{{{beyond}}}'::pg_catalog.text[]::pg_catalog.numeric[])"
            )
        } else {
            String::new()
        };
        format!("(SELECT pg_catalog.max({column}) FROM {table}{finite})")
    }
}

impl Connection {
    /// # Errors
    /// UnsupportedControl if there is no such column.
    pub fn control(&mut self, table: &SourceTable, column: &str) -> Result<Control> {
        let document = self.value(CONTROL, &[&table.oid.to_string(), column], "reading the control column")?;
        match document {
            Some(document) => Ok(serde_json::from_str(&document)?),
            None => Err(Error::UnsupportedControl {
                table: table.table().plain(),
                column: column.to_string(),
                reason: "there is no such column".to_string(),
            }),
        }
    }

    /// A bound that covers all rows that are visible now, and the transactions that may still write below it. None on an empty table.
    pub fn candidate(&mut self, table: &SourceTable, control: &Control, kind: Kind) -> Result<Option<Candidate>> {
        let (value, parameters): (String, Vec<&str>) = match kind {
            Kind::Time => (control.clock(""), vec![control.zone.as_str()]),
            Kind::Serial => (control.greatest(&table.table()), Vec::new()),
        };
        let parameters = if value.contains("$1") { parameters } else { Vec::new() };
        let margin = self.margin_of(&value, "", &parameters)?;
        let Some(value) = margin.value else { return Ok(None) };
        // In a statement of its own: the locks are read after the candidate. A transaction's now() is the moment when its
        // first command came in; a moment later pg_locks shows it.
        if kind == Kind::Time {
            interrupts::sleep(UNTIL_SHOWN);
        }
        let locked: Vec<String> = control.locked.iter().map(u32::to_string).collect();
        let document =
            self.value(BLOCKERS, &[&format!("{{{}}}", locked.join(","))], "looking for transactions that write")?;
        let blockers: Blockers = serde_json::from_str(&document.unwrap_or_default())?;
        for names in [&blockers.writers, &blockers.running] {
            if names.len() > MOST_TRANSACTIONS || names.iter().any(|name| name.len() > 64) {
                return Err(Error::Internal("more transactions than a server can have at once".to_string()));
            }
        }
        let running = if kind == Kind::Time { blockers.running } else { Vec::new() };
        Ok(Some(Candidate { value, at: margin.at, writers: blockers.writers, running }))
    }

    /// now − boundary, or max(control) − boundary.
    pub fn margin(&mut self, table: &SourceTable, control: &Control, kind: Kind, boundary: &str) -> Result<Margin> {
        match kind {
            Kind::Time => {
                let value = control.clock(" OPERATOR(pg_catalog.-) $2::pg_catalog.interval");
                // Both parameters are there whatever the column's type.
                let value = format!("CASE WHEN $1::pg_catalog.text IS NOT NULL THEN {value} END");
                self.margin_of(&value, " OPERATOR(pg_catalog.-) $2::pg_catalog.interval", &[&control.zone, boundary])
            }
            Kind::Serial => {
                let greatest = control.greatest(&table.table());
                let value = format!("{greatest}::pg_catalog.numeric OPERATOR(pg_catalog.-) $1::pg_catalog.numeric");
                self.margin_of(&value, "", &[boundary])
            }
        }
    }

    fn margin_of(&mut self, value: &str, before: &str, parameters: &[&str]) -> Result<Margin> {
        let document = self.value(
            &format!(
                "SELECT pg_catalog.json_build_object('value', ({value})::pg_catalog.text,
                    'at', pg_catalog.date_part('epoch', clock.now{before}))::pg_catalog.text
                   FROM (SELECT CASE WHEN pg_catalog.pg_is_in_recovery()
                                     THEN least(pg_catalog.clock_timestamp(), pg_catalog.pg_last_xact_replay_timestamp())
                                     ELSE pg_catalog.clock_timestamp() END AS now OFFSET 0) clock"
            ),
            parameters,
            "reading the newest control value",
        )?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// The oldest of these transactions, which hold a bound back, as far as the role may see it.
    pub fn who_waits(&mut self, transactions: &[String]) -> Result<Option<String>> {
        let list = format!("{{{}}}", transactions.join(","));
        self.value(WHO, &[&list], "looking who keeps rows back")
    }

    /// Which of these transactions have not ended, and which other ones run in the backends of these.
    pub fn shown(&mut self, transactions: &[&str]) -> Result<Vec<String>> {
        if transactions.is_empty() {
            return Ok(Vec::new());
        }
        let backends: Vec<_> = transactions.iter().filter_map(|name| name.split('/').next()).collect();
        let list = |items: &[&str]| format!("{{{}}}", items.join(","));
        let document =
            self.value(SHOWN, &[&list(transactions), &list(&backends)], "waiting for transactions that write")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }
}

/// Which values of the control column a refresh takes, each bound as SQL reads it in the column's type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Range {
    pub lower: Option<String>,
    /// The lower bound belongs to the range.
    pub from_lower: bool,
    pub upper: Option<String>,
    /// The upper bound belongs to the range.
    pub to_upper: bool,
    /// Rows whose value is NULL are left out. Where there are bounds, these leave them out already.
    pub known: bool,
}

impl Range {
    /// ` WHERE …` for `column`, on either side; `bound_type` is a type of pg_catalog.
    pub fn clause(&self, column: &str, bound_type: &str) -> String {
        let mut parts = Vec::new();
        let mut bound = |operator: &str, value: &Option<String>| {
            if let Some(value) = value {
                let value = crate::backend::name::literal(value);
                parts.push(format!("{column} OPERATOR(pg_catalog.{operator}) {value}::pg_catalog.{bound_type}"));
            }
        };
        bound(if self.from_lower { ">=" } else { ">" }, &self.lower);
        bound(if self.to_upper { "<=" } else { "<" }, &self.upper);
        if parts.is_empty() && self.known {
            return format!(" WHERE {column} IS NOT NULL");
        }
        if parts.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", parts.join(" AND "))
    }
}

/// What a query by a control column reads: the rows of `rows_query`, within a range, in order.
pub struct Slice<'a> {
    /// From `rows_query`; it has the control column.
    pub rows: &'a str,
    pub control: &'a Control,
    pub range: &'a Range,
}

impl Slice<'_> {
    fn from(&self) -> String {
        let column = self.column();
        let clause = self.range.clause(&column, bound_type(&self.control.type_name));
        format!("FROM ({}) \"mimeo\"{clause}", self.rows)
    }

    fn column(&self) -> String {
        format!("\"mimeo\".{}", quote(&self.control.name))
    }

    /// These columns of the rows.
    pub fn query(&self, columns: &[String]) -> String {
        let list: Vec<_> = columns.iter().map(|name| format!("\"mimeo\".{}", quote(name))).collect();
        format!("SELECT {} {} ORDER BY {}", list.join(", "), self.from(), self.column())
    }

    /// The greatest control value, as text; None without rows.
    pub fn greatest(&self) -> String {
        format!("SELECT pg_catalog.max({})::pg_catalog.text {}", self.column(), self.from())
    }

    /// `digest` of these rows' control values.
    pub fn digest(&self, kind: Kind) -> String {
        format!("SELECT {} {}", digest_of(kind, &self.column()), self.from())
    }

    /// Returns a row if the key of one of the rows occurs more than once among all rows, whatever their control values.
    pub fn shared_keys(&self, key: &[String], operators: &[Operator]) -> String {
        let list =
            |alias: &str| key.iter().map(|name| format!("{alias}.{}", quote(name))).collect::<Vec<_>>().join(", ");
        let same: Vec<_> = key
            .iter()
            .zip(operators)
            .map(|(name, operator)| format!("\"mimeo_r\".{0} {operator} \"mimeo_k\".{0}", quote(name)))
            .collect();
        format!(
            "SELECT 'shared' FROM ({}) \"mimeo_r\" JOIN (SELECT DISTINCT {} {}) \"mimeo_k\" ON {} GROUP BY {}
             HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 LIMIT 1",
            self.rows,
            list("\"mimeo\""),
            self.from(),
            same.join(" AND "),
            list("\"mimeo_k\"")
        )
    }

    /// The control value of the row after the first `limit`, as text.
    pub fn after(&self, limit: i64) -> String {
        format!("SELECT {0}::pg_catalog.text {1} ORDER BY {0} OFFSET {limit} LIMIT 1", self.column(), self.from())
    }
}

/// A query for how many control values a table has, and for which, in whatever order, as text; either side answers it alike.
pub fn digest(kind: Kind, column: &str, table: &str) -> String {
    format!("SELECT {} FROM {table}", digest_of(kind, column))
}

fn digest_of(kind: Kind, column: &str) -> String {
    let value = match kind {
        Kind::Serial => format!("{column}::pg_catalog.numeric"),
        Kind::Time => format!("pg_catalog.date_part('epoch', {column})"),
    };
    let bits = format!("('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.md5({value}::pg_catalog.text), 1, 15))::pg_catalog.bit(60)");
    format!("pg_catalog.concat(pg_catalog.count({column}), ' ', pg_catalog.sum({bits}::pg_catalog.int8::pg_catalog.numeric))")
}

/// The type in pg_catalog that bounds of a control column are compared in.
pub fn bound_type(type_name: &ForeignText) -> &'static str {
    let types = [
        ("smallint", "int8"),
        ("integer", "int8"),
        ("bigint", "int8"),
        ("timestamp with time zone", "timestamptz"),
        ("timestamp without time zone", "timestamp"),
        ("date", "date"),
    ];
    types.iter().find(|(name, _)| *type_name == *name).map_or("numeric", |(_, bound)| bound)
}

/// The type of a control column, with its precision, as text that is built here; None if it is not a type of control columns.
fn precise(sql_type: &ForeignText) -> Option<String> {
    let said = sql_type.for_message();
    let (name, digits) = match said.split_once('(') {
        None => (said.clone(), None),
        Some((before, rest)) => {
            let (digits, after) = rest.split_once(')')?;
            (format!("{before}{after}"), Some(digits))
        }
    };
    let known = [
        ("smallint", "int2"),
        ("integer", "int4"),
        ("bigint", "int8"),
        ("numeric", "numeric"),
        ("timestamp with time zone", "timestamptz"),
        ("timestamp without time zone", "timestamp"),
        ("date", "date"),
    ];
    let known = known.iter().find(|(known, _)| *known == name)?.1;
    let Some(digits) = digits else { return Some(format!("pg_catalog.{known}")) };
    let numbers =
        digits.split(',').map(|digit| digit.trim().parse::<i16>()).collect::<std::result::Result<Vec<_>, _>>();
    let numbers: Vec<_> = numbers.ok()?.iter().map(i16::to_string).collect();
    (numbers.len() <= 2).then(|| format!("pg_catalog.{known}({})", numbers.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::precise;

    #[test]
    fn the_type_of_a_control_column_is_written_anew() {
        for (said, written) in [
            ("integer", Some("pg_catalog.int4")),
            ("numeric(10,-2)", Some("pg_catalog.numeric(10, -2)")),
            ("timestamp(3) with time zone", Some("pg_catalog.timestamptz(3)")),
            ("timestamp(0) without time zone", Some("pg_catalog.timestamp(0)")),
            ("date", Some("pg_catalog.date")),
            ("date); DROP TABLE t --", None),
            ("numeric(1)) --", None),
            ("numeric(1,2,3)", None),
            ("numeric(x)", None),
            ("text", None),
            ("app.date", None),
        ] {
            assert_eq!(precise(&said.into()).as_deref(), written, "{said}");
        }
    }
}
