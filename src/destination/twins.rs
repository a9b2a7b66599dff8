//! The two tables behind a snapshot's view: which of them is live, and the swap.

use crate::backend::name::{quote, quote_list, with_suffix, Name};
use crate::backend::relation::{self, lock_exclusively, oid_arg, Patience, Relation};
use crate::backend::spi;
use crate::destination::dependents;
use crate::destination::table;
use crate::error::{Error, Result};
use crate::shape::{Column, Shape};
use pgrx::pg_sys;

/// A snapshot's view and its twins.
pub struct Twins {
    pub owner: pg_sys::Oid,
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
    /// Finds them; the live one is the one that the view's definition depends on. Runs with pinned settings only.
    ///
    /// # Errors
    /// BrokenDestination, with what to do, if the view or a twin is gone, not what it was, or somebody else's.
    pub fn find(destination: &Name) -> Result<Twins> {
        let broken = |reason: String, hint: Option<String>| Error::BrokenDestination {
            destination: destination.plain(),
            reason,
            hint: hint.unwrap_or_else(|| {
                "Call snapshot_destroyer and snapshot_maker again, or restore what is missing.".to_string()
            }),
        };
        let [first, second] = names(destination);
        let mut members: Vec<Relation> = spi::json(
            MEMBERS,
            &[
                destination.schema.as_str().into(),
                destination.name.as_str().into(),
                first.name.as_str().into(),
                second.name.as_str().into(),
            ],
        )?
        .unwrap_or_default();
        let mut member = |name: &Name, kind: char, what: &str| -> Result<Relation> {
            let at = members.iter().position(|member| member.name == name.name);
            let member = members.remove(at.ok_or_else(|| broken(format!("\"{}\" is missing", name.plain()), None))?);
            if member.kind != kind {
                return Err(broken(format!("\"{}\" is not a {what}", name.plain()), None));
            }
            Ok(member)
        };
        let view = member(destination, 'v', "view")?;
        let twins = [member(&first, 'r', "plain table")?, member(&second, 'r', "plain table")?];
        for (twin, name) in twins.iter().zip([&first, &second]) {
            if twin.owner != view.owner {
                let owner = spi::text("SELECT pg_get_userbyid($1)::pg_catalog.text", &[oid_arg(view.owner)])?;
                return Err(broken(
                    format!("\"{}\" has another owner than the view", name.plain()),
                    Some(format!("ALTER TABLE {name} OWNER TO {};", quote(&owner.unwrap_or_default()))),
                ));
            }
        }
        let [first, second] = twins;
        let shown: Vec<String> = spi::json(SHOWN, &[oid_arg(view.oid)])?.unwrap_or_default();
        let is_shown = |twin: &Relation| shown.contains(&twin.name);
        let (live, idle) = match (is_shown(&first), is_shown(&second)) {
            (true, false) => (first, second),
            (false, true) => (second, first),
            _ => return Err(broken("the view does not show exactly one of the twins".to_string(), None)),
        };
        Ok(Twins { owner: view.owner, view, live, idle })
    }

    /// Whether a view with these columns shows those of `shown`, with at most more columns at the end.
    pub fn is_extended(shown: &Shape, columns: &[Column]) -> bool {
        let length = shown.columns.len();
        length <= columns.len() && table::shows(shown, &columns[..length])
    }

    /// What `swap` locks exclusively.
    pub fn locks(&self, shown: &Shape, columns: &[Column]) -> Result<Vec<pg_sys::Oid>> {
        if Twins::is_extended(shown, columns) {
            return Ok(vec![self.view.oid]);
        }
        Ok(dependents::Family::of(self.view.oid)?.oids())
    }

    /// Points the view, which shows `shown` now, to the idle twin, and returns whether it had to be created again.
    ///
    /// 1. The view that only grows by columns at its end, or not at all, is replaced: everything on it stays.
    /// 2. For any other change it is dropped and created again, with all that depends on it.
    ///
    /// In both cases the exclusive lock comes last and without a queue of readers behind it.
    pub fn swap(&self, shown: &Shape, columns: &[Column], patience: Patience) -> Result<bool> {
        let (name, view) = (self.view.name(), self.view.oid);
        if Twins::is_extended(shown, columns) {
            lock_exclusively(&[view], &name, patience, "swapped")?;
            replace_view(&name, Some(view), &self.idle.name(), columns)?;
            return Ok(false);
        }
        let family = loop {
            let family = dependents::Family::of(view)?;
            lock_exclusively(&family.oids(), &name, patience, "swapped")?;
            // While it was not locked, somebody may have built another view on it, or changed one.
            let locked = dependents::Family::of(view)?;
            if locked.oids() == family.oids() {
                break locked;
            }
        };
        family.drop_and_remake(&name, || replace_view(&name, None, &self.idle.name(), columns))?;
        Ok(true)
    }
}

/// $1: schema, $2: view, $3 and $4: twins.
const MEMBERS: &str = r"
SELECT json_agg(json_build_object('oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
                                  'owner', c.relowner::bigint))::pg_catalog.text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1::name AND c.relname IN ($2::name, $3::name, $4::name)";

/// The relations in the schema of a view ($1) that its definition depends on.
const SHOWN: &str = r"
SELECT json_agg(DISTINCT c.relname)::pg_catalog.text
  FROM pg_rewrite r
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class c ON c.oid = d.refobjid
 WHERE r.ev_class = $1 AND r.rulename = '_RETURN' AND c.oid <> r.ev_class
   AND c.relnamespace = (SELECT v.relnamespace FROM pg_class v WHERE v.oid = r.ev_class)";

/// Makes the view, or replaces it with its options carried along: CREATE OR REPLACE VIEW would drop them. It takes CREATE on the schema, though
/// nothing is made; an owner without that right replaces the view's rule, as far as its columns stay.
pub fn replace_view(view: &Name, existing: Option<pg_sys::Oid>, twin: &Name, columns: &[Column]) -> Result<()> {
    let may_create = spi::is_true(
        "SELECT has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = $1::name",
        &[view.schema.as_str().into()],
    )?;
    if let (Some(oid), false) = (existing, may_create) {
        let [shown] = table::describe([oid])?;
        if table::shows(&shown, columns) {
            let list = quote_list(columns.iter().map(|column| column.name.as_str()));
            let rule = format!(
                "CREATE OR REPLACE RULE \"_RETURN\" AS ON SELECT TO {view} DO INSTEAD SELECT {list} FROM {twin}"
            );
            spi::run(&rule, &[])?;
            return Ok(());
        }
    }
    let options = match existing {
        Some(oid) => relation::view_options(oid)?,
        None => String::new(),
    };
    let list = quote_list(columns.iter().map(|column| column.name.as_str()));
    spi::run(&format!("CREATE OR REPLACE VIEW {view}{options} AS SELECT {list} FROM {twin}"), &[])?;
    Ok(())
}
