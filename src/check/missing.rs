//! check_missing_source_tables.

use super::each::{jobs, on_source};
use crate::backend::identity::current_role;
use crate::backend::interrupts;
use crate::backend::name::readings;
use crate::error::Result;
use crate::source::survey::Listed;
use std::collections::{HashMap, HashSet};

/// A table of a source that no job copies from there.
pub struct MissingTable {
    pub schema: String,
    pub name: String,
    pub data_source_id: i32,
}

/// The tables of one source or of all that no job copies; with `views` also views and materialized views. The queues of mimeo do not
/// count, nor do partitions.
pub fn source_tables(data_source_id: Option<i32>, views: bool) -> Result<Vec<MissingTable>> {
    let (catalog, jobs) = jobs(data_source_id)?;
    let alone = data_source_id.is_some();
    let kinds: &[char] = if views { &['r', 'p', 'v', 'm'] } else { &['r', 'p'] };
    let mut missing = Vec::new();
    for id in data_source_id.map_or_else(|| catalog.sources(), |id| Ok(vec![id]))? {
        on_source(&catalog, id, current_role(), "check_missing_source_tables", alone, |source| {
            let listed = source.tables(catalog.schema())?;
            let by_name = ByName::of(&listed);
            let mut copied = HashSet::new();
            for job in jobs.iter().filter(|job| job.data_source_id == id) {
                interrupts::check();
                copied.extend(by_name.find(&job.source_table)?);
            }
            for (ordinal, table) in listed.iter().enumerate() {
                if kinds.contains(&table.kind) && !table.partition && !copied.contains(&ordinal) {
                    let Listed { schema, name, .. } = table.clone();
                    missing.push(MissingTable { schema, name, data_source_id: id });
                }
            }
            Ok(())
        })?;
    }
    Ok(missing)
}

/// Indexes of tables in a list, which may be as long as the source likes.
struct ByName<'a> {
    qualified: HashMap<(&'a str, &'a str), usize>,
    /// Those that are found by their names without a schema.
    visible: HashMap<&'a str, usize>,
}

impl ByName<'_> {
    fn of(listed: &[Listed]) -> ByName<'_> {
        let mut by_name = ByName { qualified: HashMap::new(), visible: HashMap::new() };
        for (ordinal, table) in listed.iter().enumerate() {
            by_name.qualified.entry((&table.schema, &table.name)).or_insert(ordinal);
            if table.visible {
                by_name.visible.entry(&table.name).or_insert(ordinal);
            }
        }
        by_name
    }

    /// The index of the table that a job names.
    fn find(&self, written: &str) -> Result<Option<usize>> {
        Ok(readings(written)?.iter().find_map(|(schema, name)| match schema {
            Some(schema) => self.qualified.get(&(schema.as_str(), name.as_str())).copied(),
            None => self.visible.get(name.as_str()).copied(),
        }))
    }
}
