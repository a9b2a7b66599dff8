//! How mimeo speaks to the server it runs in: names, SPI, subtransactions, identity, locks on relations.
//! Nothing here knows what a job or a source is.

pub mod compat;
pub mod context;
pub mod encoding;
pub mod foreign_text;
pub mod grant;
pub mod identity;
pub mod interrupts;
pub mod moment;
pub mod name;
pub mod named;
pub mod ownership;
pub mod parse;
mod raise;
pub mod relation;
pub mod result_row;
pub mod row_version;
pub mod sorter;
pub mod spi;
pub mod storage;
pub mod subtransaction;
pub mod worker;
