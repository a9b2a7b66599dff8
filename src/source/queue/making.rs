//! Making a queue and what fills it, on the source.

use super::capture::Capture;
use super::conversion::conversion_script;
use super::members::{triggered, Member};
use super::objects::Objects;
use super::triggers::{functions_script, grant_script, objects_script, triggers_script};
use crate::backend::name::Name;
use crate::backend::relation::Patience;
use crate::error::{Error, Result};
use crate::shape::Shape;
use crate::source::connection::Connection;
use std::time::Duration;

/// Further destinations of a table are numbered up to this.
const MOST: u32 = 99;

impl Connection {
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
    /// leaves the queue as it is, but for converting one of 2.1 (`typed`) to one of this release. One try: false if somebody else has the table locked, or
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
        let wait = Patience { queue, together: None, give_up: Duration::ZERO };
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

    /// Before an older release takes over a queue that it does not know: drops functions whose names it does not expect, and their triggers
    /// with them. That release then finds a form that it cannot read, makes its own, and copies all rows.
    pub fn leave_to_older(&mut self, objects: &Objects, wait: Patience) -> Result<()> {
        self.end_snapshot()?;
        let script = format!(
            "{} COMMENT ON FUNCTION {}() IS 'left to an older release';",
            objects.parts_removal(),
            objects.function
        );
        self.change_source(&script, wait, "removing triggers that an older release does not know")
    }
}
