//! Versions of rows on a source: what shows that those of the last refresh are still what they were, which have changed, and the rows
//! themselves. With nothing but SELECT.

use crate::backend::interrupts;
use crate::backend::name::{quote, Name};
use crate::backend::row_version::{Extent, Grouping, Position, Sum};
use crate::error::{Error, Result};
use crate::source::catalog::SourceTable;
use crate::source::connection::Connection;
use crate::source::copy_out::CopyOut;
use crate::source::server::Server;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Groups of a table that is read in the manner of a large one, at most: the source collects them in its work_mem.
const MOST_GROUPS_OF_LARGE: u64 = 1 << 15;

/// Tables that hold the rows of one, at most: queries name each of them.
const MOST_PARTS: usize = 1000;

/// How long a source may take by itself to flush what was committed. Its WAL writer takes three times wal_writer_delay.
const LONGEST_FLUSH: Duration = Duration::from_secs(5);

/// The history of a source's server and tables, at one moment. Two of them show whether versions of rows are the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// pg_control_system().system_identifier
    pub system: String,
    pub timeline: i64,
    /// When the server started.
    pub started: String,
    /// OIDs of the database and of the table.
    pub database: u32,
    pub oid: u32,
    /// Of the snapshot: the oldest transaction that was running, and the next one, with their epochs.
    pub oldest: u64,
    pub next: u64,
    /// Where the WAL was written to, or replayed to, in bytes.
    pub position: u64,
    /// The tables that hold the rows.
    pub tables: Vec<Part>,
    #[serde(default, skip_serializing)]
    standby: bool,
    /// The transaction ID that ages count from, in the snapshot's transaction.
    #[serde(default, skip_serializing)]
    pub now: u32,
    /// It does not fit into a quarter of the source's shared buffers.
    #[serde(default, skip_serializing)]
    large: bool,
}

/// A table that holds rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub oid: u32,
    /// pg_class.relfilenode
    pub file: u32,
    /// A digest of its columns, and of the values that old rows have in those that are younger.
    pub columns: String,
    #[serde(default, skip_serializing)]
    schema: String,
    #[serde(default, skip_serializing)]
    name: String,
    #[serde(default, skip_serializing)]
    blocks: u32,
}

#[derive(Deserialize)]
struct Evidence {
    /// Why versions prove nothing here.
    obstacle: Option<String>,
    #[serde(flatten)]
    origin: Option<Origin>,
}

/// $1: the table. With the pinned search_path.
const ORIGIN: &str = r"
WITH RECURSIVE tree(oid) AS (
    -- A partition that is being detached is not read any more.
    SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree t ON i.inhparent = t.oid WHERE NOT i.inhdetachpending
), part AS (
    SELECT c.*, n.nspname FROM tree t JOIN pg_class c ON c.oid = t.oid AND (c.relpersistence <> 't' OR c.oid = $1::oid) JOIN pg_namespace n ON n.oid = c.relnamespace
), obstacle AS (
    SELECT CASE
        WHEN $1::oid < 16384 THEN 'it is one of PostgreSQL''s own tables'
        WHEN (SELECT count(*) > 1000 FROM part) THEN 'it has more than 1000 partitions'
        WHEN bool_or(p.relkind NOT IN ('r', 'p')) THEN 'only tables have versions of rows'
        WHEN bool_or(p.relkind = 'r' AND p.relam <> 2) THEN 'its access method is not heap'
        WHEN EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'citus' OR e.extname = 'timescaledb' AND (SELECT count(*) > 1 FROM part))
            THEN 'an extension of the source may read its rows from elsewhere'
        WHEN bool_or(row_security_active(p.oid)) THEN 'row security decides what is visible'
        WHEN NOT bool_and(has_table_privilege(p.oid, 'SELECT') AND has_schema_privilege(p.relnamespace, 'USAGE')) THEN
            'the role on the source may not read ' || min(format('%I.%I', p.nspname, p.relname))
                FILTER (WHERE NOT (has_table_privilege(p.oid, 'SELECT') AND has_schema_privilege(p.relnamespace, 'USAGE')))
        WHEN EXISTS (SELECT FROM part v JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0 WHERE a.attgenerated = 'v')
            THEN 'it has columns that are generated when they are read'
        WHEN NOT (has_function_privilege('pg_control_system()', 'EXECUTE') AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
                  AND has_function_privilege('pg_control_recovery()', 'EXECUTE'))
            THEN 'the role on the source may not call pg_control_system(), pg_control_checkpoint() and pg_control_recovery()'
    END AS text FROM part p
)
SELECT CASE WHEN o.text IS NOT NULL THEN json_build_object('obstacle', o.text) ELSE json_build_object(
    'system', (SELECT s.system_identifier::pg_catalog.text FROM pg_control_system() s),
    'timeline', CASE WHEN pg_is_in_recovery()
        THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline) FROM pg_control_checkpoint() c, pg_control_recovery() r)
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
    'started', pg_postmaster_start_time(),
    'database', (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()),
    'oid', $1::oid::bigint,
    'oldest', pg_snapshot_xmin(pg_current_snapshot())::pg_catalog.text::bigint,
    'next', pg_snapshot_xmax(pg_current_snapshot())::pg_catalog.text::bigint,
    'position', (CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn)::bigint,
    'tables', (SELECT coalesce(json_agg(json_build_object('oid', p.oid::bigint, 'file', pg_relation_filenode(p.oid)::bigint,
                   'schema', p.nspname, 'name', p.relname,
                   'blocks', pg_relation_size(p.oid) / current_setting('block_size')::bigint,
                   'columns', (SELECT coalesce(md5(string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation,
                                       a.attmissingval::pg_catalog.text), ',' ORDER BY a.attnum)), '')
                                 FROM pg_attribute a WHERE a.attrelid = p.oid AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY p.oid), '[]')
                 FROM part p WHERE p.relkind = 'r'),
    'standby', pg_is_in_recovery(),
    'now', (age('3'::xid)::bigint + 3) & 4294967295,
    'large', (SELECT coalesce(sum(pg_relation_size(p.oid)), 0) FROM part p WHERE p.relkind = 'r') > pg_size_bytes(current_setting('shared_buffers')) / 4) END::pg_catalog.text
  FROM obstacle o";

/// Rows of a binary COPY whose fields are whole numbers and TIDs.
struct Numbers<'a> {
    stream: CopyOut<'a>,
    buffer: Vec<u8>,
    at: usize,
    filled: usize,
    header_seen: bool,
}

/// Signature, flags and the length of an extension that is always 0.
const HEADER: usize = 19;

impl Numbers<'_> {
    /// The next `N` fields; a TID is its block and its offset in one number, `block << 16 | offset`. None at the end.
    ///
    /// # Errors
    /// MalformedStream.
    fn next<const N: usize>(&mut self) -> Result<Option<[u64; N]>> {
        if !self.header_seen {
            if self.take(HEADER)?[..11] != *b"PGCOPY\n\xff\r\n\0" {
                return Err(Error::MalformedStream);
            }
            self.header_seen = true;
        }
        let count = i16::from_be_bytes(self.take(2)?.try_into().map_err(|_| Error::MalformedStream)?);
        if count == -1 {
            return Ok(None);
        }
        if count as usize != N {
            return Err(Error::MalformedStream);
        }
        let mut fields = [0; N];
        for field in &mut fields {
            let length = i32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Error::MalformedStream)?);
            let bytes = match length {
                2 | 4 | 6 | 8 => self.take(length as usize)?,
                _ => return Err(Error::MalformedStream),
            };
            *field = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        }
        Ok(Some(fields))
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        if self.filled - self.at < length {
            interrupts::check();
            self.buffer.copy_within(self.at..self.filled, 0);
            (self.filled, self.at) = (self.filled - self.at, 0);
            self.filled += self.stream.read(&mut self.buffer[self.filled..], length - self.filled)?;
            if self.filled < length {
                return Err(Error::MalformedStream);
            }
        }
        let from = self.at;
        self.at += length;
        Ok(&self.buffer[from..self.at])
    }

    /// Bytes that came in all.
    fn bytes(&mut self) -> Result<u64> {
        Ok(self.stream.totals()?.1)
    }
}

impl<'a> From<CopyOut<'a>> for Numbers<'a> {
    fn from(stream: CopyOut<'a>) -> Self {
        Numbers { stream, buffer: vec![0; 64 * 1024], at: 0, filled: 0, header_seen: false }
    }
}

/// What a source answered that it cannot have meant.
fn impossible(what: &str) -> Error {
    Error::Internal(format!("versions of rows on the source: {what}"))
}

/// All versions on a source, condensed.
pub struct Condensed {
    pub rows: u64,
    pub sums: Vec<Sum>,
    pub bytes: u64,
}

impl Origin {
    pub fn grouping(&self) -> Option<Grouping> {
        let extents = self.tables.iter().map(|part| Extent { oid: part.oid, blocks: part.blocks });
        let blocks: u64 = self.tables.iter().map(|part| u64::from(part.blocks)).sum();
        let grain = if self.large { blocks.div_ceil(MOST_GROUPS_OF_LARGE) } else { 1 };
        Grouping::of(extents.collect(), u32::try_from(grain).ok()?)
    }

    /// Whether its rows lie in more tables than one, or in another than the one that is named.
    pub fn has_parts(&self) -> bool {
        self.tables.len() != 1 || self.tables.iter().any(|part| part.oid != self.oid)
    }
}

impl Part {
    pub fn table(&self) -> Name {
        Name::new(&self.schema, &self.name)
    }

    /// Its versions, as a table expression.
    fn versions(&self, condition: &str) -> String {
        format!("(SELECT ctid, xmin FROM ONLY {} {condition}\n)", self.table())
    }
}

const HASH: &str = "pg_catalog.bit_xor(pg_catalog.hashtidextended(v.ctid, pg_catalog.age(v.xmin)::pg_catalog.int8))";

/// The TID before all those of a block.
fn begin(block: u32) -> String {
    format!("\"({block},0)\"")
}

/// TIDs as an array of PostgreSQL's.
fn tids(list: impl Iterator<Item = String>) -> String {
    format!("'{{{}}}'::pg_catalog.tid[]", list.collect::<Vec<_>>().join(","))
}

impl Connection {
    /// The origin of a table's rows, or why there is none. In the open snapshot, with the pinned search_path.
    pub fn origin(&mut self, table: &SourceTable) -> Result<std::result::Result<Origin, String>> {
        if !self.server().has_tid_ranges() {
            return Ok(Err(format!("the source is PostgreSQL {}", self.server().major())));
        }
        let document = self.value(ORIGIN, &[&table.oid.to_string()], "asking where its rows come from")?;
        // A part may have gone at this moment.
        Ok(match serde_json::from_str::<Evidence>(&document.unwrap_or_default()) {
            Ok(Evidence { obstacle: Some(obstacle), .. }) => Err(obstacle),
            Ok(Evidence { origin: Some(origin), .. }) if origin.tables.len() <= MOST_PARTS => Ok(origin),
            _ => Err("what the source says of its rows is not clear".to_string()),
        })
    }

    /// Sees to it that all that a snapshot showed is on the source's disk: what a crash takes back may be followed by other rows with the
    /// same transaction IDs. False if that cannot be had. Outside of a transaction.
    pub fn ensure_flushed(&mut self, origin: &Origin) -> Result<bool> {
        // A standby gets only what its primary has flushed.
        if origin.standby {
            return Ok(true);
        }
        match self.is_flushed(origin) {
            // It may not ask.
            Err(Error::Remote { .. }) => {
                self.roll_back()?;
                return Ok(false);
            }
            flushed => {
                if flushed? {
                    return Ok(true);
                }
            }
        }
        match self.flush_wal() {
            // It may not write.
            Err(Error::Remote { .. }) => self.roll_back()?,
            flushed => return flushed.map(|()| true),
        }
        let since = Instant::now();
        while since.elapsed() < LONGEST_FLUSH {
            interrupts::sleep(Duration::from_millis(20));
            if self.is_flushed(origin)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_flushed(&mut self, origin: &Origin) -> Result<bool> {
        let position = origin.position.to_string();
        let query = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), '0/0') OPERATOR(pg_catalog.>=) $1::pg_catalog.numeric";
        Ok(self.value(query, &[&position], "asking whether its WAL is flushed")?.as_deref() == Some("t"))
    }

    /// Whether the parts still have the files that they had when the origin was read: what has read them since has locked them. In the open
    /// snapshot.
    pub fn keeps_files(&mut self, origin: &Origin) -> Result<bool> {
        let oids: Vec<_> = origin.tables.iter().map(|part| part.oid.to_string()).collect();
        let files: Vec<_> = origin.tables.iter().map(|part| part.file.to_string()).collect();
        let query = "SELECT pg_catalog.bool_and(pg_catalog.pg_relation_filenode(p.oid) OPERATOR(pg_catalog.=) p.file)
                       FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.oid[])) p(oid, file)";
        let arrays = [oids, files].map(|list| format!("{{{}}}", list.join(",")));
        let same = self.value(query, &[&arrays[0], &arrays[1]], "asking whether its files are the same")?;
        Ok(same.as_deref() == Some("t"))
    }

    /// Settings for reading versions; they last as long as the snapshot.
    pub fn prepare_for_versions(&mut self) -> Result<()> {
        self.use_own_search_path()?;
        self.use_formats(&[
            ("jit", "off"),
            ("synchronize_seqscans", "off"),
            ("max_parallel_workers_per_gather", "0"),
            // They come in the order of their places.
            ("enable_indexscan", "off"),
            ("enable_indexonlyscan", "off"),
            ("enable_tidscan", "on"),
            ("enable_hashagg", "on"),
        ])
    }

    /// Condenses the versions of all rows that the condition selects, and does `meanwhile` here while the source is at it.
    pub fn condense<T>(
        &mut self,
        origin: &Origin,
        grouping: &Grouping,
        (table, condition): (&Name, &str),
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(Condensed, T)> {
        let grain = grouping.grain;
        let small = |(ordinal, part): (usize, &Part)| {
            let bound = |block: &str| format!("pg_catalog.concat('(', {block}, ',0)')::pg_catalog.tid");
            format!(
                "SELECT {ordinal}::pg_catalog.int4 AS part, (b.block OPERATOR(pg_catalog./) {grain})::pg_catalog.int4 AS number, q.count, q.hash
                   FROM pg_catalog.generate_series(0::pg_catalog.int8, {}, {grain}) b(block)
                  CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS count, {HASH} AS hash FROM {} v
                         WHERE v.ctid OPERATOR(pg_catalog.>=) {} AND v.ctid OPERATOR(pg_catalog.<) {} OFFSET 0) q
                  WHERE q.count OPERATOR(pg_catalog.>) 0",
                part.blocks - 1,
                part.versions(condition),
                bound("b.block"),
                bound(&format!("b.block OPERATOR(pg_catalog.+) {grain}")),
            )
        };
        let query = if origin.large {
            let most = self_blocks(grouping);
            format!(
                "SELECT v.tableoid, (pg_catalog.width_bucket(v.ctid, (SELECT pg_catalog.array_agg(pg_catalog.concat('(', b, ',0)')::pg_catalog.tid ORDER BY b)
                           FROM pg_catalog.generate_series(0::pg_catalog.int8, {most}, {grain}) b)) OPERATOR(pg_catalog.-) 1)::pg_catalog.int4, pg_catalog.count(*), {HASH}
                   FROM (SELECT tableoid, ctid, xmin FROM {table} {condition}\n) v GROUP BY 1, 2"
            )
        } else {
            let arms = origin.tables.iter().enumerate().filter(|(_, part)| part.blocks > 0).map(small);
            arms.collect::<Vec<_>>().join("\nUNION ALL ")
        };
        let mut condensed = Condensed { rows: 0, sums: vec![Sum::default(); grouping.groups()], bytes: 0 };
        if query.is_empty() {
            return Ok((condensed, meanwhile()?));
        }
        let (result, stream) = self.copy_out_meanwhile(&query, meanwhile)?;
        let mut numbers = Numbers::from(stream);
        while let Some([part, number, count, hash]) = numbers.next()? {
            let ordinal = if origin.large { grouping.ordinal(part as u32) } else { Some(part as usize) };
            let group = ordinal.and_then(|ordinal| grouping.group(ordinal, number as u32));
            let sum = group.and_then(|group| condensed.sums.get_mut(group));
            let sum =
                sum.filter(|sum| sum.count == 0).ok_or_else(|| impossible("a group that is none, or comes twice"))?;
            *sum = Sum { count, hash };
            condensed.rows = condensed.rows.saturating_add(count);
        }
        condensed.bytes = numbers.bytes()?;
        Ok((condensed, result))
    }

    /// The versions in groups that differ, in their order, and what `meanwhile` gives, which is done here while the source begins to read.
    pub fn versions<'a, T>(
        &'a mut self,
        origin: &Origin,
        grouping: &'a Grouping,
        (differs, condition): (&'a [bool], &str),
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Versions<'a>)> {
        let several = origin.tables.len() > 1;
        let arm = |(ordinal, ranges): (usize, &Vec<(u32, u32)>)| {
            let part = &origin.tables[ordinal];
            let versions = part.versions(condition);
            let which = if several { format!("{ordinal}::pg_catalog.int4, ") } else { String::new() };
            let covered: u64 = ranges.iter().map(|(from, to)| u64::from(to - from)).sum();
            if covered * 2 > u64::from(part.blocks) {
                return format!("SELECT {which}v.ctid, v.xmin FROM {versions} v");
            }
            let (from, to) =
                (tids(ranges.iter().map(|range| begin(range.0))), tids(ranges.iter().map(|range| begin(range.1))));
            format!(
                "SELECT {which}q.ctid, q.xmin FROM ROWS FROM (pg_catalog.unnest({from}), pg_catalog.unnest({to})) r(lower, upper)
                  CROSS JOIN LATERAL (SELECT v.ctid, v.xmin FROM {versions} v WHERE v.ctid OPERATOR(pg_catalog.>=) r.lower
                         AND v.ctid OPERATOR(pg_catalog.<) r.upper OFFSET 0) q"
            )
        };
        let ranges = grouping.ranges(differs);
        let arms: Vec<_> = ranges.iter().enumerate().filter(|(_, ranges)| !ranges.is_empty()).map(arm).collect();
        if arms.is_empty() {
            return Ok((meanwhile()?, Versions { numbers: None, grouping, differs, several, last: None }));
        }
        let (result, stream) = self.copy_out_meanwhile(&arms.join("\nUNION ALL "), meanwhile)?;
        Ok((result, Versions { numbers: Some(Numbers::from(stream)), grouping, differs, several, last: None }))
    }
}

/// Versions that come from a source.
pub struct Versions<'a> {
    /// None if there are none.
    numbers: Option<Numbers<'a>>,
    grouping: &'a Grouping,
    differs: &'a [bool],
    several: bool,
    last: Option<Position>,
}

impl Versions<'_> {
    /// The next one in a group that differs: its position and its xmin.
    ///
    /// # Errors
    /// MalformedStream; Internal, if the source sends what cannot be.
    pub fn next(&mut self) -> Result<Option<(Position, u32)>> {
        let Some(numbers) = &mut self.numbers else { return Ok(None) };
        loop {
            let row = match self.several {
                true => numbers.next()?,
                false => numbers.next()?.map(|[tid, xmin]| [0, tid, xmin]),
            };
            let Some([ordinal, tid, xmin]) = row else { return Ok(None) };
            let located = self.grouping.locate(ordinal as usize, (tid >> 16) as u32, tid as u16);
            let (group, position) = located.ok_or_else(|| impossible("one lies beyond the end of its table"))?;
            if self.last.is_some_and(|last| last >= position) {
                return Err(impossible("they do not come in their order"));
            }
            self.last = Some(position);
            if self.differs[group] {
                return Ok(Some((position, xmin as u32)));
            }
        }
    }

    /// Bytes that came in all.
    pub fn bytes(&mut self) -> Result<u64> {
        self.numbers.as_mut().map_or(Ok(0), Numbers::bytes)
    }
}

/// Blocks of the longest table.
fn self_blocks(grouping: &Grouping) -> u32 {
    grouping.extents().iter().map(|extent| extent.blocks).max().unwrap_or_default()
}

/// The query for the rows at these positions, which are in their order: these columns, and system columns of theirs.
pub fn rows_at(
    origin: &Origin,
    grouping: &Grouping,
    positions: &[Position],
    (columns, system): (&[String], &[&str]),
) -> Result<String> {
    let mut arms: Vec<(usize, Vec<String>)> = Vec::new();
    for position in positions {
        let (ordinal, block) = grouping.block_of(*position).ok_or_else(|| impossible("a position that is none"))?;
        let tid = format!("\"({block},{})\"", position.offset);
        match arms.last_mut() {
            Some((last, list)) if *last == ordinal => list.push(tid),
            _ => arms.push((ordinal, vec![tid])),
        }
    }
    let arm = |(ordinal, list): (usize, Vec<String>)| {
        let table = origin.tables[ordinal].table();
        let columns: Vec<_> =
            columns.iter().map(|name| quote(name)).chain(system.iter().map(|name| (*name).to_string())).collect();
        let columns: Vec<_> = columns.iter().map(|column| format!("v.{column}")).collect();
        format!(
            "SELECT {} FROM ONLY {table} v WHERE v.ctid OPERATOR(pg_catalog.=) ANY ({})",
            columns.join(", "),
            tids(list.into_iter())
        )
    };
    Ok(arms.into_iter().map(arm).collect::<Vec<_>>().join("\nUNION ALL "))
}

impl Server {
    /// Ranges of TIDs are scanned without reading what lies outside, and TIDs have hash functions.
    fn has_tid_ranges(self) -> bool {
        self >= Server(140_000)
    }
}
