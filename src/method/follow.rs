//! Columns that were added, renamed, widened or dropped on the source, and what follows from that for the destination of a job with
//! follow_columns. Snapshots do it in their own way.

use crate::backend::name::with_suffix;
use crate::backend::parse;
use crate::backend::relation::{oid_arg, Relation};
use crate::backend::spi;
use crate::destination::alter::{self, Clause};
use crate::destination::change::Change;
use crate::destination::column_map;
use crate::destination::following::Following;
use crate::destination::table::{localise, LocalColumn};
use crate::error::{Error, Result};
use crate::job::config::{Catalog, Job};
use crate::job::method::Method;
use crate::job::renamed::Renamed;
use crate::job::run::Run;
use crate::method::connecting::connect_job;
use crate::method::wishes::{wishes, Wish};
use crate::shape::{Column, ColumnDefault, Shape};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::seen::{Arrivals, Known, Seen};

/// Both sides, and what the source was when the job ran last.
pub struct Sides<'a> {
    pub job: &'a Job,
    pub destination: &'a Relation,
    pub local: &'a Shape,
    pub shape: &'a Shape,
    /// The columns that the job copies.
    pub columns: &'a [Column],
    pub before: Option<&'a Seen>,
    pub now: &'a Seen,
    /// All rows are copied, whatever is here.
    pub anew: bool,
}

/// What has to be changed here before rows of the source can come. In the open snapshot, with the pinned search_path. Nothing for a job
/// that does not follow columns.
///
/// # Errors
/// ColumnTaken, ColumnInUse, UnknownTypes, UnknownCollations, UncopyableTypes.
pub fn following(source: &mut Connection, table: &SourceTable, sides: &Sides<'_>) -> Result<Following> {
    let Sides { job, destination, local, shape, columns, before, .. } = sides;
    // What a foreign table shows is another server's.
    if !job.follows_columns() || local.kind == 'f' {
        return Ok(Following::default());
    }
    let moved = moved(source, table, sides)?;
    let known: Option<Vec<Known<'_>>> = before.map(|before| before.known().collect());
    let copied = |name: &str| {
        let gone = || job.renamed.as_ref().is_some_and(|renamed| renamed.gone.iter().any(|gone| gone == name));
        job.filter.as_ref().is_none_or(|filter| filter.iter().any(|column| column == name)) || gone()
    };
    let kept = before.map(Seen::kept).unwrap_or_default();
    let mut wishes = wishes(
        columns,
        local,
        shape,
        (known.as_deref(), kept),
        job.filter.is_some().then_some(&copied as &dyn Fn(&str) -> bool),
    );
    // Most of them are about a type that has stayed, or one that the column here takes as it is.
    let mut needed = Vec::new();
    for wish in std::mem::take(&mut wishes) {
        let is_held = match &wish {
            Wish::Compare { own, column } => match local.column(own) {
                Some(own) => column_map::holds((local, own), (shape, column))?,
                None => true,
            },
            _ => false,
        };
        if !is_held {
            needed.push(wish);
        }
    }
    let wishes = needed;
    if wishes.is_empty() {
        return Ok(Following { moved, ..Following::default() });
    }
    let facts = Facts::of(source, table, sides, &wishes)?;
    let mut changes = Vec::new();
    for wish in &wishes {
        changes.extend(change(wish, sides, &facts)?);
    }
    let mut following = Following { changes, moved, ..Following::default() };
    if following.rewrites() {
        // All rows are going to be copied, and those that are written anew beside them have no value to be given.
        for change in &mut following.changes {
            if let Change::Add { given, .. } = change {
                *given = None;
            }
        }
    }
    following.require_free(destination)?;
    Ok(following)
}

/// Columns of the key, and the control column, whose names other columns of the source have now. A key that these make is one; otherwise it
/// is looked for under the names that its columns have now.
///
/// # Errors
/// KeyGone.
fn moved(source: &mut Connection, table: &SourceTable, sides: &Sides<'_>) -> Result<Vec<String>> {
    let Sides { job, shape, before: Some(before), now, .. } = sides else { return Ok(Vec::new()) };
    let number = |seen: &Seen, name: &str| seen.known().find(|column| column.name == name).map(|column| column.number);
    let is_other = |name: &&String| {
        let (before, now) = (number(before, name), number(now, name));
        before.is_some() && now.is_some() && before != now
    };
    let key = job.pk_name.as_deref().filter(|_| job.method().facts().by_key).unwrap_or_default();
    let gone: Vec<String> = key.iter().filter(|name| shape.column(name).is_none()).cloned().collect();
    if !gone.is_empty() {
        // Whether or not a row is looked for: the job has to know its key when it does.
        let (table, source_label) = (shape.table().plain(), source.label().to_string());
        return Err(Error::KeyGone { table, source_label, columns: gone });
    }
    let mut moved: Vec<String> = key.iter().filter(is_other).cloned().collect();
    if !moved.is_empty() {
        let indexes = source.indexes(table)?;
        let required = |name: &String| shape.column(name).is_some_and(|column| column.not_null);
        let shape_now = Shape { indexes, ..(*shape).clone() };
        // The rows here do not have the values of such a key yet, where some of them stay.
        let stay = job.method() != Method::Dml && !sides.anew;
        if stay || !shape_now.is_unique(key) || !key.iter().all(required) {
            let (table, source_label) = (shape.table().plain(), source.label().to_string());
            return Err(Error::KeyGone { table, source_label, columns: moved });
        }
    }
    if [Method::Inserter, Method::Updater].contains(&job.method()) {
        moved.extend(job.control.iter().filter(is_other).cloned());
    }
    Ok(moved)
}

/// What has to be asked for, once it is known that something changes.
struct Facts {
    arrivals: Arrivals,
    local: Vec<LocalColumn>,
    primary_key: Vec<String>,
    with_default: Vec<String>,
    /// Of a table job.
    defaults: Option<Vec<ColumnDefault>>,
    renames: bool,
}

impl Facts {
    fn of(source: &mut Connection, table: &SourceTable, sides: &Sides<'_>, wishes: &[Wish]) -> Result<Facts> {
        let oid = sides.destination.oid;
        let added: Vec<&Column> = wishes
            .iter()
            .filter_map(|wish| if let Wish::Add { column } = wish { Some(column) } else { None })
            .collect();
        let names: Vec<&str> = added.iter().map(|column| column.name.as_str()).collect();
        let arrivals = if names.is_empty() { Arrivals::default() } else { source.arrivals(table, &names)? };
        let of_type = |wish: &Wish| match wish {
            Wish::Add { column } | Wish::Compare { column, .. } => Some(column.clone()),
            _ => None,
        };
        let defaults = match sides.job.method() {
            Method::Table if !names.is_empty() => Some(source.defaults(table)?),
            _ => None,
        };
        let typed: Vec<Column> = wishes.iter().filter_map(of_type).collect();
        Ok(Facts {
            arrivals,
            local: localise(&typed, &table.table())?,
            primary_key: alter::primary_key(oid)?,
            with_default: alter::with_default(oid)?,
            defaults,
            renames: wishes.iter().any(|wish| matches!(wish, Wish::Rename { .. })),
        })
    }

    /// What a table job's column has from the source.
    fn clause(&self, local: &LocalColumn, destination: &Relation) -> Result<Clause> {
        let column = &local.source;
        let default = self.defaults.iter().flatten().find(|default| default.column == column.name);
        Ok(match (&self.defaults, column.identity.as_deref(), default) {
            (None, ..) => Clause::None,
            (_, Some("a"), _) => Clause::IdentityAlways,
            (_, Some("d"), _) => Clause::IdentityByDefault,
            // An expression may name columns, which a shadow table has under other names.
            (_, _, Some(default)) if default.generated && !self.renames => {
                let clause = Clause::Generated(default.expression.clone());
                match alter::can_add(&destination.name(), local, &clause)? {
                    None => clause,
                    Some(reason) => {
                        pgrx::warning!("column \"{}\" is added as a plain column: {reason}", column.name);
                        Clause::None
                    }
                }
            }
            (_, _, Some(default)) if !default.generated => match parse::expression(&default.expression)? {
                Some(expression) if expression.constant => Clause::Default(default.expression.clone()),
                _ => Clause::None,
            },
            _ => Clause::None,
        })
    }

    fn local(&self, name: &str) -> Result<&LocalColumn> {
        let found = self.local.iter().find(|column| column.source.name == name);
        found.ok_or_else(|| Error::Internal("a column is gone".to_string()))
    }
}

/// What is done about it.
fn change(wish: &Wish, sides: &Sides<'_>, facts: &Facts) -> Result<Option<Change>> {
    let Sides { destination, local, shape, .. } = sides;
    Ok(match wish {
        Wish::Rename { own, to } => Some(Change::Rename { own: own.clone(), to: to.clone() }),
        Wish::Aside { own } => Some(Change::Rename { own: own.clone(), to: free_name(own, local, shape) }),
        Wish::Add { column } => {
            let local_column = facts.local(&column.name)?.clone();
            let clause = facts.clause(&local_column, destination)?;
            let domain = spi::is_true(
                "SELECT t.typtype = 'd' FROM pg_type t WHERE t.oid = $1::oid",
                &[oid_arg(local_column.type_oid.into())],
            )?;
            Some(Change::Add {
                column: local_column,
                rewrites: domain || matches!(clause, Clause::Generated(_)),
                given: facts.arrivals.given.get(&column.name).cloned().filter(|_| clause == Clause::None),
                comment: facts.arrivals.comments.get(&column.name).cloned(),
                at_once: true,
                clause,
            })
        }
        Wish::Share { column } => {
            let own = local.column(&column.name);
            let generated = own.is_some_and(|own| own.generated.as_deref().unwrap_or_default() != "");
            let renamed = sides.before.is_some_and(|before| before.known().any(|known| known.number == column.number));
            let reason = if generated {
                "the destination generates a column of that name by itself"
            } else if renamed {
                "the destination has a column of that name"
            } else if alter::holds_values(&destination.name(), &column.name)? {
                "the destination has a column of its own of that name, which holds values"
            } else {
                return Ok(None);
            };
            return Err(Error::ColumnTaken {
                destination: destination.name().plain(),
                source_table: shape.table().plain(),
                column: column.name.clone(),
                reason: reason.to_string(),
            });
        }
        Wish::Compare { own, column } => {
            let before = local.column(own).ok_or_else(|| Error::Internal("a column is gone".to_string()))?;
            let wider = facts.local(&column.name)?;
            // What it cannot take without loss is refused by the column map, with the statement that mends it.
            if !column_map::widens((local, before), (shape, column), wider)? {
                return Ok(None);
            }
            Some(Change::Widen { own: own.clone(), column: wider.clone(), from: before.written.for_message() })
        }
        Wish::Leave { own } => {
            let column = local.column(own).ok_or_else(|| Error::Internal("a column is gone".to_string()))?;
            let generated = column.generated.as_deref().unwrap_or_default() != "";
            let identity = column.identity.as_deref().unwrap_or_default() != "";
            let changeable = !generated && !identity && !facts.primary_key.contains(own);
            Some(Change::Leave {
                own: own.clone(),
                not_null: column.not_null && changeable,
                default: changeable && facts.with_default.contains(own),
            })
        }
        // An identity column is NOT NULL by nature.
        Wish::Relax { own }
            if facts.primary_key.contains(own)
                || local.column(own).is_some_and(|own| own.identity.as_deref().unwrap_or_default() != "") =>
        {
            None
        }
        Wish::Relax { own } => Some(Change::Relax { own: own.clone() }),
        Wish::Require { name } => Some(Change::Require { name: name.clone() }),
    })
}

/// A name for a column that has to leave its own to another one.
fn free_name(own: &str, local: &Shape, shape: &Shape) -> String {
    let names = (1..).map(|number| match number {
        1 => with_suffix(own, "_old"),
        number => with_suffix(own, &format!("_old{number}")),
    });
    let is_free = |name: &String| local.column(name).is_none() && shape.column(name).is_none();
    // A table has 1600 columns at most.
    names.take(4000).find(is_free).unwrap_or_else(|| own.to_string())
}

/// The job after columns that its configuration names were renamed or dropped on the source, if `error` may come from that; None if it does not.
pub fn renamed_job(catalog: &Catalog, job: &Job, error: &Error) -> Result<Option<Job>> {
    let is_about_names = matches!(
        error.kind(),
        Error::KeyGone { .. }
            | Error::UnknownFilterColumns { .. }
            | Error::FilterLacks { .. }
            | Error::UnsupportedControl { .. }
    );
    if !is_about_names || !job.follows_columns() || job.renamed.is_some() {
        return Ok(None);
    }
    let Some(before) = job.state.get("seen").and_then(|seen| serde_json::from_value::<Seen>(seen.clone()).ok()) else {
        return Ok(None);
    };
    let owner = crate::destination::table::find(&job.destination)?.owner;
    let mut source = connect_job(catalog, job, owner)?;
    let table = source.find_table(&job.source_table)?;
    source.snapshot_of(table.oid)?;
    let now = source.seen(&table)?;
    source.end_snapshot()?;
    if let Some(renamed) = job.with_columns(names_now(&before, &now, false)) {
        return Ok(Some(renamed));
    }
    let by_number = job.with_columns(names_now(&before, &now, true));
    // A column that is given up may be NULL from then on, which finds no row.
    let required = |name: &String| now.known().any(|column| column.name == *name && column.not_null == Some(true));
    Ok(by_number.filter(|job| job.pk_name.iter().flatten().all(required)))
}

/// What the columns of a source are called now that were called otherwise, or are gone, since they were seen. A name that another column has now
/// means that one, unless it is `taken` for none.
fn names_now(before: &Seen, now: &Seen, taken: bool) -> Renamed {
    let is_there = |name: &str| {
        now.known().any(|column| column.name == name)
            && !(taken && before.known().any(|old| old.name == name && !is_same(&old, now)))
    };
    let mut renamed = Renamed::default();
    for old in before.known().filter(|old| !is_there(old.name)) {
        match now.known().find(|column| column.number == old.number) {
            Some(column) => renamed.renamed.push((old.name.to_string(), column.name.to_string())),
            None => renamed.gone.push(old.name.to_string()),
        }
    }
    renamed
}

/// Whether a column has the name that it had.
fn is_same(old: &Known<'_>, now: &Seen) -> bool {
    now.known().any(|column| column.number == old.number && column.name == old.name)
}

/// Notes what is followed in the history; whether a column is gone on the source, of which a WARNING tells once.
pub fn tell(following: &Following, destination: &Relation, run: &mut Run) -> bool {
    if following.is_empty() {
        return false;
    }
    run.note(following.summary());
    let left = following.left();
    for column in &left {
        pgrx::warning!(
            "column \"{column}\" of \"{}\" is gone on the source: it keeps its values here, and is NULL in new rows",
            destination.name().plain()
        );
    }
    !left.is_empty()
}

/// For the history: what has changed in refresh_config.
pub fn told(renamed: &Renamed) -> String {
    let names = renamed.renamed.iter().map(|(old, new)| format!("\"{old}\" is \"{new}\" now"));
    let gone = renamed.gone.iter().map(|name| format!("\"{name}\" is gone"));
    format!("refresh_config follows the source's columns: {}", names.chain(gone).collect::<Vec<_>>().join(", "))
}
