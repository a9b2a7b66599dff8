//! The encoding of this database. Rows of any encoding are copied; what is read here as text (names, conditions, definitions) is
//! UTF-8, which other encodings share only as far as ASCII goes.

use crate::error::{Error, Result};
use pgrx::pg_sys;
use std::ffi::CStr;

/// Its name.
pub fn of_database() -> String {
    // SAFETY: a constant string of the server.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }.to_string_lossy().to_string()
}

/// Whether non-ASCII text of this database may be read as UTF-8: SQL_ASCII does not interpret it.
fn may_be_utf8() -> bool {
    // SAFETY: reads a variable.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    encoding == pg_sys::pg_enc::PG_UTF8 as i32 || encoding == pg_sys::pg_enc::PG_SQL_ASCII as i32
}

/// Bytes in the encoding of this database, as a text; `what` is for the error.
///
/// # Errors
/// Encoding.
pub fn text(bytes: &[u8], what: &'static str) -> Result<String> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii() || may_be_utf8());
    text.map(str::to_string).ok_or_else(|| Error::Encoding { what, encoding: of_database() })
}
