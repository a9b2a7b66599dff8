//! A source names functions and types of this server: in the definitions of its indexes and generated columns, and as the types
//! of its columns. They must not be such that a third role's code runs with the rights of whoever copies.

use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;
use std::os::raw::c_void;

mod unguarded {
    use pgrx::pg_sys::{IndexStmt, Oid};
    use std::os::raw::c_char;

    unsafe extern "C-unwind" {
        pub fn transformIndexStmt(table: Oid, statement: *mut IndexStmt, text: *const c_char) -> *mut IndexStmt;
    }
}

/// $1: functions; $2: types. The first function among them, and among the constraints of these types, of those they are made of
/// and of what holds them, that belongs to a role which the current one has no rights of. A superuser's are everybody's; for
/// a superuser only these.
const STRANGER: &str = "
WITH RECURSIVE types (oid) AS (
    SELECT pg_catalog.unnest($2::oid[])
    UNION
    SELECT part.oid FROM types JOIN pg_catalog.pg_type t ON t.oid = types.oid CROSS JOIN LATERAL (
        VALUES (t.typbasetype), (t.typelem)
        UNION SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) part (oid) WHERE part.oid <> 0
), functions (oid) AS (
    SELECT pg_catalog.unnest($1::oid[])
    UNION
    SELECT coalesce(o.oprcode::oid, d.refobjid)
      FROM types JOIN pg_catalog.pg_constraint k ON k.contypid = types.oid
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::regclass::oid AND d.objid = k.oid
       AND d.refclassid IN ('pg_catalog.pg_proc'::regclass::oid, 'pg_catalog.pg_operator'::regclass::oid)
      LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::regclass::oid AND o.oid = d.refobjid
)
SELECT json_build_object('function', p.oid::regprocedure::text, 'owner', r.rolname, 'role', current_user)::text
  FROM functions f JOIN pg_catalog.pg_proc p ON p.oid = f.oid JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
 WHERE NOT r.rolsuper
   AND ((SELECT me.rolsuper FROM pg_catalog.pg_roles me WHERE me.rolname = current_user) OR NOT pg_has_role(p.proowner, 'USAGE'))
   AND r.rolname <> current_user
 ORDER BY 1 LIMIT 1";

/// What of a definition could run code.
#[derive(Default)]
struct Used {
    functions: Vec<u32>,
    types: Vec<u32>,
}

fn array(oids: &[u32]) -> String {
    format!("{{{}}}", oids.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
}

/// Refuses functions, and types whose constraints call functions, of roles whose rights the current role does not have. With
/// pinned settings.
///
/// # Errors
/// Stranger.
fn require(functions: &str, types: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Found {
        function: String,
        owner: String,
        role: String,
    }
    let found: Option<Found> = spi::json(STRANGER, &[functions.into(), types.into()])?;
    match found {
        Some(Found { function, owner, role }) => Err(Error::Stranger { function, owner, role }),
        None => Ok(()),
    }
}

/// Types that the columns of a table are to have, by name; those that are not here do not count.
///
/// # Errors
/// Stranger.
pub fn require_types(names: &[&str]) -> Result<()> {
    let oids = spi::text(
        "SELECT coalesce(array_agg(t.oid), '{}')::text FROM json_array_elements_text($1::json) w (name)
           JOIN pg_catalog.pg_type t ON t.oid = to_regtype(w.name)::oid",
        &[serde_json::Value::from_iter(names.iter().copied()).to_string().into()],
    )?;
    require("{}", &oids.unwrap_or_else(|| "{}".to_string()))
}

/// The generated columns and defaults of a table.
///
/// # Errors
/// Stranger.
pub fn require_expressions(table: pg_sys::Oid) -> Result<()> {
    let of = |class: &str, object: &str| {
        spi::text(
            &format!(
                "SELECT coalesce(array_agg(DISTINCT {object}), '{{}}')::text
                   FROM pg_catalog.pg_depend d LEFT JOIN pg_catalog.pg_operator o ON o.oid = d.refobjid
                  WHERE d.refclassid = 'pg_catalog.{class}'::regclass::oid
                    AND (d.classid = 'pg_catalog.pg_class'::regclass::oid AND d.objid = $1
                         OR d.classid = 'pg_catalog.pg_attrdef'::regclass::oid
                            AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = $1))"
            ),
            &[oid_arg(table)],
        )
    };
    let none = || "{}".to_string();
    let types = of("pg_type", "d.refobjid")?.unwrap_or_else(none);
    require(&of("pg_proc", "d.refobjid")?.unwrap_or_else(none), &types)?;
    require(&of("pg_operator", "o.oprcode::oid")?.unwrap_or_else(none), "{}")
}

/// The expressions of a CREATE INDEX, before anything of it is run. They are analysed for good: PostgreSQL does not do it again.
///
/// # Errors
/// Stranger; what PostgreSQL says of an expression that makes no sense.
///
/// # Safety
/// `statement` is the parser's, and names `table`.
pub unsafe fn require_index(table: pg_sys::Oid, statement: *mut pg_sys::IndexStmt) -> Result<()> {
    pg_sys::LockRelationOid(table, pg_sys::ShareLock as pg_sys::LOCKMODE);
    let statement =
        pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded::transformIndexStmt(table, statement, c"".as_ptr()));
    let mut used = Used::default();
    let context = (&raw mut used).cast::<c_void>();
    for element in pgrx::PgList::<pg_sys::IndexElem>::from_pg((*statement).indexParams).iter_ptr() {
        walk((*element).expr, context);
    }
    walk((*statement).whereClause, context);
    require(&array(&used.functions), &array(&used.types))
}

/// Adds what a node and those below it use. It is called by PostgreSQL, too.
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    if (*node).type_ == pg_sys::NodeTag::T_CoerceToDomain {
        (*context.cast::<Used>()).types.push((*node.cast::<pg_sys::CoerceToDomain>()).resulttype.to_u32());
    }
    pg_sys::check_functions_in_node(node, Some(add_function), context);
    pg_sys::expression_tree_walker(node, Some(walk), context)
}

unsafe extern "C-unwind" fn add_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    (*context.cast::<Used>()).functions.push(function.to_u32());
    false
}
