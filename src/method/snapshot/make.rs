//! snapshot_maker.

use super::refresh::{refresh, Options};
use super::state::State;
use crate::backend::identity::require_writable;
use crate::backend::name::Name;
use crate::backend::relation;
use crate::destination::row_versions::Hidden;
use crate::destination::{table, twins};
use crate::error::{Error, Result};
use crate::job::config::NewJob;
use crate::job::method::Method;
use crate::method::making::{first_refresh, Making, Request};
use crate::method::running::about;
use pgrx::{notice, pg_sys};

/// Makes a snapshot job and pulls its first data. The caller becomes the destination's owner.
///
/// 1. The source's shape is read, and everything that can be refused is refused.
/// 2. Twins, copied indexes and the view are made, and the job is recorded.
/// 3. The data comes through an ordinary refresh.
pub fn make(request: &Request<'_>) -> Result<()> {
    require_writable(Method::Snapshot.facts().maker)?;
    let destination = about(&request.doing(Method::Snapshot), || make_objects(request))?;
    if request.pull_data {
        first_refresh(request, &destination, |call| {
            refresh(&Options { indexes: request.indexes, ..Options::of(call) })
        })?;
    }
    Ok(())
}

fn make_objects(request: &Request<'_>) -> Result<Name> {
    let mut making = Making::begin(request)?;
    let destination = making.destination.clone();
    making.catalog.require_no_job(&destination.plain(), Method::Snapshot.facts().title)?;
    for name in twins::names(&destination).iter().chain([&destination]) {
        if relation::find(name)?.is_some() {
            return Err(Error::DestinationExists(name.plain()));
        }
    }
    let hidden = making.hidden()?;
    let local = table::localise(&making.columns, &making.table.table())?;
    let [first, second] = twins::names(&destination);
    for twin in [&first, &second] {
        let comment = format!("One of the two tables behind {}, kept by mimeo", destination.plain());
        table::create(twin, hidden.definitions(), &local, &comment)?;
        hidden.leave_out_of_statistics(twin)?;
        if request.indexes {
            let oid = relation::find(twin)?.map(|twin| twin.oid).unwrap_or(pg_sys::InvalidOid);
            making.copy_indexes(request, twin, oid, twins::index_prefix(twin), None)?;
        }
    }
    twins::replace_view(&destination, None, &first, &making.columns)?;
    let job = making.job(request, "snap");
    let state = State { columns: making.columns, types: making.shape.types, ..State::default() };
    let delta = (hidden != Hidden::None).then_some(true);
    making.catalog.insert(&NewJob { check_stats: Some(true), delta, state: serde_json::to_value(&state)?, ..job })?;
    if request.debug {
        notice!("\"{}\": twins and view made", destination.plain());
    }
    Ok(destination)
}

impl Making {
    /// The columns that the twins keep the versions of the source's rows in, where it has such.
    fn hidden(&mut self) -> Result<Hidden> {
        if !['r', 'p'].contains(&self.table.kind) {
            return Ok(Hidden::None);
        }
        match self.source.origin(&self.table) {
            Ok(Ok(origin)) => Ok(Hidden::fitting(&self.columns, origin.has_parts())),
            Ok(Err(_)) => Ok(Hidden::None),
            // It may lack a function.
            Err(Error::Remote { .. }) => {
                self.source.roll_back()?;
                Ok(Hidden::None)
            }
            Err(error) => Err(error),
        }
    }
}
