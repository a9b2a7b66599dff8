//! What a queue holds.

use super::capture::{Form, Found};
use super::keys::key_column;
use super::keys::QueueKey;
use super::objects::{Objects, STOPPED};
use crate::backend::name::{literal, Name};
use crate::error::{Error, Result};
use crate::source::connection::Connection;
use pgrx::PgSqlErrorCode;
use serde::Deserialize;
use std::collections::HashSet;

/// A queue of this size in bytes that holds nothing is shrunk.
pub(super) const BLOATED: u64 = 8 * 1024 * 1024;

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
    /// Rows whose key is unknown: the table had no column of that name.
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
    /// What this snapshot sees may not be on the source's disk yet, because of an asynchronous commit.
    pub unflushed: bool,
    /// It is empty, but its files are large.
    pub bloated: bool,
    /// Which database has used it last, as `mark_queue` has written it.
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

    /// Which database has used a queue last; None if nobody has said, or the queue is gone.
    pub fn last_user(&mut self, queue: &Name) -> Result<Option<String>> {
        match self.value(&user_of(queue), &[], "looking at the queue") {
            Ok(found) => Ok(found),
            Err(error)
                if error.sqlstate().is_any_of(&[
                    PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                    PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
                ]) =>
            {
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
        // A queue of 2.1 lacks these columns, and gets constants in their place.
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

    pub(super) fn queue_error(&self, error: Error, queue: &Name) -> Error {
        if error.sqlstate() != PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE {
            return error;
        }
        Error::QueueMissing { queue: queue.plain(), source_label: self.label().to_string() }
    }
}

/// The query for what `mark_queue` has written.
fn user_of(queue: &Name) -> String {
    let queue = literal(&queue.to_string());
    format!(
        "SELECT pg_catalog.col_description(a.attrelid, a.attnum::pg_catalog.int4) FROM pg_catalog.pg_attribute a
          WHERE a.attrelid OPERATOR(pg_catalog.=) {queue}::pg_catalog.regclass AND a.attname OPERATOR(pg_catalog.=) 'mimeo_seq'"
    )
}

/// The query for the type of a queue's column mimeo_xid: a queue that was made on a server before 13 keeps its own when the server is upgraded.
pub(super) fn transaction_type(queue: &Name) -> String {
    format!(
        "SELECT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = {}::pg_catalog.regclass AND a.attname = 'mimeo_xid' AND NOT a.attisdropped",
        literal(&queue.to_string())
    )
}

/// The condition that a row of the queue is visible in the snapshot $2.
pub(super) fn visible(transaction_type: Option<String>) -> &'static str {
    if transaction_type.as_deref() == Some("bigint") {
        "txid_visible_in_snapshot(mimeo_xid, $2::pg_catalog.txid_snapshot)"
    } else {
        "pg_visible_in_snapshot(mimeo_xid, $2::pg_catalog.pg_snapshot)"
    }
}
