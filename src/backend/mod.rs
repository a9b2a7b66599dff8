//! How mimeo speaks to the server it runs in: names, SPI, subtransactions, identity, locks on relations.
//! Nothing here knows what a job or a source is.

pub mod compat;
pub mod context;
pub mod encoding;
pub mod files;
pub mod foreign_text;
pub mod grant;
pub mod identity;
pub mod interrupts;
pub mod name;
pub mod parse;
mod raise;
pub mod record;
pub mod relation;
pub mod spi;
pub mod subtransaction;
pub mod trust;
pub mod worker;
