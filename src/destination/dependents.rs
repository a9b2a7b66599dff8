//! A view whose columns change in another way than by new ones at the end has to be dropped, with everything that depends
//! on it. This file reads these objects first, and creates them again afterwards.

use crate::backend::identity::{act_as, pin_settings, set_local};
use crate::backend::name::{quote, Name};
use crate::backend::ownership;
use crate::backend::relation::{self, oid_arg, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::caught;
use crate::destination::fill;
use crate::destination::privileges::{self, Privileges};
use crate::error::{Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A view, and the views on it, in the order in which they can be made.
pub struct Family {
    head: Member,
    members: Vec<Member>,
}

struct Member {
    view: View,
    options: String,
    privileges: Privileges,
}

#[derive(Debug, Deserialize)]
struct View {
    #[serde(deserialize_with = "relation::oid")]
    oid: pg_sys::Oid,
    schema: String,
    name: String,
    /// v or m
    kind: char,
    #[serde(deserialize_with = "relation::oid")]
    owner: pg_sys::Oid,
    definition: String,
    populated: bool,
    /// Those of the family that its definition names.
    reads: Vec<u32>,
    /// Column and expression.
    defaults: Vec<(String, String)>,
    /// Statements that create what belongs to the view itself: rules, triggers, and indexes of a materialized view.
    attachments: Vec<String>,
}

impl View {
    fn name(&self) -> Name {
        Name::new(&self.schema, &self.name)
    }

    fn keyword(&self) -> &'static str {
        if self.kind == 'm' {
            "MATERIALIZED VIEW"
        } else {
            "VIEW"
        }
    }
}

/// $1: the view. It and the views on it.
const FAMILY: &str = r"
WITH RECURSIVE family(oid) AS (
    SELECT $1::oid
    UNION
    SELECT r.ev_class
      FROM family f
      JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = f.oid
                      AND d.classid = 'pg_rewrite'::regclass
      JOIN pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN' AND r.ev_class <> f.oid
)";

/// Views in an order in which each comes after those that it reads: `head` first.
///
/// # Errors
/// Dependent, if some read each other.
fn in_order(head: pg_sys::Oid, views: Vec<View>) -> Result<Vec<View>> {
    let ordinals: HashMap<u32, usize> =
        views.iter().enumerate().map(|(ordinal, view)| (view.oid.to_u32(), ordinal)).collect();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); views.len()];
    let mut waiting: Vec<usize> = vec![0; views.len()];
    for (ordinal, view) in views.iter().enumerate() {
        for read in view.reads.iter().filter_map(|oid| ordinals.get(oid)) {
            readers[*read].push(ordinal);
            waiting[ordinal] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<(bool, u32, usize)>> = BinaryHeap::new();
    let entry = |ordinal: usize| Reverse((views[ordinal].oid != head, views[ordinal].oid.to_u32(), ordinal));
    ready.extend((0..views.len()).filter(|ordinal| waiting[*ordinal] == 0).map(entry));
    let mut order = Vec::with_capacity(views.len());
    while let Some(Reverse((_, _, ordinal))) = ready.pop() {
        order.push(ordinal);
        for reader in &readers[ordinal] {
            waiting[*reader] -= 1;
            if waiting[*reader] == 0 {
                ready.push(entry(*reader));
            }
        }
    }
    if let Some(ordinal) = (0..views.len()).find(|ordinal| waiting[*ordinal] > 0) {
        let view = &views[ordinal];
        return Err(Error::Dependent {
            object: format!("{} {}", view.keyword().to_lowercase(), view.name().plain()),
            view: views.iter().find(|view| view.oid == head).map(|head| head.name().plain()).unwrap_or_default(),
            reason: ": views that read each other cannot be made anew".to_string(),
        });
    }
    let mut views: Vec<Option<View>> = views.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|ordinal| views[ordinal].take()).collect())
}

impl Family {
    /// Reads everything that depends on a view.
    ///
    /// # Errors
    /// Dependent, with its name, if an object depends on it that cannot be created again.
    pub fn of(view: pg_sys::Oid) -> Result<Family> {
        refuse_strangers(view)?;
        let views: Vec<View> = spi::json(
            &format!(
                "{FAMILY} SELECT json_agg(json_build_object(
                    'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
                    'owner', c.relowner::bigint, 'definition', pg_get_viewdef(c.oid), 'populated', c.relispopulated,
                    'reads', (SELECT coalesce(json_agg(DISTINCT d.refobjid::bigint), '[]') FROM pg_rewrite r
                        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                       WHERE r.ev_class = c.oid AND r.rulename = '_RETURN' AND d.refclassid = 'pg_class'::regclass
                         AND d.refobjid <> c.oid AND d.refobjid IN (SELECT f.oid FROM family f)),
                    'defaults', (SELECT coalesce(json_agg(json_build_array(a.attname, pg_get_expr(x.adbin, x.adrelid))),
                                                 '[]')
                        FROM pg_attrdef x JOIN pg_attribute a ON a.attrelid = x.adrelid AND a.attnum = x.adnum
                       WHERE x.adrelid = c.oid),
                    'attachments', (SELECT coalesce(json_agg(s.statement), '[]') FROM (
                        SELECT pg_get_ruledef(r.oid) FROM pg_rewrite r
                         WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'
                        UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t
                         WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
                        UNION ALL SELECT pg_get_indexdef(x.indexrelid) FROM pg_index x
                         WHERE x.indrelid = c.oid) s(statement))
                ))::pg_catalog.text
                FROM family m
                JOIN pg_class c ON c.oid = m.oid JOIN pg_namespace n ON n.oid = c.relnamespace"
            ),
            &[oid_arg(view)],
        )?
        .unwrap_or_default();
        let mut members = Vec::with_capacity(views.len());
        for view in in_order(view, views)? {
            let (options, privileges) = (relation::view_options(view.oid)?, privileges::read(view.oid)?);
            members.push(Member { view, options, privileges });
        }
        if members.is_empty() {
            return Err(Error::Internal("the view is gone".to_string()));
        }
        let head = members.remove(0);
        Ok(Family { head, members })
    }

    /// All of them, the view first: what has to be locked.
    pub fn oids(&self) -> Vec<pg_sys::Oid> {
        std::iter::once(&self.head).chain(&self.members).map(|member| member.view.oid).collect()
    }

    /// Drops the view, lets `remake` create something else under its name, and creates everything on it again.
    ///
    /// # Errors
    /// Dependent, before anything has changed, if somebody else's code would run as the owner of one of them; and afterwards, if one
    /// cannot be created again.
    pub fn drop_and_remake(&self, name: &Name, remake: impl FnOnce() -> Result<()>) -> Result<()> {
        for member in &self.members {
            let _identity = act_as(member.view.owner, true)?;
            ownership::require_view(member.view.oid).map_err(|error| member.cannot_be_kept(name, &error))?;
        }
        {
            let _quiet = pin_settings()?;
            set_local("client_min_messages", "warning")?;
            spi::run(&format!("DROP VIEW {name} CASCADE"), &[])?;
        }
        remake()?;
        let made = relation::find(name)?.ok_or_else(|| Error::Internal(format!("{name} was not made")))?;
        if made.kind == 'v' {
            if !self.head.options.is_empty() {
                let options = self.head.options.trim_start_matches(" WITH ");
                spi::run(&format!("ALTER VIEW {name} SET {options}"), &[])?;
            }
            self.head.attach(made.oid)?;
        }
        let keyword = if made.kind == 'v' { "VIEW" } else { "TABLE" };
        self.head.privileges.apply(name, made.oid, keyword)?;
        let mut empty = Vec::new();
        for member in &self.members {
            let made = caught(|| member.remake()).map_err(|error| member.cannot_be_kept(name, &error))?;
            if member.view.kind == 'm' && member.view.populated {
                empty.push(made);
            }
        }
        fill::after_commit(&empty)
    }
}

impl Member {
    fn cannot_be_kept(&self, head: &Name, error: &Error) -> Error {
        Error::Dependent {
            object: format!("{} {}", self.view.keyword().to_lowercase(), self.view.name().plain()),
            view: head.plain(),
            reason: format!(": {error}"),
        }
    }

    /// Creates the view again, as its own owner; a materialized one without data, so that nobody has to wait for its query.
    fn remake(&self) -> Result<Relation> {
        let _identity = act_as(self.view.owner, true)?;
        let (name, keyword) = (self.view.name(), self.view.keyword());
        let definition = self.view.definition.trim_end().trim_end_matches(';');
        let data = if self.view.kind == 'm' { " WITH NO DATA" } else { "" };
        spi::run(&format!("CREATE {keyword} {name}{} AS {definition}{data}", self.options), &[])?;
        let made = relation::find(&name)?.ok_or_else(|| Error::Internal(format!("{name} was not made")))?;
        self.attach(made.oid)?;
        self.privileges.apply(&name, made.oid, keyword)?;
        Ok(made)
    }

    fn attach(&self, oid: pg_sys::Oid) -> Result<()> {
        let columns = privileges::column_names(oid)?;
        for (column, expression) in self.view.defaults.iter().filter(|(column, _)| columns.contains(column)) {
            let (name, column) = (self.view.name(), quote(column));
            spi::run(&format!("ALTER VIEW {name} ALTER COLUMN {column} SET DEFAULT {expression}"), &[])?;
        }
        for statement in &self.view.attachments {
            spi::run(statement, &[])?;
        }
        Ok(())
    }
}

/// Refuses whatever depends on the family and is neither in it nor created again with it.
fn refuse_strangers(view: pg_sys::Oid) -> Result<()> {
    let stranger = spi::text(
        &format!(
            "{FAMILY} SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
               FROM family f JOIN pg_class c ON c.oid = f.oid
               JOIN pg_type t ON t.oid = c.reltype
               JOIN pg_depend d ON (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
                                OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
              WHERE d.deptype <> 'i'
                AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM family))
                AND NOT (d.classid = 'pg_rewrite'::regclass AND EXISTS (
                        SELECT FROM pg_rewrite r WHERE r.oid = d.objid AND r.ev_class IN (SELECT oid FROM family)))
                AND NOT (d.classid = 'pg_trigger'::regclass AND EXISTS (
                        SELECT FROM pg_trigger g WHERE g.oid = d.objid AND g.tgrelid IN (SELECT oid FROM family)))
                AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (
                        SELECT FROM pg_attrdef x WHERE x.oid = d.objid AND x.adrelid IN (SELECT oid FROM family)))
                AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
                        SELECT FROM pg_index x WHERE x.indexrelid = d.objid AND x.indrelid IN (SELECT oid FROM family)))
              ORDER BY 1 LIMIT 1"
        ),
        &[oid_arg(view)],
    )?;
    let Some(object) = stranger else { return Ok(()) };
    let view = spi::text(
        "SELECT concat(n.nspname, '.', c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = $1",
        &[oid_arg(view)],
    )?
    .unwrap_or_default();
    Err(Error::Dependent { object, view, reason: String::new() })
}
