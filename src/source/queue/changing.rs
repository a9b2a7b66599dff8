//! Changing a source whose tables are written to.

use crate::backend::interrupts;
use crate::backend::relation::Patience;
use crate::error::{Error, Result};
use crate::source::connection::Connection;
use pgrx::PgSqlErrorCode;
use std::time::{Duration, Instant};

impl Connection {
    /// Runs statements that lock tables of the source in one transaction, without making writers wait for long behind them:
    /// they stand in a lock's queue for a moment, then step back for a growing pause.
    pub fn change_source(&mut self, script: &str, wait: Patience, doing: &str) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            let whole = format!(
                "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL search_path = pg_catalog, pg_temp;
                 SET LOCAL client_min_messages = error; SET LOCAL lock_timeout = {}; {script} COMMIT",
                wait.queue.as_millis().max(1)
            );
            let error = match self.script(&whole, doing) {
                Ok(_) => return Ok(()),
                Err(error @ Error::Remote { .. }) => error,
                Err(error) => return Err(error),
            };
            self.roll_back()?;
            if !error.is_lock_timeout() || start.elapsed() + pause > wait.give_up {
                return Err(self.refused_writing(error));
            }
            interrupts::sleep(pause);
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    /// The error of a transaction that could not write because the source has become a standby.
    pub(super) fn refused_writing(&mut self, error: Error) -> Error {
        if error.sqlstate() != PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED
            || self.roll_back().is_err()
            || !self.is_standby().unwrap_or(false)
        {
            return error;
        }
        Error::SourceStandby { source_label: self.label().to_string() }
    }
}
