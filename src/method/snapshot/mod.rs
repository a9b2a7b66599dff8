//! Snapshot: the whole table into the idle one of two twins, then the view in front is swapped to it.

mod destroy;
mod make;
mod refresh;

pub use destroy::destroy;
pub use make::make;
pub use refresh::{refresh, Options};

use crate::backend::name::Name;
use crate::destination::{indexes, twins};
use crate::error::Result;
use crate::shape::{Column, IndexDefinition, Type};
use crate::source::catalog::SourceTable;
use crate::source::changes::Fingerprint;
use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a snapshot job remembers from run to run, in refresh_config.state.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// What the source was when the live twin was filled.
    #[serde(default)]
    seen: Option<Seen>,
    /// The source's columns that the twins were last brought in line with.
    #[serde(default)]
    columns: Vec<Column>,
    /// The types of those that are not built in: a renamed label of an enum changes what is read, for one.
    #[serde(default)]
    types: BTreeMap<u32, Type>,
}

/// If none of it has changed, the live twin holds what the source holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// Where the connection led.
    place: String,
    /// As the job named it.
    source_table: String,
    fingerprint: Fingerprint,
    filter: Option<Vec<String>>,
    condition: Option<String>,
    /// The live twin's OID and file: nobody emptied it or restored it from a dump.
    live: (u32, u32),
    /// This server: OIDs and files of another one prove nothing.
    system: String,
}

fn copy_index(index: &IndexDefinition, source: &SourceTable, twin: &Name, oid: pg_sys::Oid) -> Result<()> {
    let name = indexes::copied_name(index, &source.name, &twin.name, twins::index_prefix(twin));
    indexes::copy(index, twin, oid, &name)
}
