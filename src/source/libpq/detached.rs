//! Running statements on a source when nothing of PostgreSQL may be called: at the end of a transaction. Nobody can cancel it, so it
//! has a deadline of its own, whatever the source does.

use super::answer::Answer;
use super::aside;
use super::environment::NoEnvironment;
use super::quiet::{drop_notifications, ignore_notice};
use pq_sys as pq;
use std::ffi::{CStr, CString};
use std::io;
use std::os::raw::{c_char, c_int};
use std::ptr;
use std::time::{Duration, Instant};

/// For all of it, connecting included.
const MOST: Duration = Duration::from_secs(8);

/// It must not make others wait behind its locks.
const SET_UP: &CStr = c"SET statement_timeout = '5s'; SET lock_timeout = '100ms'";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    /// The time was over before the source had done it.
    Late,
}

/// Connects, runs statements and closes, in a few seconds at most, without checking for interrupts. What `parameters` name
/// should be an address: looking a name up can take longer (as can asking for a Kerberos ticket, which they may demand). `vouched` as for
/// `Link::open`.
pub fn run_detached(parameters: &[(String, String)], script: &str, vouched: bool) -> Outcome {
    let end = Instant::now() + MOST;
    let _isolated = (!vouched).then(NoEnvironment::begin);
    let Ok(script) = CString::new(script) else { return Outcome::Failed };
    match Session::open(parameters, end).and_then(|session| session.try_often(&script)) {
        Some(true) => Outcome::Done,
        _ if Instant::now() >= end => Outcome::Late,
        _ => Outcome::Failed,
    }
}

/// In its methods, None says that the session is of no use any more, or that the time is over.
struct Session {
    connection: *mut pq::PGconn,
    end: Instant,
}

impl Session {
    fn open(parameters: &[(String, String)], end: Instant) -> Option<Session> {
        use pq::PostgresPollingStatusType as Polling;
        let limits = [("tcp_user_timeout", "5000"), ("application_name", "mimeo")];
        let kept = parameters.iter().filter(|(keyword, _)| limits.iter().all(|(limited, _)| keyword != limited));
        let pairs = kept.map(|(keyword, value)| (keyword.as_str(), value.as_str())).chain(limits);
        let strings: Vec<(CString, CString)> = pairs
            .map(|(keyword, value)| Some((CString::new(keyword).ok()?, CString::new(value).ok()?)))
            .collect::<Option<_>>()?;
        let array = |of: fn(&(CString, CString)) -> *const c_char| -> Vec<*const c_char> {
            strings.iter().map(of).chain([ptr::null()]).collect()
        };
        let (keywords, values) = (array(|pair| pair.0.as_ptr()), array(|pair| pair.1.as_ptr()));
        // SAFETY: both arrays end with null and live through the call.
        let connection = unsafe { pq::PQconnectStartParams(keywords.as_ptr(), values.as_ptr(), 0) };
        let mut session = Session { connection, end };
        // SAFETY: null only without memory, which PQstatus takes for a bad connection.
        unsafe {
            if pq::PQstatus(connection) == pq::ConnStatusType::CONNECTION_BAD {
                return None;
            }
            pq::PQsetNoticeProcessor(connection, Some(ignore_notice), ptr::null_mut());
        }
        let mut polling = Polling::PGRES_POLLING_WRITING;
        while polling != Polling::PGRES_POLLING_OK {
            if polling == Polling::PGRES_POLLING_FAILED {
                return None;
            }
            session.wait(polling == Polling::PGRES_POLLING_WRITING)?;
            polling = aside::connect_poll(&mut session.connection, |done| wait_for(done, libc::POLLIN, end).is_some())?;
            // SAFETY: asks an existing connection.
            if unsafe { pq::PQstatus(connection) } == pq::ConnStatusType::CONNECTION_AUTH_OK {
                drop_notifications(connection);
            }
        }
        // SAFETY: the connection is up.
        (unsafe { pq::PQsetnonblocking(connection, 1) } == 0).then_some(session)
    }

    /// Repeats it while others hold a lock on what it needs; returns whether it succeeded.
    fn try_often(&self, script: &CStr) -> Option<bool> {
        if !self.run(SET_UP)? {
            return Some(false);
        }
        for pause in [0, 50, 200, 500, 1000, 2000] {
            std::thread::sleep(Duration::from_millis(pause).min(self.left()?));
            if self.run(script)? {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Whether all of these statements worked. Rows that come are not kept.
    fn run(&self, sql: &CStr) -> Option<bool> {
        // SAFETY: the string lives through the call.
        unsafe {
            if pq::PQsendQuery(self.connection, sql.as_ptr()) != 1 {
                return None;
            }
            pq::PQsetSingleRowMode(self.connection);
        }
        loop {
            // SAFETY: pushes out what is buffered, as far as the socket takes it.
            match unsafe { pq::PQflush(self.connection) } {
                0 => break,
                1 => self.receive(true)?,
                _ => return None,
            }
        }
        let mut done = false;
        loop {
            // SAFETY: asks an existing connection.
            while unsafe { pq::PQisBusy(self.connection) } == 1 {
                self.receive(false)?;
            }
            // SAFETY: not busy, so this does not wait.
            let result = unsafe { pq::PQgetResult(self.connection) };
            if result.is_null() {
                break;
            }
            let answer = Answer(result);
            // libpq gives such a result again and again.
            if answer.is_copy() {
                return None;
            }
            // An error is the last answer.
            done = answer.status() == pq::ExecStatusType::PGRES_COMMAND_OK;
        }
        // SAFETY: asks an existing connection.
        (unsafe { pq::PQstatus(self.connection) } == pq::ConnStatusType::CONNECTION_OK).then_some(done)
    }

    /// Waits for the socket, and reads what it holds.
    fn receive(&self, write: bool) -> Option<()> {
        self.wait(write)?;
        // SAFETY: reads without waiting.
        if unsafe { pq::PQconsumeInput(self.connection) } != 1 {
            return None;
        }
        drop_notifications(self.connection);
        Some(())
    }

    /// Until the socket can be read (or also written, with `write`).
    fn wait(&self, write: bool) -> Option<()> {
        // SAFETY: asks an existing connection.
        let socket = unsafe { pq::PQsocket(self.connection) };
        if socket < 0 {
            return None;
        }
        let events = if write { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
        wait_for(socket, events, self.end)
    }

    /// None if the time is over, whatever the source has still to say.
    fn left(&self) -> Option<Duration> {
        left_until(self.end)
    }
}

fn left_until(end: Instant) -> Option<Duration> {
    end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// Until one of these events; None if the time is over first.
fn wait_for(descriptor: c_int, events: i16, end: Instant) -> Option<()> {
    loop {
        let milliseconds = left_until(end)?.as_millis() as c_int + 1;
        let mut descriptor = libc::pollfd { fd: descriptor, events, revents: 0 };
        // SAFETY: one descriptor, which lives through the call.
        match unsafe { libc::poll(&raw mut descriptor, 1, milliseconds) } {
            1.. => return Some(()),
            0 => {}
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: PQfinish takes null too, and is called once; what the socket does not take is not waited for.
        unsafe { pq::PQfinish(self.connection) }
    }
}
