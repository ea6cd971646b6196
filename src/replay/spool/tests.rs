use super::{
    block::{self, HEAD},
    segment::{segment_path, segments},
    *,
};
use crate::{
    error::Result,
    lsn::Lsn,
    replay::pgoutput::{Peek, peek},
};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;

/// A block of records.
fn block(records: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut b = Vec::new();
    for r in records {
        put_record(&mut b, r.as_ref());
    }
    b
}

/// The records that a reader delivers from `from` on.
fn read(dir: &Path, from: Lsn, end: SpoolEnd) -> Result<Vec<Bytes>> {
    let mut reader = SpoolReader::open(dir, from)?;
    let mut all = Vec::new();
    while let Some(b) = reader.next(end)? {
        all.extend(records(b));
    }
    Ok(all)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

/// A spool of `n` segments with two transactions each, which end at 10, 20, 30, …
fn spool_of(dir: &Path, n: u64) -> SpoolEnd {
    let mut w = SpoolWriter::open(dir, Lsn(1)).unwrap();
    for lsn in 1..=2 * n {
        w.write(&block(&[lsn.to_string()]), Some(Lsn(lsn * 10))).unwrap();
        if lsn % 2 == 0 {
            w.rewind().unwrap();
        }
    }
    assert_eq!(segments(dir).unwrap().len() as u64, n);
    w.end()
}

/// Where the blocks of a segment begin, bytes.
fn offsets(path: &Path) -> Vec<u64> {
    let file = std::fs::File::open(path).unwrap();
    let mut at = HEAD as u64;
    std::iter::from_fn(|| {
        let start = at;
        at += block::Header::read(&file, at).unwrap()?.len();
        Some(start)
    })
    .collect()
}

#[test]
fn what_is_written_is_read_and_only_up_to_the_durable_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = SpoolWriter::open(dir.path(), Lsn(5)).unwrap();
    assert_eq!(w.end().lsn, Lsn(5));
    assert_eq!(read(dir.path(), Lsn(5), w.end()).unwrap(), [""; 0]);
    w.write(&block(&["one", "two"]), Some(Lsn(20))).unwrap();
    let end = w.sync().unwrap();
    w.write(&block(&["half"]), None).unwrap();
    assert_eq!(read(dir.path(), Lsn::ZERO, end).unwrap(), ["one", "two"]);
    assert_eq!(w.rewind().unwrap(), end);
    w.write(&block(&["three"]), Some(Lsn(30))).unwrap();
    let end = w.sync().unwrap();
    assert_eq!(read(dir.path(), Lsn::ZERO, end).unwrap(), ["one", "two", "three"]);
    assert_eq!(read(dir.path(), Lsn(20), end).unwrap(), ["three"]);
}

#[test]
fn others_cannot_read_the_rows() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    spool_of(&spool, 1);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&spool), mode(&segment_path(&spool, 1))), (0o700, 0o600));
}

#[test]
fn a_watermark_is_a_record() {
    let mut b = Vec::new();
    put_watermark(&mut b, Lsn(0x0102));
    let r: Vec<Bytes> = records(b.into()).collect();
    assert_eq!(r[0][..], [WATERMARK, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!((watermark(&r[0]), watermark(b"w\0"), watermark(b"C\0\0\0\0\0\0\x01\x02")), (Some(Lsn(0x0102)), None, None));
}

#[test]
fn bytes_are_those_on_disk_over_closing_opening_and_deleting() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = || segments(dir.path()).unwrap().iter().map(|s| std::fs::metadata(segment_path(dir.path(), *s)).unwrap().len()).sum::<u64>();
    spool_of(dir.path(), 3);
    let mut w = SpoolWriter::open(dir.path(), Lsn(1)).unwrap();
    assert_eq!(w.bytes(), on_disk());
    w.write(&block(&["more"]), Some(Lsn(70))).unwrap();
    assert_eq!((w.bytes(), segments(dir.path()).unwrap().len()), (on_disk(), 4));
    w.delete_below(Lsn(40)).unwrap();
    assert_eq!((w.bytes(), segments(dir.path()).unwrap()), (on_disk(), vec![3, 4]));
}

#[test]
fn a_position_below_what_was_deleted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let end = spool_of(dir.path(), 3);
    assert_eq!(read(dir.path(), Lsn::ZERO, end).unwrap().len(), 6);
    SpoolWriter::open(dir.path(), Lsn(1)).unwrap().delete_below(Lsn(39)).unwrap();
    assert_eq!(segments(dir.path()).unwrap(), [2, 3]);
    assert_eq!(read(dir.path(), Lsn(20), end).unwrap(), ["3", "4", "5", "6"]);
    let e = read(dir.path(), Lsn(19), end).unwrap_err().to_string();
    assert!(e.contains("position is 0/13") && e.contains("begins at 0/14"), "{e}");
    // What is left holds the durable end, so it stays.
    SpoolWriter::open(dir.path(), Lsn(1)).unwrap().delete_below(Lsn(1_000)).unwrap();
    assert_eq!(segments(dir.path()).unwrap(), [3]);
}

#[test]
fn damage_in_an_older_segment_is_an_error_that_names_it() {
    // parts of a block, and a whole one
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        spool_of(dir.path(), 1).offset - offsets(&segment_path(dir.path(), 1))[1]
    };
    for missing in [1, 10, HEAD as u64, whole] {
        let dir = tempfile::tempdir().unwrap();
        let end = spool_of(dir.path(), 3);
        let path = segment_path(dir.path(), 2);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - missing).unwrap();
        for e in [SpoolWriter::open(dir.path(), Lsn(1)).err().unwrap(), read(dir.path(), Lsn(20), end).unwrap_err()] {
            assert!(e.to_string().contains("0000000002.seg is damaged"), "{e}");
        }
    }
    // any byte of the head
    for at in 0..HEAD {
        let dir = tempfile::tempdir().unwrap();
        let end = spool_of(dir.path(), 3);
        flip(&segment_path(dir.path(), 2), at);
        for e in [SpoolWriter::open(dir.path(), Lsn(1)).err().unwrap(), read(dir.path(), Lsn(20), end).unwrap_err()] {
            assert!(e.to_string().contains("0000000002.seg is damaged at byte 0"), "{e}");
        }
    }
    // any byte of a block's header, whether the block is read or passed
    for at in HEAD..2 * HEAD {
        let dir = tempfile::tempdir().unwrap();
        let end = spool_of(dir.path(), 3);
        flip(&segment_path(dir.path(), 2), at);
        for from in [Lsn(20), Lsn(30)] {
            let e = read(dir.path(), from, end).unwrap_err().to_string();
            assert!(e.contains(&format!("0000000002.seg is damaged at byte {HEAD}")), "{e}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    spool_of(dir.path(), 3);
    std::fs::remove_file(segment_path(dir.path(), 2)).unwrap();
    let e = SpoolWriter::open(dir.path(), Lsn(1)).err().unwrap().to_string();
    assert!(e.contains("0000000002.seg is damaged"), "{e}");
}

#[test]
fn passed_blocks_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = SpoolWriter::open(dir.path(), Lsn(1)).unwrap();
    w.write(&block(&["one"]), Some(Lsn(10))).unwrap();
    // a transaction in two blocks
    w.write(&block(&["two"]), None).unwrap();
    w.write(&block(&["three"]), Some(Lsn(20))).unwrap();
    w.write(&block(&["four"]), Some(Lsn(30))).unwrap();
    let end = w.sync().unwrap();
    let path = segment_path(dir.path(), 1);
    let offsets = offsets(&path);
    for (damaged, passes, notices) in [(0, 10, 9), (1, 20, 19), (2, 20, 19), (3, 30, 29)] {
        let at = offsets[damaged] as usize + HEAD;
        flip(&path, at);
        read(dir.path(), Lsn(passes), end).unwrap();
        let e = read(dir.path(), Lsn(notices), end).unwrap_err().to_string();
        assert!(e.contains(&format!("0000000001.seg is damaged at byte {}", offsets[damaged])), "{e}");
        flip(&path, at);
    }
    read(dir.path(), Lsn::ZERO, end).unwrap();
}

#[test]
fn older_segments_are_not_read_on_opening() {
    let dir = tempfile::tempdir().unwrap();
    let end = spool_of(dir.path(), 3);
    for segment in [1, 2] {
        let path = segment_path(dir.path(), segment);
        let size = std::fs::metadata(&path).unwrap().len() as usize;
        for at in HEAD..size {
            flip(&path, at);
        }
    }
    assert_eq!(SpoolWriter::open(dir.path(), Lsn(1)).unwrap().end(), end);
    assert_eq!(read(dir.path(), Lsn(40), end).unwrap(), ["5", "6"]);
}

/// Begin, a change of a relation in a version, a relation message and commit, as pgoutput writes them as far as the spool looks.
fn begin(commit: u64) -> Vec<u8> {
    [&b"B"[..], &commit.to_be_bytes()].concat()
}
fn message(tag: u8, relation: u32, version: u32) -> Vec<u8> {
    [&[tag][..], &relation.to_be_bytes(), &version.to_be_bytes()].concat()
}
fn commit(commit: u64, end: u64) -> Vec<u8> {
    [&b"C\0"[..], &commit.to_be_bytes(), &end.to_be_bytes()].concat()
}

/// What happens to a spool: a transaction with changes of relations, some of them after an ALTER; the flags say whether it ends its
/// block, and whether the connection breaks after it.
#[derive(Clone, Debug)]
struct Step {
    changes: Vec<(u32, bool)>,
    ends_block: bool,
    breaks: bool,
    /// Changes in a block, when the transaction is cut into several.
    cut: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (prop::collection::vec((0u32..3, prop::bool::weighted(0.2)), 0..8), any::<bool>(), prop::bool::weighted(0.15), 1usize..10)
        .prop_map(|(changes, ends_block, breaks, cut)| Step { changes, ends_block, breaks, cut });
    prop::collection::vec(step, 1..25)
}

/// What a consumer must get: begin, changes with the version of their relation, end of each transaction.
type Transactions = Vec<(u64, Vec<(u32, u32)>)>;

/// Writes the steps as the receiver does.
fn write_steps(dir: &Path, steps: &[Step]) -> (SpoolEnd, Transactions) {
    let mut w = SpoolWriter::open(dir, Lsn(1)).unwrap();
    w.segment_bytes = 300;
    let (mut versions, mut described) = ([0u32; 3], [None; 3]);
    let (mut pending, mut boundary, mut whole) = (Vec::new(), None, Vec::new());
    for (i, step) in steps.iter().enumerate() {
        let (at, end) = (i as u64 * 10 + 10, i as u64 * 10 + 14);
        let mut records = vec![begin(at)];
        let mut changes = Vec::new();
        for (relation, altered) in &step.changes {
            let r = *relation as usize;
            versions[r] += u32::from(*altered);
            if described[r] != Some(versions[r]) {
                described[r] = Some(versions[r]);
                records.push(message(b'R', *relation, versions[r]));
            }
            records.push(message(b'I', *relation, versions[r]));
            changes.push((*relation, versions[r]));
        }
        records.push(commit(at, end));
        whole.push((end, changes));
        if records.len() > step.cut
            && let Some(lsn) = boundary.take()
        {
            w.write(&std::mem::take(&mut pending), Some(lsn)).unwrap();
        }
        let last = records.len().div_ceil(step.cut) - 1;
        for (n, part) in records.chunks(step.cut).enumerate() {
            pending.extend(block(part));
            if n < last {
                w.write(&std::mem::take(&mut pending), None).unwrap();
            }
        }
        boundary = Some(Lsn(end));
        if step.ends_block || step.breaks || i + 1 == steps.len() {
            w.write(&std::mem::take(&mut pending), boundary.take()).unwrap();
        }
        if step.breaks {
            // A part that comes again is cut.
            w.write(&block(&[begin(at + 10), message(b'R', 0, 99)]), None).unwrap();
            w.rewind().unwrap();
            described = [None; 3];
        }
    }
    (w.sync().unwrap(), whole)
}

/// Reads the spool as the router does: relation messages may come anywhere, all others within whole transactions.
fn interpret(records: &[Bytes]) -> Transactions {
    let (mut known, mut whole, mut open) = ([None; 3], Vec::new(), None);
    let number = |r: &Bytes, at: usize| u32::from_be_bytes(*r[at..].first_chunk().unwrap());
    for r in records {
        match r[0] {
            b'B' => assert!(open.replace(Vec::new()).is_none(), "a transaction without its end"),
            b'R' => known[number(r, 1) as usize] = Some(number(r, 5)),
            b'I' => {
                let (relation, version) = (number(r, 1), number(r, 5));
                assert_eq!(known[relation as usize], Some(version), "described as it was then");
                open.as_mut().expect("a change in a transaction").push((relation, version));
            }
            b'C' => {
                let Ok(Peek::Commit { end }) = peek(r) else { panic!("{r:?}") };
                whole.push((end.0, open.take().expect("a commit of a transaction")));
            }
            other => panic!("record {other}"),
        }
    }
    assert!(open.is_none());
    whole
}

proptest! {
    #[test]
    fn from_any_position_later_transactions_come_whole_with_their_relations(steps in steps(), ends_at: prop::sample::Index) {
        let dir = tempfile::tempdir().unwrap();
        let (end, whole) = write_steps(dir.path(), &steps);
        let last = whole.len() as u64 * 10 + 10;
        // between, in, at the commit of, and at the end of each transaction
        for position in (0..=last).filter(|p| [0, 4, 7].contains(&(p % 10))) {
            let mut got = interpret(&read(dir.path(), Lsn(position), end).unwrap());
            let later: Transactions = whole.iter().filter(|(end, _)| *end > position).cloned().collect();
            // The first block may begin with some that ended before: a consumer passes those itself.
            got.drain(..got.iter().take_while(|(end, _)| *end <= position).count());
            prop_assert_eq!(got, later, "from {}", position);
        }
        // A reader that has read up to an earlier end goes on from there.
        let mut reader = SpoolReader::open(dir.path(), Lsn(20)).unwrap();
        let mut all = Vec::new();
        for end in [ends(dir.path())[ends_at.index(ends(dir.path()).len())], end] {
            while let Some(b) = reader.next(end).unwrap() {
                all.extend(records(b));
            }
        }
        prop_assert_eq!(all, read(dir.path(), Lsn(20), end).unwrap());
        // Only relations that were touched after the position are found.
        let mut writes: Vec<(u32, Lsn)> = Vec::new();
        for (end, changes) in whole.iter().filter(|(end, _)| *end > 24) {
            writes.retain(|(relation, _)| changes.iter().all(|(r, _)| r != relation));
            let mut relations: Vec<u32> = changes.iter().map(|(r, _)| *r).collect();
            relations.sort_unstable();
            relations.dedup();
            writes.extend(relations.iter().map(|r| (*r, Lsn(*end))));
        }
        prop_assert_eq!(touched_after(dir.path(), Lsn(24), end).unwrap(), writes);
    }

    /// C-15: cut or damage the newest segment anywhere; what comes back is a whole number of transactions from the start, and
    /// the writer goes on after them.
    #[test]
    fn a_torn_or_damaged_tail_is_cut_at_a_boundary(steps in steps(), damage: prop::sample::Index, cut: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (_, whole) = write_steps(dir.path(), &steps);
        let path = segment_path(dir.path(), *segments(dir.path()).unwrap().last().unwrap());
        let at = damage.index(std::fs::metadata(&path).unwrap().len() as usize);
        if cut {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(at as u64).unwrap();
        } else {
            flip(&path, at);
        }
        let mut w = SpoolWriter::open(dir.path(), Lsn(1)).unwrap();
        let left = whole.iter().take_while(|(end, _)| *end <= w.end().lsn.0).count();
        prop_assert_eq!(w.end().lsn.0, left.checked_sub(1).map_or(1, |last| whole[last].0), "ends at a boundary");
        prop_assert_eq!(interpret(&read(dir.path(), Lsn::ZERO, w.end()).unwrap()), whole[..left].to_vec());
        w.write(&block(&[begin(990), commit(990, 994)]), Some(Lsn(994))).unwrap();
        let end = w.sync().unwrap();
        let got = interpret(&read(dir.path(), Lsn::ZERO, end).unwrap());
        prop_assert_eq!((got.len(), got.last().map(|t| t.0)), (left + 1, Some(994)));
        prop_assert_eq!(SpoolWriter::open(dir.path(), Lsn(1)).unwrap().end(), end);
    }
}

/// All boundaries of a spool.
fn ends(dir: &Path) -> Vec<SpoolEnd> {
    let mut found = Vec::new();
    for segment in segments(dir).unwrap() {
        let file = std::fs::File::open(segment_path(dir, segment)).unwrap();
        for at in offsets(&segment_path(dir, segment)) {
            let header = block::Header::read(&file, at).unwrap().unwrap();
            found.extend(header.boundary.map(|lsn| SpoolEnd { segment, offset: at + header.len(), lsn }));
        }
    }
    found
}
