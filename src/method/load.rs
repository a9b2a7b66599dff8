//! The rows of a source's query, into a local table.

use crate::backend::name::replace_words;
use crate::backend::name::Name;
use crate::backend::ownership;
use crate::backend::relation::{lock_patiently, Patience, Relation};
use crate::backend::spi;
use crate::backend::subtransaction::caught;
use crate::destination::column_map::ColumnMap;
use crate::destination::copy_in::{self, Target};
use crate::destination::exchange::Exchange;
use crate::destination::following::Following;
use crate::destination::heap::{Indexed, Indexing};
use crate::destination::shadow::ShadowTable;
use crate::destination::{self, references, shadow};
use crate::error::{Error, Result};
use crate::job::run::Run;
use crate::settings;
use crate::shape::Shape;
use crate::source::connection::Connection;
use pgrx::pg_sys;
use std::time::Duration;

/// Streams what a query on the source returns into a local table, and makes sure that all of it has come. The rows are in the
/// table's indexes then, unless it was emptied for them: see `pull_behind`.
///
/// # Errors
/// RowCount; WrittenAnew; what the source says of the query, and what the table says of the rows.
pub(super) fn pull(
    source: &mut Connection,
    query: &str,
    table: &Name,
    target: &Target<'_>,
    run: &mut Run,
) -> Result<()> {
    pull_after(source, query, table, target, run, |_| Ok(()))
}

/// The same, with `prepare` run here while the source begins to read.
pub(super) fn pull_after(
    source: &mut Connection,
    query: &str,
    table: &Name,
    target: &Target<'_>,
    run: &mut Run,
    prepare: impl FnOnce(&mut Run) -> Result<()>,
) -> Result<()> {
    pull_behind(source, query, table, target, run, prepare)?.finish();
    Ok(())
}

/// The same for a table that was emptied, which leaves it to the caller to finish its indexes, when the source is no longer needed.
pub(super) fn pull_behind(
    source: &mut Connection,
    query: &str,
    table: &Name,
    target: &Target<'_>,
    run: &mut Run,
    prepare: impl FnOnce(&mut Run) -> Result<()>,
) -> Result<Indexing> {
    if !target.binary {
        run.note("text format");
    }
    let source_label = source.label().to_string();
    let mut stream = source.copy_out(query, target.binary)?;
    prepare(run)?;
    let mut read = |buffer: &mut [u8], at_least: usize| stream.read(buffer, at_least);
    let loaded = copy_in::load(target, &mut read)?;
    let (sent, bytes) = stream.totals()?;
    source.require_seen()?;
    if loaded.exact && sent != loaded.rows {
        return Err(Error::RowCount { source_label, sent, loaded: loaded.rows, table: table.plain() });
    }
    (run.rows, run.bytes) = (loaded.rows, bytes);
    Ok(loaded.indexing)
}

/// Waits for the indexes that are built behind a load, and tells how many.
pub(super) fn finish_indexes(indexing: Indexing, run: &mut Run) -> Indexed {
    run.phase("index");
    let indexed = indexing.finish();
    if let Indexed::Only(built) = &indexed {
        match built.len() {
            0 => {}
            1 => run.note("1 index built while the rows came"),
            count => run.note(format!("{count} indexes built while the rows came")),
        }
    }
    indexed
}

/// Locks a destination before the source is kept busy for it: its rows are going to be changed, or, if it is known, all
/// replaced.
///
/// # Errors
/// InUse; UntrustedOwner, if somebody else's code could run from here on.
pub(super) fn lock_destination(destination: &Relation, all: bool) -> Result<()> {
    let (oid, name) = (destination.oid, destination.name());
    // In this order, as CREATE INDEX CONCURRENTLY locks it.
    if all && shadow::can_swap_storage(oid)? {
        shadow::lock_form(oid, &name, patience())?;
    }
    lock_patiently(&[oid], pg_sys::RowExclusiveLock, || Ok(name.plain()), patience(), "refreshed")?;
    ownership::require_tables(&[oid])?;
    references::trust_actions(oid, patience())
}

/// All rows of a table.
pub(super) struct Everything<'a> {
    pub source: &'a mut Connection,
    pub query: &'a str,
    /// What the source shows may not be on its disk yet, and has to be.
    pub flush: bool,
}

/// How all rows of a table are replaced.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// Tables that refer to it are emptied with it.
    pub cascade: bool,
    /// Where the rows are, unless something stands against it: foreign keys, or columns that change.
    pub in_place: bool,
    pub following: &'a Following,
}

/// When all rows have come: nothing is read from the source from here on, for locks may be waited for, or held, that others
/// wait for.
pub(super) fn leave(source: &mut Connection, flush: bool) -> Result<()> {
    source.end_snapshot()?;
    if flush {
        source.flush_when_over()?;
    }
    Ok(())
}

/// All rows of a table, where nobody sees them yet.
pub enum Loaded {
    /// In a shadow table, whose storage can be swapped with that of the table.
    Beside(Box<ShadowTable>, Indexed),
    /// In the table itself, in place of those that were there: for this transaction alone.
    InPlace,
}

/// Loads what a query on the source returns, while the destination is read: into a shadow table if its storage can be swapped, else in
/// place. The source's snapshot ends when all rows have come.
pub(super) fn load_all(
    rows: Everything<'_>,
    destination: &Relation,
    shape: &Shape,
    column_map: &ColumnMap,
    How { cascade, in_place, following }: How<'_>,
    run: &mut Run,
) -> Result<Loaded> {
    let Everything { source, query, flush } = rows;
    let name = destination.name();
    let shadowed: Vec<_> = column_map.columns.iter().map(|column| following.in_shadow(column)).collect();
    let target = |oid, emptied| Target {
        oid,
        columns: if emptied { &shadowed } else { &column_map.columns },
        binary: column_map.binary,
        emptied,
    };
    let stays = in_place && following.is_empty() && !cascade && !references::has_any(destination.oid)?;
    let stays = stays.then(|| "other tables of its group change in place".to_string());
    if let Some(obstacle) = shadow::obstacle(shape.local_oid())?.or(stays) {
        run.note(format!("replaced in place: {obstacle}"));
        shadow::empty_in_place(destination, cascade, patience())?;
        // No row that goes is written or looked at for it.
        following.apply(destination, patience())?;
        pull(source, query, &name, &target(destination.oid, false), run)?;
        leave(source, flush)?;
        return Ok(Loaded::InPlace);
    }
    let mut shadow = ShadowTable::make(destination, following, patience())?;
    let names = shadow.names();
    let loaded = caught(|| {
        shadow.index_early()?;
        let indexing = pull_behind(source, query, &name, &target(shadow.oid, true), run, |_| Ok(()))?;
        leave(source, flush)?;
        Ok(finish_indexes(indexing, run))
    });
    let indexed = loaded.map_err(|error| error.reworded(|text| replace_words(text, &names)))?;
    Ok(Loaded::Beside(Box::new(shadow), indexed))
}

impl Loaded {
    /// All that takes time before the rows can take their place. None if they are there already.
    pub(super) fn ready(
        self,
        destination: &Relation,
        (cascade, following): (bool, &Following),
        run: &mut Run,
    ) -> Result<Option<Box<Exchange>>> {
        let Loaded::Beside(shadow, indexed) = self else {
            following.finish(destination)?;
            run.phase("analyze");
            destination::table::analyze(&destination.name())?;
            return Ok(None);
        };
        run.phase("replace");
        Ok(Some(Box::new(Exchange::of(*shadow, &indexed, cascade, following)?)))
    }
}

/// The commit, which readers may wait for, then has little left to write.
pub(super) fn flush_wal() {
    // SAFETY: flushes what this transaction has written so far.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) }
}

/// How long a refresh waits for a lock that readers would queue behind.
pub(super) fn patience() -> Patience {
    Patience { queue: settings::swap_lock_timeout().min(allowed()), together: None, give_up: settings::swap_max_wait() }
}

/// The longest mimeo.swap_lock_timeout that counts, whatever the caller has set: that of the server's configuration or of the database,
/// else the default. Any role may set less.
fn allowed() -> Duration {
    const SELF: i64 = 100;
    if settings::swap_lock_timeout() <= Duration::from_millis(SELF as u64) {
        return settings::swap_lock_timeout();
    }
    let allowed = spi::number(
        "SELECT CASE WHEN s.source IN ('session', 'client', 'interactive', 'user', 'database user') THEN greatest(s.boot_val::bigint, (
                    SELECT CASE substring(v.value FROM '^[0-9]+ *([a-z]*)$') WHEN 'ms' THEN 1 WHEN '' THEN 1 WHEN 's' THEN 1000 WHEN 'min' THEN 60000 END
                           * substring(v.value FROM '^([0-9]{1,9})')::bigint
                      FROM pg_catalog.pg_db_role_setting r CROSS JOIN LATERAL pg_catalog.unnest(r.setconfig) c (entry)
                     CROSS JOIN LATERAL (SELECT pg_catalog.substr(c.entry, pg_catalog.length(s.name) + 2) AS value) v
                     WHERE r.setrole = 0 AND pg_catalog.starts_with(c.entry, s.name || '=')
                       AND r.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())))
                ELSE s.setting::bigint END
           FROM pg_catalog.pg_settings s WHERE s.name = 'mimeo.swap_lock_timeout'",
        &[],
    );
    Duration::from_millis(allowed.unwrap_or(SELF).max(1) as u64)
}
