//! Which differences the next refresh may remove, because the changes behind them have not been copied yet.

use super::compare::Comparison;
use super::difference::Found;
use crate::backend::name::{literal, quote};
use crate::error::Result;
use crate::job::method::Method;
use crate::method::incremental;
use crate::method::replay;
use crate::method::snapshot;
use crate::source::bounds::bound_type;
use std::collections::HashSet;

/// Of keys whose rows differ, those that may just wait.
pub enum Waiting {
    All,
    /// By their texts.
    Some(HashSet<String>),
}

impl Waiting {
    pub fn holds(&self, found: &Found) -> bool {
        match self {
            Waiting::All => true,
            Waiting::Some(keys) => keys.contains(&found.text),
        }
    }
}

/// `text` is the expression that writes a key of a row of the source, whose columns are `key`.
pub fn waiting(sides: &mut Comparison, key: &[String], text: &str, found: &[Found]) -> Result<Waiting> {
    let texts: Vec<&str> = found.iter().map(|found| found.text.as_str()).collect();
    let job = sides.job.clone();
    match job.method() {
        Method::Table => Ok(Waiting::All),
        // What the source has not changed since the last copy will not be copied.
        Method::Snapshot => {
            let counted = sides.source.counters(sides.table.oid)?;
            let unchanged = counted.is_ok_and(|now| snapshot::is_as_copied(&job, &now));
            Ok(if unchanged { Waiting::Some(HashSet::new()) } else { Waiting::All })
        }
        Method::Inserter | Method::Updater => {
            let range = incremental::next_range(&job)?;
            let control = sides.source.control(&sides.table, job.control.as_deref().unwrap_or_default())?;
            let clause = range.clause(&format!("\"mimeo\".{}", quote(&control.name)), bound_type(&control.type_name));
            let list = serde_json::to_string(&texts)?;
            let document = sides.source.value(
                &format!(
                    "SELECT pg_catalog.json_agg(k.key)::pg_catalog.text FROM (SELECT {text} AS key FROM ({}) \"mimeo\"{clause}) k
                      WHERE k.key OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.json_array_elements_text({}::pg_catalog.json))",
                    sides.rows,
                    literal(&list)
                ),
                &[],
                "looking for what waits",
            )?;
            let keys: Option<HashSet<String>> = document.map(|document| serde_json::from_str(&document)).transpose()?;
            Ok(Waiting::Some(keys.unwrap_or_default()))
        }
        Method::Dml | Method::Logdel => {
            sides.source.use_pinned_search_path()?;
            let queue = replay::queue_of(&job, &mut sides.source, &sides.table, &sides.shape)?;
            let Some((queue, applied, typed)) = queue else { return Ok(Waiting::All) };
            let applied = applied.as_ref().map(|(last, snapshot)| (*last, snapshot.as_str()));
            let key = sides.source.queue_key(&sides.table, key, typed)?;
            let keys = sides.source.waiting_keys(&queue, applied, &key, text, &texts)?;
            Ok(keys.map_or(Waiting::All, Waiting::Some))
        }
    }
}
