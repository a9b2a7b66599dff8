//! The names of a job's objects on its source, and the statements that drop them.

use crate::backend::name::{literal, with_suffix, Name, MAX_BYTES};
use crate::error::{Error, Result};
use crate::source::connection::Connection;
use serde::{Deserialize, Serialize};

/// Numbers of a queue's rows are below it. Its sequence is set to it when the queue takes no more.
pub(super) const STOPPED: i64 = 1 << 62;

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
    pub(super) fn named(schema: &str, table: &Name, number: u32) -> Objects {
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

    /// Whether the names of a function for each kind of statement fit in 63 bytes: cut ones could be somebody else's.
    pub fn has_room(&self) -> bool {
        self.function.name.len() + LONGEST_BY_STATEMENT <= MAX_BYTES
    }

    /// The sequence that numbers the rows of the queue, and shows whether it takes any: see `STOPPED`.
    pub(super) fn sequence(&self) -> Name {
        self.queue.sibling(with_suffix(&self.queue.name, "_seq"))
    }

    /// The function that checks the size of the queue.
    pub(super) fn full(&self) -> Name {
        let name = &self.function.name;
        let full = match name.rfind("_mimeo_queue") {
            Some(at) => format!("{}_mimeo_full{}", &name[..at], &name[at + "_mimeo_queue".len()..]),
            None => with_suffix(name, "_full"),
        };
        self.function.sibling(full)
    }

    /// The function that the trigger of an event calls.
    pub(super) fn function_of(&self, event: &str, by_statement: bool) -> Name {
        if by_statement && BY_STATEMENT.contains(&event) {
            self.function.sibling(format!("{}_{event}", self.function.name))
        } else {
            self.function.clone()
        }
    }

    /// All functions that may exist.
    fn functions(&self) -> Vec<Name> {
        let by_statement = BY_STATEMENT.iter().filter(|_| self.has_room()).map(|event| self.function_of(event, true));
        [self.function.clone(), self.full()].into_iter().chain(by_statement).collect()
    }

    fn signature(&self, function: &Name) -> String {
        format!("{function}({})", if *function == self.full() { "bigint" } else { "" })
    }

    /// Their names, as a JSON array.
    pub(super) fn function_names(&self) -> String {
        serde_json::Value::from_iter(self.functions().into_iter().map(|function| function.name)).to_string()
    }

    /// Drops the functions, and their triggers with them.
    pub(super) fn function_removal(&self) -> String {
        let functions: Vec<_> = self.functions().iter().map(|function| self.signature(function)).collect();
        format!("DROP FUNCTION IF EXISTS {} CASCADE;", functions.join(", "))
    }

    /// Drops those that releases before 2.2 do not know.
    pub(super) fn parts_removal(&self) -> String {
        let parts: Vec<_> = self.functions().iter().skip(1).map(|function| self.signature(function)).collect();
        format!("DROP FUNCTION IF EXISTS {} CASCADE;", parts.join(", "))
    }

    /// Drops all of them.
    pub fn removal(&self) -> String {
        format!("{} DROP TABLE IF EXISTS {};", self.function_removal(), self.queue)
    }

    /// Drops them if they are those that were made with this number.
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

/// Events whose triggers may have a function of their own: its name ends so.
pub(super) const BY_STATEMENT: [&str; 3] = ["insert", "update", "delete"];

const LONGEST_BY_STATEMENT: usize = "_insert".len();

impl Connection {
    /// Refuses objects that were made for another destination, or that are not mimeo's: the names of a job's objects come from a row
    /// that somebody may have written by hand.
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

    /// Refuses to go on if the role may not drop the objects.
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
}

/// How the comment of a queue ends.
pub(super) fn made_for(destination: &str) -> String {
    format!(" that mimeo has yet to copy to {destination}")
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
