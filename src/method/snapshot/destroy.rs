//! snapshot_destroyer.

use super::state::State;
use crate::backend::identity::{pin_settings, require_writable};
use crate::backend::name::{quote, Name};
use crate::backend::relation::{self, lock_exclusively};
use crate::backend::spi;
use crate::destination::dependents::Family;
use crate::destination::row_versions::Hidden;
use crate::destination::table;
use crate::destination::twins::{self, Twins};
use crate::error::{Error, Result};
use crate::job::config::Catalog;
use crate::job::lock::{self, Wait};
use crate::job::method::Method;
use crate::method::load::patience;
use crate::method::rights::{require_owner, require_responsible};
use crate::method::running::{about, require_method};
use crate::shape::Column;
use pgrx::notice;

/// Ends a snapshot job. With `keep` the live twin becomes a plain table under the view's name, with the view's
/// grants and comments and with the views on it; without, view and twins go. The caller must own them.
pub fn destroy(destination: &str, keep: bool, debug: bool) -> Result<()> {
    require_writable("snapshot_destroyer")?;
    let catalog = Catalog::find()?;
    let job = catalog.job(destination)?;
    let name = &job.destination;
    require_method(&job, Method::Snapshot)?;
    lock::take(&job.dest_table, Wait::Unlimited)?;
    about(&format!("Destroying snapshot \"{}\".", job.dest_table), || {
        let _pinned = pin_settings()?;
        if relation::find(name)?.is_none() {
            require_responsible(&job)?;
            notice!("\"{}\" does not exist any more, only the job is removed", job.dest_table);
            if !keep {
                drop_twins(name)?;
            }
        } else if keep {
            let state: State = serde_json::from_value(job.state.clone()).unwrap_or_default();
            keep_live_twin(name, &state.columns, debug)?;
        } else {
            spi::run(&format!("DROP VIEW {name}"), &[])?;
            drop_twins(name)?;
        }
        catalog.delete(&job.dest_table)
    })
}

fn drop_twins(name: &Name) -> Result<()> {
    for twin in twins::names(name) {
        spi::run(&format!("DROP TABLE IF EXISTS {twin}"), &[])?;
    }
    Ok(())
}

fn keep_live_twin(name: &Name, source: &[Column], debug: bool) -> Result<()> {
    let twins = Twins::find(name).map_err(|error| match error {
        Error::BrokenDestination { destination, reason, .. } => {
            let hint = "Restore what is missing, or call snapshot_destroyer with p_keep_table := false: it drops what is left.";
            Error::BrokenDestination { destination, reason, hint: hint.to_string() }
        }
        other => other,
    })?;
    require_owner(&twins.view)?;
    let family = Family::of(twins.view.oid)?;
    lock_exclusively(&family.oids(), name, patience(), "destroyed")?;
    let family = Family::of(twins.view.oid)?;
    let [live] = table::describe([twins.live.oid])?;
    family.drop_and_remake(name, || {
        spi::run(&format!("ALTER TABLE {} RENAME TO {}", twins.live.name(), quote(&name.name)), &[])?;
        spi::run(&format!("COMMENT ON TABLE {name} IS NULL"), &[])?;
        Hidden::drop_from(name, &live, source)?;
        spi::run(&format!("DROP TABLE {}", twins.idle.name()), &[])?;
        Ok(())
    })?;
    if debug {
        notice!("\"{}\": \"{}\" is now the table", name.plain(), twins.live.name().plain());
    }
    Ok(())
}
