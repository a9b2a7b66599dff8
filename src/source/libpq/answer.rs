//! What libpq says of a statement: its result, and what went wrong.

use crate::backend::encoding;
use crate::error::{ErrorLocation, Report, Result, SqlState};
use pgrx::PgSqlErrorCode;
use pq_sys as pq;
use std::ffi::CStr;
use std::os::raw::{c_char, c_int};

/// Except for the rows of a table, which come by COPY, an answer is one JSON document at most.
const LONGEST: usize = 64 * 1024 * 1024;

/// What the server sent for one statement.
pub struct Answer(pub(super) *mut pq::PGresult);

impl Answer {
    pub(super) fn status(&self) -> pq::ExecStatusType {
        // SAFETY: the result lives as long as self.
        unsafe { pq::PQresultStatus(self.0) }
    }

    /// The first column of the first row; None if there is no row or it is NULL. `require_text` has been asked.
    pub fn value(&self) -> Option<String> {
        // SAFETY: the string belongs to the result.
        self.first().map(|value| unsafe { text(value) })
    }

    /// Checks that the first value is in the encoding that was asked for, and can be text of this database.
    ///
    /// # Errors
    /// Encoding.
    pub(super) fn require_text(&self) -> Result<()> {
        // SAFETY: the string belongs to the result, and ends with NUL.
        match self.first().map(|value| unsafe { CStr::from_ptr(value) }) {
            Some(value) => encoding::text(value.to_bytes(), "a name or definition on the source").map(|_| ()),
            None => Ok(()),
        }
    }

    fn first(&self) -> Option<*const c_char> {
        // SAFETY: row and column are checked against the result's size before they are read.
        unsafe {
            let is_there = pq::PQntuples(self.0) > 0 && pq::PQnfields(self.0) > 0 && pq::PQgetisnull(self.0, 0, 0) != 1;
            is_there.then(|| pq::PQgetvalue(self.0, 0, 0).cast_const())
        }
    }

    /// The texts in it: the value, and those of an error.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        let report = self.is_error().then(|| self.report());
        let told = report.into_iter().flat_map(|report| [Some(report.message), report.detail, report.hint]).flatten();
        (!self.is_too_long()).then(|| self.value()).flatten().into_iter().chain(told)
    }

    /// Whether the first value is larger than any catalog could make it. It is not read then.
    pub(super) fn is_too_long(&self) -> bool {
        // SAFETY: row and column are checked against the result's size before they are asked for.
        unsafe {
            pq::PQntuples(self.0) > 0
                && pq::PQnfields(self.0) > 0
                && usize::try_from(pq::PQgetlength(self.0, 0, 0)).is_ok_and(|length| length > LONGEST)
        }
    }

    /// The rows that a COPY says it sent.
    pub fn rows_affected(&self) -> Option<u64> {
        // SAFETY: the string belongs to the result.
        unsafe { text(pq::PQcmdTuples(self.0)) }.parse().ok()
    }

    /// The server wants to go on with a COPY.
    pub(super) fn is_copy(&self) -> bool {
        use pq::ExecStatusType as Status;
        matches!(self.status(), Status::PGRES_COPY_OUT | Status::PGRES_COPY_IN | Status::PGRES_COPY_BOTH)
    }

    pub(super) fn is_error(&self) -> bool {
        matches!(self.status(), pq::ExecStatusType::PGRES_FATAL_ERROR | pq::ExecStatusType::PGRES_BAD_RESPONSE)
    }

    pub(super) fn report(&self) -> Report {
        let field = |code: u8| {
            // SAFETY: the string, if any, belongs to the result.
            let value = unsafe { pq::PQresultErrorField(self.0, c_int::from(code)) };
            // SAFETY: as above.
            (!value.is_null()).then(|| unsafe { beginning(value) })
        };
        Report {
            sqlstate: field(b'C')
                .map_or(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE.into(), |said| real_sqlstate(&said)),
            // SAFETY: as above.
            message: field(b'M').unwrap_or_else(|| unsafe { beginning(pq::PQresultErrorMessage(self.0)) }),
            detail: field(b'D'),
            hint: field(b'H'),
            location: ErrorLocation { context: field(b'W'), ..ErrorLocation::default() },
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: PQclear takes any result, null included, once.
        unsafe { pq::PQclear(self.0) }
    }
}

/// # Safety
/// `value` is null or a string that ends with NUL.
pub(super) unsafe fn text(value: *const c_char) -> String {
    // SAFETY: as the caller has promised.
    unsafe {
        if value.is_null() {
            return String::new();
        }
        CStr::from_ptr(value).to_string_lossy().trim_end().to_string()
    }
}

/// Bytes of an error message of a server that are read, at most.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// The same, of a text that may be as long as the server likes: what is told of it.
///
/// # Safety
/// As for `text`.
pub(super) unsafe fn beginning(value: *const c_char) -> String {
    // SAFETY: as the caller has promised.
    unsafe {
        if value.is_null() {
            return String::new();
        }
        let length = libc::strnlen(value, LONGEST_MESSAGE);
        String::from_utf8_lossy(std::slice::from_raw_parts(value.cast(), length)).trim_end().to_string()
    }
}

/// A JSON document with the escapes in its strings resolved. None if nothing is escaped.
pub(super) fn unescaped(document: &str) -> Option<String> {
    if !document.starts_with(['{', '[', '"']) || !document.contains('\\') {
        return None;
    }
    let mut result = Vec::with_capacity(document.len());
    let mut rest = document.chars();
    while let Some(message) = rest.next() {
        let mut buffer = [0; 2];
        if message != '\\' {
            result.extend_from_slice(message.encode_utf16(&mut buffer));
            continue;
        }
        match rest.next() {
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                result.extend(u16::from_str_radix(&digits, 16).ok());
            }
            Some('n') => result.push(u16::from(b'\n')),
            Some('t') => result.push(u16::from(b'\t')),
            Some('r') => result.push(u16::from(b'\r')),
            Some(other) => result.extend_from_slice(other.encode_utf16(&mut buffer)),
            None => {}
        }
    }
    Some(String::from_utf16_lossy(&result))
}

/// The SQLSTATE of an error. One that is not valid, or stands for success, violates the protocol.
fn real_sqlstate(code: &str) -> SqlState {
    let is_code = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if is_code && !code.starts_with("00") {
        SqlState::parse(code)
    } else {
        PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION.into()
    }
}

/// Takes the SQLSTATE out of a verbose message, `… FATAL:  28P01: password authentication failed …`, and the last line, which
/// names a place in the server's code.
pub(super) fn take_sqlstate(message: &str) -> (String, Option<SqlState>) {
    let is_place = |line: &str| line.rsplit_once(".c:").is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()));
    let mut reason = message.lines().filter(|line| !is_place(line.trim_end())).collect::<Vec<_>>().join("\n");
    let is_code = |word: &str| {
        word.len() == 5
            && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
            && word.bytes().any(|b| b.is_ascii_digit())
    };
    let mut code = None;
    // Of several hosts, each has its own.
    for part in message.split(":  ").skip(1) {
        if let Some((word, _)) = part.split_once(": ").filter(|(word, _)| is_code(word)) {
            reason = reason.replacen(&format!(":  {word}: "), ":  ", 1);
            code = Some(SqlState::parse(word));
        }
    }
    (reason, code)
}

#[cfg(test)]
mod tests {
    use super::{real_sqlstate, take_sqlstate, unescaped};
    use crate::error::SqlState;

    #[test]
    fn escapes_of_json_are_resolved() {
        assert_eq!(unescaped(r#"{"a": "plain"}"#), None);
        let escaped = r#"["a\u0020b\n\"\ud83d\ude00\\u0000"]"#;
        assert_eq!(unescaped(escaped).unwrap(), "[\"a b\n\"\u{1f600}\\u0000\"]");
        assert!(unescaped(r#"["\u0000"]"#).unwrap().contains('\0'));
    }

    #[test]
    fn an_error_has_a_sqlstate_of_an_error() {
        for code in ["23505", "XX000", "P0001", "02000"] {
            assert_eq!(real_sqlstate(code).to_string(), code);
        }
        for code in ["", "42", "xx000", "00000", "ABCDEF", "0A00\u{1}"] {
            assert_eq!(real_sqlstate(code).to_string(), "08P01");
        }
    }

    #[test]
    fn a_refused_connection_tells_its_sqlstate() {
        let (reason, code) = take_sqlstate(
            "connection to server at \"h\" (::1), port 5432 failed: FATAL:  3D000: database \"d\" does not exist\n\
             LOCATION:  InitPostgres, postinit.c:903",
        );
        assert_eq!(
            reason,
            "connection to server at \"h\" (::1), port 5432 failed: FATAL:  database \"d\" does not exist"
        );
        assert_eq!(code, Some(SqlState::parse("3D000")));
        let (reason, code) =
            take_sqlstate("connection to server at \"h\", port 5432 failed: Connection refused\n\tIs it?");
        assert!(reason.ends_with("Is it?") && code.is_none());
    }
}
