//! As whom a step runs. Everything that runs as another role than the caller, or on text that came from a
//! source, has a pinned search_path and pinned formats.

use crate::backend::spi;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

/// Settings that decide what SQL text and COPY text mean. They are pinned whatever the caller has set.
const PINNED: [(&CStr, &CStr); 16] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"xmloption", c"content"),
    (c"default_tablespace", c""),
    (c"row_security", c"on"),
    (c"array_nulls", c"on"),
    (c"standard_conforming_strings", c"on"),
    (c"backslash_quote", c"safe_encoding"),
    (c"transform_null_equals", c"off"),
    (c"quote_all_identifiers", c"off"),
    (c"lc_monetary", c"C"),
    (c"extra_float_digits", c"3"),
    (c"bytea_output", c"hex"),
    (c"xmlbinary", c"base64"),
    (c"gin_fuzzy_search_limit", c"0"),
];

/// Settings that are also pinned while the backend acts as another role: the caller may not decide what a time without a zone means, nor
/// which triggers fire. Arguments of the caller are read in the caller's time zone before that.
const PINNED_FOR_OTHERS: [(&CStr, &CStr); 2] = [(c"timezone", c"GMT"), (c"session_replication_role", c"origin")];

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
    pin(&PINNED);
    pin(&PINNED_FOR_OTHERS);
    Ok(identity)
}

/// Sets those settings that have another value, whoever else may set them, for as long as the innermost Identity lasts.
fn pin(settings: &[(&'static CStr, &'static CStr)]) {
    for (setting, value) in settings {
        // SAFETY: the strings are constants, and PostgreSQL knows these settings; what it returns is read at once.
        unsafe {
            let now = pg_sys::GetConfigOption(setting.as_ptr(), true, false);
            if !now.is_null() && CStr::from_ptr(now) == *value {
                continue;
            }
            pg_sys::set_config_option(
                setting.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
}

/// What the caller of a refresh may do, before it acts as somebody else.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    context: i32,
}

impl Caller {
    pub fn now() -> Caller {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: reads two variables.
        unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
        Caller { context }
    }

    /// The role that is acted as, without the restriction that came with it, for a step that runs no code of users, as REFRESH MATERIALIZED VIEW
    /// CONCURRENTLY creates its temporary table. A restriction of the caller stays.
    pub fn unrestricted(self) -> Identity {
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

/// As long as the innermost Identity lasts, triggers that check foreign keys do not fire. Nor do others: it is for tables that have none.
pub fn without_triggers() {
    pin(&[(c"session_replication_role", c"replica")]);
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
    pin(&PINNED);
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
    let name = spi::text("SELECT pg_catalog.pg_get_userbyid($1)::pg_catalog.text", &[role.into()])?;
    Ok(name.unwrap_or_default())
}

/// The role with that OID; None if it is gone.
pub fn role_of(oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: looks a role up by its OID, which need not exist.
    unsafe { (!pg_sys::GetUserNameFromId(oid, true).is_null()).then_some(oid) }
}

/// The role of that name; None if it is gone.
pub fn role_named(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: looks a role up by its name, which need not exist.
    let found = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The role of the session (by login or SET ROLE), beneath all SECURITY DEFINER functions and the roles that mimeo acts as.
pub fn outer_role() -> pg_sys::Oid {
    // SAFETY: reads a backend variable.
    unsafe { pg_sys::GetOuterUserId() }
}

/// The system identifier of this cluster.
pub fn system() -> String {
    // SAFETY: a constant of this cluster.
    unsafe { pg_sys::GetSystemIdentifier() }.to_string()
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

/// Whether this server is a standby.
pub fn in_recovery() -> bool {
    // SAFETY: reads a variable of the server's.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Refuses a standby and a read-only transaction before anything is done.
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
