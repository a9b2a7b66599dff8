//! Queues that mimeo 1.5.1 has made: the key, `processed`, and of a logdel job all columns and `mimeo_source_deleted`; one
//! trigger that fires once a row. They are replaced by queues of ours, and no row of them is lost.

use super::capture::Capture;
use super::keys::{key_column, text};
use super::members::{triggered, Member};
use super::objects::Objects;
use super::triggers::{grant_script, objects_script, triggers_script};
use crate::backend::name::{literal, quote, readings, with_suffix, Name};
use crate::backend::relation::Patience;
use crate::error::{Error, Result};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use serde::Deserialize;

/// What is there on the source for a job of 1.5.1.
pub struct Legacy {
    /// The names are the same as those of our objects, of which only the triggers are more.
    pub objects: Objects,
    /// The queue is still that of 1.5.1.
    old_queue: bool,
    /// Where its rows wait to be moved, once ours has taken its name.
    waiting: Name,
    has_waiting: bool,
    /// Of a queue of ours that is there already: what tells it from others.
    pub number: Option<i64>,
}

#[derive(Deserialize)]
struct Found {
    old_queue: bool,
    new_queue: bool,
    waiting: bool,
    /// A function of the queue's schema and number whose trigger the table has.
    function: Option<String>,
}

/// $1: schema, $2: queue, $3: the waiting rows, $4: the table, $5: the end of the function's name.
const FIND: &str = r"
SELECT json_build_object(
    'old_queue', EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = 'processed' AND NOT a.attisdropped),
    'new_queue', EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = 'mimeo_seq' AND NOT a.attisdropped),
    'waiting', EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $3),
    'function', (SELECT p.proname FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE g.tgrelid = $4::oid AND n.nspname = $1 AND right(p.proname, length($5)) = $5 ORDER BY g.oid LIMIT 1))::pg_catalog.text";

impl Connection {
    /// What 1.5.1 has left on the source for a job whose row names this queue. In the open snapshot.
    ///
    /// # Errors
    /// QueueMissing; InvalidName.
    pub fn legacy(&mut self, queue: &str, table: &SourceTable) -> Result<Legacy> {
        let queue = readings(queue)?
            .into_iter()
            .find_map(|(schema, name)| schema.map(|schema| Name::new(schema, name)))
            .ok_or_else(|| Error::InvalidName(queue.to_string()))?;
        let digits = queue.name.rsplit("_q").next().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.unwrap_or_default();
        let waiting = queue.sibling(with_suffix(&queue.name, "_1x"));
        let end = format!("_mimeo_queue{number}");
        let document = self.value(
            FIND,
            &[&queue.schema, &queue.name, &waiting.name, &table.oid.to_string(), &end],
            "looking for the queue",
        )?;
        let found: Found = serde_json::from_str(&document.unwrap_or_default())?;
        if !found.old_queue && !found.new_queue {
            return Err(Error::QueueMissing { queue: queue.plain(), source_label: self.label().to_string() });
        }
        let mut objects = Objects::named(&queue.schema, &table.table(), number.parse().unwrap_or(0));
        objects.function.name = found.function.unwrap_or(objects.function.name);
        objects.queue = queue;
        let number = if found.new_queue {
            let sql = format!("SELECT mimeo_seq::pg_catalog.text FROM {} WHERE mimeo_op = 'P'", objects.queue);
            self.value(&sql, &[], "reading the queue")?.and_then(|text| text.parse().ok())
        } else {
            None
        };
        Ok(Legacy { objects, old_queue: found.old_queue, waiting, has_waiting: found.waiting, number })
    }

    /// Gives the job a queue, a function and triggers of ours, in one transaction of the source; then moves the rows of the old
    /// queue. If only the first is done when it is interrupted, the next call does the rest.
    pub fn convert(
        &mut self,
        legacy: &Legacy,
        capture: &Capture<'_>,
        members: &[Member],
        wait: Patience,
    ) -> Result<()> {
        let objects = &legacy.objects;
        self.end_snapshot()?;
        if legacy.old_queue {
            let mut script = format!(
                "ALTER TABLE {} RENAME TO {}; DROP FUNCTION IF EXISTS {}() CASCADE;",
                objects.queue,
                quote(&legacy.waiting.name),
                objects.function
            );
            script.push_str(&objects_script(objects, capture));
            script.push_str(&grant_script(objects, capture, members));
            for member in triggered(capture, members) {
                script.push_str(&triggers_script(objects, &member.table(), capture));
            }
            self.change_source(&script, wait, "replacing the queue of mimeo 1.5.1 and its trigger")?;
        }
        if legacy.old_queue || legacy.has_waiting {
            let (queue, waiting) = (&objects.queue, &legacy.waiting);
            let columns = (0..capture.key.len()).map(key_column).collect::<Vec<_>>().join(", ");
            let keys = capture.key.iter().map(|key| text(&quote(key))).collect::<Vec<_>>().join(", ");
            let rows = if capture.keeps_rows {
                // What was deleted keeps its time and its last values. A column that is newer than the old queue is not there.
                let list = |each: &dyn Fn(&String) -> String| {
                    capture.kept.iter().map(|(name, _)| each(name)).collect::<Vec<_>>().join(", ")
                };
                format!(
                    "INSERT INTO {queue} ({columns}, mimeo_op, mimeo_at, mimeo_row)
                     SELECT o.* FROM (SELECT {}) d, LATERAL (
                         SELECT {keys}, CASE WHEN o.mimeo_source_deleted IS NULL THEN 'U' ELSE 'D' END::\"char\",
                                coalesce(o.mimeo_source_deleted, clock_timestamp()) AS at,
                                CASE WHEN o.mimeo_source_deleted IS NOT NULL
                                     THEN json_object(ARRAY[{}]::pg_catalog.text[], ARRAY[{}]::pg_catalog.text[]) END
                           FROM {waiting} o ORDER BY o.mimeo_source_deleted NULLS FIRST) o;",
                    list(&|name| format!("NULL::pg_catalog.text AS {}", quote(name))),
                    list(&|name| literal(name)),
                    list(&|name| text(&quote(name)))
                )
            } else {
                format!(
                    "INSERT INTO {queue} ({columns}, mimeo_op) SELECT DISTINCT {keys}, 'U'::\"char\" FROM {waiting};"
                )
            };
            self.change_source(&format!("{rows} DROP TABLE {waiting};"), wait, "moving the rows of the old queue")?;
        }
        Ok(())
    }
}
