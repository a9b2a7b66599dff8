//! Versions of rows: where they lie in a table and which transaction has written them. The same pair never means two contents, as
//! docs/architecture.md argues, so sides that hold the same versions hold the same rows. Many are compared through one hash a group
//! of blocks.

use crate::backend::compat::unguarded;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::os::raw::c_int;

/// Groups of blocks that are compared, at most: the hashes take 4 MB.
const MOST_GROUPS: u64 = 1 << 18;

/// Transaction IDs below this are not those of transactions (FirstNormalTransactionId).
const FIRST_NORMAL: u32 = 3;

/// A table that holds rows itself: a plain one, a partition, a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub oid: u32,
    /// No version that counts lies in a later block.
    pub blocks: u32,
}

/// A position in all tables of a source together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Blocks of the tables before it are counted, too.
    pub block: u32,
    pub offset: u16,
}

/// How the blocks of a source's tables are numbered and grouped.
#[derive(Debug, Clone)]
pub struct Grouping {
    extents: Vec<Extent>,
    /// The numbers of their first blocks and of their first groups.
    firsts: Vec<(u32, usize)>,
    by_oid: HashMap<u32, usize>,
    /// Blocks in a group.
    pub grain: u32,
    groups: usize,
}

impl Grouping {
    /// Groups of at least `grain` blocks. None if there are more blocks than can be numbered.
    pub fn of(extents: Vec<Extent>, grain: u32) -> Option<Grouping> {
        let blocks: u64 = extents.iter().map(|extent| u64::from(extent.blocks)).sum();
        // The last number is for what lies nowhere.
        if blocks >= u64::from(u32::MAX) {
            return None;
        }
        let grain = u64::from(grain).max(blocks.div_ceil(MOST_GROUPS)).max(1) as u32;
        let (mut block, mut groups) = (0, 0);
        let mut firsts = Vec::with_capacity(extents.len());
        for extent in &extents {
            firsts.push((block, groups));
            block += extent.blocks;
            groups += extent.blocks.div_ceil(grain) as usize;
        }
        let by_oid = extents.iter().enumerate().map(|(ordinal, extent)| (extent.oid, ordinal)).collect();
        Some(Grouping { extents, firsts, by_oid, grain, groups })
    }

    pub fn groups(&self) -> usize {
        self.groups
    }

    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Which of the tables it is, if it is one of them.
    pub fn ordinal(&self, oid: u32) -> Option<usize> {
        self.by_oid.get(&oid).copied()
    }

    /// The group and the position of a version in a table. None if it lies beyond its end.
    pub fn locate(&self, ordinal: usize, block: u32, offset: u16) -> Option<(usize, Position)> {
        let extent = self.extents.get(ordinal)?;
        let (first_block, first_group) = *self.firsts.get(ordinal)?;
        (block < extent.blocks)
            .then(|| (first_group + (block / self.grain) as usize, Position { block: first_block + block, offset }))
    }

    /// Which group of a table it is, by its number among those of the table.
    pub fn group(&self, ordinal: usize, number: u32) -> Option<usize> {
        let extent = self.extents.get(ordinal)?;
        (number < extent.blocks.div_ceil(self.grain)).then(|| self.firsts[ordinal].1 + number as usize)
    }

    /// The table of a position, and the block there.
    pub fn block_of(&self, position: Position) -> Option<(usize, u32)> {
        let ordinal = self.firsts.partition_point(|(first, _)| *first <= position.block).checked_sub(1)?;
        // Tables without blocks have the number of the next one.
        let block = position.block - self.firsts[ordinal].0;
        (block < self.extents[ordinal].blocks).then_some((ordinal, block))
    }

    /// The blocks of each table that lie in these groups, as ranges without their ends.
    pub fn ranges(&self, differs: &[bool]) -> Vec<Vec<(u32, u32)>> {
        let range = |ordinal: usize| {
            let (extent, first) = (self.extents[ordinal], self.firsts[ordinal].1);
            let mut ranges: Vec<(u32, u32)> = Vec::new();
            for number in 0..extent.blocks.div_ceil(self.grain) {
                if !differs[first + number as usize] {
                    continue;
                }
                let from = number * self.grain;
                let to = from.saturating_add(self.grain).min(extent.blocks);
                match ranges.last_mut() {
                    Some(last) if last.1 == from => last.1 = to,
                    _ => ranges.push((from, to)),
                }
            }
            ranges
        };
        (0..self.extents.len()).map(range).collect()
    }
}

/// The versions in a group: how many, and a hash of all of them that does not depend on their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub count: u64,
    pub hash: u64,
}

impl Sum {
    pub fn add(&mut self, hash: u64) {
        self.count += 1;
        self.hash ^= hash;
    }
}

/// What `hashtidextended(ctid, age(xmin))` is in a transaction of the source whose `now` is the transaction ID that ages count from.
pub fn hash(block: u32, offset: u16, xmin: u32, now: u32) -> u64 {
    let mut tid = [0_u8; 6];
    tid[..2].copy_from_slice(&((block >> 16) as u16).to_ne_bytes());
    tid[2..4].copy_from_slice(&(block as u16).to_ne_bytes());
    tid[4..].copy_from_slice(&offset.to_ne_bytes());
    // SAFETY: it reads so many bytes.
    unsafe { unguarded::hash_bytes_extended(tid.as_ptr(), tid.len() as c_int, i64::from(age(xmin, now)) as u64) }
}

/// As PostgreSQL's function of that name.
fn age(xmin: u32, now: u32) -> i32 {
    if xmin < FIRST_NORMAL {
        i32::MAX
    } else {
        now.wrapping_sub(xmin) as i32
    }
}

/// Transactions, counted from the beginning of the cluster, that may have written versions since the last look: a version of an earlier
/// time whose transaction ID is one of theirs, without its epoch, cannot be told from one of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    from: u64,
    to: u64,
}

impl Recent {
    /// From the oldest that was running then (`before`) to the next that begins now. None as long as each ID was given away once only.
    pub fn of(before: u64, now: u64) -> Option<Recent> {
        (now > u64::from(u32::MAX)).then_some(Recent { from: before, to: now })
    }

    /// Whether a version that was seen before may be mistaken for one that is newer.
    pub fn includes(self, xmin: u32) -> bool {
        xmin >= FIRST_NORMAL && u64::from(xmin.wrapping_sub(self.from as u32)) < self.to.saturating_sub(self.from)
    }
}

/// Block and offset of a TID.
pub fn of_tid(tid: pg_sys::ItemPointerData) -> (u32, u16) {
    (u32::from(tid.ip_blkid.bi_hi) << 16 | u32::from(tid.ip_blkid.bi_lo), tid.ip_posid)
}

/// The TID of a block and an offset.
pub fn tid(block: u32, offset: u16) -> pg_sys::ItemPointerData {
    let ip_blkid = pg_sys::BlockIdData { bi_hi: (block >> 16) as u16, bi_lo: block as u16 };
    pg_sys::ItemPointerData { ip_blkid, ip_posid: offset }
}

#[cfg(test)]
mod tests {
    use super::{age, Extent, Grouping, Position, Recent};

    fn grouping(blocks: &[u32], grain: u32) -> Grouping {
        let extents = blocks.iter().zip(1..).map(|(blocks, oid)| Extent { oid, blocks: *blocks });
        Grouping::of(extents.collect(), grain).unwrap()
    }

    #[test]
    fn blocks_of_several_tables_are_numbered_through() {
        let grouping = grouping(&[3, 0, 5], 2);
        assert_eq!(grouping.groups(), 2 + 3);
        assert_eq!(grouping.locate(0, 2, 7), Some((1, Position { block: 2, offset: 7 })));
        assert_eq!(grouping.locate(0, 3, 1), None, "beyond its end");
        assert_eq!(grouping.locate(1, 0, 1), None);
        assert_eq!(grouping.locate(2, 4, 1), Some((4, Position { block: 7, offset: 1 })));
        for (ordinal, block) in [(0, 0), (0, 2), (2, 0), (2, 4)] {
            let (_, position) = grouping.locate(ordinal, block, 1).unwrap();
            assert_eq!(grouping.block_of(position), Some((ordinal, block)));
        }
        assert_eq!(grouping.block_of(Position { block: 8, offset: 1 }), None);
        assert_eq!(grouping.group(2, 2), Some(4));
        assert_eq!(grouping.group(2, 3), None);
        assert_eq!(grouping.ordinal(3), Some(2));
        assert_eq!(grouping.ordinal(9), None);
    }

    #[test]
    fn neighbouring_groups_make_one_range() {
        let grouping = grouping(&[5, 4], 2);
        assert_eq!(
            grouping.ranges(&[true, true, false, false, true]),
            [vec![(0, 4)], vec![(2, 4)]],
            "and none goes from one table to the next"
        );
        assert_eq!(grouping.ranges(&[false, false, true, true, false]), [vec![(4, 5)], vec![(0, 2)]]);
    }

    #[test]
    fn a_large_table_has_larger_groups() {
        assert_eq!(grouping(&[1 << 20], 1).grain, 4);
        assert_eq!(grouping(&[1 << 10], 7).grain, 7);
        assert!(Grouping::of(vec![Extent { oid: 1, blocks: u32::MAX }], 1).is_none());
    }

    #[test]
    fn ages_are_those_of_postgresql() {
        assert_eq!(age(100, 105), 5);
        assert_eq!(age(2, 105), i32::MAX, "frozen by a server before 9.4");
        assert_eq!(age(u32::MAX, 4), 5);
        assert_eq!(age(200, 100), -100);
    }

    #[test]
    fn an_id_that_was_given_away_twice_proves_nothing() {
        let turn = 1_u64 << 32;
        assert!(Recent::of(100, turn - 1).is_none(), "each ID was given away once");
        let recent = Recent::of(turn + 100, turn + 200).unwrap();
        assert!(recent.includes(100) && recent.includes(199));
        assert!(!recent.includes(99) && !recent.includes(200));
        let around = Recent::of(turn - 10, turn + 10).unwrap();
        assert!(around.includes(u32::MAX) && around.includes(5) && !around.includes(2), "2 is no transaction");
        assert!(!around.includes(10) && !around.includes(u32::MAX - 10));
    }
}
