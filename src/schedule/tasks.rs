//! Jobs that several processes run, and what has become of each.

use super::due::Due;
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering};

/// Jobs, and who has taken which of them: the processes that work at them share this.
pub struct Tasks<'a> {
    pub jobs: &'a [Due],
    /// The index of the next job that nobody has taken.
    pub next: &'a AtomicU32,
    /// How many have been begun.
    pub begun: &'a AtomicU32,
    pub limit: u32,
    /// What has become of each, a Fate.
    pub fates: &'a [AtomicU8],
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Nobody has taken it.
    Open = 0,
    /// A process has taken it, and has not recorded the result.
    Taken,
    /// Another call was running it, or just has.
    Passed,
    Done,
    Failed,
}

impl Tasks<'_> {
    /// The next job that is open, unless there are enough.
    pub fn take(&self) -> Option<(usize, &Due)> {
        loop {
            if self.left() == 0 {
                return None;
            }
            let index = self.next.fetch_add(1, Ordering::SeqCst) as usize;
            let due = self.jobs.get(index)?;
            if self.claim(index) {
                return Some((index, due));
            }
        }
    }

    /// How many more may be begun.
    pub fn left(&self) -> usize {
        self.limit.saturating_sub(self.begun.load(Ordering::SeqCst)) as usize
    }

    /// Whether one more job may be begun; it counts then.
    pub fn begin(&self) -> bool {
        self.begun
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |begun| (begun < self.limit).then_some(begun + 1))
            .is_ok()
    }

    /// Takes a job out of turn, if it is open.
    pub fn claim(&self, index: usize) -> bool {
        let (open, taken) = (Fate::Open as u8, Fate::Taken as u8);
        self.fates[index].compare_exchange(open, taken, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The same for one that is begun at once; not if there are enough.
    pub fn claim_to_begin(&self, index: usize) -> bool {
        if !self.begin() {
            return false;
        }
        let claimed = self.claim(index);
        if !claimed {
            self.give_back();
        }
        claimed
    }

    /// A job that was begun was not.
    pub fn give_back(&self) {
        self.begun.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn settle(&self, index: usize, fate: Fate) {
        self.fates[index].store(fate as u8, Ordering::SeqCst);
    }

    pub fn is(&self, index: usize, fate: Fate) -> bool {
        self.fates[index].load(Ordering::SeqCst) == fate as u8
    }
}

/// The result of a call, when all jobs are done.
pub struct Outcome {
    /// The jobs, and why.
    pub failed: Vec<(String, String)>,
    pub begun: usize,
}

impl Outcome {
    /// # Errors
    /// JobsFailed.
    pub fn report(self) -> Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        Err(Error::JobsFailed { failed: self.failed, begun: self.begun })
    }
}
