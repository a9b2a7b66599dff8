//! plan_refresh: what a refresh would do now. Nothing is changed and nothing stays locked, on either side.

use crate::backend::name::Name;
use crate::backend::relation::Relation;
use crate::backend::spi;
use crate::destination::following::Following;
use crate::destination::shadow;
use crate::destination::upsert::is_rewritable;
use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::method::load::patience;
use crate::shape::Shape;
use crate::source::connection::Connection;

/// One step of a refresh.
pub struct Step {
    /// `source` or `destination`.
    pub side: &'static str,
    pub action: String,
    /// What it locks, how, and for how long.
    pub lock: Option<String>,
    /// How much it moves, or why it is done.
    pub estimate: Option<String>,
}

/// The steps so far.
#[derive(Default)]
pub struct Plan {
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn source(&mut self, action: impl Into<String>, lock: Option<String>, estimate: Option<String>) {
        self.steps.push(Step { side: "source", action: action.into(), lock, estimate });
    }

    pub fn here(&mut self, action: impl Into<String>, lock: Option<String>, estimate: Option<String>) {
        self.steps.push(Step { side: "destination", action: action.into(), lock, estimate });
    }

    pub fn connect(&mut self, source: &Connection) {
        self.source(format!("connect to {} as role \"{}\"", source.label(), source.role()), None, None);
    }

    /// Changes of the destination's columns.
    pub fn follow(&mut self, following: &Following, destination: &Relation) {
        if following.is_empty() {
            return;
        }
        let lock = format!("ACCESS EXCLUSIVE on {}, {}", destination.name().plain(), briefly());
        self.here(
            following.summary(),
            Some(lock),
            Some("once the rows have come, in the same transaction".to_string()),
        );
    }

    /// The COPY of a query out of the source, and into a table here if that is named.
    pub fn copy(&mut self, job: &Job, query: &str, table: &Name, into: &str, volume: Volume, text: Option<String>) {
        let format = match &text {
            None => "binary",
            Some(_) => "text",
        };
        let why = match text {
            None => "binary: both sides have the same types".to_string(),
            Some(reason) => format!("text: {reason}"),
        };
        self.source(
            format!("COPY ({query}) TO STDOUT (FORMAT {format})"),
            Some(format!("ACCESS SHARE on \"{}\" until the rows have come", table.plain())),
            Some(format!("{volume}; {why}")),
        );
        self.here(format!("load them into {into}, while they come"), None, last_time(job).ok().flatten());
    }

    /// Replaces all rows, out of a temporary table.
    pub fn replace_by_collected(&mut self, destination: &Relation, shape: &Shape) -> Result<()> {
        let name = destination.name();
        if is_rewritable(shape)? {
            self.here(
                "write the table anew from them, beside the rows that are there, and swap its storage",
                Some(format!(
                    "SHARE ROW EXCLUSIVE on \"{0}\" while it is written: writers wait; ACCESS EXCLUSIVE on \"{0}\", {1}",
                    name.plain(),
                    briefly()
                )),
                Some("the old rows can be read until then".to_string()),
            );
        } else {
            self.here(
                format!("DELETE FROM {name}, and insert them into it"),
                Some(format!(
                    "ROW EXCLUSIVE on \"{}\": readers see the old rows until the end of the transaction",
                    name.plain()
                )),
                Some("in place: its storage cannot be swapped".to_string()),
            );
        }
        Ok(())
    }

    /// Replaces all rows of a plain table.
    pub fn replace_all(&mut self, destination: &Relation, shape: &Shape, cascade: bool) -> Result<()> {
        let name = destination.name().plain();
        if shadow::can_swap_storage(shape.local_oid())? {
            let others = if cascade { ", and on the tables that refer to it" } else { "" };
            self.here(
                "finish the indexes of the shadow table, analyze it, and swap its storage with that of the table",
                Some(format!("ACCESS EXCLUSIVE on \"{name}\"{others}, {}", briefly())),
                Some("the old rows can be read until then".to_string()),
            );
        } else if cascade {
            self.here(
                format!("TRUNCATE {} CASCADE before the rows are loaded", destination.name()),
                Some(format!(
                    "ACCESS EXCLUSIVE on \"{name}\" and the tables that refer to it, until the end of the transaction"
                )),
                Some("in place: its storage cannot be swapped".to_string()),
            );
        } else {
            self.here(
                format!("DELETE FROM {} before the rows are loaded", destination.name()),
                Some(format!("ROW EXCLUSIVE on \"{name}\": readers see the old rows until the end of the transaction")),
                Some("in place: its storage cannot be swapped".to_string()),
            );
        }
        Ok(())
    }
}

/// What all rows of a table are loaded into.
pub fn shadow(destination: &Shape, name: &Name) -> Result<String> {
    Ok(if shadow::can_swap_storage(destination.local_oid())? {
        format!("a shadow table of \"{}\"", name.plain())
    } else {
        format!("\"{}\"", name.plain())
    })
}

/// How much a query returns.
pub struct Volume {
    rows: u64,
    bytes: u64,
}

impl Volume {
    /// The same rows, in another number.
    pub fn of_rows(self, rows: u64) -> Volume {
        Volume { rows, bytes: self.bytes.checked_div(self.rows).unwrap_or(0) * rows }
    }
}

impl std::fmt::Display for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "about {} rows, {}", self.rows, size(self.bytes))
    }
}

/// What the planner of the source expects of a query. In its open snapshot.
pub fn volume(source: &mut Connection, query: &str) -> Result<Volume> {
    let document = source.value(&format!("EXPLAIN (FORMAT JSON) {query}"), &[], "estimating the rows")?;
    let plan: serde_json::Value = serde_json::from_str(&document.unwrap_or_default())?;
    let number =
        |name: &str| plan.pointer(&format!("/0/Plan/{name}")).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
    let (rows, width) = (number("Plan Rows"), number("Plan Width"));
    Ok(Volume { rows: rows as u64, bytes: (rows * width) as u64 })
}

/// As pg_size_pretty writes it.
pub fn size(bytes: u64) -> String {
    let mut size = bytes;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if size < 10 * 1024 {
            return format!("{size} {unit}");
        }
        size = (size + 512) / 1024;
    }
    format!("{size} TB")
}

/// How the exclusive locks are taken that readers could queue behind.
pub fn briefly() -> String {
    let patience = patience();
    format!(
        "for some milliseconds before the commit; while it is taken by others, tried for {} at a time, for {} in all",
        milliseconds(patience.queue),
        milliseconds(patience.give_up)
    )
}

/// What a refresh may do instead of merging rows into a table.
pub fn written_anew(percent: i64) -> String {
    format!("or write the table anew, if they are {percent} % of it or more")
}

fn milliseconds(duration: std::time::Duration) -> String {
    match duration.as_millis() {
        whole if whole >= 1000 && whole % 1000 == 0 => format!("{} s", whole / 1000),
        part => format!("{part} ms"),
    }
}

/// What the last copy of this job moved, and how long it took.
fn last_time(job: &Job) -> Result<Option<String>> {
    let catalog = Catalog::find()?;
    let _identity = catalog.act_as_owner()?;
    spi::text(
        &format!(
            "SELECT format('last time %s rows in %s s', rows, round(extract(epoch FROM ended - started)::numeric, 3))
               FROM {} WHERE dest_table = $1 AND status IN ('ok', 'warning') AND coalesce(reason, '') NOT LIKE 'delta:%' ORDER BY started DESC LIMIT 1",
            catalog.table("run_history")
        ),
        &[job.dest_table.as_str().into()],
    )
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, size};
    use std::time::Duration;

    #[test]
    fn sizes_read_as_in_postgresql() {
        let written: Vec<_> = [0, 10_239, 10_240, 10_485_248, 20_000_000_000, 1 << 50].map(size).into();
        assert_eq!(written, ["0 bytes", "10239 bytes", "10 kB", "10 MB", "19 GB", "1024 TB"]);
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(
            [100, 1500, 10_000].map(|ms| milliseconds(Duration::from_millis(ms))),
            ["100 ms", "1500 ms", "10 s"]
        );
    }
}
