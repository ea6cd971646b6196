//! The reading end of the spool, while the writer appends: from a position on, up to a durable end that the caller knows.

use bytes::Bytes;
use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    block::{HEAD, Head, Header, put_record, relations},
    segment::{SpoolEnd, damaged, io, segment_path, segments},
};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// Blocks in order. Of what ended at or below the position only relation messages come, which hold for what follows; the first block
/// after it may begin with further transactions that ended before.
pub struct SpoolReader {
    dir: PathBuf,
    position: Lsn,
    /// The next block ends after the position, and so do all others.
    arrived: bool,
    segment: u64,
    offset: u64,
    file: Option<File>,
    /// Blocks of this segment before this offset end at or below the position.
    passed: u64,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl SpoolReader {
    /// Starts in the last segment that begins at or below `position`: every transaction that ends after it is in there or later. That
    /// holds for the transaction that a lane has applied in part, too: its position is where the commit record begins.
    pub fn open(dir: &Path, position: Lsn) -> Result<Self> {
        let decompressor = zstd::bulk::Decompressor::new().map_err(io(dir))?;
        let segment = find(dir, position)?;
        Ok(Self { dir: dir.into(), position, arrived: false, segment, offset: HEAD as u64, file: None, passed: 0, decompressor })
    }

    /// The next block before `end`, decompressed; `None` when there is none yet.
    pub fn next(&mut self, end: SpoolEnd) -> Result<Option<Bytes>> {
        while let Some(at) = self.turn(end)? {
            let header = self.header(at)?;
            if !self.arrived && at >= self.passed {
                self.look_ahead(at)?;
            }
            self.offset += header.len();
            let passing = at < self.passed;
            if passing && !header.relations {
                continue;
            }
            let path = segment_path(&self.dir, self.segment);
            let payload = header.payload(self.file()?, at).map_err(io(&path))?;
            let block = payload.and_then(|payload| header.decompress(&payload, &mut self.decompressor)).ok_or_else(|| damaged(&path, at))?;
            return Ok(Some(if passing { relations_only(&block) } else { block }.into()));
        }
        Ok(None)
    }

    /// Where the next block begins, in this segment or the next; `None` at `end`.
    fn turn(&mut self, end: SpoolEnd) -> Result<Option<u64>> {
        while (self.segment, self.offset) < (end.segment, end.offset) {
            if self.segment == end.segment {
                return Ok(Some(self.offset));
            }
            let path = segment_path(&self.dir, self.segment);
            if self.offset < self.file()?.metadata().map_err(io(&path))?.len() {
                return Ok(Some(self.offset));
            }
            let length = self.offset;
            (self.segment, self.offset, self.passed) = (self.segment + 1, HEAD as u64, 0);
            if self.open_segment()?.before != length {
                return Err(damaged(&path, length));
            }
        }
        Ok(None)
    }

    /// Finds the boundary to which the block at `at` belongs.
    fn look_ahead(&mut self, mut at: u64) -> Result<()> {
        let boundary = loop {
            let header = self.header(at)?;
            at += header.len();
            if let Some(lsn) = header.boundary {
                break lsn;
            }
        };
        if boundary > self.position {
            self.arrived = true;
        } else {
            self.passed = at;
        }
        Ok(())
    }

    fn header(&mut self, at: u64) -> Result<Header> {
        let path = segment_path(&self.dir, self.segment);
        Header::read(self.file()?, at).map_err(io(&path))?.ok_or_else(|| damaged(&path, at))
    }

    fn file(&mut self) -> Result<&File> {
        if self.file.is_none() {
            self.open_segment()?;
        }
        Ok(self.file.as_ref().expect("it was just opened"))
    }

    fn open_segment(&mut self) -> Result<Head> {
        let path = segment_path(&self.dir, self.segment);
        let file = File::open(&path).map_err(io(&path))?;
        let head = Head::read(&file).map_err(io(&path))?.ok_or_else(|| damaged(&path, 0))?;
        self.file = Some(file);
        Ok(head)
    }
}

/// The last segment that begins at or below `position`.
fn find(dir: &Path, position: Lsn) -> Result<u64> {
    let numbers = segments(dir)?;
    let mut oldest = None;
    for &segment in numbers.iter().rev() {
        let path = segment_path(dir, segment);
        let head = match File::open(&path) {
            Ok(file) => Head::read(&file).map_err(io(&path))?,
            // Deleted meanwhile: everything in it is applied.
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            Err(e) => return Err(io(&path)(e)),
        };
        match head {
            Some(head) if head.start <= position => return Ok(segment),
            Some(head) => oldest = Some((segment, head.start)),
            // The writer is just beginning it.
            None if Some(&segment) == numbers.last() => {}
            None => return Err(damaged(&path, 0)),
        }
    }
    match oldest {
        Some((segment, start)) if segment > 1 => Err(Error::failed(format!("the target's position is {position}, but the spool begins at {start}"))
            .detail("the target has lost commits that it had acknowledged: it failed over, or was restored")
            .hint("run `hyperlift clean`, empty the target and start again")),
        _ => Ok(1),
    }
}

fn relations_only(block: &[u8]) -> Vec<u8> {
    let mut only = Vec::new();
    for (_, message) in relations(block) {
        put_record(&mut only, message);
    }
    only
}
