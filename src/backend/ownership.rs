//! While mimeo holds the rights of a role, no code of another role may run. Only this file decides whether everything that a table, a type
//! or a definition reaches may run as the current role.
//!
//! Code is in functions, and the owner of a function, or of the object that calls it, can change it at any time. So the owners
//! decide: a superuser, the role itself, and roles that have its rights are trusted; functions (those behind operators, casts,
//! operator classes, triggers, types), and the types that run code (domains, composites, ranges, whose owners can add some), of
//! anybody else are not. An enum has no code as the type of a column that is just copied; in an expression or a foreign key it has
//! casts, which its owner can make at any time. What a trusted function calls is its owner's own affair.
//!
//! The check comes before PostgreSQL itself could run anything: the planner evaluates immutable functions of constants while it only
//! reads a table's indexes and constraints, and the parser reads constants by the input functions of their types.

use crate::backend::compat::unguarded;
use crate::backend::identity::{pin_settings, set_local};
use crate::backend::named::{self, Named};
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;

/// The objects that `roots` (class, oid) reach, and the first of them that could run code of a role which is not trusted. OIDs below 16384
/// are those of initdb: a superuser's.
const REACH: &str = "
, reach (class, oid) AS (
    SELECT r.class, r.oid FROM roots r WHERE r.oid >= 16384
    UNION
    SELECT n.class, n.oid FROM reach r CROSS JOIN LATERAL (
        -- What it was made of.
        SELECT d.refclassid, d.refobjid FROM pg_depend d
         WHERE d.classid = r.class AND d.objid = r.oid
           AND (d.refclassid IN ('pg_type'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass)
                OR d.refclassid = 'pg_class'::regclass AND r.class IN ('pg_rewrite'::regclass, 'pg_policy'::regclass))
        -- What a table has.
        UNION ALL SELECT 'pg_attrdef'::regclass, x.oid FROM pg_attrdef x WHERE r.class = 'pg_class'::regclass AND x.adrelid = r.oid
        UNION ALL SELECT 'pg_constraint'::regclass, x.oid FROM pg_constraint x WHERE r.class = 'pg_class'::regclass AND x.conrelid = r.oid
        UNION ALL SELECT 'pg_class'::regclass, x.indexrelid FROM pg_index x WHERE r.class = 'pg_class'::regclass AND x.indrelid = r.oid
        UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid FROM pg_statistic_ext x WHERE r.class = 'pg_class'::regclass AND x.stxrelid = r.oid
        UNION ALL SELECT 'pg_trigger'::regclass, x.oid FROM pg_trigger x
                   WHERE r.class = 'pg_class'::regclass AND x.tgrelid = r.oid AND NOT x.tgisinternal AND x.tgenabled <> 'D'
        UNION ALL SELECT 'pg_rewrite'::regclass, x.oid FROM pg_rewrite x
                   WHERE r.class = 'pg_class'::regclass AND x.ev_class = r.oid AND x.ev_enabled <> 'D'
        UNION ALL SELECT 'pg_policy'::regclass, x.oid FROM pg_policy x JOIN pg_class c ON c.oid = x.polrelid
                   WHERE r.class = 'pg_class'::regclass AND x.polrelid = r.oid AND c.relrowsecurity
        UNION ALL SELECT 'pg_class'::regclass, x.inhrelid FROM pg_inherits x WHERE r.class = 'pg_class'::regclass AND x.inhparent = r.oid
        -- What a type, an operator or an operator class has.
        UNION ALL SELECT 'pg_constraint'::regclass, x.oid FROM pg_constraint x WHERE r.class = 'pg_type'::regclass AND x.contypid = r.oid
        UNION ALL SELECT 'pg_type'::regclass, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
                   WHERE r.class = 'pg_type'::regclass AND t.oid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT 'pg_type'::regclass, t.typelem FROM pg_type t WHERE r.class = 'pg_type'::regclass AND t.oid = r.oid
        -- Columns in an expression or a foreign key: casts come in there, which the owner of a type can make, of an enum, too. Types
        -- under pg_enum are such.
        UNION ALL SELECT v.class, a.atttypid FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                  CROSS JOIN (VALUES ('pg_type'::regclass), ('pg_enum'::regclass)) v (class)
                   WHERE d.classid = r.class AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
                     AND CASE r.class WHEN 'pg_constraint'::regclass THEN (SELECT x.contype IN ('c', 'f', 'x') FROM pg_constraint x WHERE x.oid = r.oid)
                              WHEN 'pg_class'::regclass THEN (SELECT x.indexprs IS NOT NULL OR x.indpred IS NOT NULL FROM pg_index x WHERE x.indexrelid = r.oid)
                              ELSE r.class IN ('pg_attrdef'::regclass, 'pg_statistic_ext'::regclass, 'pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass) END
        UNION ALL SELECT 'pg_enum'::regclass, v.oid FROM pg_type t CROSS JOIN LATERAL (VALUES (t.typelem), (t.typbasetype)) v (oid)
                   WHERE r.class = 'pg_enum'::regclass AND t.oid = r.oid
        UNION ALL SELECT 'pg_enum'::regclass, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
                   WHERE r.class = 'pg_enum'::regclass AND t.oid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT 'pg_type'::regclass, x.rngtypid FROM pg_range x WHERE r.class = 'pg_type'::regclass AND x.rngmultitypid = r.oid
        UNION ALL SELECT 'pg_operator'::regclass, v.oid FROM pg_operator o CROSS JOIN LATERAL (VALUES (o.oprcom), (o.oprnegate)) v (oid)
                   WHERE r.class = 'pg_operator'::regclass AND o.oid = r.oid
        UNION ALL SELECT 'pg_proc'::regclass, p.amproc::oid FROM pg_opclass o JOIN pg_amproc p ON p.amprocfamily = o.opcfamily
                   WHERE r.class = 'pg_opclass'::regclass AND o.oid = r.oid
        UNION ALL SELECT 'pg_operator'::regclass, p.amopopr FROM pg_opclass o JOIN pg_amop p ON p.amopfamily = o.opcfamily
                   WHERE r.class = 'pg_opclass'::regclass AND o.oid = r.oid
    ) n (class, oid) WHERE n.oid >= 16384
), owned (ordinal, object, owner) AS (
    SELECT 1, 'function ' || p.oid::regprocedure::pg_catalog.text, p.proowner
      FROM reach f JOIN pg_proc p ON p.oid = f.oid WHERE f.class = 'pg_proc'::regclass
    UNION ALL
    SELECT 2, 'type ' || format_type(t.oid, NULL), t.typowner
      FROM reach f JOIN pg_type t ON t.oid = f.oid WHERE f.class = 'pg_type'::regclass AND t.typtype IN ('d', 'c', 'r', 'm')
    UNION ALL
    SELECT 2, 'type ' || format_type(t.oid, NULL), t.typowner
      FROM reach f JOIN pg_type t ON t.oid = f.oid WHERE f.class = 'pg_enum'::regclass AND t.typtype = 'e'
    UNION ALL
    -- A trigger has no owner: its condition and arguments are those of whoever may make one.
    SELECT DISTINCT 4, 'the right to make triggers on table ' || c.oid::regclass::pg_catalog.text || ', which has some,', a.grantee
      FROM reach f JOIN pg_trigger g ON g.oid = f.oid JOIN pg_class c ON c.oid = g.tgrelid CROSS JOIN LATERAL aclexplode(c.relacl) a
     WHERE f.class = 'pg_trigger'::regclass AND a.privilege_type = 'TRIGGER'
    UNION ALL
    SELECT 3, 'table ' || c.oid::regclass::pg_catalog.text, c.relowner
      FROM reach f JOIN pg_class c ON c.oid = f.oid
     WHERE f.class = 'pg_class'::regclass AND c.relkind NOT IN ('i', 'I') AND (f.class, f.oid) NOT IN (SELECT r.class, r.oid FROM roots r)
)
SELECT json_build_object('object', o.object, 'owner', coalesce(r.rolname, 'PUBLIC'), 'role', current_user)::pg_catalog.text
  FROM owned o LEFT JOIN pg_roles r ON r.oid = o.owner
 WHERE r.oid IS NULL
    OR NOT (r.rolsuper OR r.rolname = current_user OR pg_has_role(r.oid, (SELECT me.oid FROM pg_roles me WHERE me.rolname = current_user), 'USAGE'))
 ORDER BY o.ordinal, o.object LIMIT 1";

/// Roots for tables ($1): the tables with everything on them, and the functions of event triggers.
const TABLES: &str = "
WITH RECURSIVE roots (class, oid) AS (
    SELECT 'pg_class'::regclass::oid, t.oid FROM unnest($1::oid[]) t (oid)
    UNION ALL SELECT 'pg_proc'::regclass, e.evtfoid FROM pg_event_trigger e WHERE e.evtenabled <> 'D'
)";

/// Roots for tables ($1) that are only read, without their policies: what the planner evaluates, and with $2 what a TRUNCATE fires. The
/// types of their columns run nothing.
const OTHERS: &str = "
WITH RECURSIVE tree (oid) AS (
    SELECT t.oid FROM unnest($1::oid[]) t (oid)
    UNION SELECT p.relid FROM unnest($1::oid[]) t (oid) CROSS JOIN LATERAL pg_partition_tree(t.oid) p
), roots (class, oid) AS (
    SELECT 'pg_class'::regclass::oid, x.indexrelid FROM pg_index x JOIN tree t ON t.oid = x.indrelid
    UNION ALL SELECT 'pg_constraint'::regclass, x.oid FROM pg_constraint x JOIN tree t ON t.oid = x.conrelid WHERE x.contype IN ('c', 'f')
    UNION ALL SELECT 'pg_statistic_ext'::regclass, x.oid FROM pg_statistic_ext x JOIN tree t ON t.oid = x.stxrelid
    UNION ALL SELECT d.refclassid, d.refobjid FROM pg_depend d JOIN tree t ON d.classid = 'pg_class'::regclass AND d.objid = t.oid
               WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass)
    UNION ALL SELECT 'pg_trigger'::regclass, x.oid FROM pg_trigger x JOIN tree t ON t.oid = x.tgrelid
               WHERE $2 AND NOT x.tgisinternal AND x.tgenabled <> 'D'
)";

/// Roots for a view ($1) that is to be created again from its definition: its indexes, and the types of the constants in it.
const VIEW: &str = "
WITH RECURSIVE roots (class, oid) AS (
    SELECT 'pg_class'::regclass::oid, x.indexrelid FROM pg_index x WHERE x.indrelid = $1
    UNION ALL SELECT d.refclassid, d.refobjid FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
               WHERE w.ev_class = $1 AND d.refclassid = 'pg_type'::regclass
    UNION ALL SELECT v.class, a.atttypid FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
               CROSS JOIN (VALUES ('pg_type'::regclass), ('pg_enum'::regclass)) v (class)
               WHERE w.ev_class = $1 AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
    UNION ALL SELECT 'pg_proc'::regclass, e.evtfoid FROM pg_event_trigger e WHERE e.evtenabled <> 'D'
)";

/// Roots for a materialized view ($1) that is to be filled: also everything that its query reads.
const QUERY: &str = "
WITH RECURSIVE roots (class, oid) AS (
    SELECT 'pg_class'::regclass::oid, $1
    UNION ALL SELECT 'pg_proc'::regclass, e.evtfoid FROM pg_event_trigger e WHERE e.evtenabled <> 'D'
)";

/// Roots for definitions that are only parsed. $1: the names in them (`Named`); $2: types. Every object that a name could mean counts, with
/// the types of its arguments, because constants may be read as these.
const NAMES: &str = "
WITH RECURSIVE named (kind, schema, name) AS (
    SELECT k.kind, coalesce(e.name ->> 0, 'pg_catalog'), e.name ->> 1
      FROM (VALUES ('functions'), ('operators'), ('operator_classes')) k (kind)
     CROSS JOIN LATERAL json_array_elements($1::json -> k.kind) e (name)
), functions (oid) AS (
    SELECT p.oid FROM named m JOIN pg_namespace n ON n.nspname = m.schema::name
      JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = m.name::name WHERE m.kind = 'functions' AND p.oid >= 16384
    UNION
    SELECT o.oprcode::oid FROM named m JOIN pg_namespace n ON n.nspname = m.schema::name
      JOIN pg_operator o ON o.oprnamespace = n.oid AND o.oprname = m.name::name WHERE m.kind = 'operators' AND o.oid >= 16384
), roots (class, oid) AS (
    SELECT v.class::oid, t.oid FROM unnest($2::oid[]) t (oid) CROSS JOIN (VALUES ('pg_type'::regclass), ('pg_enum'::regclass)) v (class)
    UNION ALL SELECT 'pg_proc'::regclass, f.oid FROM functions f
    UNION ALL SELECT v.class, a.oid FROM functions f JOIN pg_proc p ON p.oid = f.oid
               CROSS JOIN LATERAL unnest(p.proargtypes::oid[] || p.prorettype) a (oid)
               CROSS JOIN (VALUES ('pg_type'::regclass), ('pg_enum'::regclass)) v (class)
    UNION ALL SELECT 'pg_operator'::regclass, o.oid FROM named m JOIN pg_namespace n ON n.nspname = m.schema::name
               JOIN pg_operator o ON o.oprnamespace = n.oid AND o.oprname = m.name::name WHERE m.kind = 'operators'
    UNION ALL SELECT 'pg_opclass'::regclass, o.oid FROM named m JOIN pg_namespace n ON n.nspname = m.schema::name
               JOIN pg_opclass o ON o.opcnamespace = n.oid AND o.opcname = m.name::name WHERE m.kind = 'operator_classes'
)";

/// Roots for functions ($1), operators ($2) and types ($3).
const OBJECTS: &str = "
WITH RECURSIVE roots (class, oid) AS (
    SELECT 'pg_proc'::regclass::oid, t.oid FROM unnest($1::oid[]) t (oid)
    UNION ALL SELECT 'pg_operator'::regclass, t.oid FROM unnest($2::oid[]) t (oid)
    UNION ALL SELECT 'pg_type'::regclass, t.oid FROM unnest($3::oid[]) t (oid)
)";

/// # Errors
/// UntrustedOwner.
fn require(roots: &str, args: &[pgrx::datum::DatumWithOid<'_>]) -> Result<()> {
    #[derive(Deserialize)]
    struct Found {
        object: String,
        owner: String,
        role: String,
    }
    let _pinned = pin_settings()?;
    // By its estimated cost the planner would use JIT for this query.
    set_local("jit", "off")?;
    match spi::json(&format!("{roots}{REACH}"), args)? {
        Some(Found { object, owner, role }) => Err(Error::UntrustedOwner { object, owner, role }),
        None => Ok(()),
    }
}

fn array(oids: impl IntoIterator<Item = u32>) -> String {
    format!("{{{}}}", oids.into_iter().map(|oid| oid.to_string()).collect::<Vec<_>>().join(","))
}

/// Tables that are going to be read or written, with all that is on them and below them, and the event triggers that DDL on them
/// fires. They are locked, so that what is found stays.
///
/// # Errors
/// UntrustedOwner.
pub fn require_tables(oids: &[pg_sys::Oid]) -> Result<()> {
    require(TABLES, &[oids.to_vec().into()])
}

/// Tables of other owners that are going to be read, past all policies, or emptied with a table that they refer to. They are locked.
///
/// # Errors
/// UntrustedOwner.
pub fn require_others(oids: &[pg_sys::Oid], emptied: bool) -> Result<()> {
    if oids.is_empty() {
        return Ok(());
    }
    require(OTHERS, &[oids.to_vec().into(), emptied.into()])
}

/// A view or materialized view that is going to be created again, without data.
///
/// # Errors
/// UntrustedOwner.
pub fn require_view(oid: pg_sys::Oid) -> Result<()> {
    require(VIEW, &[oid_arg(oid)])
}

/// Whether all that the query of a materialized view reaches is trusted.
pub fn trusts_query(oid: pg_sys::Oid) -> Result<bool> {
    match require(QUERY, &[oid_arg(oid)]) {
        Ok(()) => Ok(true),
        Err(Error::UntrustedOwner { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Functions that are going to be called.
///
/// # Errors
/// UntrustedOwner.
pub fn require_functions(oids: &[u32]) -> Result<()> {
    require(OBJECTS, &[array(oids.iter().copied()).into(), "{}".into(), "{}".into()])
}

/// Types that the columns of a table are to have, by name; those that do not exist on this server do not count.
///
/// # Errors
/// UntrustedOwner.
pub fn require_types(names: &[&str]) -> Result<()> {
    let oids = spi::text(
        "SELECT coalesce(array_agg(t.oid), '{}')::pg_catalog.text FROM json_array_elements_text($1::json) w (name)
           JOIN pg_type t ON t.oid = to_regtype(w.name)::oid",
        &[serde_json::Value::from_iter(names.iter().copied()).to_string().into()],
    )?;
    require(OBJECTS, &["{}".into(), "{}".into(), oids.unwrap_or_else(|| "{}".to_string()).into()])
}

/// The names in definitions, before anything of them is analysed.
///
/// # Errors
/// UntrustedOwner.
pub fn require_names(named: &Named) -> Result<()> {
    let names = serde_json::to_string(named)?;
    require(NAMES, &[names.into(), array(named.types.iter().copied()).into()])
}

/// A CREATE INDEX of a source, before anything of it is run: first the names in it, then the result of parse analysis, implicit casts
/// included. The statement stays analysed: PostgreSQL does not analyse it again.
///
/// # Errors
/// UntrustedOwner, Definition; what PostgreSQL says of an expression that makes no sense.
///
/// # Safety
/// `statement` is the parser's, and names `table`.
pub unsafe fn require_index(table: pg_sys::Oid, statement: *mut pg_sys::IndexStmt) -> Result<()> {
    // SAFETY: as the caller has promised.
    unsafe {
        let mut named = Named::default();
        named.add_index(statement)?;
        require_names(&named)?;
        pg_sys::LockRelationOid(table, pg_sys::ShareLock as pg_sys::LOCKMODE);
        let statement =
            pg_sys::ffi::pg_guard_ffi_boundary(|| unguarded::transformIndexStmt(table, statement, c"".as_ptr()));
        let mut nodes = named::nodes((*statement).whereClause);
        for element in pgrx::PgList::<pg_sys::IndexElem>::from_pg((*statement).indexParams).iter_ptr() {
            nodes.extend(named::nodes((*element).expr));
        }
        let mut used = Used::default();
        for node in nodes {
            used.add(node);
        }
        let args = [array(used.functions), array(used.operators), array(used.types)].map(Into::into);
        require(OBJECTS, &args)
    }
}

/// What an analysed expression could call.
#[derive(Default)]
struct Used {
    functions: Vec<u32>,
    operators: Vec<u32>,
    types: Vec<u32>,
}

impl Used {
    /// # Safety
    /// A node of the parser's, or null.
    unsafe fn add(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: as the caller has promised.
        unsafe {
            use pg_sys::NodeTag as Tag;
            match (*node).type_ {
                Tag::T_FuncExpr => self.functions.push((*node.cast::<pg_sys::FuncExpr>()).funcid.to_u32()),
                // These three have the same fields.
                Tag::T_OpExpr | Tag::T_DistinctExpr | Tag::T_NullIfExpr => {
                    self.operators.push((*node.cast::<pg_sys::OpExpr>()).opno.to_u32());
                }
                Tag::T_ScalarArrayOpExpr => {
                    self.operators.push((*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno.to_u32());
                }
                _ => {}
            }
            // Whatever has a type: conversions by way of text, constraints of domains, comparisons of rows.
            let typed = [
                Tag::T_Var,
                Tag::T_Const,
                Tag::T_FuncExpr,
                Tag::T_OpExpr,
                Tag::T_RelabelType,
                Tag::T_CoerceViaIO,
                Tag::T_ArrayCoerceExpr,
                Tag::T_ConvertRowtypeExpr,
                Tag::T_CoerceToDomain,
                Tag::T_RowExpr,
                Tag::T_ArrayExpr,
                Tag::T_MinMaxExpr,
                Tag::T_CoalesceExpr,
                Tag::T_FieldSelect,
            ];
            if typed.contains(&(*node).type_) {
                self.types.push(pg_sys::exprType(node).to_u32());
            }
        }
    }
}
