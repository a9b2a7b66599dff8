//! The sources of several jobs: one connection for each source and owner, and in a group one snapshot for each source.

use crate::error::Result;
use crate::job::config::{Catalog, Job};
use crate::method::connecting::connect;
use crate::method::rights::{require_configured, require_usage};
use crate::source::changes::Counted;
use crate::source::connection::Connection;
use pgrx::pg_sys;
use std::collections::{HashMap, VecDeque};

/// A connection that jobs share.
struct Shared {
    data_source_id: i32,
    /// Of their destinations: a foreign server has a user mapping for each role.
    owner: pg_sys::Oid,
    connection: Connection,
}

#[derive(Default)]
pub struct Sources {
    all: Vec<Shared>,
}

impl Sources {
    /// The number of a job's connection, which is opened if there is none yet.
    ///
    /// # Errors
    /// Those of `connect_job`.
    pub fn of(&mut self, catalog: &Catalog, job: &Job, owner: pg_sys::Oid) -> Result<usize> {
        require_configured(catalog, job, owner)?;
        require_usage(job, owner)?;
        let data_source_id = job.data_source_id;
        let same = |shared: &Shared| shared.data_source_id == data_source_id && shared.owner == owner;
        if let Some(number) = self.all.iter().position(same) {
            return Ok(number);
        }
        let connection = connect(catalog, data_source_id, owner, &job.dest_table)?;
        self.all.push(Shared { data_source_id, owner, connection });
        Ok(self.all.len() - 1)
    }

    pub fn connection(&mut self, number: usize) -> &mut Connection {
        &mut self.all[number].connection
    }

    /// The counters of tables, one query for each source.
    pub fn counters(&mut self, tables: impl Iterator<Item = (usize, Option<u32>)>) -> Result<CountersBySource> {
        let mut asked: HashMap<usize, Vec<u32>> = HashMap::new();
        for (source, table) in tables {
            asked.entry(source).or_default().extend(table);
        }
        let mut counted = HashMap::new();
        for (source, oids) in asked {
            counted.insert(source, VecDeque::from(self.connection(source).counters_of(&oids)?));
        }
        Ok(CountersBySource(counted))
    }

    /// Locks the tables on all of them, then opens the snapshots.
    pub fn open_snapshots(&mut self) -> Result<()> {
        for shared in &mut self.all {
            shared.connection.lock_all()?;
        }
        let count = |id: i32| self.all.iter().filter(|shared| shared.data_source_id == id).count();
        let exports: Vec<_> = self.all.iter().map(|shared| count(shared.data_source_id) > 1).collect();
        let mut names: HashMap<i32, String> = HashMap::new();
        for (shared, several) in self.all.iter_mut().zip(exports) {
            let known = names.get(&shared.data_source_id).cloned();
            let exports = several && known.is_none();
            if let Some(name) = shared.connection.open_snapshot_for_all(known.as_deref(), exports)? {
                names.insert(shared.data_source_id, name);
            }
        }
        Ok(())
    }

    pub fn close_snapshots(&mut self) -> Result<()> {
        self.all.iter_mut().try_for_each(|shared| shared.connection.close_snapshot_of_all())
    }
}

/// In the order in which they were asked for.
pub struct CountersBySource(HashMap<usize, VecDeque<Counted>>);

impl CountersBySource {
    pub fn next(&mut self, source: usize) -> Counted {
        let counted = self.0.get_mut(&source).and_then(VecDeque::pop_front);
        counted.unwrap_or_else(|| Err("it was not counted".to_string()))
    }
}
