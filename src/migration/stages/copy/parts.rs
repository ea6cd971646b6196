//! Cuts a relation into parts. Pure: it knows sizes, but no server.

use crate::name::{TableName, ident, literal};

/// Smaller pieces would cost more than they gain. Bytes.
const SMALLEST: u64 = 64 << 20;
/// Bounds what is lost when a part has to be copied again. Bytes.
const LARGEST: u64 = 4 << 30;
/// A database has at least this many parts per job, so that all jobs end at about the same time.
const PARTS_PER_JOB: u64 = 8;
/// Towards its end a relation is cut into smaller pieces, so that the last one does not keep one job busy for long while the others have
/// no work. No piece is smaller than this. Bytes.
const SMALLEST_AT_END: u64 = 16 << 20;
/// No relation has more parts.
const MOST_PARTS: u64 = 10_000;

/// Relations larger than this are cut, unless the operator sets another size. Bytes.
pub fn default_split(total_bytes: u64, jobs: u32) -> u64 {
    (total_bytes / (u64::from(jobs.max(1)) * PARTS_PER_JOB)).clamp(SMALLEST, LARGEST)
}

/// A table of the source that holds rows of a relation: the table itself, or a leaf of a partition root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heap {
    pub table: TableName,
    /// Of the table without TOAST and indexes.
    pub blocks: u64,
    /// With TOAST, without indexes.
    pub bytes: u64,
    pub ranges: Ranges,
}

/// How a heap is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// By ranges of blocks: TID range scan, PostgreSQL 14 and later.
    Blocks,
    /// Not at all, and by a query: COPY reads no foreign table.
    Foreign,
    /// By ranges of a key: index scan. The number of bounds determines the number of pieces.
    Keys(KeyRanges),
}

/// Where a table is cut by the values of a column. Whatever the values are, each row is in exactly one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRanges {
    pub column: String,
    /// The type in which values are compared.
    pub data_type: String,
    /// As text; strictly ascending. Without bounds the table is one piece.
    pub bounds: Vec<String>,
}

impl KeyRanges {
    /// The conditions that restrict a query to each of the ranges. The first range has the rows without a value, too.
    pub fn conditions(&self) -> Vec<String> {
        let column = ident(&self.column);
        let bound = |n: usize| self.bounds.get(n).map(|text| format!("{}::{}", literal(text), self.data_type));
        let condition = |n: usize| match (n.checked_sub(1).and_then(bound), bound(n)) {
            (None, Some(to)) => format!("({column} < {to} or {column} is null)"),
            (Some(from), Some(to)) => format!("{column} >= {from} and {column} < {to}"),
            (Some(from), None) => format!("{column} >= {from}"),
            (None, None) => "true".into(),
        };
        (0..=self.bounds.len()).map(condition).collect()
    }
}

impl Heap {
    /// The number of pieces of about `split` bytes.
    pub fn pieces(&self, split: u64) -> u64 {
        self.bytes.div_ceil(split.max(1)).clamp(1, self.blocks.clamp(1, MOST_PARTS))
    }

    /// Its parts, with their bytes. `remaining`: bytes of the relation from this heap on.
    fn cut(&self, split: u64, jobs: u32, remaining: u64) -> Vec<Part> {
        let part = |condition, bytes| Part { condition, ..Part::whole(self.table.clone(), bytes) };
        let parts: Vec<Part> = match &self.ranges {
            Ranges::Foreign => return vec![part(Some("true".into()), self.bytes)],
            Ranges::Keys(keys) => {
                let conditions = keys.conditions();
                let bytes = self.bytes / conditions.len() as u64;
                conditions.into_iter().map(|c| part(Some(c), bytes)).collect()
            }
            Ranges::Blocks => {
                let ranges = block_ranges(self, split, jobs, remaining);
                let bytes = |from, to: Option<u64>| share(self.bytes, to.unwrap_or(self.blocks) - from, self.blocks);
                ranges.into_iter().map(|(from, to)| part(Some(block_condition((from, to))), bytes(from, to))).collect()
            }
        };
        if parts.len() > 1 { parts } else { vec![part(None, self.bytes)] }
    }
}

/// `of * part / whole`
fn share(of: u64, part: u64, whole: u64) -> u64 {
    (u128::from(of) * u128::from(part) / u128::from(whole.max(1))) as u64
}

/// Ranges of blocks of about `split` bytes, and smaller ones once fewer than two of them remain for each job. A range is from its first block
/// up to, but not including, its second; the last range has no end.
fn block_ranges(heap: &Heap, split: u64, jobs: u32, remaining: u64) -> Vec<(u64, Option<u64>)> {
    let (mut ranges, mut from) = (Vec::new(), 0);
    loop {
        let own = share(heap.bytes, heap.blocks.saturating_sub(from), heap.blocks);
        let remaining = remaining.saturating_sub(heap.bytes - own);
        let piece = if jobs > 1 { split.min((remaining / (2 * u64::from(jobs))).max(SMALLEST_AT_END)) } else { split };
        let pieces = own.div_ceil(piece.max(heap.bytes / MOST_PARTS).max(1));
        let to = from + ((heap.blocks - from) / pieces.max(1)).max(1);
        if pieces <= 1 || to >= heap.blocks {
            ranges.push((from, None));
            return ranges;
        }
        ranges.push((from, Some(to)));
        from = to;
    }
}

fn block_condition((from, to): (u64, Option<u64>)) -> String {
    let to = to.map_or_else(String::new, |to| format!(" and ctid < '({to},0)'::tid"));
    format!("ctid >= '({from},0)'::tid{to}")
}

/// One part of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Counted from 0, within the relation.
    pub number: u32,
    pub table: TableName,
    /// The condition that restricts a query to this part; `None` for the whole table.
    pub condition: Option<String>,
    /// An estimate.
    pub bytes: u64,
    /// How often its copy has failed.
    pub failures: u32,
}

impl Part {
    /// The whole of a table.
    pub fn whole(table: TableName, bytes: u64) -> Self {
        Self { number: 0, table, condition: None, bytes, failures: 0 }
    }
}

/// Cuts heaps larger than `split` bytes into pieces for this many jobs. The largest part comes first, unless the parts have to keep the
/// order of the heaps (`in_order`).
pub fn cut(heaps: &[Heap], split: u64, jobs: u32, in_order: bool) -> Vec<Part> {
    let mut heaps: Vec<&Heap> = heaps.iter().collect();
    if !in_order {
        heaps.sort_by_key(|h| std::cmp::Reverse(h.bytes));
    }
    let mut remaining = heaps.iter().map(|h| h.bytes).sum::<u64>();
    let mut parts = Vec::new();
    for heap in heaps {
        parts.extend(heap.cut(split, jobs, remaining));
        remaining -= heap.bytes;
    }
    if !in_order {
        // Stable: the parts of one heap stay in their order.
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
        Heap { table: TableName::new("public", name), blocks, bytes, ranges: Ranges::Blocks }
    }

    fn keys(bounds: &[&str]) -> KeyRanges {
        KeyRanges { column: "the key".into(), data_type: "bigint".into(), bounds: bounds.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn every_block_is_in_exactly_one_part() {
        for (blocks, bytes, split) in
            [(10, 81_920, 8_192), (7, 57_344, 20_000), (1_000_001, 8_192_008_192, 300 << 20), (3, 1 << 30, 1 << 20), (0, 0, 1)]
        {
            for jobs in [1, 2, 8] {
                let ranges = block_ranges(&heap("t", blocks, bytes), split, jobs, bytes);
                let mut next = 0;
                for (n, (from, to)) in ranges.iter().enumerate() {
                    assert_eq!(*from, next);
                    match to {
                        Some(to) => {
                            assert!(to > from && n + 1 < ranges.len());
                            next = *to;
                        }
                        None => assert_eq!(n + 1, ranges.len(), "only the last has no end"),
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_parts_of_a_relation_are_smaller() {
        let sizes = |heaps: &[Heap], jobs| cut(heaps, 64 << 20, jobs, false).iter().map(|p| p.bytes >> 20).collect::<Vec<_>>();
        let large = heap("t", 90_000, 720 << 20);
        assert_eq!(sizes(std::slice::from_ref(&large), 1), [60; 12]);
        assert_eq!(sizes(std::slice::from_ref(&large), 2), [60, 60, 60, 60, 60, 60, 60, 60, 60, 45, 33, 20, 20, 15, 15, 15, 15]);
        // Only the last leaves have smaller parts.
        let leaves: Vec<Heap> = (0..20).map(|n| heap(&format!("leaf_{n}"), 7_680, 60 << 20)).collect();
        assert_eq!(sizes(&leaves, 4).iter().filter(|mb| **mb < 60).count(), 21);
        assert_eq!(sizes(&leaves, 4).iter().sum::<u64>(), 1_200);
    }

    #[test]
    fn every_key_is_in_exactly_one_range() {
        let conditions = keys(&["-5", "0", "it's"]).conditions();
        assert_eq!(
            conditions,
            [
                r#"("the key" < '-5'::bigint or "the key" is null)"#,
                r#""the key" >= '-5'::bigint and "the key" < '0'::bigint"#,
                r#""the key" >= '0'::bigint and "the key" < 'it''s'::bigint"#,
                r#""the key" >= 'it''s'::bigint"#,
            ]
        );
        assert_eq!(keys(&["7"]).conditions(), [r#"("the key" < '7'::bigint or "the key" is null)"#, r#""the key" >= '7'::bigint"#]);
    }

    #[test]
    fn small_tables_stay_whole_and_leaves_are_parts() {
        assert_eq!(cut(&[heap("t", 0, 0)], 1 << 20, 4, false), [Part::whole(TableName::new("public", "t"), 0)]);
        let mut leaves = [heap("a", 1, 8_192), heap("b", 300, 2_457_600), heap("c", 2, 16_384)];
        let names = |parts: Vec<Part>| {
            assert!(parts.iter().enumerate().all(|(n, p)| p.number == n as u32));
            parts.iter().map(|p| format!("{}{}", p.table.name, if p.condition.is_some() { "+" } else { "" })).collect::<Vec<_>>()
        };
        assert_eq!(names(cut(&leaves, 1 << 20, 4, false)), ["b+", "b+", "b+", "c", "a"]);
        assert_eq!(names(cut(&leaves, 1 << 20, 4, true)), ["a", "b+", "b+", "b+", "c"]);
        // A heap with keys has one part more than bounds.
        leaves[1].ranges = Ranges::Keys(keys(&["1"]));
        assert_eq!(names(cut(&leaves, 1 << 20, 4, true)), ["a", "b+", "b+", "c"]);
        leaves[1].ranges = Ranges::Keys(KeyRanges::default());
        assert_eq!(names(cut(&leaves, 1 << 20, 4, true)), ["a", "b", "c"]);
    }

    #[test]
    fn a_part_is_a_condition_on_blocks() {
        assert_eq!(block_condition((0, Some(5))), "ctid >= '(0,0)'::tid and ctid < '(5,0)'::tid");
        assert_eq!(block_condition((5, None)), "ctid >= '(5,0)'::tid");
    }

    #[test]
    fn small_databases_are_not_cut_and_large_ones_in_bounded_pieces() {
        assert_eq!(default_split(1 << 30, 4), 64 << 20);
        assert_eq!(default_split(64 << 30, 4), 2 << 30);
        assert_eq!(default_split(100 << 40, 8), 4 << 30);
    }
}
