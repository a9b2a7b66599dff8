//! Setting sequences to what the tables that use them hold.

use crate::backend::name::{quote, Name};
use crate::backend::ownership;
use crate::backend::relation::{self, oid_arg};
use crate::backend::spi;
use crate::error::{quoted, Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;

#[derive(Deserialize)]
struct Use {
    #[serde(deserialize_with = "relation::oid")]
    oid: pg_sys::Oid,
    table: Name,
    column: String,
}

/// The sequences of a table's identity columns.
pub fn of_identity(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    #[derive(Deserialize)]
    struct Found(#[serde(deserialize_with = "relation::oid")] pg_sys::Oid);
    let found: Vec<Found> = spi::json(
        "SELECT json_agg(d.objid::bigint)::pg_catalog.text FROM pg_depend d
          WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = $1 AND d.deptype = 'i' AND d.refobjsubid > 0",
        &[oid_arg(table)],
    )?
    .unwrap_or_default();
    Ok(found.into_iter().map(|found| found.0).collect())
}

/// The sequences of these names, and the names of those that do not exist.
///
/// # Errors
/// InvalidArgument, if something else has the name.
pub fn find(names: &[String]) -> Result<(Vec<pg_sys::Oid>, Vec<String>)> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match relation::find_as_written(name)? {
            Some(sequence) if sequence.kind == 'S' => found.push(sequence.oid),
            Some(_) => {
                return Err(Error::InvalidArgument(format!(
                    "{}, listed as a sequence of the job, is not a sequence",
                    quoted(name)
                )))
            }
            None => missing.push(name.clone()),
        }
    }
    Ok((found, missing))
}

/// Makes the next value of a sequence follow the furthest one in the columns that use it, by their default or as its owner. Only
/// integer columns count, of tables that are not temporary, whose rows this role may read as they are and whose code it
/// trusts: anybody can make a table that uses any sequence.
pub fn reset(sequence: pg_sys::Oid) -> Result<()> {
    let uses: Vec<Use> = spi::json(
        "SELECT json_agg(DISTINCT jsonb_build_object('oid', c.oid::bigint,
                    'table', jsonb_build_object('schema', n.nspname, 'name', c.relname), 'column', a.attname))::pg_catalog.text
           FROM (SELECT d.refobjid AS relation, d.refobjsubid AS number FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.refclassid = 'pg_class'::regclass
                    AND d.deptype IN ('a', 'i')
                 UNION ALL
                 SELECT f.adrelid, f.adnum FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
                  WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = $1) u
           JOIN pg_class c ON c.oid = u.relation JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = u.relation AND a.attnum = u.number
          WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
            AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
            AND NOT row_security_active(c.oid)
            AND pg_has_role(c.relowner, (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user), 'USAGE')
            AND (WITH RECURSIVE below (oid) AS (SELECT a.atttypid UNION SELECT t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.oid
                                                 WHERE t.typtype = 'd')
                 SELECT bool_or(b.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)) FROM below b)",
        &[oid_arg(sequence)],
    )?
    .unwrap_or_default();
    let mut values = Vec::new();
    let downwards =
        spi::is_true("SELECT s.seqincrement < 0 FROM pg_sequence s WHERE s.seqrelid = $1", &[oid_arg(sequence)])?;
    let (pick, furthest) = if downwards { ("min", "least") } else { ("max", "greatest") };
    for user in uses {
        relation::lock_to_read(user.oid);
        match ownership::require_tables(&[user.oid]) {
            Ok(()) => values.push(format!("(SELECT {pick}({})::bigint FROM {})", quote(&user.column), user.table)),
            Err(Error::UntrustedOwner { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if values.is_empty() {
        return Ok(());
    }
    spi::text(
        &format!(
            "SELECT CASE WHEN v.value IS NULL OR v.value NOT BETWEEN s.seqmin AND s.seqmax THEN setval($1::oid::regclass, s.seqstart, false)
                         ELSE setval($1::oid::regclass, v.value) END::pg_catalog.text
               FROM pg_sequence s, (SELECT {furthest}({}) AS value) v WHERE s.seqrelid = $1::oid",
            values.join(", ")
        ),
        &[oid_arg(sequence)],
    )?;
    Ok(())
}
