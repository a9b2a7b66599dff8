//! The tables that a dml or logdel job's triggers belong to, and what a role needs to make them.

use super::capture::Capture;
use super::objects::Objects;
use crate::backend::grant::{self, Right};
use crate::backend::name::Name;
use crate::error::{Error, Result};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};

/// Tables that belong to a source: itself, its partitions, its children.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub oid: u32,
    /// A TRUNCATE and a rewrite change it.
    pub file: u32,
    schema: String,
    name: String,
    pub(super) owner: String,
    readable: bool,
    triggerable: bool,
    empty: bool,
    /// Statements may name another table, and write to this one.
    child: bool,
    /// It holds no rows of its own, its partitions do.
    partitioned: bool,
    /// The newest of its triggers: a partition that is detached loses them, and gets others when it is attached again.
    trigger: u32,
    /// How many of the job's triggers it has that fire, and that do not.
    firing: u32,
    disabled: u32,
    /// Those of the firing that its owner has made to fire always.
    always: u32,
}

impl Member {
    pub fn is_child(&self) -> bool {
        self.child
    }

    /// Stays the same as long as nothing happens to the table that its triggers do not see.
    pub fn storage_id(&self, cloned: bool) -> (u32, u32, u32) {
        if cloned {
            (self.oid, self.file, self.trigger)
        } else {
            (self.oid, 0, 0)
        }
    }

    pub fn has_rows(&self) -> bool {
        !self.empty
    }

    pub fn is_readable(&self) -> bool {
        self.readable
    }

    pub fn table(&self) -> Name {
        Name::new(&self.schema, &self.name)
    }
}

/// How many triggers a table gets: one more from 2.1, for rows whose key changes, unless they all fire once a row.
fn trigger_count(capture: &Capture<'_>) -> u32 {
    if capture.typed && !capture.rows {
        5
    } else {
        4
    }
}

/// $1: the table, $2: schema and $3: names of the functions, a JSON array.
const MEMBERS: &str = r"
WITH RECURSIVE tree(oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
), triggers AS (
    SELECT g.tgrelid, g.tgenabled, g.oid::bigint AS number FROM pg_trigger g
     WHERE g.tgrelid IN (SELECT t.oid FROM tree t)
       AND g.tgfoid IN (SELECT p.oid FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace
                         WHERE s.nspname = $2 AND p.proname IN (SELECT json_array_elements_text($3::json)::name) AND p.pronargs = 0)
)
SELECT json_agg(json_build_object('oid', c.oid::bigint, 'file', c.relfilenode::bigint, 'schema', n.nspname, 'name', c.relname,
            'owner', pg_get_userbyid(c.relowner),
            'readable', has_table_privilege(c.oid, 'SELECT'), 'triggerable', has_table_privilege(c.oid, 'TRIGGER'),
            'empty', c.relkind <> 'r' OR pg_relation_size(c.oid) = 0,
            'partitioned', c.relkind = 'p',
            'child', EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid),
            'trigger', (SELECT coalesce(max(g.number), 0) FROM triggers g WHERE g.tgrelid = c.oid),
            'firing', (SELECT count(*) FROM triggers g WHERE g.tgrelid = c.oid AND g.tgenabled IN ('O', 'A')),
            'disabled', (SELECT count(*) FROM triggers g WHERE g.tgrelid = c.oid AND g.tgenabled NOT IN ('O', 'A')),
            'always', (SELECT count(*) FROM triggers g WHERE g.tgrelid = c.oid AND g.tgenabled = 'A')
        ) ORDER BY c.oid = $1::oid DESC, c.oid)::pg_catalog.text
  FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace";

/// $1: the schema, $2: the table.
const RIGHTS: &str = r"
SELECT json_build_object(
    'schema', coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE')
                FROM pg_namespace n WHERE n.nspname = $1), false),
    'exists', EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $1))::pg_catalog.text";

impl Connection {
    /// Refuses a role that may not set a queue up.
    ///
    /// # Errors
    /// SourceRight, with what has to be run on the source.
    pub fn require_capture_rights(&mut self, schema: &str, members: &[Member], cloned: bool) -> Result<()> {
        let Some(fix) = grant::fixes(&self.capture_rights(schema, members, cloned)?) else { return Ok(()) };
        Err(Error::SourceRight {
            role: self.role().to_string(),
            action: format!("make a queue in schema \"{schema}\" and triggers on the table"),
            source_label: self.label().to_string(),
            fix,
        })
    }

    /// What the role needs to set a queue up, beside reading the table.
    pub fn capture_rights(&mut self, schema: &str, members: &[Member], cloned: bool) -> Result<Vec<Right>> {
        #[derive(Deserialize)]
        struct Rights {
            schema: bool,
            exists: bool,
        }
        let document = self.value(RIGHTS, &[schema], "looking at privileges")?.unwrap_or_default();
        let found: Rights = serde_json::from_str(&document)?;
        let role = self.role();
        let mut rights = vec![Right::new(format!("schema {schema}"), "USAGE, CREATE", found.schema, || {
            if found.exists {
                grant::on_schema("USAGE, CREATE", schema, role)
            } else {
                grant::create_schema(schema, role)
            }
        })];
        for (ordinal, member) in members.iter().enumerate() {
            if member.partitioned && !cloned {
                continue;
            }
            let table = member.table();
            rights.push(Right::new(table.plain(), "TRIGGER", member.triggerable, || {
                grant::on_table("TRIGGER", &table, role)
            }));
            // A TRUNCATE of a child reads its keys; that of a partitioned table does not.
            if ordinal > 0 && !cloned {
                rights.push(Right::new(table.plain(), "SELECT", member.readable, || {
                    grant::on_table("SELECT", &table, role)
                }));
            }
        }
        Ok(rights)
    }

    /// The table and what belongs to it, with the job's triggers. In the open snapshot.
    pub fn members(&mut self, table: &SourceTable, objects: Option<&Objects>) -> Result<Vec<Member>> {
        let (schema, names) =
            objects.map_or(("", "[]".to_string()), |objects| (&objects.function.schema, objects.function_names()));
        let document = self
            .value(MEMBERS, &[&table.oid.to_string(), schema, &names], "looking at the triggers")?
            .unwrap_or_default();
        Ok(serde_json::from_str(&document)?)
    }
}

/// The members that get triggers of their own: not the partitions of a table that gives them its own, and where it does not, only those that
/// hold rows.
pub(super) fn triggered<'a>(capture: &Capture<'_>, members: &'a [Member]) -> impl Iterator<Item = &'a Member> {
    let cloned = capture.cloned;
    let all = if cloned { members.len().min(1) } else { members.len() };
    members[..all].iter().filter(move |member| cloned || !member.partitioned)
}

/// Members that lack a trigger of their own.
pub fn untriggered<'a>(capture: &Capture<'_>, members: &'a [Member]) -> Vec<&'a Member> {
    let wanted = trigger_count(capture);
    triggered(capture, members).filter(|member| member.firing + member.disabled < wanted).collect()
}

/// Whether all their triggers are there, and as the maker made them.
pub fn is_as_made(capture: &Capture<'_>, members: &[Member]) -> bool {
    let as_made =
        |member: &Member| member.firing == trigger_count(capture) && member.disabled == 0 && member.always == 0;
    members.iter().filter(|member| capture.cloned || !member.partitioned).all(as_made)
}

/// Whether a trigger was disabled, or taken away from the table itself, and changes were missed.
pub fn has_disabled_triggers(capture: &Capture<'_>, members: &[Member]) -> bool {
    members.iter().any(|member| member.disabled > 0)
        || match members.first() {
            Some(table) if table.partitioned && !capture.cloned => false,
            Some(table) => table.firing < trigger_count(capture),
            None => true,
        }
}
