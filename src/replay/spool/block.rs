//! The format of segments: heads, block headers, records. Knows files, but not which of them there are.

use bytes::{Buf, BufMut, Bytes};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use crate::{
    lsn::Lsn,
    replay::pgoutput::{Peek, peek},
};

const MAGIC: &[u8; 8] = b"hlspool2";
/// Length of a segment's head, and of a block's header, bytes.
pub const HEAD: usize = 28;
/// Relation messages are among the records.
const RELATIONS: u32 = 1;
/// First byte of a watermark record; no pgoutput message begins with it.
pub const WATERMARK: u8 = b'w';

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
pub fn records(block: Bytes) -> impl Iterator<Item = Bytes> {
    let mut at = 0;
    std::iter::from_fn(move || record_at(&block, &mut at).map(|range| block.slice(range)))
}

/// The LSN of a watermark; `None` for any other record.
pub fn watermark(record: &[u8]) -> Option<Lsn> {
    let lsn = record.strip_prefix(&[WATERMARK])?;
    Some(Lsn(u64::from_be_bytes(lsn.try_into().ok()?)))
}

/// The relation messages among the records of a block, with the OIDs of their relations.
pub fn relations(block: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || record_at(block, &mut at).map(|range| &block[range])).filter_map(|record| match peek(record) {
        Ok(Peek::Relation { oid }) => Some((oid, record)),
        _ => None,
    })
}

/// The record whose length begins at `at`; moves `at` to the end of that record.
fn record_at(block: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let start = *at + 4;
    let len = block.get(*at..start)?.get_u32_le() as usize;
    *at = start.checked_add(len).filter(|end| *end <= block.len())?;
    Some(start..*at)
}

/// How a segment begins.
pub struct Head {
    /// Everything up to here lies in the segments before.
    pub start: Lsn,
    /// Length of the segment before, bytes; 0: there was none.
    pub before: u64,
}

impl Head {
    pub fn to_bytes(&self) -> Vec<u8> {
        seal(|b| {
            b.put_slice(MAGIC);
            b.put_u64_le(self.start.0);
            b.put_u64_le(self.before);
        })
    }

    /// `None` when it is torn or damaged.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let Some(bytes) = unseal(file, 0)? else { return Ok(None) };
        let Some(mut b) = bytes.strip_prefix(MAGIC) else { return Ok(None) };
        Ok(Some(Self { start: Lsn(b.get_u64_le()), before: b.get_u64_le() }))
    }
}

/// What comes before a block's compressed records.
pub struct Header {
    compressed: usize,
    raw: usize,
    /// Of the compressed records.
    crc: u32,
    pub relations: bool,
    pub boundary: Option<Lsn>,
}

impl Header {
    /// For a block that was compressed to `payload`.
    pub fn new(block: &[u8], payload: &[u8], boundary: Option<Lsn>) -> Self {
        let relations = relations(block).next().is_some();
        Self { compressed: payload.len(), raw: block.len(), crc: crc32fast::hash(payload), relations, boundary }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        seal(|b| {
            b.put_u32_le(self.compressed as u32);
            b.put_u32_le(self.raw as u32);
            b.put_u32_le(self.crc);
            b.put_u32_le(if self.relations { RELATIONS } else { 0 });
            b.put_u64_le(self.boundary.unwrap_or_default().0);
        })
    }

    /// The header at `offset`; `None` when it is torn or damaged, or the file ends there.
    pub fn read(file: &File, offset: u64) -> io::Result<Option<Self>> {
        let Some(bytes) = unseal(file, offset)? else { return Ok(None) };
        let mut b = &bytes[..];
        Ok(Some(Self {
            compressed: b.get_u32_le() as usize,
            raw: b.get_u32_le() as usize,
            crc: b.get_u32_le(),
            relations: b.get_u32_le() & RELATIONS != 0,
            boundary: Some(Lsn(b.get_u64_le())).filter(|lsn| *lsn != Lsn::ZERO),
        }))
    }

    /// Length of the whole block in its segment, bytes.
    pub fn len(&self) -> u64 {
        (HEAD + self.compressed) as u64
    }

    /// The compressed records of the block at `offset`; `None` when they are torn or damaged.
    pub fn payload(&self, file: &File, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let mut payload = vec![0; self.compressed];
        let whole = read_at(file, offset + HEAD as u64, &mut payload)?;
        Ok(Some(payload).filter(|payload| whole && crc32fast::hash(payload) == self.crc))
    }

    /// The records, of the payload.
    pub fn decompress(&self, payload: &[u8], decompressor: &mut zstd::bulk::Decompressor<'_>) -> Option<Vec<u8>> {
        decompressor.decompress(payload, self.raw).ok().filter(|block| block.len() == self.raw)
    }
}

/// A head or a header, with its CRC.
fn seal(put: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD);
    put(&mut bytes);
    bytes.put_u32_le(crc32fast::hash(&bytes));
    bytes
}

/// The content of the head or header at `offset`; `None` when the file is too short for it, or the CRC is wrong.
fn unseal(file: &File, offset: u64) -> io::Result<Option<[u8; HEAD - 4]>> {
    let mut bytes = [0; HEAD];
    if !read_at(file, offset, &mut bytes)? {
        return Ok(None);
    }
    let (content, mut crc) = bytes.split_first_chunk().expect("the CRC has four bytes");
    Ok(Some(*content).filter(|content| crc32fast::hash(content) == crc.get_u32_le()))
}

/// Fills `bytes`; false when the file is too short. Other errors must not look like a torn tail, because that is cut.
fn read_at(file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
