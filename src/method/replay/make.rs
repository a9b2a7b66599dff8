//! dml_maker and logdel_maker.

use super::options::Options;
use super::refresh::refresh;
use super::stamp::require_stamp;
use super::stamp::DELETED;
use super::state::{this_database, State};
use super::wanted::storage_ids;
use super::wanted::{capture, members_with_triggers, Wanted};
use crate::backend::identity::require_writable;
use crate::backend::name::{quote, with_suffix, Name};
use crate::backend::spi;
use crate::destination::table;
use crate::error::{Error, Result};
use crate::job::config::{Catalog, NewJob};
use crate::job::method::Method;
use crate::method::columns::names;
use crate::method::load::patience;
use crate::method::making;
use crate::method::making::{first_refresh, Making};
use crate::method::row_key::{self, GivenKey};
use crate::method::running::about;
use crate::source::undo::{pending, undo_from, undo_later};
use pgrx::notice;

/// The arguments of dml_maker and logdel_maker.
pub struct Request<'a> {
    pub common: making::Request<'a>,
    pub key: GivenKey,
}

/// Makes a dml or logdel job. The caller becomes the owner of a destination that is made.
///
/// 1. The source is read, and everything that can be refused is refused.
/// 2. An existing destination is kept, else a table with the source's columns and indexes is created.
/// 3. Queue and triggers are created on the source, in one transaction there. If the local one is rolled back, they are dropped again.
/// 4. All rows are pulled, unless the destination existed.
pub fn make(method: Method, request: &Request<'_>) -> Result<()> {
    require_writable(method.facts().maker)?;
    let before = pending();
    let made = about(&request.common.doing(method), || {
        let (destination, pull) = make_objects(method, request)?;
        if pull {
            first_refresh(&request.common, &destination, |call| {
                refresh(method, &Options { repull: true, ..Options::of(call) })
            })?;
        }
        Ok(())
    });
    if made.is_err() {
        undo_from(before);
    }
    made
}

/// The destination, and whether data is to be pulled.
fn make_objects(method: Method, request: &Request<'_>) -> Result<(Name, bool)> {
    let common = &request.common;
    let mut making = Making::begin(common)?;
    let (table_name, destination) = (making.table.table(), making.destination.clone());
    let kind = method.name();
    making.catalog.require_no_job(&destination.plain(), method.facts().title)?;
    let keeps_rows = method.facts().keeps_gone;
    let unsupported = |source_label: &str, reason: String| {
        Err(Error::UnsupportedSource { table: table_name.plain(), source_label: source_label.to_string(), reason })
    };
    if !['r', 'p'].contains(&making.shape.kind) {
        return unsupported(making.source.label(), format!("a {kind} job needs a plain or partitioned table"));
    }
    if keeps_rows && making.columns.iter().any(|column| column.name == DELETED) {
        return unsupported(making.source.label(), format!("it has a column \"{DELETED}\" of its own"));
    }
    let key = row_key::key(&request.key, &making)?;
    let key_names = names(&key);
    let missing: Vec<_> = key_names.iter().filter(|name| !names(&making.columns).contains(name)).cloned().collect();
    if !missing.is_empty() {
        return Err(Error::FilterLacks { table: table_name.plain(), what: "columns of the key", columns: missing });
    }
    let nullable: Vec<_> = key.iter().filter(|column| !column.not_null).map(|column| column.name.clone()).collect();
    if !nullable.is_empty() {
        let not_null = |column: &String| format!("ALTER TABLE … ALTER COLUMN {} SET NOT NULL;", quote(column));
        let fix = nullable.iter().map(not_null).collect::<Vec<_>>().join(" ");
        return Err(Error::NullableKey { table: table_name.plain(), columns: nullable, fix });
    }
    making.source.require_primary()?;
    let schema = making.catalog.schema().to_string();
    let members = making.source.members(&making.table, None)?;
    let cloned = making.source.clones_triggers(&making.shape);
    making.source.require_capture_rights(&schema, &members, cloned)?;

    let existing = making.existing_destination()?;
    match &existing {
        None => {
            let extra = keeps_rows.then(|| format!("{} timestamptz", quote(DELETED)));
            let kept_by = keeps_rows.then_some(key_names.as_slice());
            row_key::make_table(common, &making, Some(&key), kept_by, extra.as_deref())?;
            if keeps_rows && common.indexes {
                let index = quote(&with_suffix(&destination.name, &format!("_{DELETED}")));
                spi::run(&format!("CREATE INDEX {index} ON {destination} ({})", quote(DELETED)), &[])?;
            }
        }
        Some(existing) if keeps_rows => {
            let [shape] = table::describe([existing.oid])?;
            require_stamp(&shape)?;
        }
        Some(_) => {}
    }

    let objects = making.source.free_objects(&schema, &table_name)?;
    let dest_table = destination.plain();
    let wanted = Wanted {
        method,
        key: &key_names,
        filter: common.filter.as_deref(),
        condition: common.condition,
        destination: &dest_table,
        max_size: Some(MAX_QUEUE_SIZE),
        objects: &objects,
    };
    let seen = making.source.seen(&making.table)?;
    let capture = capture(&wanted, &making.source, &making.table, &making.shape, &members);
    let number = capture.number;
    let (wanted, queue) = (dest_table.clone(), objects.queue.plain());
    undo_later(&making.source, objects.removal_of(number), move || {
        spi::with_snapshot(|| Catalog::find().and_then(|catalog| catalog.row(&wanted)))
            .map_or(true, |job| job.is_some_and(|job| job.control.as_ref() == Some(&queue)))
    });
    making.source.make_queue(&objects, &capture, &members, false, patience())?;
    making.source.mark_queue(&objects.queue, &this_database(), capture.max_size)?;
    let members = members_with_triggers(&mut making.source, &making.table, &objects)?;

    let state = State {
        position: None,
        removed: number,
        system: String::new(),
        members: storage_ids(&members, cloned),
        filter: common.filter.clone(),
        condition: common.condition.map(str::to_string),
        copy_all: None,
        seen: Some(seen),
        renamed: Vec::new(),
        objects,
    };
    let queue = state.objects.queue.plain();
    let job = making.job(common, kind);
    making.catalog.insert(&NewJob {
        control: Some(&queue),
        pk_type: Some(request.key.types_of(&key)),
        pk_name: Some(key_names),
        insert_on_fetch: Some(true),
        max_queue_size: Some(MAX_QUEUE_SIZE),
        state: serde_json::to_value(&state)?,
        ..job
    })?;
    if common.debug {
        notice!("\"{dest_table}\": queue \"{queue}\" and its triggers are made, and the job is recorded");
    }
    Ok((destination, common.pull_data && existing.is_none()))
}

/// How large the queue of a new job may become, in bytes.
const MAX_QUEUE_SIZE: i64 = 10 * 1024 * 1024 * 1024;
