//! Deleting rows from a queue, and what else its owner writes to it.

use super::contents::{transaction_type, visible, BLOATED};
use super::objects::STOPPED;
use super::triggers::limit_script;
use crate::backend::name::{literal, Name};
use crate::backend::relation::Patience;
use crate::error::{Error, Result};
use crate::source::connection::Connection;

impl Connection {
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

    /// Gives the space of dead rows back at once, which an old snapshot may keep VACUUM from doing. Only if the queue is empty,
    /// and nobody (VACUUM included) has locked it at this instant.
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

    /// Lets a queue that was full take changes again, now that it is emptied: before the snapshot that all rows are copied in. First a row that
    /// records this, whatever becomes of the rest. False if others use the queue for so long that it stays as it is.
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
            Err(error) if error.is_lock_timeout() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// After the source was restored to another cluster, its xids are different: the rows of the queue count as written now.
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

    /// Writes down which database uses a queue from now on: its cluster and its OID; and how large it may become. Where that is not possible (a
    /// standby, a VACUUM that runs for long), the next refresh does it.
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
}
