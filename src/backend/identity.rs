//! As whom a step runs. Everything that runs as another role than the caller, or on text that came from a
//! source, has a pinned search_path and pinned formats.

use crate::backend::spi;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use std::ffi::CString;

/// Settings that decide what SQL text and COPY text mean.
const PINNED: [(&str, &str); 6] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("xmloption", "content"),
    ("default_tablespace", ""),
    ("row_security", "on"),
];

/// Until it is dropped, the backend acts as another role.
pub struct Identity {
    user: pg_sys::Oid,
    context: i32,
    nest_level: i32,
}

/// Acts as `role`, with pinned settings. With `restricted`, as in REFRESH MATERIALIZED VIEW: nothing that
/// would outlive the switch is possible (SECURITY_RESTRICTED_OPERATION).
pub fn act_as(role: pg_sys::Oid, restricted: bool) -> Result<Identity> {
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    let flag = if restricted { pg_sys::SECURITY_RESTRICTED_OPERATION } else { pg_sys::SECURITY_LOCAL_USERID_CHANGE };
    // SAFETY: plain assignments and a new GUC level, all undone by Drop or by the end of the (sub)transaction.
    let identity = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | flag as i32);
        Identity { user, context, nest_level: pg_sys::NewGUCNestLevel() }
    };
    for (setting, value) in PINNED {
        set_local(setting, value)?;
    }
    Ok(identity)
}

impl Identity {
    /// The same role without the restriction that this identity brought, for a step that runs nobody's code, as REFRESH
    /// MATERIALIZED VIEW CONCURRENTLY makes its temporary table. What restricted the caller still does.
    pub fn unrestricted(&self) -> Identity {
        let mut user = pg_sys::InvalidOid;
        let mut context = 0;
        // SAFETY: plain assignments and a new GUC level, all undone by Drop or by the end of the (sub)transaction.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(user, self.context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
            Identity { user, context, nest_level: pg_sys::NewGUCNestLevel() }
        }
    }
}

/// Pins the settings and keeps the role.
pub fn pin_settings() -> Result<Identity> {
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: reads two variables and opens a GUC level that Drop closes.
    let identity = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        Identity { user, context, nest_level: pg_sys::NewGUCNestLevel() }
    };
    for (setting, value) in PINNED {
        set_local(setting, value)?;
    }
    Ok(identity)
}

impl Drop for Identity {
    fn drop(&mut self) {
        // While an error unwinds, the abort of its (sub)transaction restores both.
        if std::thread::panicking() {
            return;
        }
        // SAFETY: closes the level opened in act_as, which is the innermost one still open.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.nest_level);
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// Sets a GUC for as long as the innermost Identity (or the transaction) lasts.
pub fn set_local(setting: &str, value: &str) -> Result<()> {
    let c = |text: &str| CString::new(text).map_err(|_| Error::Internal(format!("{setting} holds a NUL byte")));
    let (setting_c, value_c) = (c(setting)?, c(value)?);
    // SAFETY: both strings live through the call; PostgreSQL copies them.
    unsafe {
        pg_sys::set_config_option(
            setting_c.as_ptr(),
            value_c.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
    Ok(())
}

/// From here on this transaction reads what others have committed by the time of each query, even if the caller's statement
/// began long before; in REPEATABLE READ it keeps its one snapshot, and a write to what has changed since fails. A standby, which
/// has no transaction ids, reads what the caller's statement does.
pub fn read_the_latest() {
    // SAFETY: assigns a transaction id; SPI gives read-only functions of a transaction without one the old snapshot.
    unsafe {
        if !pg_sys::RecoveryInProgress() {
            pg_sys::GetCurrentTransactionId();
        }
    }
}

/// Whether this transaction keeps one snapshot.
pub fn keeps_its_snapshot() -> bool {
    // SAFETY: reads a variable.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetUserId() }
}

pub fn role_name(role: pg_sys::Oid) -> Result<String> {
    let name = spi::text("SELECT pg_catalog.pg_get_userbyid($1)::text", &[role.into()])?;
    Ok(name.unwrap_or_default())
}

/// The role of that name, or if there is none, the one with that OID; None if both are gone.
pub fn find_role(name: &str, oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: looks a role up by its name and by its OID; neither has to be there.
    unsafe {
        let found = pg_sys::get_role_oid(name.as_ptr(), true);
        if found != pg_sys::InvalidOid {
            return Some(found);
        }
        (!pg_sys::GetUserNameFromId(oid, true).is_null()).then_some(oid)
    }
}

/// Whether a role has the rights of another: it is that role, a member that inherits them, or a superuser.
pub fn has_rights_of(role: pg_sys::Oid, of: pg_sys::Oid) -> bool {
    // SAFETY: looks memberships up.
    unsafe { pg_sys::has_privs_of_role(role, of) }
}

pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: looks a role up by its OID; an unknown one is not a superuser.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Refuses, early and clearly, where nothing can be written.
pub fn require_writable(what: &'static str) -> Result<()> {
    // SAFETY: reads two backend variables.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            return Err(Error::Standby(what));
        }
        if pg_sys::XactReadOnly {
            return Err(Error::ReadOnly(what));
        }
    }
    Ok(())
}
