//! Whether somebody has written to a table since a load left it: its own counters, which PostgreSQL keeps for autovacuum.

use crate::backend::compat;
use crate::backend::relation::oid_arg;
use crate::backend::spi;
use crate::error::Result;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

/// What was written to a table, ever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    inserted: i64,
    updated: i64,
    deleted: i64,
    /// When this server started: a crash loses the counters.
    started: String,
    /// When this database's counters were reset.
    reset: Option<String>,
    /// When those were that a crash resets, too, after which the same postmaster may go on.
    #[serde(default)]
    crash: Option<String>,
}

impl Written {
    /// None where track_counts is off.
    pub fn to(table: pg_sys::Oid) -> Result<Option<Written>> {
        spi::json(
            "SELECT CASE WHEN current_setting('track_counts')::boolean THEN json_build_object(
                        'inserted', pg_stat_get_tuples_inserted($1), 'updated', pg_stat_get_tuples_updated($1),
                        'deleted', pg_stat_get_tuples_deleted($1), 'started', pg_postmaster_start_time(),
                        'crash', pg_stat_get_bgwriter_stat_reset_time(),
                        'reset', pg_stat_get_db_stat_reset_time((SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
                    )::pg_catalog.text END",
            &[oid_arg(table)],
        )
    }

    /// After so many rows have been inserted.
    pub fn and(self, rows: u64) -> Written {
        Written { inserted: self.inserted.saturating_add_unsigned(rows), ..self }
    }

    /// After so many rows have been deleted.
    pub fn without(self, rows: u64) -> Written {
        Written { deleted: self.deleted.saturating_add_unsigned(rows), ..self }
    }

    /// Whether nothing more was written until `now`. What this or another backend has written last may be counted later.
    pub fn stands(&self, now: &Written) -> bool {
        let lost = self.reset != now.reset || self.started != now.started || self.crash != now.crash;
        let same = |left: i64, now: i64| if lost { left == now } else { now <= left };
        same(self.inserted, now.inserted) && self.updated == now.updated && same(self.deleted, now.deleted)
    }
}

/// Has what this backend has written counted at the end of the transaction, and not some seconds later.
pub fn count_soon() -> Result<()> {
    if !compat::HAS_COUNTER_FLUSH {
        return Ok(());
    }
    spi::run("SELECT pg_stat_force_next_flush()", &[])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Written;

    fn written(inserted: i64, deleted: i64, started: &str) -> Written {
        Written { inserted, updated: 0, deleted, started: started.into(), reset: None, crash: None }
    }

    #[test]
    fn a_table_stands_as_long_as_nobody_has_written_to_it() {
        let left = written(10, 0, "a").and(5);
        assert!(left.stands(&written(15, 0, "a")));
        assert!(left.stands(&written(10, 0, "a")), "not counted yet");
        assert!(!left.stands(&written(16, 0, "a")), "a row more");
        assert!(!left.stands(&written(15, 1, "a")), "a row less");
        assert!(left.stands(&written(15, 0, "b")), "a restart keeps the counters");
        assert!(!left.stands(&written(0, 0, "b")), "a crash loses them");
        let crashed = Written { crash: Some("later".into()), ..written(0, 0, "a") };
        assert!(!left.stands(&crashed), "the postmaster may go on");
        let left = left.without(3);
        assert!(left.stands(&written(15, 3, "a")) && left.stands(&written(15, 0, "a")), "not counted yet");
        assert!(!left.stands(&written(15, 4, "a")), "a row less");
    }
}
