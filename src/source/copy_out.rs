//! `COPY (…) TO STDOUT` from a source, as a stream that a reader pulls from.

use crate::backend::interrupts;
use crate::error::{Error, Result};
use crate::source::connection::Connection;
use crate::source::libpq::{CopyData, Message};

pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    /// A message that is partly read, and how far.
    pending: Option<(Message, usize)>,
    /// The rows that the source says it sent, once it is over.
    rows: Option<u64>,
    bytes: u64,
}

impl Connection {
    /// Starts a COPY of the rows that `query` returns, in binary or text format.
    ///
    /// # Errors
    /// Remote, with what the source says of the query.
    pub fn copy_out(&mut self, query: &str, binary: bool) -> Result<CopyOut<'_>> {
        self.send_copy(query, binary)?;
        self.begin_copy()
    }

    /// The same in binary format for a query that takes its time before it returns a row, and `meanwhile` here.
    pub fn copy_out_meanwhile<T>(
        &mut self,
        query: &str,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(T, CopyOut<'_>)> {
        self.send_copy(query, true)?;
        let result = meanwhile()?;
        Ok((result, self.begin_copy()?))
    }

    /// Reads a COPY to its end that was given up, if there is one; the snapshot stays.
    pub fn abandon_copy(&mut self) -> Result<()> {
        self.link.abandon("reading its rows")
    }

    fn send_copy(&mut self, query: &str, binary: bool) -> Result<()> {
        let format = if binary { "binary" } else { "text" };
        self.link.send(&format!("COPY ({query}) TO STDOUT (FORMAT {format})"), &[])
    }

    fn begin_copy(&mut self) -> Result<CopyOut<'_>> {
        self.link.answer("reading its rows")?;
        Ok(CopyOut { connection: self, pending: None, rows: None, bytes: 0 })
    }
}

impl CopyOut<'_> {
    /// Fills `buffer`: at least `at_least` bytes unless the stream ends, and as many more as have arrived.
    /// Returns how many; 0 only at the end.
    pub fn read(&mut self, buffer: &mut [u8], at_least: usize) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.rows.is_none() {
            if let Some((message, at)) = &mut self.pending {
                let rest = &message.bytes()[*at..];
                let take = rest.len().min(buffer.len() - filled);
                buffer[filled..filled + take].copy_from_slice(&rest[..take]);
                filled += take;
                *at += take;
                if take == rest.len() {
                    self.pending = None;
                }
                continue;
            }
            match self.connection.link.copy_data(filled < at_least)? {
                CopyData::Bytes(message) => self.pending = Some((message, 0)),
                CopyData::NotYet => break,
                CopyData::End => self.finish()?,
            }
        }
        self.bytes += filled as u64;
        Ok(filled)
    }

    fn finish(&mut self) -> Result<()> {
        let answer = self.connection.link.answers("reading its rows")?;
        let rows = answer.and_then(|answer| answer.rows_affected());
        self.rows = Some(rows.ok_or_else(|| Error::Internal("the source ended a COPY without a count".to_string()))?);
        Ok(())
    }

    /// Rows and bytes that came. Reads on to the end first, for a binary stream ends with a trailer of its own.
    pub fn totals(&mut self) -> Result<(u64, u64)> {
        let mut rest = [0; 1024];
        while self.rows.is_none() {
            interrupts::check();
            self.read(&mut rest, 1)?;
        }
        Ok((self.rows.unwrap_or_default(), self.bytes))
    }
}
