//! SQLSTATEs, PostgreSQL's own and those that a source makes up.

use pgrx::PgSqlErrorCode;
use std::fmt;

/// Five characters, packed into six bits each as PostgreSQL does (MAKE_SQLSTATE in elog.h).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SqlState(i32);

impl SqlState {
    /// Of what a server has said: the first five characters count.
    pub fn parse(text: &str) -> SqlState {
        SqlState(
            text.bytes()
                .take(5)
                .enumerate()
                .fold(0i32, |packed, (i, byte)| packed | ((i32::from(byte) - i32::from(b'0')) & 0x3f) << (6 * i)),
        )
    }

    /// As PostgreSQL packs it.
    pub fn of_packed(packed: i32) -> SqlState {
        SqlState(packed)
    }

    pub fn packed(self) -> i32 {
        self.0
    }

    /// As pgrx knows it; one that is none of PostgreSQL's own is XX000 there.
    pub fn code(self) -> PgSqlErrorCode {
        PgSqlErrorCode::from(self.0 as isize)
    }

    pub fn is_any_of(self, codes: &[PgSqlErrorCode]) -> bool {
        codes.iter().any(|code| self == *code)
    }

    /// Whether it is of the class that `code` stands for, such as ERRCODE_DATA_EXCEPTION.
    pub fn is_of_class(self, code: PgSqlErrorCode) -> bool {
        const CLASS: i32 = (1 << 12) - 1;
        self.0 & CLASS == code as i32 & CLASS
    }
}

impl From<PgSqlErrorCode> for SqlState {
    fn from(code: PgSqlErrorCode) -> SqlState {
        SqlState(code as i32)
    }
}

impl PartialEq<PgSqlErrorCode> for SqlState {
    fn eq(&self, code: &PgSqlErrorCode) -> bool {
        self.0 == *code as i32
    }
}

impl Default for SqlState {
    fn default() -> SqlState {
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR.into()
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..5).try_for_each(|i| write!(out, "{}", char::from((((self.0 >> (6 * i)) & 0x3f) as u8) + b'0')))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_characters_are_packed_and_unpacked() {
        for text in ["23505", "XX000", "00000", "P0001", "ZZ999", "_____"] {
            assert_eq!(SqlState::parse(text).to_string(), text);
        }
        assert_eq!(SqlState::parse("23505"), PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION);
        assert!(SqlState::parse("22P02").is_of_class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION));
        assert!(!SqlState::parse("23505").is_of_class(PgSqlErrorCode::ERRCODE_DATA_EXCEPTION));
    }
}
