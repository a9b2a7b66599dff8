//! Waiting, in a way that Ctrl-C, statement_timeout and pg_terminate_backend end at once.

use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    Ready,
    TimedOut,
}

pub fn check() {
    pgrx::check_for_interrupts!();
}

/// Sleeps for `duration`, and raises the error if the query is cancelled meanwhile.
pub fn sleep(duration: Duration) {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        wait(None, 0, Some(left));
    }
}

/// Sleeps for at most `duration`: a signal (a worker's end, for one) ends it earlier. It raises the error if the query is
/// cancelled meanwhile.
pub fn nap(duration: Duration) {
    wait(None, 0, Some(duration));
}

/// Waits until `socket` can be read (or also written, with `write`), or `timeout` is over. It raises the error
/// if the query is cancelled meanwhile.
pub fn wait_for_socket(socket: i32, write: bool, timeout: Option<Duration>) -> Woken {
    let mut events = pg_sys::WL_SOCKET_READABLE;
    if write {
        events |= pg_sys::WL_SOCKET_WRITEABLE;
    }
    let end = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let fired = wait(Some(socket), events, left);
        if fired & (pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE) != 0 {
            return Woken::Ready;
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Woken::TimedOut;
        }
    }
}

fn wait(socket: Option<i32>, events: u32, timeout: Option<Duration>) -> u32 {
    let mut events = events | pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    let mut milliseconds = -1;
    if let Some(timeout) = timeout {
        events |= pg_sys::WL_TIMEOUT;
        milliseconds = timeout.as_millis().clamp(1, 3_600_000) as i64;
    }
    // SAFETY: MyLatch is this backend's own latch; the socket, if any, is open.
    let fired = unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            socket.unwrap_or(pg_sys::PGINVALID_SOCKET),
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        ) as u32
    };
    if fired & pg_sys::WL_LATCH_SET != 0 {
        // SAFETY: as above.
        unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
        check();
    }
    fired
}
