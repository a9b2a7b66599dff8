//! The planner's statistics of a table whose rows were replaced by nearly the same ones.

use crate::backend::identity::act_as;
use crate::backend::name::{with_suffix, Name};
use crate::backend::parse;
use crate::backend::relation::{self, oid_arg};
use crate::backend::spi;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use serde::Deserialize;
use std::ffi::CString;

/// Smaller tables are analyzed in any case, which takes no time.
const WORTH_IT: u64 = 10_000;

/// Copies the statistics of one table to another of the same columns, in place of an ANALYZE; false, with nothing done, if
/// it needs one: different columns or indexes on expressions, extended statistics, or none to copy. Both are locked by
/// this transaction, and the indexes of `to` have just been built, which has counted its rows.
pub fn carry_over(from: pg_sys::Oid, to: pg_sys::Oid, rows: u64) -> Result<bool> {
    let possible = rows >= WORTH_IT
        && spi::is_true(
            "SELECT EXISTS (SELECT FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
                            JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename WHERE c.oid = $1)
                AND NOT EXISTS (SELECT FROM pg_statistic_ext e WHERE e.stxrelid = $2)
                AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = $2 AND x.indexprs IS NOT NULL)
                AND EXISTS (SELECT FROM pg_index x WHERE x.indrelid = $2)
                AND (SELECT array_agg((a.attnum, a.attname, a.atttypid, a.attcollation, to_jsonb(a) ->> 'attstattarget')::pg_catalog.text ORDER BY a.attnum)
                       FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0)
                  = (SELECT array_agg((a.attnum, a.attname, a.atttypid, a.attcollation, to_jsonb(a) ->> 'attstattarget')::pg_catalog.text ORDER BY a.attnum)
                       FROM pg_attribute a WHERE a.attrelid = $2 AND a.attnum > 0)",
            &[oid_arg(from), oid_arg(to)],
        )?;
    if possible {
        // SAFETY: both tables are locked; only their rows in pg_statistic change.
        unsafe {
            pg_sys::RemoveStatistics(to, 0);
            pg_sys::CopyStatistics(from, to);
            pg_sys::CommandCounterIncrement();
        }
    }
    Ok(possible)
}

/// Gives a new table of the same form the extended statistics of another, under names of its own; which is whose.
pub fn copy_extended(from: pg_sys::Oid, to: &Name) -> Result<Vec<(pg_sys::Oid, pg_sys::Oid)>> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(deserialize_with = "relation::oid")]
        oid: pg_sys::Oid,
        definition: String,
        target: Option<i32>,
    }
    let found: Vec<Found> = spi::json(
        "SELECT json_agg(json_build_object('oid', e.oid::bigint, 'definition', pg_get_statisticsobjdef(e.oid),
                    'target', CASE WHEN (to_jsonb(e) ->> 'stxstattarget')::int >= 0 THEN (to_jsonb(e) ->> 'stxstattarget')::int END)
                ORDER BY e.oid)::pg_catalog.text
           FROM pg_statistic_ext e WHERE e.stxrelid = $1",
        &[oid_arg(from)],
    )?
    .unwrap_or_default();
    let mut pairs = Vec::with_capacity(found.len());
    for (number, Found { oid, definition, target }) in found.into_iter().enumerate() {
        let name = to.sibling(with_suffix(&to.name, &format!("_{number}")));
        let statement = parse::statement(&definition)?;
        // SAFETY: the parser's node, whose kind is checked before it is used; the strings live in the current memory context.
        unsafe {
            if (*statement).type_ != pg_sys::NodeTag::T_CreateStatsStmt {
                return Err(Error::Internal("a definition of statistics is none".to_string()));
            }
            let create = statement.cast::<pg_sys::CreateStatsStmt>();
            let copy = |text: &str| -> Result<*mut std::os::raw::c_char> {
                let text = CString::new(text).map_err(|_| Error::InvalidName(text.to_string()))?;
                Ok(pg_sys::pstrdup(text.as_ptr()))
            };
            let mut names = std::ptr::null_mut();
            for part in [&name.schema, &name.name] {
                names = pg_sys::lappend(names, pg_sys::makeString(copy(part)?).cast());
            }
            (*create).defnames = names;
            let table = pg_sys::makeRangeVar(copy(&to.schema)?, copy(&to.name)?, -1);
            (*create).relations = pg_sys::lappend(std::ptr::null_mut(), table.cast());
        }
        parse::run(statement, &definition)?;
        if let Some(target) = target {
            spi::run(&format!("ALTER STATISTICS {name} SET STATISTICS {target}"), &[])?;
        }
        let made = spi::number(
            "SELECT e.oid::bigint FROM pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace
              WHERE n.nspname = $1::name AND e.stxname = $2::name",
            &[name.schema.as_str().into(), name.name.as_str().into()],
        )?;
        pairs.push((oid, pg_sys::Oid::from(made as u32)));
    }
    Ok(pairs)
}

/// Copies the data of the copies to the extended statistics: each pair is a pair of `copy_extended`. Only a superuser may write the catalog.
pub fn move_extended(pairs: &[(pg_sys::Oid, pg_sys::Oid)]) -> Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let _identity = act_as(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), true)?;
    let columns = spi::text(
        "SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
          WHERE a.attrelid = 'pg_statistic_ext_data'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'stxoid'",
        &[],
    )?
    .unwrap_or_default();
    for &(original, copy) in pairs {
        spi::run("DELETE FROM pg_statistic_ext_data WHERE stxoid = $1", &[oid_arg(original)])?;
        spi::run(
            &format!(
                "INSERT INTO pg_statistic_ext_data (stxoid, {columns}) SELECT $1, {columns} FROM pg_statistic_ext_data WHERE stxoid = $2"
            ),
            &[oid_arg(original), oid_arg(copy)],
        )?;
    }
    // SAFETY: what was written is to be seen.
    unsafe { pg_sys::CommandCounterIncrement() };
    Ok(())
}
