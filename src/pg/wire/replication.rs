//! The streaming replication protocol (documentation 55.4) in copy-both mode.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes};
use postgres_protocol::message::frontend;

use super::{Wire, server_error};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// What a walsender sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicationMessage {
    /// A message of the output plugin.
    XLogData {
        /// Where the WAL of this message begins.
        start: Lsn,
        /// The end of WAL on the server.
        end: Lsn,
        data: Bytes,
    },
    KeepAlive {
        /// Everything before it has been sent.
        end: Lsn,
        /// The server wants a status now, or it will time out.
        reply: bool,
    },
}

impl Wire {
    /// Runs `START_REPLICATION …`, up to the point where the stream begins.
    pub async fn start_replication(&mut self, sql: &str) -> Result<()> {
        self.begin(sql, b'W').await
    }

    /// The next message if it has been read already: asks neither the server nor the operating system. When there is none,
    /// [`fill`](Self::fill) waits for more.
    pub fn try_replication_message(&mut self) -> Result<Option<ReplicationMessage>> {
        while let Some(frame) = self.buffered()? {
            match frame.tag {
                b'd' => {
                    let message = parse(frame.body).ok_or_else(|| Error::failed(format!("{} sent a malformed replication message", self.peer)))?;
                    return Ok(Some(message));
                }
                b'E' => return Err(server_error(&frame.body)),
                // CopyDone, or at shutdown CommandComplete without it
                b'c' | b'C' | b'Z' => return Err(Error::connection(format!("{} ended the replication stream", self.peer))),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Standby status update: up to where WAL was received, is safe on our side, and has been applied; the server recycles WAL
    /// before `flush`. With `reply` the server answers immediately. Cancel-safe: what was not written is written by the next call.
    pub async fn send_status(&mut self, write: Lsn, flush: Lsn, apply: Lsn, reply: bool) -> Result<()> {
        // microseconds since 2000-01-01
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64 - 946_684_800_000_000;
        let out = &mut self.outbox;
        out.put_u8(b'd');
        out.put_u32(4 + 34);
        out.put_u8(b'r');
        for lsn in [write, flush, apply] {
            out.put_u64(lsn.0);
        }
        out.put_i64(now);
        out.put_u8(u8::from(reply));
        self.flush().await
    }

    /// Ends the stream and throws away what is still under way, so that the slot is free when this returns. The server finishes
    /// the transaction it is sending first: give it a timeout, and drop the connection when that passes.
    pub async fn end_replication(&mut self) -> Result<()> {
        frontend::copy_done(&mut self.outbox);
        self.flush().await?;
        self.answer(|_| Ok(())).await.map(|_| ())
    }
}

/// The payload of a CopyData frame. None when it is malformed.
fn parse(mut body: Bytes) -> Option<ReplicationMessage> {
    match body.try_get_u8().ok()? {
        b'w' => {
            let (start, end) = (Lsn(body.try_get_u64().ok()?), Lsn(body.try_get_u64().ok()?));
            let _sent_at = body.try_get_i64().ok()?;
            Some(ReplicationMessage::XLogData { start, end, data: body })
        }
        b'k' => {
            let end = Lsn(body.try_get_u64().ok()?);
            let _sent_at = body.try_get_i64().ok()?;
            Some(ReplicationMessage::KeepAlive { end, reply: body.try_get_u8().ok()? == 1 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_parsed() {
        let data = Bytes::from_static(b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0xyz");
        assert_eq!(parse(data), Some(ReplicationMessage::XLogData { start: Lsn(1), end: Lsn(2), data: Bytes::from_static(b"xyz") }));
        let alive = Bytes::from_static(b"k\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\x01");
        assert_eq!(parse(alive), Some(ReplicationMessage::KeepAlive { end: Lsn(3), reply: true }));
        for bad in [&b""[..], b"w\0", b"k\0\0\0\0\0\0\0\x03", b"x"] {
            assert_eq!(parse(Bytes::from_static(bad)), None, "{bad:?}");
        }
    }
}
