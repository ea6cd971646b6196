//! Into which parts a relation is cut. Pure: it knows sizes, no server.

use crate::name::TableName;

/// Cutting smaller pieces costs more than it gains, bytes.
const SMALLEST: u64 = 64 << 20;
/// What is lost when a part has to be copied again is bounded, bytes.
const LARGEST: u64 = 4 << 30;
/// So that the jobs end at about the same time, a database is at least this many parts a job.
const PARTS_PER_JOB: u64 = 8;
/// No relation has more.
const MOST_PARTS: u64 = 10_000;

/// Relations larger than this are cut, when the operator does not say otherwise. Bytes.
pub fn default_split(total_bytes: u64, jobs: u32) -> u64 {
    (total_bytes / (u64::from(jobs.max(1)) * PARTS_PER_JOB)).clamp(SMALLEST, LARGEST)
}

/// A table of the source that holds rows of a relation: the table itself, or a leaf of a partition root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heap {
    pub table: TableName,
    /// Of the heap alone.
    pub blocks: u64,
    /// With TOAST.
    pub bytes: u64,
}

/// One part of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counted from 0, within the relation.
    pub number: u32,
    pub table: TableName,
    /// Blocks from the first up to, but without, the second; `None` for the whole table, no second for its rest.
    pub blocks: Option<(u64, Option<u64>)>,
    /// By estimate.
    pub bytes: u64,
    /// How often it was tried before.
    pub failures: u32,
}

impl Part {
    /// The whole of a table.
    pub fn whole(table: TableName, bytes: u64) -> Self {
        Self { number: 0, table, blocks: None, bytes, failures: 0 }
    }

    /// What restricts a query to this part (TID range scan, PostgreSQL 14 and later).
    pub fn condition(&self) -> Option<String> {
        let (from, to) = self.blocks?;
        let to = to.map_or_else(String::new, |to| format!(" and ctid < '({to},0)'::tid"));
        Some(format!("ctid >= '({from},0)'::tid{to}"))
    }
}

/// Cuts heaps larger than `split` bytes into ranges of blocks of about the same size; the last of a heap has no end. The largest part
/// comes first, unless they have to be `in_order`.
pub fn cut(heaps: &[Heap], split: u64, by_blocks: bool, in_order: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    for heap in heaps {
        let pieces = if by_blocks { heap.bytes.div_ceil(split.max(1)).clamp(1, heap.blocks.clamp(1, MOST_PARTS)) } else { 1 };
        for n in 0..pieces {
            let edge = |n: u64| (u128::from(heap.blocks) * u128::from(n) / u128::from(pieces)) as u64;
            let blocks = (pieces > 1).then(|| (edge(n), (n + 1 < pieces).then(|| edge(n + 1))));
            parts.push(Part { number: 0, table: heap.table.clone(), blocks, bytes: heap.bytes / pieces, failures: 0 });
        }
    }
    if !in_order {
        // Stable: the parts of one heap stay in the order of its blocks.
        parts.sort_by_key(|p| std::cmp::Reverse(p.bytes));
    }
    for (number, part) in parts.iter_mut().enumerate() {
        part.number = number as u32;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap(name: &str, blocks: u64, bytes: u64) -> Heap {
        Heap { table: TableName::new("public", name), blocks, bytes }
    }

    #[test]
    fn every_block_is_in_exactly_one_part() {
        for (blocks, bytes, split) in [(10, 81_920, 8_192), (7, 57_344, 20_000), (1_000_001, 8_192_008_192, 300 << 20), (3, 1 << 30, 1 << 20)] {
            let parts = cut(&[heap("t", blocks, bytes)], split, true, false);
            let mut next = 0;
            for (n, part) in parts.iter().enumerate() {
                let (from, to) = part.blocks.unwrap();
                assert_eq!((from, part.number), (next, n as u32));
                match to {
                    Some(to) => {
                        assert!(to > from && n + 1 < parts.len());
                        next = to;
                    }
                    None => assert_eq!(n + 1, parts.len(), "only the last has no end"),
                }
            }
        }
    }

    #[test]
    fn small_tables_stay_whole_and_leaves_are_parts() {
        assert_eq!(cut(&[heap("t", 0, 0)], 1 << 20, true, false), [Part::whole(TableName::new("public", "t"), 0)]);
        let leaves = [heap("a", 1, 8_192), heap("b", 300, 2_457_600), heap("c", 2, 16_384)];
        let names = |parts: Vec<Part>| parts.iter().map(|p| format!("{}{}", p.table.name, p.blocks.map_or("", |_| "+"))).collect::<Vec<_>>();
        assert_eq!(names(cut(&leaves, 1 << 20, true, false)), ["b+", "b+", "b+", "c", "a"]);
        assert_eq!(names(cut(&leaves, 1 << 20, true, true)), ["a", "b+", "b+", "b+", "c"]);
        // Before 14 a range of blocks would read the whole table.
        assert_eq!(names(cut(&leaves, 1 << 20, false, true)), ["a", "b", "c"]);
    }

    #[test]
    fn a_part_is_a_condition_on_blocks() {
        let part = |blocks| Part { blocks, ..Part::whole(TableName::new("public", "t"), 0) };
        assert_eq!(part(None).condition(), None);
        assert_eq!(part(Some((0, Some(5)))).condition().unwrap(), "ctid >= '(0,0)'::tid and ctid < '(5,0)'::tid");
        assert_eq!(part(Some((5, None))).condition().unwrap(), "ctid >= '(5,0)'::tid");
    }

    #[test]
    fn small_databases_are_not_cut_and_large_ones_in_bounded_pieces() {
        assert_eq!(default_split(1 << 30, 4), 64 << 20);
        assert_eq!(default_split(64 << 30, 4), 2 << 30);
        assert_eq!(default_split(100 << 40, 8), 4 << 30);
    }
}
