//! The arguments of refresh_dml and refresh_logdel.

use crate::job::config::Job;
use crate::method::running::Call;

/// The arguments of refresh_dml and refresh_logdel.
pub struct Options<'a> {
    pub call: Call<'a>,
    /// Rows of the queue, at most.
    pub limit: Option<i32>,
    pub repull: bool,
    /// None is what the job says.
    pub insert_on_fetch: Option<bool>,
}

impl<'a> Options<'a> {
    /// What a call without further arguments means.
    pub fn of(call: Call<'a>) -> Options<'a> {
        Options { call, limit: None, repull: false, insert_on_fetch: None }
    }

    pub fn limit(&self, job: &Job) -> Option<i64> {
        self.limit.or(job.batch_limit).filter(|limit| *limit > 0).map(i64::from)
    }

    /// Rows go into the destination while they come, rather than after all of them have.
    pub fn straight(&self, job: &Job) -> bool {
        self.insert_on_fetch.or(job.insert_on_fetch).unwrap_or(true)
    }
}
