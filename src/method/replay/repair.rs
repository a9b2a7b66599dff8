//! What has to be repaired on the source before changes can be read from it.

use super::state::{is_older, this_database, State};
use super::wanted::Wanted;
use crate::backend::relation::Patience;
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::job::renamed::Renamed;
use crate::job::run::Run;
use crate::method::load::patience;
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::queue::{is_as_made, untriggered, Capture, Form, Found, Member, Summary};
use std::time::Duration;

/// How large a queue of 2.1 may be, in bytes, to be converted: its writers wait for that.
const CONVERTIBLE: u64 = 32 * 1024 * 1024;

/// How long a refresh tries to empty a queue that was full, while transactions that have written to it are open.
const RESTART: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// An older release, whose package may be about to be put back, would not know what is there.
    LeaveToOlder,
    /// Something else is queued than the job needs now: queue and triggers are made again, and all rows copied.
    MakeAnew,
    /// The triggers are those of another release, or do not fire for all that writes to the table any more. The queue stays; one try.
    ChangeFunctions,
    /// Partitions or children have no triggers yet.
    AddTriggers,
    /// The marks of the queue (who uses it, and how large it may become) are out of date.
    Mark,
    /// The queue is full, and takes no changes.
    Restart,
    /// The source was restored elsewhere.
    Adopt,
}

/// The facts that decide which repair is needed.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What is there.
    pub found: Found,
    /// What is wanted.
    pub form: Form,
    /// The queue is too large to be converted.
    pub large: bool,
    /// The catalog is that of a release that does not know today's queues.
    pub older: bool,
    /// Partitions or children without triggers: their OIDs.
    pub untriggered: Vec<u32>,
    /// Its marks differ from what the job needs.
    pub marked_otherwise: bool,
    pub stopped: bool,
    /// The source is a different cluster than last time.
    pub elsewhere: bool,
    /// What columns that the job names are called now, if that has just been found.
    pub renamed: Option<Renamed>,
}

/// What this refresh has done or tried already: it does so once.
#[derive(Debug, Default, Clone, Copy)]
pub struct Done {
    changed_functions: bool,
    marked: bool,
    restarted: bool,
    adopted: bool,
}

impl Done {
    pub fn note(&mut self, repair: Repair) {
        match repair {
            Repair::ChangeFunctions => self.changed_functions = true,
            Repair::Mark => self.marked = true,
            Repair::Restart => self.restarted = true,
            Repair::Adopt => self.adopted = true,
            Repair::LeaveToOlder | Repair::MakeAnew | Repair::AddTriggers => {}
        }
    }
}

impl Facts {
    pub fn of(
        catalog: &Catalog,
        job: &Job,
        state: &State,
        table: &SourceTable,
        capture: &Capture<'_>,
        members: &[Member],
        summary: &Summary,
    ) -> Facts {
        let children = untriggered(capture, members).into_iter().filter(|member| member.oid != table.oid);
        let limit = job.max_queue_size.map(|size| size.to_string());
        Facts {
            found: summary.form(),
            form: capture.form(),
            large: summary.size > CONVERTIBLE,
            older: is_older(catalog),
            untriggered: children.map(|member| member.oid).collect(),
            marked_otherwise: summary.user.as_deref() != Some(this_database().as_str()) || summary.max_size != limit,
            stopped: summary.is_stopped(),
            elsewhere: !state.system.is_empty() && summary.system != state.system,
            renamed: job.renamed.clone(),
        }
    }

    /// Its triggers are left to an older release, which makes its own.
    pub fn is_unwatched(&self) -> bool {
        self.older && matches!(self.found, Found::Unreadable)
    }

    /// What is to be done next; None when the source is as it should be.
    pub fn next(&self, done: Done) -> Option<Repair> {
        if self.older && matches!(self.found, Found::Form(_)) {
            return Some(Repair::LeaveToOlder);
        }
        let typed = matches!(self.found, Found::Typed(..));
        let other = match &self.found {
            Found::Nothing => false,
            Found::Form(found) => {
                // The same columns under other names: what waits in the queue stays.
                let compared = match &self.renamed {
                    Some(renamed) => found.compared.as_deref().map(|names| renamed.list(names)),
                    None => found.compared.clone(),
                };
                !Form { compared, ..found.clone() }.captures_as(&self.form)
            }
            // To convert much of it would make writers wait.
            Found::Typed(compared, rows) => {
                (compared, *rows) != (&self.form.compared, self.form.row_triggers) || self.large && !self.older
            }
            Found::Unreadable => !self.older,
        };
        let children = !self.untriggered.is_empty();
        if other || typed && children {
            return Some(Repair::MakeAnew);
        }
        let of_another_release = typed || matches!(&self.found, Found::Form(found) if *found != self.form);
        if of_another_release && !done.changed_functions && !self.older {
            return Some(Repair::ChangeFunctions);
        }
        if children && !self.is_unwatched() {
            return Some(Repair::AddTriggers);
        }
        if self.marked_otherwise && !done.marked {
            return Some(Repair::Mark);
        }
        if self.stopped && !done.restarted {
            return Some(Repair::Restart);
        }
        (self.elsewhere && !done.adopted).then_some(Repair::Adopt)
    }

    /// The facts once that is done.
    pub fn after(self, repair: Repair) -> Facts {
        let found = Found::Form(self.form.clone());
        match repair {
            Repair::LeaveToOlder => Facts { found: Found::Unreadable, ..self },
            Repair::MakeAnew => Facts { found, untriggered: Vec::new(), stopped: false, elsewhere: false, ..self },
            Repair::ChangeFunctions => Facts { found, ..self },
            Repair::AddTriggers => Facts { untriggered: Vec::new(), ..self },
            Repair::Mark => Facts { marked_otherwise: false, ..self },
            Repair::Restart => Facts { stopped: false, ..self },
            Repair::Adopt => Facts { elsewhere: false, ..self },
        }
    }
}

/// Whether functions and triggers can be changed without the queue: nobody has altered them, and the role may.
pub fn may_change_functions(
    source: &mut Connection,
    catalog: &Catalog,
    capture: &Capture<'_>,
    members: &[Member],
) -> bool {
    is_as_made(capture, members) && source.require_capture_rights(catalog.schema(), members, false).is_ok()
}

/// Carries the repair out; returns whether anything was changed, so that the source has to be read again. Ends the snapshot then.
pub fn carry_out(
    repair: Repair,
    source: &mut Connection,
    (catalog, job, state): (&Catalog, &Job, &State),
    capture: &mut Capture<'_>,
    members: &[Member],
    run: &mut Run,
) -> Result<bool> {
    let objects = &state.objects;
    match repair {
        Repair::LeaveToOlder => source.leave_to_older(objects, patience())?,
        Repair::MakeAnew => {
            source.require_capture_rights(catalog.schema(), members, capture.cloned)?;
            source.make_queue(objects, capture, members, true, patience())?;
        }
        Repair::ChangeFunctions => {
            if !may_change_functions(source, catalog, capture, members) {
                return Ok(false);
            }
            let typed = std::mem::take(&mut capture.typed);
            if source.change_functions(objects, capture, members, typed, patience().queue)? {
                run.note("the triggers on the source were made anew");
            }
        }
        Repair::AddTriggers => {
            source.require_capture_rights(catalog.schema(), members, false)?;
            source.end_snapshot()?;
            let table = capture.table.oid;
            for child in untriggered(capture, members).into_iter().filter(|member| member.oid != table) {
                source.add_triggers(objects, capture, child, patience())?;
            }
        }
        Repair::Mark => {
            source.end_snapshot()?;
            source.mark_queue(&objects.queue, &this_database(), job.max_queue_size)?;
        }
        Repair::Restart => {
            let wait = Patience { give_up: RESTART, ..patience() };
            if !source.restart_queue(&objects.queue, wait)? {
                run.note("the queue takes no changes yet: it could not be emptied, because others use it");
            }
        }
        Repair::Adopt => {
            source.end_snapshot()?;
            source.adopt_queue(&objects.queue)?;
        }
    }
    Ok(true)
}

impl Wanted<'_> {
    /// Whether the queue holds the deleted rows, with the time.
    pub fn keeps_rows(&self) -> bool {
        self.method.facts().keeps_gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(key: &[&str]) -> Form {
        Form {
            layout: 1,
            compared: None,
            row_triggers: false,
            by_statement: true,
            table: 0,
            key: key.iter().map(|name| (*name).to_string()).collect(),
            kept: Vec::new(),
            all: true,
            sensitive: Vec::new(),
        }
    }

    fn facts(found: Found) -> Facts {
        Facts {
            found,
            form: form(&["id"]),
            large: false,
            older: false,
            untriggered: Vec::new(),
            marked_otherwise: false,
            stopped: false,
            elsewhere: false,
            renamed: None,
        }
    }

    /// All that is done, in its order, if each step does what it should.
    fn steps(mut facts: Facts) -> Vec<Repair> {
        let (mut done, mut steps) = (Done::default(), Vec::new());
        while let Some(repair) = facts.next(done) {
            assert!(steps.len() < 10, "it ends: {steps:?}");
            done.note(repair);
            facts = facts.after(repair);
            steps.push(repair);
        }
        steps
    }

    #[test]
    fn a_source_is_mended_step_by_step() {
        use Repair::*;
        let same = || facts(Found::Form(form(&["id"])));
        let renamed = || Found::Form(form(&["number"]));
        let two = || Found::Form(form(&["id", "part"]));
        let typed = || Found::Typed(None, false);
        let filtered = |column: &str| Form { compared: Some(vec![column.to_string()]), ..form(&["id"]) };
        let cases: Vec<(Facts, Vec<Repair>)> = vec![
            (same(), vec![]),
            (facts(Found::Nothing), vec![]),
            (facts(renamed()), vec![ChangeFunctions]),
            (facts(two()), vec![MakeAnew]),
            (Facts { form: filtered("w"), ..facts(Found::Form(filtered("v"))) }, vec![MakeAnew]),
            (
                Facts {
                    form: filtered("w"),
                    renamed: Some(Renamed { renamed: vec![("v".into(), "w".into())], gone: Vec::new() }),
                    ..facts(Found::Form(filtered("v")))
                },
                vec![ChangeFunctions],
            ),
            (facts(Found::Unreadable), vec![MakeAnew]),
            (facts(typed()), vec![ChangeFunctions]),
            (facts(Found::Typed(Some(vec!["id".into()]), false)), vec![MakeAnew]),
            (Facts { large: true, ..facts(typed()) }, vec![MakeAnew]),
            (Facts { untriggered: vec![7], ..facts(typed()) }, vec![MakeAnew]),
            (Facts { untriggered: vec![7], ..same() }, vec![AddTriggers]),
            (Facts { untriggered: vec![7], ..facts(renamed()) }, vec![ChangeFunctions, AddTriggers]),
            (Facts { stopped: true, marked_otherwise: true, elsewhere: true, ..same() }, vec![Mark, Restart, Adopt]),
            // A package of an older release is about to be put back.
            (Facts { older: true, untriggered: vec![7], ..same() }, vec![LeaveToOlder]),
            (Facts { older: true, ..facts(Found::Unreadable) }, vec![]),
            (Facts { older: true, large: true, ..facts(typed()) }, vec![]),
        ];
        for (facts, expected) in cases {
            assert_eq!(steps(facts.clone()), expected, "{facts:?}");
        }
    }

    #[test]
    fn what_did_not_help_is_tried_once() {
        let facts = facts(Found::Typed(None, false));
        let mut done = Done::default();
        assert_eq!(facts.next(done), Some(Repair::ChangeFunctions));
        done.note(Repair::ChangeFunctions);
        assert_eq!(facts.next(done), None);
    }
}
