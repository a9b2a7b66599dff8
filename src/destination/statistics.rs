//! The planner's statistics of a table whose rows were replaced by nearly the same ones.

use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::Result;
use pgrx::pg_sys;

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
                AND (SELECT array_agg((a.attnum, a.attname, a.atttypid, a.attcollation, to_jsonb(a) ->> 'attstattarget')::text ORDER BY a.attnum)
                       FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0)
                  = (SELECT array_agg((a.attnum, a.attname, a.atttypid, a.attcollation, to_jsonb(a) ->> 'attstattarget')::text ORDER BY a.attnum)
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
