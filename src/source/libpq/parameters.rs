//! Connection strings and their parameters, as libpq knows them.

use super::answer::text;
use pq_sys as pq;
use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::ptr;

/// The parameters that a libpq connection string (or URI) holds: keyword and value. None if it is not one; what
/// is wrong with it is not told, because it may hold a password.
pub fn parse_connection_string(conninfo: &str) -> Option<Vec<(String, String)>> {
    let conninfo = CString::new(conninfo).ok()?;
    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: libpq allocates both results; they are freed below.
    let options = unsafe { pq::PQconninfoParse(conninfo.as_ptr(), &mut message) };
    if options.is_null() {
        // SAFETY: PQfreemem takes null too.
        unsafe { pq::PQfreemem(message.cast()) };
        return None;
    }
    let mut parameters = Vec::new();
    let mut option = options;
    // SAFETY: the array ends with an entry whose keyword is null.
    unsafe {
        while !(*option).keyword.is_null() {
            if !(*option).val.is_null() {
                parameters.push((text((*option).keyword), CStr::from_ptr((*option).val).to_string_lossy().into()));
            }
            option = option.add(1);
        }
        pq::PQconninfoFree(options);
    }
    Some(parameters)
}

/// Whether libpq knows a connection parameter of that name.
pub fn is_parameter(keyword: &str) -> bool {
    // SAFETY: the array is freed once, and ends with a null keyword.
    unsafe {
        let options = pq::PQconndefaults();
        if options.is_null() {
            return false;
        }
        let mut option = options;
        let mut found = false;
        while !(*option).keyword.is_null() {
            found |= CStr::from_ptr((*option).keyword).to_bytes() == keyword.as_bytes();
            option = option.add(1);
        }
        pq::PQconninfoFree(options);
        found
    }
}
