//! All that touches local tables. It knows nothing of sources.

pub mod copy_in;
pub mod dependents;
pub mod indexes;
pub mod privileges;
pub mod table;
pub mod twins;
