//! What a dml or logdel job has on its source: a queue of the keys that have changed, and what fills it.
//!
//! Triggers fire once a statement, and add the keys of all its rows in one INSERT … SELECT from the transition tables. A partitioned
//! table has row triggers instead, which its partitions get by themselves, those to come too. The trigger functions run as the source
//! role with a pinned search_path, so writers need no privilege on the queue. INSERT, UPDATE and DELETE have a function each, which need
//! not ask what has happened: that is what a statement of one row notices. Row triggers share one.
//!
//! A row of the queue: the key as text, `mimeo_seq`, the writer's `mimeo_xid`, and `mimeo_op`: I, U, D; T for a TRUNCATE; F after the queue was
//! full. One row with P tells in `mimeo_seq` which position of the job was the last whose rows were removed. That of a logdel job also has
//! the time, and of a deleted row all values, by their names and as text. A key that is NULL is of a row that was written while the table had
//! no column of that name.

use crate::backend::interrupts;
use crate::backend::name::{literal, quote, Name, Operator};
use crate::backend::relation::Patience;
use crate::error::{Error, Result};
use crate::shape::{Shape, KEY_OPERATORS};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use conversion::conversion_script;
use keys::key_column;
use members::triggered;
use serde::Deserialize;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use triggers::{functions_script, limit_script, objects_script, triggers_script, STOPPED};

mod capture;
mod changes;
mod conversion;
mod keys;
mod legacy;
mod members;
mod objects;
mod triggers;

pub use capture::{kept, Capture, Form, Found};
pub use changes::Changes;
pub use keys::{QueueKey, TypedColumn};
pub use legacy::Legacy;
pub use members::{is_as_made, is_deaf, untriggered, Member};
pub use objects::Objects;

/// Further destinations of a table are numbered up to this.
const MOST: u32 = 99;

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
    /// Rows whose key nobody knows: the table had no column of that name.
    pub unknown: u64,
    /// Deleted rows that could not be kept.
    pub not_kept: u64,
    /// The queue has been full, and has begun anew since.
    pub was_full: bool,
    /// The number that the queue's sequence has given last.
    number: Option<i64>,
    /// Its size in bytes.
    pub size: u64,
    /// How large it may become, as its triggers read it.
    pub max_size: Option<String>,
    /// `Capture::form` of what was made, as text.
    form: Option<String>,
    /// What this snapshot sees may not be on the source's disk yet: a transaction that did not wait for it.
    pub unflushed: bool,
    /// It has grown far beyond what it holds now, if that is nothing.
    pub bloated: bool,
    /// Which database has used it last, as `mark_user` has written it.
    pub user: Option<String>,
}

impl Summary {
    pub fn form(&self) -> Found {
        #[derive(Deserialize)]
        struct Typed {
            compared: Option<Vec<String>>,
            rows: bool,
        }
        let Some(text) = &self.form else { return Found::Nothing };
        if let Ok(form) = serde_json::from_str::<Form>(text) {
            return Found::Form(form);
        }
        match serde_json::from_str::<Typed>(text) {
            Ok(Typed { compared, rows }) => Found::Typed(compared, rows),
            Err(_) => Found::Unreadable,
        }
    }

    /// It takes no changes: it has become too large.
    pub fn is_stopped(&self) -> bool {
        self.number.is_some_and(|number| number >= STOPPED)
    }
}

impl Connection {
    /// The operators that compare the key's columns with themselves. In the open snapshot, with the pinned search_path.
    pub fn key_operators(&mut self, table: &SourceTable, key: &[String]) -> Result<Vec<Operator>> {
        let names = serde_json::to_string(key)?;
        let sql = KEY_OPERATORS.replace("$2", "(SELECT array_agg(j) FROM json_array_elements_text($2::json) j)");
        let document = self.value(&sql, &[&table.oid.to_string(), &names], "looking the key's operators up")?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    /// Lets this transaction find so many rows by a unique index on columns of the key, one after the other, if it can serve the
    /// key's own operators, and if these are less than a tenth of the table's rows.
    pub fn prefer_key_index(&mut self, table: &SourceTable, key: &[String], rows: u64) -> Result<()> {
        let sql = "SELECT set_config('enable_hashjoin', 'off', true) || set_config('enable_mergejoin', 'off', true)
              FROM pg_class c
             WHERE c.oid = $1::oid AND c.reltuples > 10 * $3::float8 AND NOT row_security_active(c.oid)
               AND EXISTS (SELECT FROM pg_index i
                            WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                              AND NOT EXISTS (SELECT FROM generate_series(0, coalesce((to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts) - 1) p
                                                LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[p]
                                                LEFT JOIN pg_opclass o ON o.oid = i.indclass[p]
                                               WHERE (o.opcdefault AND i.indcollation[p] = a.attcollation AND a.attname IN
                                                          (SELECT json_array_elements_text($2::json))) IS NOT TRUE))";
        let names = serde_json::to_string(key)?;
        self.value(sql, &[&table.oid.to_string(), &names, &rows.to_string()], "looking for the key's index")?;
        Ok(())
    }

    /// Whether partitions of such a table get its triggers by themselves.
    pub fn clones_triggers(&self, shape: &Shape) -> bool {
        shape.kind == 'p' && self.server().clones_row_triggers()
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
                                               WHERE n.nspname = $1 AND c.relname IN ($2, $4))
                    OR EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                                WHERE n.nspname = $1 AND p.proname IN (SELECT json_array_elements_text($3::json)))",
                &[schema, &objects.queue.name, &objects.function_names(), &objects.sequence().name],
                "looking for a free name",
            )?;
            if taken.is_none() {
                return Ok(objects);
            }
        }
        Err(Error::TooManyDestinations { table: table.plain(), most: MOST + 1 })
    }

    /// Makes queue, functions and triggers, in one transaction of the source; with `again` in place of those that are there.
    pub fn make_queue(
        &mut self,
        objects: &Objects,
        capture: &Capture<'_>,
        members: &[Member],
        again: bool,
        wait: Patience,
    ) -> Result<()> {
        self.end_snapshot()?;
        let mut script = if again { objects.removal() } else { String::new() };
        script.push_str(&objects_script(objects, capture));
        script.push_str(&grant_script(objects, capture, members));
        for member in triggered(capture, members) {
            script.push_str(&triggers_script(objects, &member.table(), capture));
        }
        self.change_source(&script, wait, "making the queue and its triggers")
    }

    /// Puts functions and triggers of the other form in place of those that are there, in one transaction of the source, and
    /// leaves the queue as it is, but for turning one of 2.1 (`typed`) into one of today. One try: false if somebody else has the table locked, or
    /// the source refuses.
    pub fn change_functions(
        &mut self,
        objects: &Objects,
        capture: &Capture<'_>,
        members: &[Member],
        typed: bool,
        queue: Duration,
    ) -> Result<bool> {
        self.end_snapshot()?;
        let mut script = objects.function_removal();
        if typed {
            script.push_str(&conversion_script(objects, capture));
        }
        script.push_str(&functions_script(objects, capture));
        script.push_str(&grant_script(objects, capture, members));
        for member in triggered(capture, members) {
            script.push_str(&triggers_script(objects, &member.table(), capture));
        }
        let wait = Patience { queue, give_up: Duration::ZERO };
        match self.change_source(&script, wait, "making the triggers anew") {
            Ok(()) => Ok(true),
            Err(Error::Remote { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a table that has come to belong to the source the job's triggers.
    pub fn add_triggers(
        &mut self,
        objects: &Objects,
        capture: &Capture<'_>,
        member: &Member,
        wait: Patience,
    ) -> Result<()> {
        self.change_source(&triggers_script(objects, &member.table(), capture), wait, "making triggers")
    }

    /// Before a release that knows nothing of such a queue takes it over: functions of a name that it does not expect go, and their triggers
    /// with them. It finds a form that it cannot read, makes its own, and copies all rows.
    pub fn leave_to_older(&mut self, objects: &Objects, wait: Patience) -> Result<()> {
        self.end_snapshot()?;
        let script = format!(
            "{} COMMENT ON FUNCTION {}() IS 'left to an older release';",
            objects.parts_removal(),
            objects.function
        );
        self.change_source(&script, wait, "removing triggers that an older release does not know")
    }

    /// Lets a queue that was full take changes again, now that it is emptied: before the snapshot that all rows are copied in. First a row that
    /// tells so, whatever becomes of the rest. False if somebody is at it for so long that it stays as it is.
    pub fn restart_queue(&mut self, queue: &Name, wait: Patience) -> Result<bool> {
        self.end_snapshot()?;
        let numbers = format!(
            "SELECT max(mimeo_seq) FILTER (WHERE mimeo_op = 'P'), coalesce(max(mimeo_seq) FILTER (WHERE mimeo_op <> 'P' AND mimeo_seq < {STOPPED}), 0) + 1"
        );
        self.script(
            &format!(
                "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
                 INSERT INTO {queue} (mimeo_seq, mimeo_op) SELECT n.next, 'F' FROM ({numbers} FROM {queue}) n(position, next); COMMIT"
            ),
            "marking the queue",
        )?;
        let body = format!(
            "DECLARE v_position bigint; v_next bigint;
             BEGIN
                 {numbers} INTO v_position, v_next FROM {queue};
                 TRUNCATE {queue};
                 INSERT INTO {queue} (mimeo_seq, mimeo_op) VALUES (v_position, 'P'), (v_next, 'F');
                 PERFORM setval(pg_get_serial_sequence({}, 'mimeo_seq')::regclass, v_next);
             END",
            literal(&queue.to_string())
        );
        let script = format!("LOCK TABLE {queue} IN ACCESS EXCLUSIVE MODE; DO {};", literal(&body));
        match self.change_source(&script, wait, "emptying the queue") {
            Ok(()) => Ok(true),
            Err(error) if error.sqlstate_text() == "55P03" => Ok(false),
            Err(error) => Err(error),
        }
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
                return Err(self.refused_writing(error));
            }
            interrupts::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    /// What it means that a transaction could not write: the source has become a standby.
    fn refused_writing(&mut self, error: Error) -> Error {
        if error.sqlstate_text() != "0A000" || self.roll_back().is_err() || !self.is_standby().unwrap_or(false) {
            return error;
        }
        Error::SourceStandby { source_label: self.label().to_string() }
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
        let opened = self.script(
            &format!(
                "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
                 LOCK TABLE {queue} IN SHARE UPDATE EXCLUSIVE MODE; {}",
                transaction_type(queue)
            ),
            "opening the queue",
        );
        let visible = visible(match opened {
            Ok(found) => found,
            Err(error) => {
                let error = self.refused_writing(error);
                return Err(self.queue_error(error, queue));
            }
        });
        let left = self.value(
            &format!(
                "WITH gone AS (
                     DELETE FROM {queue} WHERE (SELECT max(m.mimeo_seq) FROM {queue} m WHERE m.mimeo_op = 'P') = ANY ($4::bigint[])
                        AND (mimeo_op = 'P' OR mimeo_seq <= $1::bigint AND {visible})
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

    /// How many rows of the queue a committed refresh has applied. In the open snapshot, with the pinned search_path.
    pub fn queued(&mut self, queue: &Name, last: i64, snapshot: &str) -> Result<u64> {
        let visible = visible(self.script(&transaction_type(queue), "looking at the queue's columns")?);
        let count = self.value(
            &format!(
                "SELECT count(*)::pg_catalog.text FROM {queue}
                  WHERE mimeo_op <> 'P' AND mimeo_seq <= $1::bigint AND {visible}"
            ),
            &[&last.to_string(), snapshot],
            "counting what is applied",
        )?;
        Ok(count.and_then(|count| count.parse().ok()).unwrap_or_default())
    }

    /// Writes down which database uses a queue from now on: its cluster and its OID; and how large it may become. Where that cannot be had (a
    /// standby, a VACUUM that is at work for long), the next refresh does it.
    pub fn mark_queue(&mut self, queue: &Name, user: &str, max_size: Option<i64>) -> Result<()> {
        let script = format!(
            "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL lock_timeout = 1000;
             COMMENT ON COLUMN {queue}.mimeo_seq IS {}; {} COMMIT",
            literal(user),
            limit_script(queue, max_size)
        );
        match self.script(&script, "marking the queue as used") {
            Err(Error::Remote { .. }) => self.roll_back(),
            marked => marked.map(|_| ()),
        }
    }

    /// Which database has used a queue last; None if nobody has said, or the queue is gone.
    pub fn last_user(&mut self, queue: &Name) -> Result<Option<String>> {
        match self.value(&user_of(queue), &[], "looking at the queue") {
            Ok(found) => Ok(found),
            Err(error) if ["42P01", "3F000"].contains(&error.sqlstate_text().as_str()) => {
                self.roll_back()?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Which of these keys, each as the text of a row, wait in a queue, beside those that were applied up to a position (`last`, `snapshot`) and
    /// are not removed yet. None if a TRUNCATE waits, which is about all keys. In the open snapshot.
    pub fn waiting_keys(
        &mut self,
        queue: &Name,
        applied: Option<(i64, &str)>,
        key: &QueueKey,
        text: &str,
        keys: &[&str],
    ) -> Result<Option<HashSet<String>>> {
        let visible = visible(self.script(&transaction_type(queue), "looking at the queue's columns")?);
        let (last, snapshot) = applied.unwrap_or((i64::MIN, "1:1:"));
        let list = serde_json::to_string(keys)?;
        let (columns, named) = (key.typed_list(), key.named("w"));
        let document = self.value(
            &format!(
                "WITH waiting AS (
                     SELECT {columns}, \"mimeo_op\" FROM {queue}
                      WHERE \"mimeo_op\" OPERATOR(pg_catalog.<>) 'P'
                        AND NOT (\"mimeo_seq\" OPERATOR(pg_catalog.<=) $1::pg_catalog.int8 AND pg_catalog.{visible}))
                 SELECT CASE WHEN NOT EXISTS (SELECT FROM waiting w WHERE w.\"mimeo_op\" OPERATOR(pg_catalog.=) ANY ('{{T,F}}'::pg_catalog.\"char\"[])) THEN
                     (SELECT coalesce(pg_catalog.json_agg(DISTINCT {text}), '[]') FROM (SELECT {named} FROM waiting w) \"mimeo\"
                       WHERE {text} OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.json_array_elements_text($3::pg_catalog.json))) END::pg_catalog.text"
            ),
            &[&last.to_string(), snapshot, &list],
            "looking for keys in the queue",
        )?;
        Ok(document.map(|document| serde_json::from_str(&document)).transpose()?)
    }

    /// Gives the room of dead rows back at once: an old snapshot may keep VACUUM from doing so. If the queue holds nothing,
    /// and nobody (VACUUM included) is at it at this instant.
    pub fn shrink(&mut self, queue: &Name) -> Result<()> {
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
                 UPDATE {queue} SET mimeo_xid = DEFAULT; COMMIT"
            ),
            "taking the queue over",
        )?;
        Ok(())
    }

    /// Makes what a snapshot has seen safe on the source's disk: a crash there must not take back what was applied here. After
    /// the snapshot.
    pub fn flush_wal(&mut self) -> Result<()> {
        self.script(
            "BEGIN TRANSACTION READ WRITE; SET LOCAL synchronous_commit = local;
             SELECT pg_catalog.pg_logical_emit_message(true, 'mimeo', ''); COMMIT",
            "flushing the WAL",
        )?;
        Ok(())
    }

    /// Refuses objects that were made for another destination, or are none of mimeo's: what a job says that it has on the source is
    /// a row that somebody may have written.
    ///
    /// # Errors
    /// ForeignQueue.
    pub fn require_own(&mut self, objects: &Objects, dest_table: &str) -> Result<()> {
        let end = made_for(dest_table);
        // 1.x left its queues without a comment. A function of a queue writes to it, and so names it.
        let foreign = self.value(
            "SELECT pg_catalog.concat_ws(' ', 'table', n.nspname, c.relname)
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
              WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name
                AND CASE WHEN pg_catalog.obj_description(c.oid, 'pg_class') IS NOT NULL
                         THEN pg_catalog.right(pg_catalog.obj_description(c.oid, 'pg_class'), pg_catalog.length($3)) OPERATOR(pg_catalog.<>) $3
                         ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
                              AND a.attname OPERATOR(pg_catalog.=) ANY ('{processed,mimeo_seq}'::pg_catalog.name[])) END
             UNION ALL
             SELECT pg_catalog.concat_ws(' ', 'function', n.nspname, p.proname)
               FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
              WHERE n.nspname OPERATOR(pg_catalog.=) $4::pg_catalog.name AND p.proname OPERATOR(pg_catalog.=) $5::pg_catalog.name
                AND p.pronargs OPERATOR(pg_catalog.=) 0 AND pg_catalog.strpos(p.prosrc, $2) OPERATOR(pg_catalog.=) 0
                AND pg_catalog.strpos(p.prosrc, pg_catalog.replace($2, '\"', '\"\"')) OPERATOR(pg_catalog.=) 0",
            &[&objects.queue.schema, &objects.queue.name, &end, &objects.function.schema, &objects.function.name],
            "looking at what the queue was made for",
        )?;
        let Some(what) = foreign else { return Ok(()) };
        let comment = literal(&format!("Changes{end}"));
        Err(Error::ForeignQueue {
            what,
            source_label: self.label().to_string(),
            destination: dest_table.to_string(),
            fix: format!("COMMENT ON TABLE {} IS {comment};", objects.queue),
        })
    }

    /// Refuses to go on if the role may not take the objects away.
    ///
    /// # Errors
    /// TriggerOwner.
    pub fn require_droppable(&mut self, objects: &Objects, table: &str) -> Result<()> {
        let foreign = self.value(
            "SELECT 'foreign' WHERE EXISTS (SELECT FROM pg_catalog.pg_proc p
                      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
                     WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND p.proname OPERATOR(pg_catalog.=)
                           ANY (SELECT pg_catalog.json_array_elements_text($2::pg_catalog.json)::pg_catalog.name)
                       AND NOT pg_catalog.pg_has_role(p.proowner, 'USAGE'))
                 OR EXISTS (SELECT FROM pg_catalog.pg_class c
                      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
                     WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $3::pg_catalog.name
                       AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))",
            &[&objects.queue.schema, &objects.function_names(), &objects.queue.name],
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
    pub fn summary(&mut self, objects: &Objects, keys: usize, timed: bool, limit: Option<i64>) -> Result<Summary> {
        let queue = &objects.queue;
        let cut = limit.map_or("NULL".to_string(), |limit| {
            format!(
                "(SELECT mimeo_seq FROM {queue} WHERE mimeo_op <> 'P' ORDER BY mimeo_seq OFFSET {} LIMIT 1)",
                limit.max(1) - 1
            )
        });
        let (at, not_kept) = if timed {
            ("max(mimeo_at) FILTER (WHERE mimeo_op = 'T')", "mimeo_op = 'D' AND mimeo_row IS NULL")
        } else {
            ("max('truncated'::pg_catalog.text) FILTER (WHERE mimeo_op = 'T')", "false")
        };
        // A queue of 2.1 lacks such columns: then theirs are these.
        let names: Vec<_> = (0..keys.max(1)).map(key_column).collect();
        let known: Vec<_> = names.iter().map(|name| format!("''::pg_catalog.text AS {name}")).collect();
        let unknown: Vec<_> = names.iter().map(|name| format!("{name} IS NULL")).collect();
        let document = self.value(
            &format!(
                "SELECT json_build_object('snapshot', {snapshot}::pg_catalog.text,
                     'system', (SELECT s.system_identifier::pg_catalog.text FROM pg_control_system() s),
                     'rows', count(*) FILTER (WHERE mimeo_op <> 'P'), 'last', max(mimeo_seq) FILTER (WHERE mimeo_op <> 'P'),
                     'removed', max(mimeo_seq) FILTER (WHERE mimeo_op = 'P'), 'truncated', {at}, 'cut', {cut},
                     'unknown', count(*) FILTER (WHERE mimeo_op IN ('I', 'U', 'D') AND mimeo_unknown),
                     'not_kept', count(*) FILTER (WHERE {not_kept}), 'was_full', coalesce(bool_or(mimeo_op = 'F'), false),
                     'number', pg_sequence_last_value(pg_get_serial_sequence({name}, 'mimeo_seq')::regclass),
                     'size', pg_table_size({name}::regclass),
                     'max_size', (SELECT col_description(a.attrelid, a.attnum) FROM pg_attribute a
                                   WHERE a.attrelid = {name}::regclass AND a.attname = 'mimeo_op'),
                     'form', (SELECT obj_description(p.oid, 'pg_proc') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                               WHERE n.nspname = $1 AND p.proname = $2 AND p.pronargs = 0),
                     'bloated', pg_relation_size({name}::regclass) > {BLOATED}, 'user', ({user}),
                     'unflushed', NOT pg_is_in_recovery() AND pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn())::pg_catalog.text
                   FROM (SELECT {known}) known, LATERAL (SELECT q.*, ({unknown}) AS mimeo_unknown FROM {queue} q) queued",
                name = literal(&queue.to_string()),
                user = user_of(queue),
                known = known.join(", "),
                unknown = unknown.join(" OR "),
                snapshot = self.server().current_snapshot(),
            ),
            &[&objects.function.schema, &objects.function.name],
            "reading the queue",
        );
        let document = document.map_err(|error| self.queue_error(error, queue))?;
        Ok(serde_json::from_str(&document.unwrap_or_default())?)
    }

    fn queue_error(&self, error: Error, queue: &Name) -> Error {
        match error.sqlstate_text().as_str() {
            "42P01" => Error::QueueMissing { queue: queue.plain(), source_label: self.label().to_string() },
            _ => error,
        }
    }
}

/// Asks for what `mark_user` has written.
fn user_of(queue: &Name) -> String {
    let queue = literal(&queue.to_string());
    format!(
        "SELECT pg_catalog.col_description(a.attrelid, a.attnum::pg_catalog.int4) FROM pg_catalog.pg_attribute a
          WHERE a.attrelid OPERATOR(pg_catalog.=) {queue}::pg_catalog.regclass AND a.attname OPERATOR(pg_catalog.=) 'mimeo_seq'"
    )
}

/// Asks for the type of a queue's column mimeo_xid: a queue that was made on a server before 13 keeps its own when the server is upgraded.
fn transaction_type(queue: &Name) -> String {
    format!(
        "SELECT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = {}::pg_catalog.regclass AND a.attname = 'mimeo_xid' AND NOT a.attisdropped",
        literal(&queue.to_string())
    )
}

/// Whether a row of the queue was there in the snapshot $2.
fn visible(transaction_type: Option<String>) -> &'static str {
    if transaction_type.as_deref() == Some("bigint") {
        "txid_visible_in_snapshot(mimeo_xid, $2::pg_catalog.txid_snapshot)"
    } else {
        "pg_visible_in_snapshot(mimeo_xid, $2::pg_catalog.pg_snapshot)"
    }
}

/// Who makes a partition makes its triggers.
fn grant_script(objects: &Objects, capture: &Capture<'_>, members: &[Member]) -> String {
    match members.first().filter(|_| capture.cloned) {
        Some(table) => format!("GRANT EXECUTE ON FUNCTION {}() TO {};", objects.function, quote(&table.owner)),
        None => String::new(),
    }
}

/// A queue of this size in bytes that holds nothing is shrunk.
const BLOATED: u64 = 8 * 1024 * 1024;

/// How the comment of a queue ends.
fn made_for(destination: &str) -> String {
    format!(" that mimeo has yet to copy to {destination}")
}

/// `n."a", n."b"`
fn qualified(alias: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{alias}.{}", quote(column))).collect::<Vec<_>>().join(", ")
}
