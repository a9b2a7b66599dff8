//! SQL that a source has sent: types, expressions, definitions. It never becomes a part of a statement on this server.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A piece of SQL as a catalog prints it, this server's or a source's. It has no `Display` on purpose: it cannot be formatted into a
/// statement by mistake. It is parsed (`backend::parse`), bound as a parameter, or shown in a message.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ForeignText(String);

impl ForeignText {
    /// For a parameter of a statement: there it is a value, whatever it contains.
    pub fn as_parameter(&self) -> &str {
        &self.0
    }

    /// For an error, a NOTICE or the history, and for nothing that is run.
    pub fn for_message(&self) -> String {
        self.0.clone()
    }

    /// For PostgreSQL's parser.
    pub(super) fn for_parser(&self) -> &str {
        &self.0
    }
}

impl PartialEq<&str> for ForeignText {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Debug for ForeignText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes of SQL)", self.0.len())
    }
}

#[cfg(test)]
impl From<&str> for ForeignText {
    fn from(text: &str) -> ForeignText {
        ForeignText(text.to_string())
    }
}

/// Checks at compile time that the text of a source cannot be formatted.
const _: () = {
    trait NotDisplayed {
        const DISPLAYED: bool = false;
    }
    impl<T> NotDisplayed for T {}
    struct Probe<T>(std::marker::PhantomData<T>);
    impl<T: fmt::Display> Probe<T> {
        // Takes precedence over the constant of the trait if Display is implemented.
        const DISPLAYED: bool = true;
    }
    assert!(Probe::<String>::DISPLAYED, "the probe sees Display");
    assert!(!Probe::<ForeignText>::DISPLAYED, "text of a source must not become a part of a statement");
};

#[cfg(test)]
mod tests {
    use super::ForeignText;

    #[test]
    fn what_a_source_says_is_not_shown_for_debugging() {
        assert_eq!(format!("{:?}", ForeignText::from("'); DROP TABLE t --")), "(19 bytes of SQL)");
    }
}
