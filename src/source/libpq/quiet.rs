//! Notifications and notices of a source: nothing of them is kept.

use pq_sys as pq;
use std::os::raw::c_char;

/// Nobody reads notifications, and libpq would keep them all.
pub fn drop_notifications(connection: *mut pq::PGconn) {
    // SAFETY: asks an existing connection; each notification is freed once.
    unsafe {
        let mut notification = pq::PQnotifies(connection);
        while !notification.is_null() {
            pq::PQfreemem(notification.cast());
            notification = pq::PQnotifies(connection);
        }
    }
}

/// # Safety
/// libpq calls it.
pub unsafe extern "C" fn ignore_notice(_: *mut std::os::raw::c_void, _: *const c_char) {}
