//! What members of a group share that read one after the other in one snapshot of a source.

use crate::backend::name::Name;
use std::collections::HashSet;

/// A table that is going to be read.
pub struct ToRead {
    pub oid: u32,
    pub name: Name,
    /// How it is locked, with its children and without them; empty if the role cannot.
    pub lock: [String; 2],
    /// What reads it, if a lock of the table is not all that it needs.
    pub query: Option<String>,
}

#[derive(Default)]
pub struct Sharing {
    tables: Vec<ToRead>,
    /// The OIDs of those, while the snapshot is open.
    open: Option<HashSet<u32>>,
    /// What was shown is to be on the source's disk.
    flush: bool,
    /// Children of tables, and views, could not be locked.
    leaves_children: bool,
}

impl Sharing {
    pub fn will_read(&mut self, table: ToRead) {
        self.tables.push(table);
    }

    /// How all of them are locked, with their children and without them.
    pub fn locks(&self) -> [String; 2] {
        [0, 1].map(|which| self.tables.iter().map(|table| table.lock[which].as_str()).collect())
    }

    pub fn open(&mut self) {
        self.open = Some(self.tables.iter().map(|table| table.oid).collect());
    }

    pub fn take(&mut self) -> Vec<ToRead> {
        std::mem::take(&mut self.tables)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Nothing has locked that table before the snapshot was opened.
    pub fn is_new(&self, table: u32) -> bool {
        self.open.as_ref().is_some_and(|known| !known.contains(&table))
    }

    /// Children of tables, and views, could not be locked before the snapshot.
    pub fn leave_children(&mut self) {
        self.leaves_children = true;
    }

    pub fn leaves_children(&self) -> bool {
        self.leaves_children
    }

    pub fn flush_when_over(&mut self) {
        self.flush = true;
    }

    /// Returns whether to flush.
    pub fn close(&mut self) -> bool {
        self.open = None;
        self.leaves_children = false;
        std::mem::take(&mut self.flush)
    }
}
