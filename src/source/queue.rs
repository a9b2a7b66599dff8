//! What a dml or logdel job has on its source: a queue of the keys that have changed, and what fills it.
//!
//! Triggers fire once a statement, and add the keys of all its rows in one INSERT … SELECT from the transition tables. A partitioned
//! table has row triggers instead, which its partitions get by themselves, those to come too. The trigger functions run as the source
//! role with a pinned search_path, so writers need no privilege on the queue. INSERT, UPDATE and DELETE have a function each, which need
//! not check TG_OP: for a statement of one row that matters. Row triggers share one.
//!
//! A row of the queue: the key as text, `mimeo_seq`, the writer's `mimeo_xid`, and `mimeo_op`: I, U, D; T for a TRUNCATE; F after the queue was
//! full. One row with P tells in `mimeo_seq` which position of the job was the last whose rows were removed. The queue of a logdel job also
//! has the time, and all values of a deleted row as text, by the names of their columns. A key is NULL if the row was written while the table
//! had no column of that name.

mod bodies;
mod capture;
mod changes;
mod changing;
mod contents;
mod conversion;
mod keys;
mod legacy;
mod making;
mod members;
mod objects;
mod purge;
mod triggers;

pub use capture::{kept, Capture, Form, Found};
pub use changes::{names_since, Changes};
pub use contents::Summary;
pub use keys::{QueueKey, TypedColumn};
pub use legacy::Legacy;
pub use members::{has_disabled_triggers, is_as_made, untriggered, Member};
pub use objects::Objects;
