//! The writing end of the spool: appends blocks, begins and deletes segments, and says what is durable. Knows nothing of the stream
//! but where relation messages are.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    block::{HEAD, Head, Header, put_record, relations},
    segment::{SpoolEnd, damaged, io, segment_path, segments},
};
use crate::{error::Result, lsn::Lsn, private};

const COMPRESSION_LEVEL: i32 = 1;
/// A segment ends at the first boundary after this length, bytes.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A segment that does not grow any more.
struct Closed {
    segment: u64,
    /// Its last boundary.
    last: Lsn,
    bytes: u64,
}

/// The writing end. All calls block: it belongs on a thread of its own.
pub struct SpoolWriter {
    dir: PathBuf,
    file: Option<File>,
    segment: u64,
    offset: u64,
    /// The last boundary written, synced or not.
    written: SpoolEnd,
    compressor: zstd::bulk::Compressor<'static>,
    /// Oldest first.
    closed: Vec<Closed>,
    /// Relation messages that are in force, by OID.
    relations: BTreeMap<u32, Vec<u8>>,
    /// Whether something was written since the last sync.
    dirty: bool,
    pub(super) segment_bytes: u64,
}

impl SpoolWriter {
    /// Opens the spool, cuts a torn tail, and starts after the last boundary. `start` is where an empty spool begins: the LSN
    /// at which the slot became consistent.
    pub fn open(dir: &Path, start: Lsn) -> Result<Self> {
        private::create_folder(dir).map_err(io(dir))?;
        let mut numbers = segments(dir)?;
        let mut written = SpoolEnd { lsn: start, ..SpoolEnd::default() };
        // Only the newest can be torn by a crash: it alone is read.
        while let Some(&segment) = numbers.last() {
            if let Some((offset, lsn)) = cut(&segment_path(dir, segment))? {
                written = SpoolEnd { segment, offset, lsn: lsn.max(start) };
                break;
            }
            numbers.pop();
        }
        let mut closed = numbers.windows(2).map(|pair| vouched_for(dir, pair[0], pair[1])).collect::<Result<Vec<_>>>()?;
        if written.segment != 0 {
            closed.push(Closed { segment: written.segment, last: written.lsn, bytes: written.offset });
        }
        sync_dir(dir)?;
        Ok(Self {
            dir: dir.into(),
            file: None,
            segment: written.segment,
            offset: 0,
            written,
            compressor: zstd::bulk::Compressor::new(COMPRESSION_LEVEL).map_err(io(dir))?,
            closed,
            relations: BTreeMap::new(),
            dirty: false,
            segment_bytes: SEGMENT_BYTES,
        })
    }

    /// The last boundary that was written.
    pub fn end(&self) -> SpoolEnd {
        self.written
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|c| c.bytes).sum::<u64>() + if self.file.is_some() { self.offset } else { 0 }
    }

    /// The stream begins again after the last boundary, and describes its relations again. Returns that boundary, which is durable.
    pub fn rewind(&mut self) -> Result<SpoolEnd> {
        self.close_segment()?;
        self.relations.clear();
        Ok(self.written)
    }

    /// Writes a block of records. With `boundary`, its end is the end of a transaction or a watermark.
    pub fn write(&mut self, block: &[u8], boundary: Option<Lsn>) -> Result<()> {
        // A segment may end only after a boundary, so that a large transaction stays in one.
        if self.offset >= self.segment_bytes && (self.segment, self.offset) == (self.written.segment, self.written.offset) {
            self.close_segment()?;
        }
        if self.file.is_none() {
            self.begin_segment()?;
        }
        self.append(block, boundary)?;
        for (oid, message) in relations(block) {
            self.relations.insert(oid, message.into());
        }
        Ok(())
    }

    /// Makes everything written durable, and returns the last boundary of it.
    pub fn sync(&mut self) -> Result<SpoolEnd> {
        if let Some(file) = self.file.as_ref().filter(|_| self.dirty) {
            file.sync_data().map_err(io(&segment_path(&self.dir, self.segment)))?;
        }
        self.dirty = false;
        Ok(self.written)
    }

    /// Deletes closed segments of which everything is applied durably on the target: all that end at or below `applied`.
    pub fn delete_below(&mut self, applied: Lsn) -> Result<()> {
        let done = self.closed.iter().take_while(|c| c.last <= applied && c.segment != self.written.segment).count();
        for c in self.closed.drain(..done) {
            let path = segment_path(&self.dir, c.segment);
            std::fs::remove_file(&path).map_err(io(&path))?;
        }
        Ok(())
    }

    /// Cuts what lies after the last boundary. The next block begins a new segment.
    fn close_segment(&mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let path = segment_path(&self.dir, self.segment);
        if self.written.segment == self.segment {
            file.set_len(self.written.offset).and_then(|()| file.sync_data()).map_err(io(&path))?;
            self.closed.push(Closed { segment: self.segment, last: self.written.lsn, bytes: self.written.offset });
        } else {
            std::fs::remove_file(&path).map_err(io(&path))?;
            self.segment -= 1;
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<()> {
        let segment = self.segment + 1;
        let path = segment_path(&self.dir, segment);
        let head = Head { start: self.written.lsn, before: self.closed.last().map_or(0, |c| c.bytes) };
        let mut file = private::file().truncate(true).open(&path).map_err(io(&path))?;
        file.write_all(&head.to_bytes()).map_err(io(&path))?;
        sync_dir(&self.dir)?;
        (self.file, self.segment, self.offset) = (Some(file), segment, HEAD as u64);
        let mut block = Vec::new();
        for message in self.relations.values() {
            put_record(&mut block, message);
        }
        if block.is_empty() { Ok(()) } else { self.append(&block, None) }
    }

    fn append(&mut self, block: &[u8], boundary: Option<Lsn>) -> Result<()> {
        let payload = self.compressor.compress(block).map_err(io(&self.dir))?;
        let header = Header::new(block, &payload, boundary);
        let path = segment_path(&self.dir, self.segment);
        let file = self.file.as_ref().expect("a segment was begun");
        let written = file.write_all_at(&header.to_bytes(), self.offset).and_then(|()| file.write_all_at(&payload, self.offset + HEAD as u64));
        if let Err(e) = written {
            // Nothing half-written may stay before what is written next.
            let _ = file.set_len(self.offset);
            return Err(io(&path)(e));
        }
        self.offset += header.len();
        self.dirty = true;
        if let Some(lsn) = boundary {
            self.written = SpoolEnd { segment: self.segment, offset: self.offset, lsn };
        }
        Ok(())
    }
}

/// Reads a segment, and cuts what lies after its last boundary; returns the offset and LSN of that boundary. A segment without any is
/// removed, and its number is used again, because a gap in the numbers is damage.
fn cut(path: &Path) -> Result<Option<(u64, Lsn)>> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(io(path))?;
    let mut found = None;
    if Head::read(&file).map_err(io(path))?.is_some() {
        let mut offset = HEAD as u64;
        while let Some(header) = Header::read(&file, offset).map_err(io(path))?
            && header.payload(&file, offset).map_err(io(path))?.is_some()
        {
            offset += header.len();
            found = header.boundary.map(|lsn| (offset, lsn)).or(found);
        }
    }
    let size = file.metadata().map_err(io(path))?.len();
    let Some((good, _)) = found else {
        tracing::warn!(segment = %path.display(), size, "removed a segment of the spool that holds no complete transaction");
        std::fs::remove_file(path).map_err(io(path))?;
        return Ok(None);
    };
    if size > good {
        tracing::warn!(segment = %path.display(), size, at = good, "cut an unfinished tail of the spool");
        file.set_len(good).map_err(io(path))?;
    }
    // A killed process may have left it in the page cache only; what is opened here counts as durable.
    file.sync_all().map_err(io(path))?;
    Ok(found)
}

/// A segment that another one follows. It was cut and synced before that one was begun, so what is missing is damage.
fn vouched_for(dir: &Path, segment: u64, next: u64) -> Result<Closed> {
    if next != segment + 1 {
        return Err(damaged(&segment_path(dir, segment + 1), 0));
    }
    let (path, next) = (segment_path(dir, segment), segment_path(dir, next));
    let head = File::open(&next).and_then(|file| Head::read(&file)).map_err(io(&next))?.ok_or_else(|| damaged(&next, 0))?;
    let bytes = std::fs::metadata(&path).map_err(io(&path))?.len();
    if bytes != head.before {
        return Err(damaged(&path, bytes.min(head.before)));
    }
    Ok(Closed { segment, last: head.start, bytes })
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}
