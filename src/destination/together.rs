//! Tables whose rows change in one transaction, and where the new ones are.

use crate::backend::name::Name;
use pgrx::pg_sys;
use std::collections::{BTreeMap, BTreeSet};

/// Of one transaction.
#[derive(Debug, Default)]
pub struct Together {
    members: BTreeSet<u32>,
    /// Of those that are exchanged: the shadow tables.
    shadows: BTreeMap<u32, Name>,
    /// Those whose foreign keys are checked with all of their rows.
    checked: BTreeSet<u32>,
}

impl Together {
    /// `rows`: its shadow table; `checked`: its foreign keys are checked, even if it is not exchanged.
    pub fn add(&mut self, table: pg_sys::Oid, rows: Option<&Name>, checked: bool) {
        self.members.insert(table.to_u32());
        if let Some(rows) = rows {
            self.shadows.insert(table.to_u32(), rows.clone());
        }
        if checked || rows.is_some() {
            self.checked.insert(table.to_u32());
        }
    }

    pub fn members(&self) -> Vec<pg_sys::Oid> {
        self.members.iter().map(|oid| pg_sys::Oid::from(*oid)).collect()
    }

    /// Whose own foreign keys are checked with all of its new rows.
    pub fn is_checked(&self, table: pg_sys::Oid) -> bool {
        self.checked.contains(&table.to_u32())
    }

    /// Where the rows are that a table will have; None if they are in it.
    pub fn shadow_of(&self, table: pg_sys::Oid) -> Option<&Name> {
        self.shadows.get(&table.to_u32())
    }
}
