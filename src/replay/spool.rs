//! The spool: the log of decoded transactions on the migration machine.
//!
//! Append-only segments of blocks. A block is zstd-compressed records behind a header of 32 bytes, little-endian:
//! `compressed length u32, raw length u32, CRC-32 u32, flags u32, first LSN u64, last LSN u64`. The CRC covers the rest of the header
//! and the compressed bytes. A record is `length u32` and a pgoutput message, or a watermark: `w` and an LSN, big-endian as there.
//! A block with flag 1 ends at a boundary: the end of a commit or a watermark, whose LSN is its last LSN. Only boundaries are durable
//! ends; what lies behind the last one after a crash is cut.
//!
//! Every connection to the source begins a new segment, and a new segment begins with the relation messages that are in force:
//! so reading may start at any segment.

use bytes::{Buf, BufMut, Bytes};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::pgoutput::{self, Message};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

const MAGIC: &[u8; 8] = b"hlspool1";
const HEADER: usize = 32;
const BOUNDARY: u32 = 1;
const COMPRESSION_LEVEL: i32 = 1;
/// First byte of a watermark record; no pgoutput message begins with it.
pub const WATERMARK: u8 = b'w';

/// File with the LSN up to which segments were deleted.
const DELETED: &str = "deleted";

/// Appends a record to a block that is being collected.
pub fn put_record(block: &mut Vec<u8>, record: &[u8]) {
    block.put_u32_le(record.len() as u32);
    block.put_slice(record);
}

pub fn put_watermark(block: &mut Vec<u8>, lsn: Lsn) {
    block.put_u32_le(9);
    block.put_u8(WATERMARK);
    block.put_u64(lsn.0);
}

/// Splits a block into its records.
pub fn records(mut block: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        if block.remaining() < 4 {
            return None;
        }
        let len = block.get_u32_le() as usize;
        (block.remaining() >= len).then(|| block.split_to(len))
    })
}

/// A place in the spool that is durable and lies at a boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub segment: u64,
    /// Bytes of that segment.
    pub offset: u64,
    /// All transactions that ended up to here are in the spool.
    pub lsn: Lsn,
}

fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:010}.seg"))
}

/// The numbers of the segments in a directory, ascending.
fn segments(dir: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| io(dir, &e))? {
        let name = entry.map_err(|e| io(dir, &e))?.file_name();
        if let Some(n) = name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(|n| n.parse().ok()) {
            numbers.push(n);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn io(path: &Path, e: &std::io::Error) -> Error {
    let hint = match e.kind() {
        std::io::ErrorKind::StorageFull => "free space on the disk of the work directory; the source keeps the WAL meanwhile",
        _ => "check the disk of the work directory",
    };
    Error::failed(format!("spool {}: {e}", path.display())).hint(hint)
}

struct Header {
    compressed: usize,
    raw: usize,
    crc: u32,
    flags: u32,
    first: Lsn,
    last: Lsn,
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER] {
        let mut h = [0; HEADER];
        let mut b = &mut h[..];
        b.put_u32_le(self.compressed as u32);
        b.put_u32_le(self.raw as u32);
        b.put_u32_le(self.crc);
        b.put_u32_le(self.flags);
        b.put_u64_le(self.first.0);
        b.put_u64_le(self.last.0);
        h
    }

    fn parse(mut b: &[u8]) -> Self {
        Self {
            compressed: b.get_u32_le() as usize,
            raw: b.get_u32_le() as usize,
            crc: b.get_u32_le(),
            flags: b.get_u32_le(),
            first: Lsn(b.get_u64_le()),
            last: Lsn(b.get_u64_le()),
        }
    }

    fn checksum(&self, payload: &[u8]) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        hash.update(&Self { crc: 0, ..*self }.to_bytes());
        hash.update(payload);
        hash.finalize()
    }
}

/// The next block at the file's position: its header and compressed bytes; `None` at the end, at a torn or damaged block.
fn read_block(file: &mut File) -> Option<(Header, Vec<u8>)> {
    let mut head = [0; HEADER];
    file.read_exact(&mut head).ok()?;
    let header = Header::parse(&head);
    if header.compressed > 1 << 31 {
        return None;
    }
    let mut payload = Vec::with_capacity(header.compressed.min(1 << 24));
    let got = file.take(header.compressed as u64).read_to_end(&mut payload).ok()?;
    (got == header.compressed && header.checksum(&payload) == header.crc).then_some((header, payload))
}

/// What one pass over a segment finds.
struct Scan {
    /// After the last boundary, bytes.
    good: u64,
    /// LSN of the last boundary; zero when there is none.
    last: Lsn,
}

fn scan(path: &Path) -> Result<Scan> {
    let mut file = File::open(path).map_err(|e| io(path, &e))?;
    let mut found = Scan { good: 0, last: Lsn::ZERO };
    let mut magic = [0; 8];
    if file.read_exact(&mut magic).is_err() || &magic != MAGIC {
        return Ok(found);
    }
    let mut offset = 8;
    while let Some((header, payload)) = read_block(&mut file) {
        offset += (HEADER + payload.len()) as u64;
        if header.flags & BOUNDARY != 0 {
            found = Scan { good: offset, last: header.last };
        }
    }
    Ok(found)
}

/// The writing end. All calls block: it belongs on a thread of its own.
pub struct Writer {
    dir: PathBuf,
    file: Option<File>,
    segment: u64,
    offset: u64,
    /// The last boundary written, synced or not.
    written: End,
    compressor: zstd::bulk::Compressor<'static>,
    /// Closed segments and the LSN of their last boundary, oldest first.
    closed: Vec<(u64, Lsn, u64)>,
    /// Whether something was written since the last sync.
    dirty: bool,
}

impl Writer {
    /// Opens the spool, cuts a torn tail, and starts behind the last boundary. `start` is where an empty spool begins: the LSN
    /// at which the slot became consistent.
    pub fn open(dir: &Path, start: Lsn) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| io(dir, &e))?;
        let mut closed = Vec::new();
        let mut end = start;
        let mut last_segment = 0;
        let all = segments(dir)?;
        for &segment in &all {
            let path = segment_path(dir, segment);
            let found = scan(&path)?;
            // Only the newest can be torn by a crash: the others were cut and synced before the next was begun.
            if Some(&segment) != all.last() && found.good < std::fs::metadata(&path).map_err(|e| io(&path, &e))?.len() {
                return Err(damaged(&path, found.good));
            }
            if found.good == 0 {
                // Its number is used again: a gap in the numbers is damage.
                std::fs::remove_file(&path).map_err(|e| io(&path, &e))?;
                continue;
            }
            if segment != last_segment + 1 && last_segment != 0 {
                return Err(damaged(&segment_path(dir, last_segment + 1), 0));
            }
            last_segment = segment;
            let file = OpenOptions::new().write(true).open(&path).map_err(|e| io(&path, &e))?;
            if file.metadata().map_err(|e| io(&path, &e))?.len() > found.good {
                tracing::warn!(segment, at = found.good, "cut an unfinished tail of the spool");
                file.set_len(found.good).map_err(|e| io(&path, &e))?;
            }
            if Some(&segment) == all.last() {
                // A killed process may have left it in the page cache only; what is opened here counts as durable.
                file.sync_all().map_err(|e| io(&path, &e))?;
            }
            end = end.max(found.last);
            closed.push((segment, found.last, found.good));
        }
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io(dir, &e))?;
        let compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL).map_err(|e| io(dir, &e))?;
        let written =
            closed.last().map_or(End { segment: last_segment, offset: 0, lsn: end }, |(s, _, size)| End { segment: *s, offset: *size, lsn: end });
        Ok(Self { dir: dir.into(), file: None, segment: last_segment, offset: 0, written, compressor, closed, dirty: false })
    }

    /// The last boundary that was written.
    pub fn end(&self) -> End {
        self.written
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|c| c.2).sum::<u64>() + if self.file.is_some() { self.offset } else { 0 }
    }

    /// Closes the segment and cuts what lies behind its last boundary. The next block begins a new one.
    pub fn close_segment(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let path = segment_path(&self.dir, self.segment);
        if self.written.segment == self.segment {
            if self.offset > self.written.offset {
                file.set_len(self.written.offset).map_err(|e| io(&path, &e))?;
            }
            file.sync_data().map_err(|e| io(&path, &e))?;
            self.closed.push((self.segment, self.written.lsn, self.written.offset));
        } else {
            std::fs::remove_file(&path).map_err(|e| io(&path, &e))?;
            self.segment -= 1;
        }
        Ok(())
    }

    /// Writes a block of records. With `boundary`, its end is the end of a transaction or a watermark.
    pub fn write(&mut self, block: &[u8], first: Lsn, boundary: Option<Lsn>) -> Result<()> {
        let payload = self.compressor.compress(block).map_err(|e| io(&self.dir, &e))?;
        let mut header = Header {
            compressed: payload.len(),
            raw: block.len(),
            crc: 0,
            flags: if boundary.is_some() { BOUNDARY } else { 0 },
            first,
            last: boundary.unwrap_or(first),
        };
        header.crc = header.checksum(&payload);
        if self.file.is_none() {
            self.begin_segment()?;
        }
        let path = segment_path(&self.dir, self.segment);
        let file = self.file.as_mut().expect("a segment was just begun");
        let written = file.write_all(&header.to_bytes()).and_then(|()| file.write_all(&payload));
        if let Err(e) = written {
            // Nothing half-written may stay before what is written next.
            let _ = file.set_len(self.offset).and_then(|()| file.seek(SeekFrom::Start(self.offset)));
            return Err(io(&path, &e));
        }
        self.offset += (HEADER + payload.len()) as u64;
        self.dirty = true;
        if let Some(lsn) = boundary {
            self.written = End { segment: self.segment, offset: self.offset, lsn };
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<()> {
        let segment = self.segment + 1;
        let path = segment_path(&self.dir, segment);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(|e| io(&path, &e))?;
        file.write_all(MAGIC).map_err(|e| io(&path, &e))?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(|e| io(&self.dir, &e))?;
        (self.file, self.segment, self.offset) = (Some(file), segment, 8);
        Ok(())
    }

    /// Makes everything written durable, and returns the last boundary of it.
    pub fn sync(&mut self) -> Result<End> {
        if self.dirty {
            if let Some(file) = &self.file {
                file.sync_data().map_err(|e| io(&segment_path(&self.dir, self.segment), &e))?;
            }
            self.dirty = false;
        }
        Ok(self.written)
    }

    /// Deletes closed segments of which everything is applied durably on the target: all that end at or below `applied`.
    pub fn delete_below(&mut self, applied: Lsn) -> Result<()> {
        while let Some((segment, last, _)) = self.closed.first().copied()
            && last <= applied
            && segment != self.written.segment
        {
            // Remembered first: a target that goes back behind this place cannot be served any more.
            let deleted = self.dir.join(DELETED);
            std::fs::write(&deleted, last.to_string()).map_err(|e| io(&deleted, &e))?;
            let path = segment_path(&self.dir, segment);
            std::fs::remove_file(&path).map_err(|e| io(&path, &e))?;
            self.closed.remove(0);
        }
        Ok(())
    }
}

/// The reading end: blocks in order, up to a durable end that the caller knows.
pub struct Reader {
    dir: PathBuf,
    segment: u64,
    offset: u64,
    file: Option<File>,
}

impl Reader {
    /// Starts at the first segment that holds something behind `position`.
    pub fn open(dir: &Path, position: Lsn) -> Result<Self> {
        let deleted = std::fs::read_to_string(dir.join(DELETED)).ok().and_then(|text| text.parse::<Lsn>().ok());
        if let Some(deleted) = deleted.filter(|deleted| *deleted > position) {
            return Err(Error::failed(format!("the target stands at {position}, but the spool begins at {deleted}"))
                .detail("the target has lost commits that it had acknowledged: it failed over, or was restored")
                .hint("run `hyperlift clean`, empty the target and start again"));
        }
        let mut start = 1;
        for segment in segments(dir)? {
            let path = segment_path(dir, segment);
            let last = match scan(&path) {
                Ok(found) => found.last,
                // Deleted meanwhile: everything in it is applied.
                Err(_) if !path.exists() => continue,
                Err(e) => return Err(e),
            };
            // The newest one may still grow, so it is read even if all it holds now is known.
            start = segment;
            if last > position {
                break;
            }
        }
        Ok(Self { dir: dir.into(), segment: start, offset: 0, file: None })
    }

    /// The next block before `end`, decompressed; `None` when there is none yet.
    pub fn next(&mut self, end: End) -> Result<Option<Bytes>> {
        loop {
            if self.segment > end.segment || (self.segment == end.segment && self.offset >= end.offset) {
                return Ok(None);
            }
            let path = segment_path(&self.dir, self.segment);
            if self.file.is_none() {
                match File::open(&path) {
                    Ok(mut file) => {
                        let mut magic = [0; 8];
                        file.read_exact(&mut magic).map_err(|e| io(&path, &e))?;
                        if &magic != MAGIC {
                            return Err(damaged(&path, 0));
                        }
                        self.offset = 8;
                        self.file = Some(file);
                    }
                    Err(e) => return Err(io(&path, &e)),
                }
            }
            let file = self.file.as_mut().expect("it was just opened");
            let size = file.metadata().map_err(|e| io(&path, &e))?.len();
            if self.segment < end.segment && self.offset >= size {
                (self.segment, self.offset, self.file) = (self.segment + 1, 0, None);
                continue;
            }
            let (header, payload) = read_block(file).ok_or_else(|| damaged(&path, self.offset))?;
            self.offset += (HEADER + payload.len()) as u64;
            let raw = zstd::bulk::decompress(&payload, header.raw).map_err(|_| damaged(&path, self.offset))?;
            return Ok(Some(Bytes::from(raw)));
        }
    }
}

/// Relations whose rows were changed by transactions that ended after `after`, up to a durable end: OID and the last one's end.
pub fn writes_after(dir: &Path, after: Lsn, end: End) -> Result<Vec<(u32, Lsn)>> {
    let mut reader = Reader::open(dir, after)?;
    let mut found: HashMap<u32, Lsn> = HashMap::new();
    let mut wrote = Vec::new();
    while let Some(block) = reader.next(end)? {
        for record in records(block) {
            if record.first() == Some(&WATERMARK) {
                continue;
            }
            match pgoutput::decode(&record)? {
                Message::Row { relation, .. } => wrote.push(relation),
                Message::Truncate { relations, .. } => wrote.extend(relations),
                Message::Commit { end, .. } if end > after => found.extend(wrote.drain(..).map(|relation| (relation, end))),
                Message::Commit { .. } => wrote.clear(),
                _ => {}
            }
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(oid, at)| (*at, *oid));
    Ok(found)
}

fn damaged(path: &Path, offset: u64) -> Error {
    Error::failed(format!("spool {} is damaged at byte {offset}", path.display()))
        .hint("what it held was already confirmed to the source, so this migration cannot be completed: run `hyperlift clean` and start again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(records: &[&[u8]]) -> Vec<u8> {
        let mut b = Vec::new();
        for r in records {
            put_record(&mut b, r);
        }
        b
    }

    fn read_all(dir: &Path, from: Lsn, end: End) -> Vec<Vec<u8>> {
        let mut reader = Reader::open(dir, from).unwrap();
        let mut all = Vec::new();
        while let Some(b) = reader.next(end).unwrap() {
            all.extend(records(b).map(|r| r.to_vec()));
        }
        all
    }

    #[test]
    fn what_is_written_is_read_and_only_up_to_the_durable_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Writer::open(dir.path(), Lsn(5)).unwrap();
        assert_eq!(w.end().lsn, Lsn(5));
        w.write(&block(&[b"one", b"two"]), Lsn(10), Some(Lsn(20))).unwrap();
        let end = w.sync().unwrap();
        w.write(&block(&[b"half"]), Lsn(20), None).unwrap();
        assert_eq!(read_all(dir.path(), Lsn::ZERO, end), [b"one".to_vec(), b"two".to_vec()]);
        w.close_segment().unwrap();
        w.write(&block(&[b"three"]), Lsn(20), Some(Lsn(30))).unwrap();
        let end = w.sync().unwrap();
        assert_eq!(read_all(dir.path(), Lsn::ZERO, end), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert_eq!(read_all(dir.path(), Lsn(20), end), [b"three".to_vec()]);
        w.delete_below(Lsn(20)).unwrap();
        assert_eq!(segments(dir.path()).unwrap(), [2]);
    }

    #[test]
    fn a_watermark_is_a_record() {
        let mut b = Vec::new();
        put_watermark(&mut b, Lsn(0x0102));
        let r: Vec<Bytes> = records(b.into()).collect();
        assert_eq!(r[0][..], [WATERMARK, 0, 0, 0, 0, 0, 0, 1, 2]);
    }

    proptest! {
        /// C-15: cut or damage the newest segment anywhere; what comes back is a whole number of transactions from the start, and
        /// the writer goes on behind them.
        #[test]
        fn a_torn_or_damaged_tail_is_cut_at_a_boundary(
            sizes in prop::collection::vec((1usize..2000, any::<bool>()), 1..20), damage in 0.0f64..1.0, cut: bool
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut w = Writer::open(dir.path(), Lsn(1)).unwrap();
            let mut ends = vec![(0usize, Lsn(1))];
            for (i, (size, boundary)) in sizes.iter().enumerate() {
                let lsn = Lsn(i as u64 + 2);
                let record: Vec<u8> = (0..*size).map(|n| (n * (i + 7)) as u8).collect();
                w.write(&block(&[&record]), lsn, boundary.then_some(lsn)).unwrap();
                if *boundary {
                    ends.push((i + 1, lsn));
                }
            }
            w.sync().unwrap();
            drop(w);
            let path = segment_path(dir.path(), 1);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = (damage * (bytes.len() - 1) as f64) as usize;
            if cut { bytes.truncate(at) } else { bytes[at] ^= 0x40 }
            std::fs::write(&path, &bytes).unwrap();
            let mut w = Writer::open(dir.path(), Lsn(1)).unwrap();
            let (whole, lsn) = *ends.iter().find(|(_, l)| *l == w.end().lsn).expect("ends at a boundary");
            let read = read_all(dir.path(), Lsn::ZERO, w.end());
            prop_assert_eq!(read.len(), whole);
            w.write(&block(&[b"next"]), lsn, Some(Lsn(99))).unwrap();
            let end = w.sync().unwrap();
            prop_assert_eq!(read_all(dir.path(), Lsn::ZERO, end).len(), whole + 1);
        }
    }
}
