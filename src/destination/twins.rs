//! The two tables behind a snapshot's view: which of them is live, and the swap.

use crate::backend::name::{literal, quote, quote_list, with_suffix, Name};
use crate::backend::relation::{self, lock_exclusively, oid_arg, Patience, Relation};
use crate::backend::spi;
use crate::destination::dependents;
use crate::destination::table;
use crate::error::{Error, Result};
use crate::shape::Column;
use pgrx::pg_sys;

/// A snapshot's view and its twins.
#[derive(Debug, Clone)]
pub struct Twins {
    pub view: Relation,
    pub live: Relation,
    pub idle: Relation,
}

/// `<destination>_snap1` and `_snap2`.
pub fn names(destination: &Name) -> [Name; 2] {
    ["_snap1", "_snap2"].map(|suffix| destination.sibling(with_suffix(&destination.name, suffix)))
}

/// What names of indexes on a twin start with: `snap1_` or `snap2_`.
pub fn index_prefix(twin: &Name) -> &'static str {
    if twin.name.ends_with('1') {
        "snap1_"
    } else {
        "snap2_"
    }
}

impl Twins {
    /// Finds them; the live one is the one that the view's definition depends on.
    ///
    /// # Errors
    /// BrokenDestination, with what to do, if the view or a twin is gone, not what it was, or somebody else's.
    pub fn find(destination: &Name) -> Result<Twins> {
        let broken = |reason: String, hint: String| Error::BrokenDestination {
            destination: destination.plain(),
            reason,
            hint,
        };
        let again = || "Call snapshot_destroyer and snapshot_maker again, or restore what is missing.".to_string();
        let missing = |name: &Name| broken(format!("{name} is missing"), again());
        let view = relation::find(destination)?.ok_or_else(|| missing(destination))?;
        if view.kind != 'v' {
            return Err(broken(format!("{destination} is not a view"), again()));
        }
        let [first, second] = names(destination);
        let first = relation::find(&first)?.ok_or_else(|| missing(&first))?;
        let second = relation::find(&second)?.ok_or_else(|| missing(&second))?;
        for twin in [&first, &second] {
            if twin.kind != 'r' {
                return Err(broken(format!("{} is not a plain table", twin.name()), again()));
            }
            if twin.owner != view.owner {
                let owner = spi::text("SELECT pg_catalog.pg_get_userbyid($1)::text", &[oid_arg(view.owner)])?;
                return Err(broken(
                    format!("{} has another owner than the view", twin.name()),
                    format!("ALTER TABLE {} OWNER TO {};", twin.name(), quote(&owner.unwrap_or_default())),
                ));
            }
        }
        match (depends_on(view.oid, first.oid)?, depends_on(view.oid, second.oid)?) {
            (true, false) => Ok(Twins { view, live: first, idle: second }),
            (false, true) => Ok(Twins { view, live: second, idle: first }),
            _ => Err(broken("the view does not show exactly one of the twins".to_string(), again())),
        }
    }

    /// Points the view at the idle twin, and returns whether the view had to be made anew.
    ///
    /// 1. The view that only grows by columns at its end, or not at all, is replaced: everything on it stays.
    /// 2. Any other change drops it and makes it anew, with all that depends on it.
    ///
    /// In both cases the exclusive lock comes last and without a queue of readers behind it.
    pub fn swap(&self, columns: &[Column], patience: Patience) -> Result<bool> {
        let name = self.view.name();
        let shown = table::describe(self.view.oid)?;
        let grows = shown.columns.len() <= columns.len()
            && table::shows(&shown, &columns[..shown.columns.len().min(columns.len())]);
        if grows {
            lock_exclusively(&[self.view.oid], &name, patience, "swapped")?;
            replace_view(&name, Some(self.view.oid), &self.idle.name(), columns)?;
            return Ok(false);
        }
        let family = loop {
            let family = dependents::Family::of(self.view.oid)?;
            lock_exclusively(&family.oids(), &name, patience, "swapped")?;
            // While it was not locked, somebody may have built another view on it.
            if dependents::Family::of(self.view.oid)?.oids() == family.oids() {
                break family;
            }
        };
        family.drop_and_remake(&name, || replace_view(&name, None, &self.idle.name(), columns))?;
        Ok(true)
    }
}

fn depends_on(view: pg_sys::Oid, twin: pg_sys::Oid) -> Result<bool> {
    spi::is_true(
        "SELECT true FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d
             ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
            AND d.objid OPERATOR(pg_catalog.=) r.oid
          WHERE r.ev_class OPERATOR(pg_catalog.=) $1 AND d.refobjid OPERATOR(pg_catalog.=) $2
            AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass LIMIT 1",
        &[oid_arg(view), oid_arg(twin)],
    )
}

/// Makes the view, or replaces it with its options carried along: CREATE OR REPLACE VIEW would drop them.
pub fn replace_view(view: &Name, existing: Option<pg_sys::Oid>, twin: &Name, columns: &[Column]) -> Result<()> {
    let options = match existing {
        Some(oid) => view_options(oid)?,
        None => String::new(),
    };
    let list = quote_list(columns.iter().map(|column| column.name.as_str()));
    spi::run(&format!("CREATE OR REPLACE VIEW {view}{options} AS SELECT {list} FROM {twin}"), &[])?;
    Ok(())
}

/// ` WITH (…)` for the options of a view or a materialized view; empty if it has none.
pub fn view_options(oid: pg_sys::Oid) -> Result<String> {
    let options: Option<Vec<(String, String)>> = spi::json(
        "SELECT json_agg(json_build_array(o.option_name, o.option_value))::text
           FROM pg_class c, pg_options_to_table(c.reloptions) o WHERE c.oid = $1",
        &[oid_arg(oid)],
    )?;
    let Some(options) = options else { return Ok(String::new()) };
    let list: Vec<_> = options.iter().map(|(name, value)| format!("{} = {}", quote(name), literal(value))).collect();
    Ok(format!(" WITH ({})", list.join(", ")))
}
