//! All that touches local tables. It knows nothing of sources.

pub mod alter;
pub mod binary;
pub mod change;
pub mod column_map;
pub mod copy_in;
pub mod dependents;
pub mod exchange;
pub mod fill;
pub mod following;
pub mod heap;
pub mod indexes;
pub mod privileges;
pub mod references;
pub mod row_versions;
pub mod sequences;
pub mod shadow;
mod sorted;
pub mod statistics;
mod stream;
pub mod table;
pub mod together;
pub mod twins;
pub mod upsert;
mod widths;
pub mod written;
