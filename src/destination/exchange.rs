//! A loaded shadow table takes the place of its original: by itself, or together with others.

use crate::backend::name::{replace_words, Name};
use crate::backend::ownership;
use crate::backend::relation::{self, lock_exclusively, Patience};
use crate::backend::spi;
use crate::backend::storage;
use crate::backend::subtransaction::caught;
use crate::destination::alter;
use crate::destination::following::Following;
use crate::destination::heap::Indexed;
use crate::destination::indexes;
use crate::destination::references;
use crate::destination::shadow::ShadowTable;
use crate::destination::statistics;
use crate::destination::table;
use crate::destination::together::Together;
use crate::error::{Error, Result};
use pgrx::pg_sys;
use std::collections::HashMap;

/// A shadow table that is loaded, and has all that its original has.
pub struct Exchange {
    shadow: ShadowTable,
    /// Tables that refer to the original are emptied.
    cascade: bool,
    following: Following,
    /// Columns that become NOT NULL, and hold no NULL.
    filled: Vec<String>,
    /// Foreign keys refer to columns whose types change.
    referenced: bool,
    /// Where the rows go that are there now, if changing the columns would have to read or write them.
    empty: Option<ShadowTable>,
    /// Those that are emptied.
    emptied: Vec<pg_sys::Oid>,
    /// Tables of its group, which are not.
    company: Vec<pg_sys::Oid>,
}

impl Exchange {
    /// Makes what is lacking of the indexes, of which `indexed` are there, and the statistics.
    pub fn of(mut shadow: ShadowTable, indexed: &Indexed, cascade: bool, following: &Following) -> Result<Exchange> {
        let names = shadow.names();
        in_users_words(&names, || {
            if let Indexed::Only(built) = indexed {
                indexes::rebuild(shadow.oid, built)?;
            }
            shadow.make_indexes(|_| true)?;
            table::analyze(&shadow.name)?;
            let filled = following.filled(&shadow.name)?;
            Ok(Exchange {
                shadow,
                cascade,
                following: following.clone(),
                filled,
                referenced: false,
                empty: None,
                emptied: Vec::new(),
                company: Vec::new(),
            })
        })
    }

    /// Where the new rows are.
    pub fn rows(&self) -> &Name {
        &self.shadow.name
    }

    /// Checks foreign keys in both directions, unless it is too early for that (`now`). Nobody writes to the tables at their other ends from
    /// here on.
    ///
    /// # Errors
    /// ForeignKey, UntrustedOwner, InUse.
    pub fn check(&mut self, together: &Together, now: bool, patience: Patience) -> Result<()> {
        let names = self.shadow.names();
        in_users_words(&names, || {
            let (oid, rows) = (self.shadow.original.oid, self.shadow.name.clone());
            if self.cascade {
                self.emptied = references::emptied_with(oid, &together.members())?;
                self.company = together.members();
            }
            self.cascade = !self.emptied.is_empty();
            references::lock(&self.around()?, patience)?;
            if now {
                references::check_outgoing(oid, &rows, together)?;
                references::check_incoming(oid, &rows, together, &self.emptied)?;
            }
            // Nothing that the rows that go would have to be written, or looked at, for; unless others refer to them by what changes.
            self.referenced = self.following.is_referenced(&self.shadow.original)?;
            if !self.referenced && (self.following.rewrites() || !self.filled.is_empty()) {
                let mut empty = ShadowTable::make(&self.shadow.original, &Following::default(), patience)?;
                empty.make_indexes(|_| true)?;
                self.empty = Some(empty);
            }
            Ok(())
        })
    }

    /// Tables that nobody may write to while foreign keys are checked.
    pub fn around(&self) -> Result<Vec<pg_sys::Oid>> {
        references::around(self.shadow.original.oid)
    }

    /// What has to be locked exclusively. The TOAST table goes with the shadow table: an autovacuum on it must not be waited for while readers are
    /// shut out.
    pub fn locks(&self) -> Result<Vec<pg_sys::Oid>> {
        let original = &self.shadow.original;
        let mut locked: Vec<_> = table::toast_of(original.oid)?.into_iter().chain([original.oid]).collect();
        locked.extend(&self.emptied);
        if !self.following.is_empty() {
            locked.extend(self.following.locked(original)?);
        }
        Ok(locked)
    }

    /// Swaps the storage, and drops the shadow table. The exclusive lock is taken without a queue of readers behind it; then only catalog rows
    /// change. The columns of the original are changed before, while it is empty. If a foreign key refers to one whose type changes, PostgreSQL
    /// checks that with the rows that are there, and readers wait for it.
    ///
    /// # Errors
    /// InUse.
    pub fn carry_out(mut self, patience: Patience) -> Result<()> {
        let names = self.shadow.names();
        in_users_words(&names, || {
            let (oid, name) = (self.shadow.original.oid, self.shadow.original.name());
            lock_exclusively(&self.locks()?, &name, patience, "replaced")?;
            if !self.following.is_empty() {
                self.reform()?;
            }
            if self.cascade {
                self.empty_others(&name)?;
            }
            storage::swap(oid, self.shadow.oid, &self.shadow.pairs)?;
            statistics::move_extended(&self.shadow.statistics)?;
            spi::run(&format!("DROP TABLE {}", self.shadow.name), &[])?;
            storage::name_toast_table(oid);
            for column in self.filled.iter().filter(|_| self.referenced) {
                alter::require(&name, column)?;
            }
            Ok(())
        })
    }

    /// Empties the tables that refer to the original. Those that are exchanged with it are left: their rows are checked.
    fn empty_others(&self, name: &Name) -> Result<()> {
        // Others may refer to it by now.
        ownership::require_others(&references::emptied_with(self.shadow.original.oid, &self.company)?, true)?;
        if self.company.is_empty() {
            spi::run(&format!("TRUNCATE ONLY {name} CASCADE"), &[])?;
            return Ok(());
        }
        let tables: Vec<_> = relation::names_of(&self.emptied)?.iter().map(Name::to_string).collect();
        spi::run(&format!("TRUNCATE ONLY {}", tables.join(", ONLY ")), &[])?;
        Ok(())
    }

    /// Changes the columns of the original, which is locked. If that would read or write its rows, these go first, into the storage of an
    /// empty table of the same form.
    fn reform(&mut self) -> Result<()> {
        let (oid, name) = (self.shadow.original.oid, self.shadow.original.name());
        let before: HashMap<u32, String> = alter::names_of(oid)?.into_iter().collect();
        if let Some(empty) = &self.empty {
            storage::swap(oid, empty.oid, &empty.pairs)?;
            spi::run(&format!("DROP TABLE {}", empty.name), &[])?;
            // PostgreSQL gives that name to another one when it writes the table anew.
            storage::name_toast_table(oid);
        }
        self.following.alter(&name, true)?;
        for column in self.filled.iter().filter(|_| !self.referenced) {
            alter::require(&name, column)?;
        }
        // PostgreSQL makes indexes anew for another type, under their names.
        let after: HashMap<String, u32> = alter::names_of(oid)?.into_iter().map(|(oid, name)| (name, oid)).collect();
        let shadow = &mut self.shadow;
        for (original, _) in shadow.pairs.iter_mut().chain(&mut shadow.statistics) {
            let now = before.get(&original.to_u32()).and_then(|name| after.get(name));
            let now = now.ok_or_else(|| Error::Internal("an index is gone".to_string()))?;
            *original = (*now).into();
        }
        Ok(())
    }
}

/// Errors name what users know, not the shadow table.
fn in_users_words<T>(names: &[(String, String)], body: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(body).map_err(|error| error.reworded(|text| replace_words(text, names)))
}
