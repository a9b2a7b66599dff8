//! The errors that the code under test may return.

/// A target needs some of them only.
#[allow(dead_code)]
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    InvalidName(String),
    NameTooLong { name: String, limit: usize },
    MalformedStream,
    Internal(String),
}

pub type Result<T> = std::result::Result<T, Error>;
