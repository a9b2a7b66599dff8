//! Filling materialized views that were created again with the snapshot's view that they read. How long their queries take is not known,
//! so nobody may wait for them behind the locks of a refresh: a background worker runs them after the commit.

use crate::backend::identity::{act_as, has_rights_of, outer_role};
use crate::backend::ownership;
use crate::backend::relation::{self, oid_arg, Relation};
use crate::backend::spi;
use crate::backend::worker::{self, TransactionControl, Worker};
use crate::error::Result;
use pgrx::{pg_sys, register_xact_callback, warning, PgXactCallbackEvent};

/// Bytes that can be passed to a worker (BGW_EXTRALEN, with a NUL at its end).
const MOST_BYTES: usize = 127;

/// Fills, after the commit, those that the session's own role could fill itself, and whose queries reach only trusted code. For each of the
/// others there is a WARNING. `views` are empty, and in the order in which they read each other.
pub fn after_commit(views: &[Relation]) -> Result<()> {
    let mut list = String::new();
    for view in views {
        let next = format!("{list} {}", view.oid.to_u32());
        if next.len() <= MOST_BYTES && has_rights_of(outer_role(), view.owner) && is_trusted(view)? {
            list = next;
        } else {
            let name = view.name();
            warning!(
                "materialized view \"{}\" was created again without data: REFRESH MATERIALIZED VIEW {name};",
                name.plain()
            );
        }
    }
    if list.is_empty() {
        return Ok(());
    }
    // SAFETY: reads a variable.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    register_xact_callback(PgXactCallbackEvent::Commit, move || {
        if Worker::start_for("mimeo_fill_views", "mimeo fill views", database, list.trim_start()).is_none() {
            pgrx::log!("mimeo: no background worker is left to fill materialized views; run REFRESH MATERIALIZED VIEW");
        }
    });
    Ok(())
}

/// Checked as the owner of the view, with whose rights its query runs.
fn is_trusted(view: &Relation) -> Result<bool> {
    let _identity = act_as(view.owner, true)?;
    ownership::trusts_query(view.oid)
}

/// The main function of the worker.
pub fn work(database: u32) -> Result<()> {
    worker::prepare();
    let purpose = worker::purpose();
    worker::connect(pg_sys::Oid::from(database), None);
    TransactionControl::Worker.begin();
    for oid in purpose.split(' ').filter_map(|oid| oid.parse::<u32>().ok()) {
        spi::with_snapshot(|| fill(oid.into()))?;
        TransactionControl::Worker.commit()?;
    }
    TransactionControl::Worker.end();
    Ok(())
}

/// Does nothing if somebody else has filled it, or dropped it.
fn fill(oid: pg_sys::Oid) -> Result<()> {
    let found: Option<Relation> = spi::json(
        "SELECT json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
                                  'owner', c.relowner::bigint)::pg_catalog.text
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = $1 AND c.relkind = 'm' AND NOT c.relispopulated",
        &[oid_arg(oid)],
    )?;
    let Some(view) = found else { return Ok(()) };
    relation::lock_to_read(oid);
    if is_trusted(&view)? {
        let _identity = act_as(view.owner, true)?;
        spi::run(&format!("REFRESH MATERIALIZED VIEW {}", view.name()), &[])?;
    }
    Ok(())
}
