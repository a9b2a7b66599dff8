//! table_maker.

use super::refresh::{refresh, Options};
use crate::backend::identity::require_writable;
use crate::backend::name::Name;
use crate::backend::subtransaction::tried;
use crate::destination::{sequences, table};
use crate::error::{quoted_list, Result};
use crate::job::config::NewJob;
use crate::job::method::Method;
use crate::method::making;
use crate::method::making::{first_refresh, Making};
use crate::method::running::about;
use pgrx::{notice, warning};

/// The arguments of table_maker.
pub struct Request<'a> {
    pub common: making::Request<'a>,
    pub sequences: Option<Vec<String>>,
}

/// Makes a table job. The caller becomes the owner of a destination that is made.
pub fn make(request: &Request<'_>) -> Result<()> {
    require_writable(Method::Table.facts().maker)?;
    let common = &request.common;
    let (destination, pull) = about(&common.doing(Method::Table), || make_objects(request))?;
    if pull {
        first_refresh(common, &destination, |call| refresh(&Options::of(call)))?;
    }
    Ok(())
}

/// The destination, and whether data is to be pulled.
fn make_objects(request: &Request<'_>) -> Result<(Name, bool)> {
    let common = &request.common;
    let mut making = Making::begin(common)?;
    let destination = making.destination.clone();
    making.catalog.require_no_job(&destination.plain(), Method::Table.facts().title)?;
    let (_, missing) = sequences::find(request.sequences.as_deref().unwrap_or_default())?;
    if !missing.is_empty() {
        notice!(
            "\"{}\": sequences that do not exist yet are left alone until they do: {}",
            destination.plain(),
            quoted_list(&missing)
        );
    }
    let existing = making.existing_destination()?;
    if existing.is_none() {
        make_table(common, &mut making)?;
    }
    let job = making.job(common, "table");
    making.catalog.insert(&NewJob { truncate_cascade: Some(false), sequences: request.sequences.as_deref(), ..job })?;
    if common.debug {
        notice!("\"{}\": the job is recorded", destination.plain());
    }
    Ok((destination, common.pull_data && existing.is_none()))
}

/// The destination as a development copy: with generated expressions, identity and constant defaults, unless only
/// some of the columns are copied.
fn make_table(request: &making::Request<'_>, making: &mut Making) -> Result<()> {
    let source = making.table.table();
    let local = table::localise(&making.columns, &source)?;
    let comment = format!("Copied from {} by mimeo", source.plain());
    let name = making.destination.clone();
    let defaults = if request.filter.is_none() { making.source.defaults(&making.table)? } else { Vec::new() };
    let full = tried(|| table::create_with_defaults(&name, &local, &defaults, &comment))?;
    if let Err(error) = full {
        if defaults.is_empty() {
            return Err(error);
        }
        warning!(
            "\"{}\": defaults and generated columns are left out, because one cannot be created on the destination: {}",
            name.plain(),
            error.report().message
        );
        table::create(&name, Vec::new(), &local, &comment)?;
    }
    if !request.indexes {
        return Ok(());
    }
    let made = table::find(&name)?;
    making.copy_indexes(request, &name, made.oid, "", None)
}
