//! The edge to libpq, and the only place that calls it: nonblocking, waiting on the socket and the backend's
//! latch together, so that a cancelled query leaves at once.

mod answer;
mod aside;
mod detached;
mod environment;
mod parameters;
mod quiet;

pub use answer::Answer;
pub use detached::{run_detached, Outcome};
pub use environment::NO_FILE;
pub use parameters::{is_parameter, parse_connection_string};

use crate::backend::interrupts::{self, Woken};
use crate::error::{heard, keep_secret, Error, Result};
use crate::source::server::Server;
use answer::{beginning, take_sqlstate, text, unescaped};
use environment::NoEnvironment;
use pgrx::pg_sys;
use pgrx::PgSqlErrorCode;
use pq_sys as pq;
use quiet::{drop_notifications, ignore_notice};
use std::ffi::CString;
use std::os::raw::{c_char, c_int};
use std::ptr;
use std::time::{Duration, Instant};

fn c(value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| Error::Internal("a NUL byte in text for the source".to_string()))
}

/// One connection. Dropping it cancels what still runs over there, closes it, and gives its descriptor back.
pub struct Link {
    connection: *mut pq::PGconn,
    label: String,
    /// Whether the server may still be running a statement of ours.
    busy: bool,
    /// What was sent last: the server may repeat it.
    asked: Vec<CString>,
}

impl Link {
    /// Connects with these keywords and values; `label` names the source in errors. Unless a superuser has `vouched` for the source,
    /// without this server's environment.
    ///
    /// # Errors
    /// NoDescriptor, Unreachable (also after `timeout`).
    pub fn open(parameters: &[(String, String)], label: &str, timeout: Duration, vouched: bool) -> Result<Link> {
        let strings =
            parameters.iter().map(|(keyword, value)| Ok((c(keyword)?, c(value)?))).collect::<Result<Vec<_>>>()?;
        let mut keywords: Vec<*const c_char> = strings.iter().map(|(keyword, _)| keyword.as_ptr()).collect();
        let mut values: Vec<*const c_char> = strings.iter().map(|(_, value)| value.as_ptr()).collect();
        keywords.push(ptr::null());
        values.push(ptr::null());

        let _isolated = (!vouched).then(NoEnvironment::begin);
        // SAFETY: reserves one descriptor, which Drop gives back.
        if !unsafe { pg_sys::AcquireExternalFD() } {
            return Err(Error::NoDescriptor);
        }
        // SAFETY: both arrays end with null and live through the call.
        let connection = unsafe { pq::PQconnectStartParams(keywords.as_ptr(), values.as_ptr(), 0) };
        // The server may know the password, and send it. One that is also the role's name is no secret, and that name is in hints.
        let given = |wanted: &str| parameters.iter().find(|(keyword, _)| keyword == wanted).map(|(_, value)| value);
        if let Some(password) = given("password").filter(|password| given("user") != Some(password)) {
            keep_secret(password);
        }
        let asked = strings.iter().zip(parameters).filter(|(_, (keyword, _))| keyword != "password");
        let asked = asked.map(|((_, value), _)| value.clone()).collect();
        let mut link = Link { connection, label: label.to_string(), busy: false, asked };
        link.finish_connecting(timeout)?;
        Ok(link)
    }

    fn finish_connecting(&mut self, timeout: Duration) -> Result<()> {
        use pq::PostgresPollingStatusType as Polling;
        let unreachable = |link: &Link, message: &str| {
            let (reason, code) = take_sqlstate(message);
            Error::Unreachable { source_label: link.label.clone(), reason, code }
        };
        let end = Instant::now() + timeout;
        // SAFETY: the connection was just started (null only without memory) and is polled as libpq prescribes.
        unsafe {
            if self.connection.is_null() || pq::PQstatus(self.connection) == pq::ConnStatusType::CONNECTION_BAD {
                return Err(unreachable(self, &self.message()));
            }
            // Only so does libpq report the SQLSTATE with which a server refuses a connection.
            pq::PQsetErrorVerbosity(self.connection, pq::PGVerbosity::PQERRORS_VERBOSE);
            // Notices of the source are not ours; libpq would print them to the server's log.
            pq::PQsetNoticeProcessor(self.connection, Some(ignore_notice), ptr::null_mut());
        }
        let mut polling = Polling::PGRES_POLLING_WRITING;
        loop {
            let write = match polling {
                Polling::PGRES_POLLING_OK => break,
                Polling::PGRES_POLLING_FAILED => return Err(unreachable(self, &self.message())),
                other => other == Polling::PGRES_POLLING_WRITING,
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || interrupts::wait_for_socket(self.socket()?, write, Some(left)) == Woken::TimedOut {
                return Err(unreachable(self, &format!("no answer within {} s", timeout.as_secs())));
            }
            let waited = aside::connect_poll(&mut self.connection, |done| {
                let left = end.saturating_duration_since(Instant::now());
                !left.is_zero() && interrupts::wait_for_socket(done, false, Some(left)) != Woken::TimedOut
            });
            polling = waited.ok_or_else(|| unreachable(self, &format!("no end within {} s", timeout.as_secs())))?;
            // From here on libpq keeps notifications; before, it would take the server's next message for one.
            // SAFETY: as above.
            if unsafe { pq::PQstatus(self.connection) } == pq::ConnStatusType::CONNECTION_AUTH_OK {
                drop_notifications(self.connection);
            }
        }
        // SAFETY: the connection is up.
        unsafe {
            // Otherwise libpq adds to each notice with a position in the statement the line that it is in.
            pq::PQsetErrorVerbosity(self.connection, pq::PGVerbosity::PQERRORS_TERSE);
            pq::PQsetnonblocking(self.connection, 1);
        }
        Ok(())
    }

    fn socket(&self) -> Result<c_int> {
        // SAFETY: asks an existing connection.
        let socket = unsafe { pq::PQsocket(self.connection) };
        if socket < 0 {
            return Err(self.lost());
        }
        Ok(socket)
    }

    fn message(&self) -> String {
        // SAFETY: the string belongs to the connection; null gives an out-of-memory text.
        let message = unsafe { beginning(pq::PQerrorMessage(self.connection)) };
        self.hear(&message);
        message
    }

    /// Looks for passwords in text that comes from the server, or from libpq.
    fn hear(&self, said: &str) {
        heard(said, |password| {
            let holds = |asked: &CString| String::from_utf8_lossy(asked.as_bytes()).contains(password);
            self.asked.iter().any(holds)
        });
    }

    fn lost(&self) -> Error {
        Error::ConnectionLost { source_label: self.label.clone(), reason: self.message() }
    }

    /// Parameters that lead to this very server: of several hosts the one that was reached, with the address of its name.
    pub fn address(&self) -> Vec<(String, String)> {
        let connection = self.connection;
        // SAFETY: the strings belong to the connection.
        let [host, hostaddr, port] =
            unsafe { [text(pq::PQhost(connection)), text(pq::PQhostaddr(connection)), text(pq::PQport(connection))] };
        let all = [("host", host), ("hostaddr", hostaddr), ("port", port)];
        all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(k, value)| (k.to_string(), value)).collect()
    }

    /// Whether the server asked for the password that it was given.
    pub fn used_password(&self) -> bool {
        // SAFETY: asks an existing connection.
        unsafe { pq::PQconnectionUsedPassword(self.connection) == 1 }
    }

    /// The server's version, as it says itself.
    pub fn server(&self) -> Server {
        // SAFETY: asks an existing connection.
        Server(unsafe { pq::PQserverVersion(self.connection) })
    }

    /// Sends one statement with text parameters.
    pub fn send(&mut self, sql: &str, parameters: &[&str]) -> Result<()> {
        let sql = c(sql)?;
        let strings = parameters.iter().map(|value| c(value)).collect::<Result<Vec<_>>>()?;
        let values: Vec<*const c_char> = strings.iter().map(|value| value.as_ptr()).collect();
        // SAFETY: all arrays have the length that is passed and live through the call.
        let sent = unsafe {
            pq::PQsendQueryParams(
                self.connection,
                sql.as_ptr(),
                values.len() as c_int,
                ptr::null(),
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                0,
            )
        };
        self.take_row_by_row(sent);
        self.asked = std::iter::once(sql).chain(strings).collect();
        self.flush(sent)
    }

    /// Sends several statements without parameters at once.
    pub fn send_script(&mut self, sql: &str) -> Result<()> {
        let sql = c(sql)?;
        // SAFETY: the string lives through the call.
        let sent = unsafe { pq::PQsendQuery(self.connection, sql.as_ptr()) };
        self.take_row_by_row(sent);
        self.asked = vec![sql];
        self.flush(sent)
    }

    /// Rows are not collected in memory, however many come.
    fn take_row_by_row(&self, sent: c_int) {
        if sent == 1 {
            // SAFETY: asks an existing connection, whose statement was just sent.
            unsafe { pq::PQsetSingleRowMode(self.connection) };
        }
    }

    fn flush(&mut self, sent: c_int) -> Result<()> {
        if sent != 1 {
            return Err(self.lost());
        }
        self.busy = true;
        loop {
            // SAFETY: pushes out what is buffered, as far as the socket takes it.
            match unsafe { pq::PQflush(self.connection) } {
                0 => return Ok(()),
                1 => {
                    interrupts::wait_for_socket(self.socket()?, true, None);
                    self.consume()?;
                }
                _ => return Err(self.lost()),
            }
        }
    }

    fn consume(&mut self) -> Result<()> {
        // SAFETY: reads what the socket holds, without waiting.
        if unsafe { pq::PQconsumeInput(self.connection) } != 1 {
            return Err(self.lost());
        }
        drop_notifications(self.connection);
        Ok(())
    }

    /// The next result of what was sent; None when there is no more.
    ///
    /// # Errors
    /// Remote, with the SQLSTATE of the source; `doing` says what failed.
    pub fn answer(&mut self, doing: &str) -> Result<Option<Answer>> {
        // SAFETY: asks an existing connection.
        while unsafe { pq::PQisBusy(self.connection) } == 1 {
            interrupts::wait_for_socket(self.socket()?, false, None);
            self.consume()?;
        }
        // SAFETY: not busy, so this does not wait.
        let result = unsafe { pq::PQgetResult(self.connection) };
        if result.is_null() {
            self.busy = false;
            return Ok(None);
        }
        let answer = Answer(result);
        for text in answer.texts() {
            self.hear(&text);
            let Some(text) = unescaped(&text) else { continue };
            self.hear(&text);
            // No text of PostgreSQL contains one, and no name and no parameter on this server could.
            if text.contains('\0') {
                let reason = "the server sent a NUL in a text".to_string();
                return Err(Error::ConnectionLost { source_label: self.label.clone(), reason });
            }
        }
        if answer.is_error() {
            let (source_label, report) = (self.label.clone(), answer.report());
            // SAFETY: asks an existing connection.
            let lost = unsafe { pq::PQstatus(self.connection) } == pq::ConnStatusType::CONNECTION_BAD;
            // A standby's recovery may end the session, too.
            if lost && report.sqlstate != PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE {
                return Err(Error::ConnectionLost { source_label, reason: report.message });
            }
            return Err(Error::Remote { source_label, doing: doing.to_string(), report });
        }
        Ok(Some(answer))
    }

    /// Reads all results, and returns the last one, with its first row.
    pub fn answers(&mut self, doing: &str) -> Result<Option<Answer>> {
        use pq::ExecStatusType as Status;
        let mut last = None;
        let mut has_row = false;
        while let Some(answer) = self.answer(doing)? {
            let violates = |reason: &str| {
                Err(Error::ConnectionLost { source_label: self.label.clone(), reason: reason.to_string() })
            };
            // libpq returns such a result again and again.
            if answer.is_copy() {
                return violates("the server began a COPY that nobody asked for");
            }
            if answer.is_too_long() {
                return violates("the server sent an answer of more than 64 MB");
            }
            answer.require_text()?;
            // Each row is a result, and the end of the rows is one more.
            let (row, end) =
                (answer.status() == Status::PGRES_SINGLE_TUPLE, answer.status() == Status::PGRES_TUPLES_OK);
            if !(has_row && (row || end)) {
                last = Some(answer);
            }
            has_row = row;
        }
        Ok(last)
    }

    /// The next message of a COPY TO STDOUT. With `wait`, None means that the COPY is over; without, it may also
    /// mean that nothing has arrived yet.
    pub fn copy_data(&mut self, wait: bool) -> Result<CopyData> {
        let mut tried = false;
        loop {
            let mut buffer: *mut c_char = ptr::null_mut();
            // SAFETY: on a positive result the buffer is ours, to be freed with PQfreemem.
            let length = unsafe { pq::PQgetCopyData(self.connection, &mut buffer, 1) };
            match length {
                1.. => return Ok(CopyData::Bytes(Message { buffer, length: length as usize })),
                -1 => return Ok(CopyData::End),
                -2 => return Err(self.lost()),
                _ if !tried => {
                    self.consume()?;
                    tried = true;
                }
                _ if !wait => return Ok(CopyData::NotYet),
                _ => {
                    interrupts::wait_for_socket(self.socket()?, false, None);
                    self.consume()?;
                }
            }
        }
    }

    /// Reads what is left of the answer to what was sent last, the rows of a COPY included.
    pub fn abandon(&mut self, doing: &str) -> Result<()> {
        while self.busy {
            let Some(answer) = self.answer(doing)? else { break };
            while answer.is_copy() && matches!(self.copy_data(true)?, CopyData::Bytes(_)) {
                interrupts::check();
            }
        }
        Ok(())
    }

    /// Asks the server to stop, for a second at most: the network may be what hangs. libpq's cancel waits for its
    /// own connection, so it has a thread of its own, which calls nothing of PostgreSQL's. If nobody answers it, its socket
    /// is shut, which ends the thread.
    fn cancel(&mut self) {
        struct Cancel(*mut pq::PGcancel);
        // SAFETY: a PGcancel is a copy of what is needed, made to be used from another thread.
        unsafe impl Send for Cancel {}

        // SAFETY: asks an existing connection.
        let cancel = Cancel(unsafe { pq::PQgetCancel(self.connection) });
        if cancel.0.is_null() {
            return;
        }
        let others = open_sockets();
        let (done, finished) = std::sync::mpsc::channel();
        let started = aside::spawn(move || {
            let cancel = cancel;
            let mut message = [0 as c_char; 256];
            // SAFETY: used and freed once, here.
            unsafe {
                pq::PQcancel(cancel.0, message.as_mut_ptr(), message.len() as c_int);
                pq::PQfreeCancel(cancel.0);
            }
            let _ = done.send(());
        });
        if started && finished.recv_timeout(Duration::from_secs(1)).is_err() {
            // While this thread waited, nobody else has opened one.
            for socket in open_sockets().into_iter().filter(|socket| !others.contains(socket)) {
                // SAFETY: a plain libc call.
                unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
            }
            let _ = finished.recv_timeout(Duration::from_millis(100));
        }
    }
}

/// The sockets that this process has. Descriptors are given from the lowest number on, and a backend has few.
fn open_sockets() -> Vec<c_int> {
    let is_socket = |descriptor: &c_int| {
        let mut kind: c_int = 0;
        let mut size = std::mem::size_of::<c_int>() as libc::socklen_t;
        // SAFETY: fills an integer; what is no socket is an error.
        unsafe {
            libc::getsockopt(*descriptor, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut size) == 0
        }
    };
    (0..8192).filter(is_socket).collect()
}

impl Link {
    /// Ends the transaction, if there is one, without waiting for the answer. False if the connection cannot be used any more.
    pub fn begin_rollback(&mut self) -> bool {
        use pq::PGTransactionStatusType as Status;
        // SAFETY: asks an existing connection.
        match unsafe { pq::PQtransactionStatus(self.connection) } {
            _ if self.busy => false,
            Status::PQTRANS_IDLE => true,
            Status::PQTRANS_INTRANS | Status::PQTRANS_INERROR => {
                // SAFETY: the string is a constant; what the socket does not take at once is sent later.
                let sent = unsafe {
                    pq::PQsendQuery(self.connection, c"ROLLBACK".as_ptr()) == 1 && pq::PQflush(self.connection) == 0
                };
                self.busy = sent;
                sent
            }
            _ => false,
        }
    }

    /// No transaction is open.
    pub fn is_idle(&self) -> bool {
        // SAFETY: asks an existing connection.
        unsafe { pq::PQtransactionStatus(self.connection) == pq::PGTransactionStatusType::PQTRANS_IDLE }
    }

    /// The server's process, as it was told when the connection was made. A pooler tells a number of its own.
    pub fn process(&self) -> i32 {
        // SAFETY: asks an existing connection.
        unsafe { pq::PQbackendPID(self.connection) }
    }

    /// What was sent last need not be cancelled.
    pub fn expect_nothing(&mut self) {
        self.busy = false;
    }

    /// Names the source in errors from here on.
    pub fn belongs_to(&mut self, label: &str) {
        self.label = label.to_string();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.busy {
            self.cancel();
        }
        // SAFETY: PQfinish takes null too; the descriptor was reserved in open.
        unsafe {
            pq::PQfinish(self.connection);
            pg_sys::ReleaseExternalFD();
        }
    }
}

pub enum CopyData {
    Bytes(Message),
    NotYet,
    End,
}

/// A message of a COPY, in libpq's own memory.
pub struct Message {
    buffer: *mut c_char,
    length: usize,
}

impl Message {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: libpq gave a buffer of this length, which lives as long as self.
        unsafe { std::slice::from_raw_parts(self.buffer.cast(), self.length) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the buffer is ours, and is freed once.
        unsafe { pq::PQfreemem(self.buffer.cast()) }
    }
}
