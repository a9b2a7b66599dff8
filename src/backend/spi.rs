//! SQL in this server. Rows come back as one JSON document, which serde types read: the sources are read in
//! the same way, so both sides share their queries and their types.

use crate::backend::encoding;
use crate::error::{Error, Result};
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::spi::Spi;
use pgrx::FromDatum;
use serde::de::DeserializeOwned;

/// Runs a statement that changes something; the number of rows it touched.
pub fn run(sql: &str, args: &[DatumWithOid<'_>]) -> Result<usize> {
    Spi::connect_mut(|client| Ok(client.update(sql, None, args)?.len()))
}

/// Runs `body` with a snapshot of its own, for the moments when a transaction has none: just before its commit.
pub fn with_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: pushed and popped in pairs; an error ends the transaction, which pops all.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = body();
    // SAFETY: as above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// The first column of the first row, as text; None if there is no row or it is NULL. The statement sees
/// what this transaction has done so far.
pub fn text(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Option<String>> {
    Spi::connect(|client| {
        let rows = client.select(sql, Some(1), args)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let Some(datum) = rows.first().get_datum_by_ordinal(1)? else { return Ok(None) };
        // SAFETY: the column is a text, and not NULL.
        let bytes = unsafe { <&[u8]>::from_datum(datum, false) }.unwrap_or_default();
        encoding::text(bytes, "a name or definition here").map(Some)
    })
}

/// The first column of the first row, a JSON text, as `T`.
pub fn json<T: DeserializeOwned>(sql: &str, args: &[DatumWithOid<'_>]) -> Result<Option<T>> {
    Ok(match text(sql, args)? {
        Some(document) => Some(serde_json::from_str(&document)?),
        None => None,
    })
}

/// The first column of the first row, a boolean; false if there is none.
pub fn is_true(sql: &str, args: &[DatumWithOid<'_>]) -> Result<bool> {
    Spi::connect(|client| {
        let rows = client.select(sql, Some(1), args)?;
        if rows.is_empty() {
            return Ok(false);
        }
        Ok(rows.first().get_one::<bool>()?.unwrap_or(false))
    })
}

/// The first column of the first row, a bigint. The statement may change something.
///
/// # Errors
/// Internal if there is none.
pub fn number(sql: &str, args: &[DatumWithOid<'_>]) -> Result<i64> {
    Spi::connect_mut(|client| {
        let rows = client.update(sql, Some(1), args)?;
        let number = if rows.is_empty() { None } else { rows.first().get_one::<i64>()? };
        number.ok_or_else(|| Error::Internal(format!("no number: {sql}")))
    })
}
