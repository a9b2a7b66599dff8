//! What a dml or logdel job has on its source: a queue of the keys that have changed, and what fills it.
//!
//! Triggers fire once a statement, and add the keys of all its rows in one INSERT … SELECT from the transition tables; one
//! more fires for rows whose key changes. A partitioned table has row triggers instead, which its partitions get by
//! themselves, those to come too. The trigger function runs as the source role with a pinned search_path, so writers need no privilege on the queue.
//!
//! A row of the queue: the key, `mimeo_seq`, the writer's `mimeo_xid`, and `mimeo_op`: I, U, D; T for a TRUNCATE. One
//! row with P tells in `mimeo_seq` which position of the job was the last whose rows were removed. That of a logdel job also has the time, and of a deleted row all values.

use crate::backend::interrupts;
use crate::backend::name::{literal, quote, quote_list, with_suffix, Name};
use crate::backend::relation::Patience;
use crate::error::{Error, Result};
use crate::shape::{Shape, KEY_OPERATORS};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The objects of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Objects {
    pub queue: Name,
    pub function: Name,
    /// What the names of the triggers begin with.
    pub trigger: String,
}

impl Objects {
    /// Those of the `number`th destination of a table.
    fn named(schema: &str, table: &Name, number: u32) -> Objects {
        let base = format!("{}_{}", table.schema, table.name);
        let number = if number == 0 { String::new() } else { format!("{number:02}") };
        Objects {
            queue: Name::new(schema, with_suffix(&base, &format!("_q{number}"))),
            function: Name::new(schema, with_suffix(&base, &format!("_mimeo_queue{number}"))),
            trigger: {
                let longest = with_suffix(&base, &format!("_mimeo_trig{number}{LONGEST_EVENT}"));
                longest[..longest.len() - LONGEST_EVENT.len()].to_string()
            },
        }
    }

    /// Takes them all away, the triggers with their function.
    pub fn removal(&self) -> String {
        format!("DROP FUNCTION IF EXISTS {}() CASCADE; DROP TABLE IF EXISTS {};", self.function, self.queue)
    }
}

impl Objects {
    /// Takes them away if they are those that were made with this number.
    pub fn removal_of(&self, number: i64) -> String {
        let queue = &self.queue;
        let body = format!(
            "BEGIN
                 IF to_regclass({}) IS NOT NULL THEN
                     IF EXISTS (SELECT FROM {queue} WHERE mimeo_op = 'P' AND mimeo_seq = {number}) THEN
                         {}
                     END IF;
                 END IF;
             END",
            literal(&queue.to_string()),
            self.removal()
        );
        format!("DO {};", literal(&body))
    }
}

/// What is added to the name of the last trigger.
const LONGEST_EVENT: &str = "_truncate";

/// Further destinations of a table are numbered up to this.
const MOST: u32 = 99;

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
    /// For a comment.
    pub destination: &'a str,
    /// Triggers fire once a row, because the table is partitioned, or because statements may name its parent.
    pub rows: bool,
    /// Tells a queue that is made from all others.
    pub number: i64,
}

impl Capture<'_> {
    /// What function and triggers are made for, as the function's comment keeps it.
    pub fn form(&self) -> String {
        serde_json::json!({"compared": self.compared, "rows": self.rows}).to_string()
    }
}

/// Tables that belong to a source: itself, its partitions, its children.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub oid: u32,
    /// A TRUNCATE and a rewrite change it.
    pub file: u32,
    schema: String,
    name: String,
    owner: String,
    readable: bool,
    triggerable: bool,
    empty: bool,
    /// Statements may name another table, and write to this one.
    child: bool,
    /// The youngest of its triggers: those of a partition that is detached go, and others come when it is attached again.
    trigger: u32,
    /// How many of the job's triggers it has that fire, and that do not.
    firing: u32,
    disabled: u32,
}

impl Member {
    pub fn is_child(&self) -> bool {
        self.child
    }

    /// What tells that nothing happened to it behind the triggers.
    pub fn place(&self, partitioned: bool) -> (u32, u32, u32) {
        if partitioned {
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

/// How many triggers a table gets.
fn trigger_count(row_level: bool) -> u32 {
    if row_level {
        4
    } else {
        5
    }
}

/// $1: the table, $2: schema and $3: name of the function.
const MEMBERS: &str = r"
WITH RECURSIVE tree(oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid
)
SELECT json_agg(json_build_object('oid', c.oid::bigint, 'file', c.relfilenode::bigint, 'schema', n.nspname, 'name', c.relname,
            'owner', c.relowner::regrole::text,
            'readable', has_table_privilege(c.oid, 'SELECT'), 'triggerable', has_table_privilege(c.oid, 'TRIGGER'),
            'empty', c.relkind <> 'r' OR pg_relation_size(c.oid) = 0,
            'child', EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid),
            'trigger', (SELECT coalesce(max(g.oid::bigint), 0) FROM pg_trigger g WHERE g.tgrelid = c.oid
                          AND g.tgfoid = (SELECT p.oid FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace
                                           WHERE s.nspname = $2 AND p.proname = $3 AND p.pronargs = 0)),
            'firing', (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgenabled IN ('O', 'A')
                          AND g.tgfoid = (SELECT p.oid FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace
                                           WHERE s.nspname = $2 AND p.proname = $3 AND p.pronargs = 0)),
            'disabled', (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgenabled NOT IN ('O', 'A')
                          AND g.tgfoid = (SELECT p.oid FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace
                                           WHERE s.nspname = $2 AND p.proname = $3 AND p.pronargs = 0))
        ) ORDER BY c.oid = $1::oid DESC, c.oid)::text
  FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace";

/// $1: the schema, $2: the table.
const RIGHTS: &str = r"
SELECT json_build_object(
    'schema', coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE')
                FROM pg_namespace n WHERE n.nspname = $1), false),
    'exists', EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $1))::text";

/// What a queue holds, in the open snapshot.
#[derive(Debug, Clone, Deserialize)]
pub struct Summary {
    /// pg_current_snapshot(): what it shows is what this snapshot reads.
    pub snapshot: String,
    /// The source cluster: xids of another one mean nothing.
    pub system: String,
    pub rows: u64,
    /// The greatest mimeo_seq.
    pub last: Option<i64>,
    /// The position whose rows were removed last.
    pub removed: Option<i64>,
    /// When the table was truncated last.
    pub truncated: Option<String>,
    /// mimeo_seq of the last row of a batch, if there are more.
    pub cut: Option<i64>,
    /// `Capture::form` of what was made.
    pub form: Option<String>,
    /// What this snapshot sees may not be on the source's disk yet: a transaction that did not wait for it.
    pub unflushed: bool,
}

impl Connection {
    /// The operators that compare the key's columns with themselves. In the open snapshot, with the pinned search_path.
    pub fn key_operators(&mut self, table: &SourceTable, key: &[String]) -> Result<Vec<String>> {
        let names = serde_json::to_string(key)?;
        let sql = KEY_OPERATORS.replace("$2", "(SELECT array_agg(j) FROM json_array_elements_text($2::json) j)");
        let document = self.value(&sql, &[&table.oid.to_string(), &names], "looking the key's operators up")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// Refuses a role that may not set a queue up.
    ///
    /// # Errors
    /// SourceRight, with what has to be run on the source.
    pub fn require_capture_rights(&mut self, schema: &str, members: &[Member], row_level: bool) -> Result<()> {
        #[derive(Deserialize)]
        struct Rights {
            schema: bool,
            exists: bool,
        }
        let document = self.value(RIGHTS, &[schema], "looking at privileges")?.unwrap_or_default();
        let rights: Rights = serde_json::from_str(&document)?;
        let role = quote(self.role());
        let mut fixes = Vec::new();
        if !rights.exists {
            fixes.push(format!("CREATE SCHEMA {} AUTHORIZATION {role};", quote(schema)));
        } else if !rights.schema {
            fixes.push(format!("ALTER SCHEMA {} OWNER TO {role};", quote(schema)));
        }
        for (place, member) in members.iter().enumerate() {
            if row_level && place > 0 {
                break;
            }
            if !member.triggerable {
                fixes.push(format!("GRANT TRIGGER ON {} TO {role};", member.table()));
            }
            // A TRUNCATE of a child reads its keys.
            if !member.readable && place > 0 {
                fixes.push(format!("GRANT SELECT ON {} TO {role};", member.table()));
            }
        }
        if fixes.is_empty() {
            return Ok(());
        }
        Err(Error::SourceRight {
            role: self.role().to_string(),
            action: format!("make a queue in schema {schema} and triggers on the table"),
            source_label: self.label().to_string(),
            fix: fixes.join(" "),
        })
    }

    /// The table and what belongs to it, with the job's triggers. In the open snapshot.
    pub fn members(&mut self, table: &SourceTable, function: Option<&Name>) -> Result<Vec<Member>> {
        let (schema, name) = function.map_or(("", ""), |function| (&function.schema, &function.name));
        let document = self
            .value(MEMBERS, &[&table.oid.to_string(), schema, name], "looking at the triggers")?
            .unwrap_or_default();
        Ok(serde_json::from_str(&document)?)
    }

    /// Names that nobody uses yet: those of another destination of the same table get a number.
    ///
    /// # Errors
    /// TooManyDestinations.
    pub fn free_objects(&mut self, schema: &str, table: &Name) -> Result<Objects> {
        for number in 0..=MOST {
            let objects = Objects::named(schema, table, number);
            let taken = self.value(
                "SELECT 'taken' WHERE EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                               WHERE n.nspname = $1 AND c.relname = $2)
                    OR EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                                WHERE n.nspname = $1 AND p.proname = $3)",
                &[schema, &objects.queue.name, &objects.function.name],
                "looking for a free name",
            )?;
            if taken.is_none() {
                return Ok(objects);
            }
        }
        Err(Error::TooManyDestinations { table: table.plain(), most: MOST + 1 })
    }

    /// Makes queue, function and triggers, in one transaction of the source; with `again` in place of those that are there.
    pub fn make_queue(
        &mut self,
        objects: &Objects,
        capture: &Capture<'_>,
        members: &[Member],
        again: bool,
        wait: Patience,
    ) -> Result<()> {
        let operators = self.key_operators(capture.table, capture.key)?;
        self.end_snapshot()?;
        let mut script = if again { objects.removal() } else { String::new() };
        script.push_str(&objects_script(objects, capture, &operators));
        if let (Some(table), 'p') = (members.first(), capture.shape.kind) {
            // Who makes a partition makes its triggers.
            script.push_str(&format!("GRANT EXECUTE ON FUNCTION {}() TO {};", objects.function, table.owner));
        }
        for member in triggered(capture, members) {
            script.push_str(&triggers_script(objects, &member.table(), capture, &operators));
        }
        self.change_source(&script, wait, "making the queue and its triggers")
    }

    /// Gives a table that has come to belong to the source the job's triggers.
    pub fn add_triggers(
        &mut self,
        objects: &Objects,
        capture: &Capture<'_>,
        operators: &[String],
        member: &Member,
        wait: Patience,
    ) -> Result<()> {
        self.change_source(&triggers_script(objects, &member.table(), capture, operators), wait, "making triggers")
    }

    /// Runs statements that lock tables of the source in one transaction, without making writers wait for long behind them:
    /// they stand in a lock's queue for a moment, then step back for a growing pause.
    pub fn change_source(&mut self, script: &str, wait: Patience, doing: &str) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            let whole = format!(
                "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
                 SET LOCAL client_min_messages = error; SET LOCAL lock_timeout = {}; {script} COMMIT",
                wait.queue.as_millis().max(1)
            );
            let error = match self.script(&whole, doing) {
                Ok(_) => return Ok(()),
                Err(error @ Error::Remote { .. }) => error,
                Err(error) => return Err(error),
            };
            self.roll_back()?;
            if error.sqlstate_text() != "55P03" || start.elapsed() + pause > wait.give_up {
                return Err(error);
            }
            interrupts::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    /// Removes what a committed refresh has applied: the rows that its snapshot saw, up to its last one; and leaves the number
    /// of that position there. Unless another copy of this job has done so since: then false, and nothing is changed. A queue that has
    /// grown and is empty then is truncated, if nobody is writing to it at this instant.
    pub fn remove_applied(
        &mut self,
        queue: &Name,
        expected: [i64; 2],
        position: i64,
        snapshot: &str,
        last: i64,
    ) -> Result<bool> {
        self.script(
            &format!(
                "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
                 LOCK TABLE {queue} IN SHARE UPDATE EXCLUSIVE MODE"
            ),
            "opening the queue",
        )?;
        let left = self.value(
            &format!(
                "WITH gone AS (
                     DELETE FROM {queue} WHERE (SELECT max(m.mimeo_seq) FROM {queue} m WHERE m.mimeo_op = 'P') = ANY ($4::bigint[])
                        AND (mimeo_op = 'P' OR mimeo_seq <= $1::bigint AND pg_visible_in_snapshot(mimeo_xid, $2::pg_snapshot))
                     RETURNING 1
                 ), position AS (
                     INSERT INTO {queue} (mimeo_seq, mimeo_op) SELECT $3::bigint, 'P' FROM (SELECT count(*) AS n FROM gone) g
                      WHERE g.n > 0 RETURNING 1
                 )
                 SELECT CASE WHEN p.n = 0 THEN 'foreign' WHEN pg_relation_size({}::regclass) > {BLOATED} THEN 'big' END
                   FROM (SELECT count(*) AS n FROM position) p",
                literal(&queue.to_string())
            ),
            &[&last.to_string(), snapshot, &position.to_string(), &format!("{{{},{}}}", expected[0], expected[1])],
            "removing what was applied from the queue",
        )?;
        self.script("COMMIT", "removing what was applied from the queue")?;
        if left.as_deref() == Some("big") {
            self.shrink(queue)?;
        }
        Ok(left.as_deref() != Some("foreign"))
    }

    /// Gives the room of dead rows back at once: an old snapshot may keep VACUUM from doing so.
    fn shrink(&mut self, queue: &Name) -> Result<()> {
        let script = format!(
            "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
             LOCK TABLE {queue} IN ACCESS EXCLUSIVE MODE NOWAIT;
             DO {}; COMMIT",
            literal(&format!(
                "DECLARE v bigint;
                 BEGIN
                     IF (SELECT count(*) FROM (SELECT FROM {queue} LIMIT 2) q) = 1 THEN
                         SELECT mimeo_seq INTO v FROM {queue} WHERE mimeo_op = 'P';
                         TRUNCATE {queue};
                         INSERT INTO {queue} (mimeo_seq, mimeo_op) VALUES (v, 'P');
                     END IF;
                 END"
            ))
        );
        match self.script(&script, "shrinking the queue") {
            Err(Error::Remote { .. }) => self.roll_back(),
            other => other.map(|_| ()),
        }
    }

    /// After the source was restored elsewhere, its xids are others: what is there counts as written now.
    pub fn adopt_queue(&mut self, queue: &Name) -> Result<()> {
        self.script(
            &format!(
                "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
                 UPDATE {queue} SET mimeo_xid = pg_catalog.pg_current_xact_id(); COMMIT"
            ),
            "taking the queue over",
        )?;
        Ok(())
    }

    /// Refuses a table with columns that JSON does not hold as they are: a type of somebody's own is written by its cast to
    /// json, if it has one, and not as its text. In the open snapshot.
    ///
    /// # Errors
    /// UnsupportedSource.
    pub fn require_faithful_json(&mut self, table: &SourceTable) -> Result<()> {
        let columns = self.value(
            "SELECT string_agg(a.attname || ' (' || format_type(a.atttypid, NULL) || ')', ', ' ORDER BY a.attnum)
               FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
                AND EXISTS (SELECT FROM pg_cast k WHERE k.castsource = a.atttypid AND k.casttarget IN ('json'::regtype, 'jsonb'::regtype)
                             AND k.castfunc <> 0 AND a.atttypid >= 10000)",
            &[&table.oid.to_string()],
            "looking at the types of the columns",
        )?;
        match columns {
            None => Ok(()),
            Some(columns) => Err(Error::UnsupportedSource {
                table: table.table().plain(),
                source_label: self.label().to_string(),
                reason: format!("a logdel job cannot keep the last values of {columns}"),
            }),
        }
    }

    /// Makes what a snapshot has seen safe on the source's disk: a crash there must not take back what was applied here. After
    /// the snapshot.
    pub fn flush_wal(&mut self) -> Result<()> {
        self.script(
            "SET synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, 'mimeo', '')",
            "flushing the WAL",
        )?;
        Ok(())
    }

    /// Refuses to go on if the role may not take the objects away.
    ///
    /// # Errors
    /// TriggerOwner.
    pub fn require_droppable(&mut self, objects: &Objects, table: &str) -> Result<()> {
        let foreign = self.value(
            "SELECT 'foreign' WHERE EXISTS (SELECT FROM pg_catalog.pg_proc p
                      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
                     WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND p.proname OPERATOR(pg_catalog.=) $2::pg_catalog.name
                       AND NOT pg_catalog.pg_has_role(p.proowner, 'USAGE'))
                 OR EXISTS (SELECT FROM pg_catalog.pg_class c
                      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                     WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $3::pg_catalog.name
                       AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))",
            &[&objects.queue.schema, &objects.function.name, &objects.queue.name],
            "looking at the queue's owner",
        )?;
        if foreign.is_none() {
            return Ok(());
        }
        Err(Error::TriggerOwner { table: table.to_string(), fix: objects.removal() })
    }

    /// What the queue holds, and where a batch of `limit` rows ends. In the open snapshot, with the pinned search_path.
    ///
    /// # Errors
    /// QueueMissing.
    pub fn summary(&mut self, objects: &Objects, timed: bool, limit: Option<i64>) -> Result<Summary> {
        let queue = &objects.queue;
        let cut = limit.map_or("NULL".to_string(), |limit| {
            format!(
                "(SELECT mimeo_seq FROM {queue} WHERE mimeo_op <> 'P' ORDER BY mimeo_seq OFFSET {} LIMIT 1)",
                limit.max(1) - 1
            )
        });
        let at = if timed {
            "max(mimeo_at) FILTER (WHERE mimeo_op = 'T')"
        } else {
            "max('truncated'::text) FILTER (WHERE mimeo_op = 'T')"
        };
        let document = self.value(
            &format!(
                "SELECT json_build_object('snapshot', pg_current_snapshot()::text,
                     'system', (SELECT s.system_identifier::text FROM pg_control_system() s),
                     'rows', count(*) FILTER (WHERE mimeo_op <> 'P'), 'last', max(mimeo_seq) FILTER (WHERE mimeo_op <> 'P'),
                     'removed', max(mimeo_seq) FILTER (WHERE mimeo_op = 'P'), 'truncated', {at}, 'cut', {cut},
                     'form', (SELECT obj_description(p.oid, 'pg_proc') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                               WHERE n.nspname = $1 AND p.proname = $2 AND p.pronargs = 0),
                     'unflushed', NOT pg_is_in_recovery() AND pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn())::text
                   FROM {queue}"
            ),
            &[&objects.function.schema, &objects.function.name],
            "reading the queue",
        );
        match document {
            Ok(document) => Ok(serde_json::from_str(&document.unwrap_or_default())?),
            Err(error) if error.sqlstate_text() == "42P01" => {
                Err(Error::QueueMissing { queue: queue.plain(), source_label: self.label().to_string() })
            }
            Err(error) => Err(error),
        }
    }
}

/// A queue of this size in bytes that holds nothing is shrunk.
const BLOATED: u64 = 8 * 1024 * 1024;

/// The members that get triggers of their own: the partitions of a table get those of its rows by themselves.
fn triggered<'a>(capture: &Capture<'_>, members: &'a [Member]) -> &'a [Member] {
    if capture.shape.kind == 'p' {
        &members[..members.len().min(1)]
    } else {
        members
    }
}

/// Members of a table (not partitioned) that lack a trigger.
pub fn untriggered(members: &[Member], rows: bool) -> Vec<&Member> {
    members.iter().filter(|member| member.firing + member.disabled < trigger_count(rows)).collect()
}

/// Whether a trigger was disabled, or taken away from the table itself, and changes were missed.
pub fn is_deaf(members: &[Member], rows: bool) -> bool {
    members.iter().any(|member| member.disabled > 0)
        || members.first().is_none_or(|table| table.firing < trigger_count(rows))
}

fn objects_script(objects: &Objects, capture: &Capture<'_>, operators: &[String]) -> String {
    let Objects { queue, function, .. } = objects;
    let table = capture.table.table();
    let keys: Vec<_> = capture
        .key
        .iter()
        .map(|name| {
            let quoted = quote(name);
            match base_type(capture.shape, name) {
                Some(base) => format!("{quoted}::{base} AS {quoted}"),
                None => quoted,
            }
        })
        .collect();
    let extra = if capture.keeps_rows {
        ", ADD COLUMN mimeo_at timestamptz NOT NULL DEFAULT clock_timestamp(), ADD COLUMN mimeo_row json"
    } else {
        ""
    };
    let comment = format!("Changes of {} that mimeo has yet to copy to {}", table.plain(), capture.destination);
    // The shortest search_path costs a writer least; every name in the body is qualified.
    // Joins of transition tables: a plan that was made for a few rows must not meet many in nested loops.
    let joins = if capture.compared.is_some() { "SET enable_nestloop = off" } else { "" };
    // What the last values are written as must not depend on the writer's settings.
    let formats = if capture.keeps_rows {
        "SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET extra_float_digits = 1"
    } else {
        ""
    };
    // The order of the last values of a key counts; else numbers are taken in bulk.
    let cache = if capture.keeps_rows { 1 } else { 50 };
    let body =
        if capture.rows { row_body(queue, capture, operators) } else { statement_body(queue, capture, operators) };
    format!(
        "CREATE TABLE {queue} WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000) AS
             SELECT {} FROM {table} WITH NO DATA;
         ALTER TABLE {queue} ADD COLUMN mimeo_seq bigint GENERATED BY DEFAULT AS IDENTITY (CACHE {cache}),
             ADD COLUMN mimeo_xid xid8 NOT NULL DEFAULT pg_current_xact_id(), ADD COLUMN mimeo_op \"char\" NOT NULL{extra};
         INSERT INTO {queue} (mimeo_seq, mimeo_op) VALUES ({}, 'P');
         COMMENT ON TABLE {queue} IS {};
         CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
             SET search_path = '' {joins} {formats} AS {};
         COMMENT ON FUNCTION {function}() IS {};
         REVOKE ALL ON FUNCTION {function}() FROM PUBLIC;\n",
        keys.join(", "),
        capture.number,
        literal(&comment),
        literal(&body),
        literal(&capture.form()),
    )
}

/// Of a domain the type below it: a queue's key is NULL in the rows that tell of a TRUNCATE.
fn base_type(shape: &Shape, column: &str) -> Option<String> {
    let mut found = shape.types.get(&shape.column(column)?.type_oid)?;
    if found.kind != 'd' {
        return None;
    }
    while found.kind == 'd' {
        found = shape.types.get(&found.base)?;
    }
    Some(match found.name.as_str() {
        // In SQL these words alone mean a length of 1.
        "character" => "pg_catalog.bpchar".to_string(),
        "bit" => "pg_catalog.\"bit\"".to_string(),
        name => name.to_string(),
    })
}

/// `n."a", n."b"`
fn qualified(alias: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{alias}.{}", quote(column))).collect::<Vec<_>>().join(", ")
}

/// `n."a" = o."a" AND …`
fn same(left: &str, right: &str, columns: &[String], operators: &[String]) -> String {
    let parts: Vec<_> = columns
        .iter()
        .zip(operators)
        .map(|(column, operator)| format!("{left}.{0} {operator} {right}.{0}", quote(column)))
        .collect();
    parts.join(" AND ")
}

/// Whether the table that has fired a trigger has all of these columns. One that was dropped or renamed must not stop writers.
fn are_there(columns: &[String]) -> String {
    let names: Vec<_> = columns.iter().map(|column| literal(column)).collect();
    format!(
        "(SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = TG_RELID AND NOT a.attisdropped
             AND a.attname = ANY (ARRAY[{}]::pg_catalog.name[])) = {}",
        names.join(", "),
        columns.len()
    )
}

/// A table of a hierarchy is not the whole of it, so its keys are queued, if the transaction sees them all; a partitioned
/// table is.
fn truncate_branch(queue: &Name, capture: &Capture<'_>) -> String {
    let (extra, row) = if capture.keeps_rows { (", mimeo_row", ", row_to_json(o)") } else { ("", "") };
    let list = quote_list(capture.key.iter().map(String::as_str));
    let old = qualified("o", capture.key);
    let part = format!("INSERT INTO {queue} ({list}, mimeo_op{extra}) SELECT {old}, 'D'{row} FROM ONLY ");
    let whole = format!("ELSE INSERT INTO {queue} (mimeo_op) VALUES ('T');");
    if capture.shape.kind == 'p' {
        return whole;
    }
    format!(
        "ELSIF current_setting('transaction_isolation') = 'read committed'
             AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE TG_RELID IN (i.inhparent, i.inhrelid)) THEN
             EXECUTE {} || TG_RELID::pg_catalog.regclass || ' o';
         {whole}",
        literal(&part)
    )
}

/// The body of a function whose triggers fire once a statement.
fn statement_body(queue: &Name, capture: &Capture<'_>, operators: &[String]) -> String {
    let key = capture.key;
    let list = quote_list(key.iter().map(String::as_str));
    let (new, old) = (qualified("n", key), qualified("o", key));
    let same = same("n", "o", key, operators);
    let into = format!("INSERT INTO {queue} ({list}, mimeo_op)");
    // `old` is either a row of old_rows or OLD itself.
    let gone = |old: &str, row: &str| {
        if capture.keeps_rows {
            format!("INSERT INTO {queue} ({list}, mimeo_op, mimeo_row) SELECT {old}, 'D', row_to_json({row})")
        } else {
            format!("{into} SELECT {old}, 'D'")
        }
    };
    let all = format!("{into} SELECT {new}, 'U' FROM new_rows n");
    let updated = match capture.compared {
        Some(columns) => format!(
            "IF {} THEN
                 {all} WHERE NOT EXISTS (SELECT FROM old_rows o
                      WHERE {same} AND NOT ROW({})::pg_catalog.record *<> ROW({})::pg_catalog.record);
             ELSE
                 {all};
             END IF",
            are_there(columns),
            qualified("n", columns),
            qualified("o", columns)
        ),
        None => all,
    };
    let (moved, gone) = (gone(&qualified("OLD", key), "OLD"), gone(&old, "o"));
    let truncated = truncate_branch(queue, capture);
    format!(
        "#variable_conflict use_column
         BEGIN
             IF TG_OP = 'INSERT' THEN
                 {into} SELECT {new}, 'I' FROM new_rows n;
             ELSIF TG_OP = 'UPDATE' THEN
                 IF TG_LEVEL = 'ROW' THEN
                     {moved};
                 ELSE
                     {updated};
                 END IF;
             ELSIF TG_OP = 'DELETE' THEN
                 {gone} FROM old_rows o;
             {truncated}
             END IF;
             RETURN NULL;
         END"
    )
}

/// The body of a function whose triggers fire once a row, but for TRUNCATE.
fn row_body(queue: &Name, capture: &Capture<'_>, operators: &[String]) -> String {
    let key = capture.key;
    let list = quote_list(key.iter().map(String::as_str));
    let (new, old) = (qualified("NEW", key), qualified("OLD", key));
    let into = format!("INSERT INTO {queue} ({list}, mimeo_op)");
    let gone = if capture.keeps_rows {
        format!("INSERT INTO {queue} ({list}, mimeo_op, mimeo_row) VALUES ({old}, 'D', row_to_json(OLD))")
    } else {
        format!("{into} VALUES ({old}, 'D')")
    };
    let truncated = truncate_branch(queue, capture);
    let unchanged = match capture.compared {
        Some(columns) => format!(
            "IF {} THEN
                 IF NOT ROW({})::pg_catalog.record *<> ROW({})::pg_catalog.record THEN RETURN NULL; END IF;
             END IF;",
            are_there(columns),
            qualified("NEW", columns),
            qualified("OLD", columns)
        ),
        None => String::new(),
    };
    format!(
        "#variable_conflict use_column
         BEGIN
             IF TG_OP = 'INSERT' THEN
                 {into} VALUES ({new}, 'I');
             ELSIF TG_OP = 'UPDATE' THEN
                 {unchanged}
                 {into} VALUES ({new}, 'U');
                 IF NOT ({}) THEN
                     {gone};
                 END IF;
             ELSIF TG_OP = 'DELETE' THEN
                 {gone};
             {truncated}
             END IF;
             RETURN NULL;
         END",
        same("NEW", "OLD", key, operators)
    )
}

fn triggers_script(objects: &Objects, table: &Name, capture: &Capture<'_>, operators: &[String]) -> String {
    let updated = match capture.compared {
        Some(_) => "AFTER UPDATE ON {} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
        None => "AFTER UPDATE ON {} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT",
    };
    let moved =
        format!("AFTER UPDATE ON {{}} FOR EACH ROW WHEN (NOT ({}))", same("NEW", "OLD", capture.key, operators));
    // Before a TRUNCATE, the keys are still there.
    let truncated = ("truncate", "BEFORE TRUNCATE ON {} FOR EACH STATEMENT");
    let triggers = if capture.rows {
        vec![
            ("insert", "AFTER INSERT ON {} FOR EACH ROW"),
            ("update", "AFTER UPDATE ON {} FOR EACH ROW"),
            ("delete", "AFTER DELETE ON {} FOR EACH ROW"),
            truncated,
        ]
    } else {
        vec![
            ("insert", "AFTER INSERT ON {} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"),
            ("update", updated),
            ("key", &moved),
            ("delete", "AFTER DELETE ON {} REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT"),
            truncated,
        ]
    };
    let (table, function) = (table.to_string(), &objects.function);
    triggers
        .into_iter()
        .map(|(event, definition)| {
            let name = quote(&format!("{}_{event}", objects.trigger));
            let definition = definition.replacen("{}", &table, 1);
            format!("CREATE TRIGGER {name} {definition} EXECUTE FUNCTION {function}();\n")
        })
        .collect()
}

/// The queries that read a part of a queue with the rows that are now in the table. They run under the source role's own
/// search_path, as the user's condition expects, so all names in them are qualified.
pub struct Changes<'a> {
    pub queue: &'a Name,
    /// From `rows_query`.
    pub rows: &'a str,
    pub key: &'a [String],
    pub operators: &'a [String],
    /// Up to this mimeo_seq.
    pub until: i64,
    /// Queries of further keys.
    pub further: &'a [String],
}

impl Changes<'_> {
    fn range(&self) -> String {
        format!(
            "\"mimeo_op\" OPERATOR(pg_catalog.<>) ALL ('{{P,T}}'::pg_catalog.\"char\"[])
             AND \"mimeo_seq\" OPERATOR(pg_catalog.<=) {}::pg_catalog.int8",
            self.until
        )
    }

    /// The keys, each once.
    pub fn keys(&self) -> String {
        let list = quote_list(self.key.iter().map(String::as_str));
        let mut query = format!("SELECT DISTINCT {list} FROM {} WHERE {}", self.queue, self.range());
        for further in self.further {
            query = format!("{query} UNION {further}");
        }
        query
    }

    /// These columns of the rows that are there now, each once.
    pub fn present(&self, columns: &[String]) -> String {
        // In the order of the key, neighbours are read together there, and written together here.
        format!(
            "SELECT {} FROM ({} ORDER BY {}) \"mimeo_k\" JOIN ({}) \"mimeo_r\" ON {}",
            qualified("\"mimeo_r\"", columns),
            self.keys(),
            quote_list(self.key.iter().map(String::as_str)),
            self.rows,
            same("\"mimeo_r\"", "\"mimeo_k\"", self.key, self.operators)
        )
    }

    fn absent(&self, alias: &str) -> String {
        let same = same("\"mimeo_r\"", alias, self.key, self.operators);
        format!("NOT EXISTS (SELECT FROM ({}) \"mimeo_r\" WHERE {same})", self.rows)
    }

    /// The keys of which there is no row now.
    pub fn gone(&self) -> String {
        format!(
            "SELECT {} FROM ({}) \"mimeo_k\" WHERE {}",
            qualified("\"mimeo_k\"", self.key),
            self.keys(),
            self.absent("\"mimeo_k\"")
        )
    }

    /// Of a logdel queue: the rows that were deleted, with their last values and the time. `table` is the source table.
    pub fn deleted(&self, table: &Name, columns: &[String]) -> String {
        let list = quote_list(self.key.iter().map(String::as_str));
        // The key comes typed from the queue, the rest from the row.
        let values: Vec<_> = columns
            .iter()
            .map(|column| {
                let alias = if self.key.contains(column) { "mimeo_k" } else { "mimeo_v" };
                format!("\"{alias}\".{}", quote(column))
            })
            .collect();
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT DISTINCT ON ({list}) {list}, \"mimeo_at\", \"mimeo_row\" FROM {}
                 WHERE {} AND \"mimeo_row\" IS NOT NULL ORDER BY {list}, \"mimeo_at\" DESC, \"mimeo_seq\" DESC) \"mimeo_k\",
             LATERAL pg_catalog.json_populate_record(NULL::{table}, \"mimeo_k\".\"mimeo_row\") \"mimeo_v\" WHERE {}",
            values.join(", "),
            self.queue,
            self.range(),
            self.absent("\"mimeo_k\"")
        )
    }

    /// Of a logdel queue: keys of rows that are out of sight without having been deleted, and since when.
    pub fn left(&self) -> String {
        let list = quote_list(self.key.iter().map(String::as_str));
        format!(
            "SELECT {}, \"mimeo_k\".\"mimeo_at\" FROM (SELECT {list}, pg_catalog.max(\"mimeo_at\") AS \"mimeo_at\" FROM {}
                 WHERE {} GROUP BY {list} HAVING pg_catalog.bool_and(\"mimeo_row\" IS NULL)) \"mimeo_k\" WHERE {}",
            qualified("\"mimeo_k\"", self.key),
            self.queue,
            self.range(),
            self.absent("\"mimeo_k\"")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_suffixes_in_63_bytes() {
        let long = "x".repeat(60);
        for number in [0, 1, 99] {
            let objects = Objects::named("mimeo", &Name::new("app", &long), number);
            let end = if number == 0 { String::new() } else { format!("{number:02}") };
            assert!(objects.queue.name.ends_with(&format!("_q{end}")) && objects.queue.name.len() == 63);
            assert!(objects.function.name.ends_with(&format!("_mimeo_queue{end}")));
            assert!(objects.trigger.ends_with(&format!("_mimeo_trig{end}")));
            assert_eq!(format!("{}_truncate", objects.trigger).len(), 63);
        }
        assert_eq!(Objects::named("mimeo", &Name::new("app", "t"), 0).queue, Name::new("mimeo", "app_t_q"));
    }
}
