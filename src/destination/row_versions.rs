//! The versions of the source's rows that a twin's rows are copies of: hidden columns of it, which the view does not show.

use crate::backend::compat::unguarded;
use crate::backend::interrupts;
use crate::backend::name::{quote, quote_list, Name};
use crate::backend::row_version::{self, Grouping, Position, Recent, Sum};
use crate::backend::sorter::Sorter;
use crate::backend::spi;
use crate::destination::heap::{self, Manner};
use crate::error::{Error, Result};
use crate::shape::{Column, Shape};
use pgrx::pg_sys;
use std::cell::Cell;

/// No table has more columns (MaxHeapAttributeNumber).
const MOST_COLUMNS: usize = 1600;

/// The hidden columns: name here, type, and the system column that is copied.
const HIDDEN: [(&str, &str, &str); 3] =
    [("mimeo_xmin", "xid", "xmin"), ("mimeo_ctid", "tid", "ctid"), ("mimeo_tableoid", "oid", "tableoid")];

const HIDDEN_TYPES: [(&str, pg_sys::Oid); 3] =
    [("mimeo_xmin", pg_sys::XIDOID), ("mimeo_ctid", pg_sys::TIDOID), ("mimeo_tableoid", pg_sys::OIDOID)];

/// Which hidden columns a twin has, or is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    None,
    /// For a source that is one table.
    Version,
    /// For one with partitions or children.
    VersionAndTable,
}

impl Hidden {
    /// Those that a twin with these columns of a source can have.
    pub fn fitting(columns: &[Column], has_tables: bool) -> Hidden {
        let hidden = if has_tables { Hidden::VersionAndTable } else { Hidden::Version };
        let taken = columns.iter().any(|column| is_hidden_name(&column.name));
        if taken || columns.len() + hidden.columns().len() > MOST_COLUMNS {
            Hidden::None
        } else {
            hidden
        }
    }

    /// Whether these tables have them, or can get them: columns that were dropped count, too.
    pub fn has_room(self, twins: [pg_sys::Oid; 2]) -> Result<bool> {
        let names: Vec<_> = HIDDEN.iter().map(|(name, ..)| (*name).to_string()).collect();
        spi::is_true(
            "SELECT bool_and(t.has = $3 OR t.last + $3 <= $4) FROM (
                SELECT max(a.attnum) AS last, count(*) FILTER (WHERE NOT a.attisdropped AND a.attname = ANY ($2::name[])) AS has
                  FROM pg_attribute a WHERE a.attrelid = ANY ($1) AND a.attnum > 0 GROUP BY a.attrelid) t",
            &[
                twins.to_vec().into(),
                names.into(),
                (self.columns().len() as i64).into(),
                (MOST_COLUMNS as i64).into(),
            ],
        )
    }

    /// Takes them out of a twin's shape. None of `source`, which the twin's other columns are copies of, or were when it was last brought in
    /// line, is called so.
    pub fn take_from<'a>(shape: &mut Shape, mut source: impl Iterator<Item = &'a Column>) -> Hidden {
        if source.any(|column| is_hidden_name(&column.name)) {
            return Hidden::None;
        }
        let is_hidden = |column: &Column| {
            HIDDEN.iter().any(|(name, kind, _)| column.name == *name && column.type_name.for_message() == *kind)
        };
        let has = |wanted: &str| shape.columns.iter().any(|column| column.name == wanted && is_hidden(column));
        let found = match HIDDEN.map(|(name, ..)| has(name)) {
            [true, true, true] => Hidden::VersionAndTable,
            [true, true, false] => Hidden::Version,
            _ => return Hidden::None,
        };
        shape.columns.retain(|column| !(is_hidden(column) && found.names().any(|name| name == column.name)));
        found
    }

    fn columns(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Hidden::None => &[],
            Hidden::Version => &HIDDEN[..2],
            Hidden::VersionAndTable => &HIDDEN,
        }
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.columns().iter().map(|(name, ..)| *name)
    }

    /// The system columns of the source that go there.
    pub fn sources(self) -> impl Iterator<Item = &'static str> {
        self.columns().iter().map(|(_, _, source)| *source)
    }

    /// Their definitions, for CREATE TABLE.
    pub fn definitions(self) -> Vec<String> {
        self.columns().iter().map(|(name, kind, _)| format!("{} {kind}", quote(name))).collect()
    }

    /// Gives them to a twin that is empty and has others.
    pub fn set(self, twin: &Name, has: Hidden) -> Result<()> {
        let wanted = |all: Hidden, name: &str| all.names().any(|known| known == name);
        for (name, kind, _) in HIDDEN {
            let column = quote(name);
            match (wanted(self, name), wanted(has, name)) {
                (true, false) => spi::run(&format!("ALTER TABLE ONLY {twin} ADD COLUMN {column} {kind}"), &[])?,
                (false, true) => spi::run(&format!("ALTER TABLE ONLY {twin} DROP COLUMN {column}"), &[])?,
                _ => 0,
            };
        }
        if self != has {
            self.leave_out_of_statistics(twin)?;
        }
        Ok(())
    }

    /// Nobody searches by them.
    pub fn leave_out_of_statistics(self, twin: &Name) -> Result<()> {
        for name in self.names() {
            spi::run(&format!("ALTER TABLE ONLY {twin} ALTER COLUMN {} SET STATISTICS 0", quote(name)), &[])?;
        }
        Ok(())
    }

    /// Takes them off a table that is no twin any more.
    pub fn drop_from(table: &Name, shape: &Shape, source: &[Column]) -> Result<()> {
        let has = Hidden::take_from(&mut shape.clone(), source.iter());
        Hidden::None.set(table, has)
    }
}

fn is_hidden_name(name: &str) -> bool {
    HIDDEN.iter().any(|(hidden, ..)| *hidden == name)
}

/// A twin's rows, as copies of versions on the source.
pub struct Copies<'a> {
    pub twin: pg_sys::Oid,
    pub hidden: Hidden,
    pub grouping: &'a Grouping,
    /// Of which tables the versions are those that were copied.
    pub trusted: &'a [bool],
    /// The transaction ID that ages count from on the source.
    pub now: u32,
    /// What may be mistaken for newer versions.
    pub recent: Option<Recent>,
}

/// A row of a twin.
struct Copy {
    tid: pg_sys::ItemPointerData,
    /// None if it proves nothing.
    version: Option<Version>,
}

struct Version {
    group: usize,
    position: Position,
    /// The block in its own table.
    block: u32,
    xmin: u32,
}

/// A row of a twin that is to be compared with versions on the source.
pub struct Compared {
    /// Where the version lies on the source; None if it proves nothing.
    pub position: Option<Position>,
    pub xmin: u32,
    /// Where the row lies.
    pub tid: (u32, u16),
}

/// A position behind all others: nothing lies there.
const NOWHERE: Position = Position { block: u32::MAX, offset: u16::MAX };

impl Copies<'_> {
    /// How many rows there are, and the sum of each group of blocks.
    pub fn condense(&self) -> Result<(u64, Vec<Sum>)> {
        let mut sums = vec![Sum::default(); self.grouping.groups()];
        let (mut rows, all) = (0, sums.as_mut_slice());
        let now = self.now;
        self.each(&mut |copy| {
            rows += 1;
            if let Some(Version { group, position, block, xmin }) = copy.version {
                if let Some(sum) = all.get_mut(group) {
                    sum.add(row_version::hash(block, position.offset, xmin, now));
                }
            }
        })?;
        Ok((rows, sums))
    }

    /// The rows whose versions lie in groups that differ, and those that prove nothing, in the order of the source's blocks.
    pub fn sorted(&self, differs: &[bool], memory: i32) -> Result<Sorter> {
        let mut sorter = Sorter::new(memory);
        let s = &raw mut sorter;
        self.each(&mut |copy| {
            let (position, xmin) = match copy.version {
                Some(Version { group, .. }) if differs.get(group) != Some(&true) => return,
                Some(Version { position, xmin, .. }) => (position, xmin),
                None => (NOWHERE, 0),
            };
            let value = pack(position, xmin, row_version::of_tid(copy.tid));
            // SAFETY: `each` has a guard around it; nobody else uses the sorter meanwhile.
            unsafe { (*s).put_unguarded(&value) };
        })?;
        sorter.sort();
        Ok(sorter)
    }

    /// Visits the rows that are there now. `visit` runs without a guard: see `compat::unguarded`.
    fn each(&self, visit: &mut impl FnMut(Copy)) -> Result<()> {
        interrupts::check();
        // SAFETY: the relation, the snapshot and the scan stay open until their ends here; an error unwinds to the end of the
        // (sub)transaction, which closes them.
        unsafe {
            let relation = pg_sys::table_open(self.twin, pg_sys::AccessShareLock as i32);
            let descriptor = (*relation).rd_att;
            let numbers = self.numbers(descriptor)?;
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
                | pg_sys::ScanOptions::SO_ALLOW_STRAT
                | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
            let no_key = std::ptr::null_mut();
            let scan = pg_sys::heap_beginscan(relation, snapshot, 0, no_key, std::ptr::null_mut(), flags);
            pg_sys::ffi::pg_guard_ffi_boundary(|| loop {
                let tuple = unguarded::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let version = self.version(tuple, numbers, descriptor);
                visit(Copy { tid: (*tuple).t_self, version });
            });
            pg_sys::heap_endscan(scan);
            pg_sys::UnregisterSnapshot(snapshot);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
        }
        Ok(())
    }

    /// The numbers of the hidden columns, 0 for those that the twin does not have.
    ///
    /// # Safety
    /// A descriptor of an open relation.
    unsafe fn numbers(&self, descriptor: pg_sys::TupleDesc) -> Result<[i32; 3]> {
        // SAFETY: as the caller has promised.
        let columns = unsafe { pgrx::PgTupleDesc::from_pg_copy(descriptor) };
        let mut numbers = [0; 3];
        for (number, (name, of_type)) in numbers.iter_mut().zip(HIDDEN_TYPES).take(self.hidden.names().count()) {
            let is_it = |column: &&pg_sys::FormData_pg_attribute| {
                !column.attisdropped && column.name() == name && column.atttypid == of_type
            };
            // Its owner may have altered it just now.
            let missing = || Error::Internal(format!("the live twin has no column {name} any more"));
            *number = i32::from(columns.iter().find(is_it).ok_or_else(missing)?.attnum);
        }
        Ok(numbers)
    }

    /// Which version a row is a copy of. `numbers` are those of the hidden columns, or 0.
    ///
    /// # Safety
    /// A tuple of that form. Without a guard: see `compat::unguarded`.
    unsafe fn version(
        &self,
        tuple: pg_sys::HeapTuple,
        [xmin, ctid, tableoid]: [i32; 3],
        descriptor: pg_sys::TupleDesc,
    ) -> Option<Version> {
        // SAFETY: as the caller has promised.
        unsafe {
            // A refresh only inserts: this one was changed by somebody else.
            if (*(*tuple).t_data).t_infomask & pg_sys::HEAP_UPDATED as u16 != 0 {
                return None;
            }
            let ordinal = match tableoid {
                0 => 0,
                number => self.grouping.ordinal(attribute(tuple, number, descriptor)?.value() as u32)?,
            };
            let xmin = attribute(tuple, xmin, descriptor)?.value() as u32;
            let tid = attribute(tuple, ctid, descriptor)?.cast_mut_ptr::<pg_sys::ItemPointerData>().read_unaligned();
            let (block, offset) = row_version::of_tid(tid);
            if self.trusted.get(ordinal) != Some(&true) || self.recent.is_some_and(|recent| recent.includes(xmin)) {
                return None;
            }
            let (group, position) = self.grouping.locate(ordinal, block, offset)?;
            Some(Version { group, position, block, xmin })
        }
    }
}

/// The value of a column (from 1); None if it is NULL.
///
/// # Safety
/// A tuple of that form. Without a guard: see `compat::unguarded`.
unsafe fn attribute(tuple: pg_sys::HeapTuple, number: i32, descriptor: pg_sys::TupleDesc) -> Option<pg_sys::Datum> {
    // SAFETY: as the caller has promised.
    unsafe {
        let header = (*tuple).t_data;
        let ordinal = usize::try_from(number - 1).ok()?;
        if ordinal >= ((*header).t_infomask2 & pg_sys::HEAP_NATTS_MASK as u16) as usize {
            return None;
        }
        let has_nulls = (*header).t_infomask & pg_sys::HEAP_HASNULL as u16 != 0;
        if has_nulls && (*header).t_bits.as_ptr().add(ordinal / 8).read() & (1 << (ordinal % 8)) == 0 {
            return None;
        }
        Some(unguarded::nocachegetattr(tuple, number, descriptor))
    }
}

fn pack(position: Position, xmin: u32, (block, offset): (u32, u16)) -> [u8; 16] {
    let mut value = [0; 16];
    value[..4].copy_from_slice(&position.block.to_be_bytes());
    value[4..6].copy_from_slice(&position.offset.to_be_bytes());
    value[6..10].copy_from_slice(&xmin.to_be_bytes());
    value[10..14].copy_from_slice(&block.to_be_bytes());
    value[14..].copy_from_slice(&offset.to_be_bytes());
    value
}

/// A value of `Copies::sorted`.
pub fn unpack(value: [u8; 16]) -> Compared {
    let four = |at: usize| u32::from_be_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
    let two = |at: usize| u16::from_be_bytes([value[at], value[at + 1]]);
    let position = Position { block: four(0), offset: two(4) };
    Compared { position: (position != NOWHERE).then_some(position), xmin: four(6), tid: (four(10), two(14)) }
}

/// The place of a row, to be sorted with others.
pub fn place((block, offset): (u32, u16)) -> [u8; 16] {
    pack(Position { block, offset }, 0, (0, 0))
}

/// The place that such a value holds.
pub fn placed(value: [u8; 16]) -> (u32, u16) {
    let Position { block, offset } = unpack(value).position.unwrap_or(NOWHERE);
    (block, offset)
}

/// Whether rows of a table can be deleted and inserted directly: it has no triggers or foreign keys, and its constraints are checked
/// row by row.
pub fn is_simple(table: pg_sys::Oid) -> bool {
    // SAFETY: the relation is open.
    with_relation(table, |relation| unsafe { heap::takes(relation, Manner::Ordinary) })
}

/// Whether statements on a table may become others: a copy does not know rules.
pub fn has_rules(table: pg_sys::Oid) -> bool {
    // SAFETY: the relation is open.
    with_relation(table, |relation| unsafe { (*(*relation).rd_rel).relhasrules })
}

fn with_relation(table: pg_sys::Oid, ask: impl FnOnce(pg_sys::Relation) -> bool) -> bool {
    // SAFETY: opens the relation, and closes it.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let answer = ask(relation);
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        answer
    }
}

/// Deletes the rows at these places, which are sorted, from such a table.
pub fn delete(table: pg_sys::Oid, places: &mut Sorter) {
    const BATCH: usize = 1000;
    // SAFETY: the relation stays locked until the end of the transaction, which an error unwinds to.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as i32);
        // As for any DELETE of a table that is published.
        pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_DELETE);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            batch.clear();
            while let Some(value) = (batch.len() < BATCH).then(|| places.next()).flatten() {
                let (block, offset) = placed(value);
                batch.push(row_version::tid(block, offset));
            }
            if batch.is_empty() {
                break;
            }
            interrupts::check();
            let tids = batch.as_mut_slice();
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                for tid in tids.iter_mut() {
                    unguarded::simple_heap_delete(relation, tid);
                }
            });
        }
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        pg_sys::CommandCounterIncrement();
    }
}

thread_local! {
    /// Two refreshes of one transaction must not share a name.
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// Rows that are collected, for a table that is not simple, before they replace others.
pub struct Beside {
    rows: Name,
    /// The places of those that go.
    gone: Name,
    pub oid: pg_sys::Oid,
}

impl Beside {
    /// Makes the temporary tables, which go at the end of the transaction.
    pub fn make(table: &Name) -> Result<Beside> {
        let number = MADE.get() + 1;
        MADE.set(number);
        let name = |what: &str| Name::new("pg_temp", format!("mimeo_{what}_{number}"));
        let (rows, gone) = (name("new"), name("gone"));
        spi::run(
            &format!(
                "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT * FROM {table} WITH NO DATA",
                quote(&rows.name)
            ),
            &[],
        )?;
        spi::run(&format!("CREATE TEMPORARY TABLE {} (place tid) ON COMMIT DROP", quote(&gone.name)), &[])?;
        let oid = spi::number("SELECT to_regclass($1)::oid::bigint", &[rows.to_string().into()])?;
        Ok(Beside { rows, gone, oid: pg_sys::Oid::from(oid as u32) })
    }

    /// Deletes the rows at these places, and inserts those that were collected, in one command: foreign keys, unique constraints and
    /// triggers see what they would see of a DELETE and an INSERT in one.
    pub fn replace(&self, table: &Name, places: &mut Sorter, columns: &[String]) -> Result<()> {
        const BATCH: usize = 10_000;
        let Beside { rows, gone, .. } = self;
        loop {
            let mut tids = Vec::new();
            while let Some(value) = (tids.len() < BATCH).then(|| places.next()).flatten() {
                let (block, offset) = placed(value);
                tids.push(format!("\"({block},{offset})\""));
            }
            if tids.is_empty() {
                break;
            }
            let list = format!("{{{}}}", tids.join(","));
            spi::run(&format!("INSERT INTO {gone} SELECT unnest($1::tid[])"), &[list.into()])?;
        }
        let (wanted, list) = (places.count() as i64, quote_list(columns.iter().map(String::as_str)));
        let came = spi::number(&format!("SELECT count(*) FROM {rows}"), &[])?;
        let counts: Option<(i64, i64)> = spi::json(
            &format!(
                "WITH gone AS (DELETE FROM ONLY {table} t USING {gone} g WHERE t.ctid = g.place RETURNING 1),
                      new AS (INSERT INTO {table} ({list}) SELECT {list} FROM {rows} WHERE (SELECT count(*) FROM gone) >= 0 RETURNING 1)
                 SELECT json_build_array((SELECT count(*) FROM gone), (SELECT count(*) FROM new))::pg_catalog.text"
            ),
            &[],
        )?;
        // A trigger may refuse some, and somebody may have changed one that was to go.
        if counts != Some((wanted, came)) {
            return Err(Error::Internal(format!(
                "{wanted} rows of {table} were to go, and {came} to come: {counts:?}"
            )));
        }
        Ok(())
    }
}
