//! inserter_maker and updater_maker.

use super::bound;
use super::decide::Repull;
use super::refresh::{refresh, Options};
use super::state::{type_of, Redo, State};
use super::values::{boundary, Values};
use crate::backend::identity::require_writable;
use crate::backend::name::Name;
use crate::error::{Error, Result};
use crate::job::config::NewJob;
use crate::job::method::Method;
use crate::method::columns::names;
use crate::method::making;
use crate::method::making::{first_refresh, Making};
use crate::method::row_key::{self, GivenKey};
use crate::method::running::about;
use crate::source::bounds::Kind;
use pgrx::{notice, warning};

/// The arguments of inserter_maker and updater_maker.
pub struct Request<'a> {
    pub common: making::Request<'a>,
    pub p_type: &'a str,
    pub control: &'a str,
    pub boundary: Option<&'a str>,
    /// Only of an updater.
    pub key: GivenKey,
}

/// Makes an inserter or updater job. The caller becomes the owner of a destination that is made.
///
/// 1. The source is read, and everything that can be refused is refused.
/// 2. An existing destination is kept, else a table with the source's columns and indexes is created.
/// 3. All rows are pulled, unless the destination existed; then the job goes on from what it holds.
pub fn make(method: Method, request: &Request<'_>) -> Result<()> {
    require_writable(method.facts().maker)?;
    let (destination, pull) = about(&request.common.doing(method), || make_objects(method, request))?;
    if pull {
        first_refresh(&request.common, &destination, |call| {
            refresh(method, &Options { repull: Repull::All, ..Options::of(call) })
        })?;
    }
    Ok(())
}

/// The destination, and whether data is to be pulled.
fn make_objects(method: Method, request: &Request<'_>) -> Result<(Name, bool)> {
    let kind = Kind::of(request.p_type)?;
    let boundary = boundary(request.boundary, kind)?;
    let common = &request.common;
    let mut making = Making::begin(common)?;
    let (table_name, destination) = (making.table.table(), making.destination.clone());
    making.catalog.require_no_job(&destination.plain(), method.facts().title)?;
    making.source.end_snapshot()?;
    let control = making.source.control(&making.table, request.control)?;
    control.require(kind, &making.table)?;
    let lacks = |what, columns: Vec<String>| Err(Error::FilterLacks { table: table_name.plain(), what, columns });
    let copied = |name: &String| making.columns.iter().any(|column| column.name == *name);
    if !copied(&control.name) {
        return lacks("the control column", vec![control.name]);
    }
    let key = if method.facts().by_key { Some(row_key::key(&request.key, &making)?) } else { None };
    if let Some(key) = &key {
        let missing: Vec<_> = key.iter().map(|column| column.name.clone()).filter(|name| !copied(name)).collect();
        if !missing.is_empty() {
            return lacks("columns of the key", missing);
        }
    }

    let existing = making.existing_destination()?;
    if existing.is_none() {
        let kept_by = match &key {
            Some(key) => names(key),
            None => making.shape.key().map(|index| index.columns.clone()).unwrap_or_default(),
        };
        row_key::make_table(common, &making, key.as_deref(), Some(&kept_by), None)?;
    }
    let pull = common.pull_data && existing.is_none();
    let values = Values::of(&control);
    let default_boundary = Some(if request.boundary.is_none() { boundary.clone() } else { String::new() });
    making.source.snapshot_of(making.table.oid)?;
    let seen = Some(making.source.seen(&making.table)?);
    making.source.end_snapshot()?;
    let mut state = State { default_boundary, seen, ..State::default() };
    let mut last_value = Values::beginning(kind).to_string();
    if pull {
        state.redo = Some(Redo::Empty);
    } else {
        let held = match &existing {
            Some(existing) => values.greatest_held(existing)?,
            None => None,
        };
        let bound =
            bound::find(&mut making.source, &making.table, &control, kind, &boundary, common.condition, &mut state)?;
        let safe = match bound.upper {
            Some(upper) => Some(upper),
            None => making.source.margin(&making.table, &control, kind, &boundary)?.value,
        };
        let now = match (held, safe) {
            // What it holds from there on is taken again, for more may come in between.
            (Some(held), Some(safe)) if values.is_after(&held, &safe)? => {
                if bound.newest.as_deref().is_some_and(|newest| values.is_after(&held, newest).unwrap_or(false)) {
                    warning!(
                        "\"{}\" holds the value {held} in column \"{}\", which is beyond all values that the source can hold now: the job begins at {safe}",
                        destination.plain(),
                        control.name
                    );
                }
                state.redo = Some(Redo::From(safe.clone()));
                Some(safe)
            }
            (held, safe) => held.or(safe),
        };
        match now {
            Some(now) => last_value = now,
            // An empty source: from its first row on.
            None => state.redo = Some(Redo::Empty),
        }
    }
    state.left = Some(last_value.clone());
    let time = kind == Kind::Time;
    let job = making.job(common, type_of(method, kind));
    making.catalog.insert(&NewJob {
        control: Some(&control.name),
        boundary: Some(boundary),
        last_value: Some(last_value),
        dst_active: time.then_some(true),
        dst_start: time.then_some(30),
        dst_end: time.then_some(230),
        pk_name: key.as_ref().map(|key| key.iter().map(|column| column.name.clone()).collect()),
        pk_type: key.as_ref().map(|key| request.key.types_of(key)),
        state: serde_json::to_value(&state)?,
        ..job
    })?;
    if common.debug {
        notice!("\"{}\": the job is recorded", destination.plain());
    }
    Ok((destination, pull))
}
