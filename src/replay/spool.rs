//! The spool: the log of decoded transactions on the migration machine.
//!
//! Numbered segments, which are only appended to. A segment is a head and blocks, numbers little-endian:
//!
//! ```text
//! head   magic 8 bytes | start LSN u64 | bytes of the segment before u64 | CRC-32 of this u32
//! block  compressed length u32 | raw length u32 | CRC-32 of the payload u32 | flags u32 | boundary LSN u64 | CRC-32 of this u32
//!        payload: records, compressed with zstd
//! record length u32 | a pgoutput message, or a watermark: `w` and an LSN, big-endian as in pgoutput
//! ```
//!
//! A block with a boundary LSN ends at one: the end of a commit, or a watermark. Boundaries ascend over the whole spool, and only they
//! are durable ends: what lies after the last one is cut when the spool is opened after a crash. A block without a boundary is a part of
//! the transaction that the next boundary ends. Flag 1 says that relation messages are among the records.
//!
//! So heads and headers are an index. Everything up to a head's start lies in the segments before. Each of these was cut and synced before
//! the next was begun, and the head of that one records its length. A segment begins with the relation messages that are in force, so that
//! reading may start at any segment, and a reader on its way to its position skips blocks without reading them.

mod block;
mod reader;
mod received;
mod segment;
mod thread;
mod touched;
mod writer;

#[cfg(test)]
mod tests;

pub use self::{
    block::{WATERMARK, put_record, put_watermark, records, watermark},
    reader::SpoolReader,
    received::{Received, Transaction},
    segment::SpoolEnd,
    thread::{SpoolRequest, SpoolStatus, SpoolThread, disk_free},
    touched::{TouchedRelations, touched_after},
    writer::SpoolWriter,
};
