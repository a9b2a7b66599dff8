//! What libpq takes from this server's environment, and must not take for a source that nobody has vouched for.

use std::ffi::OsString;

/// As long as it lasts, libpq finds neither the PG… variables of this server's environment (defaults of all parameters, PGOPTIONS and
/// the like among them) nor a Kerberos ticket of this server's.
pub struct NoEnvironment(Vec<(OsString, Option<OsString>)>);

/// No file: /dev/null is no directory.
pub const NO_FILE: &str = "/dev/null/none";

impl NoEnvironment {
    pub fn begin() -> NoEnvironment {
        let mut before = Vec::new();
        for (name, value) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            std::env::remove_var(&name);
            before.push((name, Some(value)));
        }
        for name in ["KRB5CCNAME", "KRB5_CLIENT_KTNAME"] {
            before.push((name.into(), std::env::var_os(name)));
            std::env::set_var(name, NO_FILE);
        }
        NoEnvironment(before)
    }
}

impl Drop for NoEnvironment {
    fn drop(&mut self) {
        for (name, value) in self.0.drain(..) {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
}
