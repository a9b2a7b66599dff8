//! inserter_maker and updater_maker.

use super::values::{boundary, Values};
use super::{bound, refresh, type_of, Options, Redo, Repull, State};
use crate::backend::identity::require_writable;
use crate::backend::name::{quote_list, with_suffix, Name};
use crate::backend::relation;
use crate::backend::spi;
use crate::destination::{indexes, table};
use crate::error::{Error, Result};
use crate::job::config::NewJob;
use crate::job::lock::Wait;
use crate::method::{self, about, copied_indexes, Making, Method};
use crate::shape::Column;
use crate::source::bounds::Kind;
use pgrx::notice;

/// The arguments of inserter_maker and updater_maker.
pub struct Request<'a> {
    pub common: method::Request<'a>,
    pub p_type: &'a str,
    pub control: &'a str,
    pub boundary: Option<&'a str>,
    /// Only of an updater.
    pub pk_name: Option<Vec<String>>,
    pub pk_type: Option<Vec<String>>,
}

/// Makes an inserter or updater job. The caller becomes the owner of a destination that is made.
///
/// 1. The source is looked at, and everything that can be refused is refused.
/// 2. A destination that is there is kept, else a table with the source's columns and indexes is made.
/// 3. All rows are pulled, unless the destination was there; then the job goes on from what that holds.
pub fn make(method: Method, request: &Request<'_>) -> Result<()> {
    let function = if method == Method::Inserter { "inserter_maker" } else { "updater_maker" };
    require_writable(function)?;
    let (destination, pull) = about(&request.common.doing(method), || make_objects(method, request))?;
    if pull {
        refresh(
            method,
            &Options {
                destination: &destination.plain(),
                limit: None,
                repull: Repull::All,
                lock_wait: Wait::Unlimited,
                debug: request.common.debug,
            },
        )?;
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
    let title = if method == Method::Inserter { "Inserter" } else { "Updater" };
    making.catalog.require_no_job(&destination.plain(), title)?;
    making.source.end_snapshot()?;
    let control = making.source.control(&making.table, request.control)?;
    control.require(kind, &making.table)?;
    let lacks = |what, columns: Vec<String>| Err(Error::FilterLacks { table: table_name.plain(), what, columns });
    let copied = |name: &String| making.columns.iter().any(|column| column.name == *name);
    if !copied(&control.name) {
        return lacks("the control column", vec![control.name]);
    }
    let key = if method == Method::Updater { Some(key(request, &making)?) } else { None };
    if let Some(key) = &key {
        let missing: Vec<_> = key.iter().map(|column| column.name.clone()).filter(|name| !copied(name)).collect();
        if !missing.is_empty() {
            return lacks("columns of the key", missing);
        }
    }

    let existing = making.existing_destination()?;
    if existing.is_none() {
        make_table(common, &making, key.as_deref())?;
    }
    let pull = common.pull_data && existing.is_none();
    let values = Values::of(&control);
    let mut state = State::default();
    let mut last_value = Values::beginning(kind).to_string();
    if pull {
        state.redo = Some(Redo::Empty);
    } else {
        let held = if existing.is_some() { values.greatest_in(&destination)? } else { None };
        let now = match held {
            Some(held) => Some(held),
            None => {
                let bound = bound::find(
                    &mut making.source,
                    &making.table,
                    &control,
                    kind,
                    &boundary,
                    common.condition,
                    &mut state,
                )?;
                match bound.upper {
                    Some(upper) => Some(upper),
                    None => making.source.margin(&making.table, &control, kind, &boundary)?.value,
                }
            }
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
        pk_type: key.as_ref().map(|key| match &request.pk_type {
            Some(given) => given.clone(),
            None => key.iter().map(|column| column.type_name.clone()).collect(),
        }),
        state: serde_json::to_value(&state)?,
        ..job
    })?;
    if common.debug {
        notice!("{}: the job is recorded", destination.plain());
    }
    Ok((destination, pull))
}

/// The columns that identify a row: as the user says, else as the source's indexes do.
///
/// # Errors
/// InvalidArgument, NoKey.
fn key(request: &Request<'_>, making: &Making) -> Result<Vec<Column>> {
    let invalid = |reason: &str| Err(Error::InvalidArgument(reason.to_string()));
    let names = match (&request.pk_name, &request.pk_type) {
        (None, None) => match making.shape.key() {
            Some(index) => index.columns.clone(),
            None => {
                return Err(Error::NoKey {
                    table: making.table.table().plain(),
                    source_label: making.source.label().to_string(),
                })
            }
        },
        (Some(names), Some(types)) if names.len() == types.len() && !names.is_empty() => names.clone(),
        (Some(_), Some(_)) => return invalid("p_pk_name and p_pk_type must name as many columns as types"),
        _ => return invalid("p_pk_name and p_pk_type must be given both, or neither"),
    };
    let columns: Vec<Column> = names.iter().filter_map(|name| making.shape.column(name)).cloned().collect();
    if columns.len() != names.len() {
        return invalid(&format!(
            "p_pk_name names columns that {} does not have: {}",
            making.table.table().plain(),
            names.iter().filter(|name| making.shape.column(name).is_none()).cloned().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(columns)
}

/// The destination, with the source's indexes, and one on a key that has none there.
fn make_table(request: &method::Request<'_>, making: &Making, key: Option<&[Column]>) -> Result<()> {
    let name = &making.destination;
    let source = making.table.table();
    let local = table::localise(&making.columns, &source)?;
    let comment = format!("Copied from {} by mimeo", source.plain());
    table::create(name, &local, &comment)?;
    if !request.indexes {
        return Ok(());
    }
    let made = table::find(name)?;
    for index in copied_indexes(&making.shape, request.filter.as_deref()) {
        indexes::copy(index, name, made.oid, &indexes::copied_name(index, &source.name, &name.name, ""))?;
    }
    let Some(key) = key else { return Ok(()) };
    let columns: Vec<String> = key.iter().map(|column| column.name.clone()).collect();
    let has_index = spi::is_true(
        "SELECT true FROM pg_index x WHERE x.indrelid = $1 AND x.indisunique AND x.indpred IS NULL
            AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
                  WHERE a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey))
              = (SELECT array_agg(c ORDER BY c::name) FROM unnest($2) c)",
        &[relation::oid_arg(made.oid), columns.clone().into()],
    )?;
    if !has_index {
        let index = with_suffix(&format!("{}_{}", name.name, columns.join("_")), "_pk");
        spi::run(
            &format!(
                "CREATE UNIQUE INDEX {} ON {name} ({})",
                crate::backend::name::quote(&index),
                quote_list(columns.iter().map(String::as_str))
            ),
            &[],
        )?;
    }
    Ok(())
}
