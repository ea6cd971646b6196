//! PostgreSQL's frontend/backend protocol by whole frames (documentation, chapter 55): what tokio-postgres does not offer, that
//! is logical replication, and COPY from one server to another without reading the rows.
//!
//! One exchange at a time. Dropping a future of [`Wire::fill`] or [`Wire::send_status`] is harmless; dropping any other one
//! leaves an answer under way, and the connection must be dropped too.

mod copy;
mod replication;
mod script;
mod socket;
mod startup;

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

use self::socket::Io;
use super::connect::{
    conninfo::Conninfo,
    hosts::{ConnectOrder, reason},
    session::{Side, session_settings},
    tls::Tls,
};
use crate::error::{Error, Result};

pub use copy::{Copied, Pipe, pipe_copy};
pub use replication::ReplicationMessage;
pub use script::{CopyData, Failed, Request, Response};
pub use socket::Canceller;
pub(super) use startup::session_fits;

/// How much is read at a time, in bytes.
const READ_BYTES: usize = 256 << 10;
/// No message is longer (PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT`, 1 GB less one byte, and its header).
const MAX_FRAME_BYTES: usize = 1 << 30;

/// A connection to a server, by frames.
pub struct Wire {
    io: Box<dyn Io>,
    /// Read and not yet taken.
    inbox: BytesMut,
    /// To be written. What a dropped future did not write is written first.
    outbox: BytesMut,
    parameters: HashMap<String, String>,
    canceller: Canceller,
    /// Prepared statements by their text, and how many there have been.
    statements: HashMap<String, String>,
    named: u64,
    /// `host:port`, for messages.
    peer: String,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.peer).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// A message without its header.
struct Frame {
    tag: u8,
    body: Bytes,
}

impl Wire {
    /// Connects to the first host that is accepted. `replication` asks for a walsender of the database, which runs SQL as well.
    pub async fn connect(info: &Conninfo, application_name: &str, replication: bool) -> Result<Self> {
        let tls = Tls::new(info)?;
        let mut order = ConnectOrder::new(info);
        while let Some(candidate) = order.next() {
            match startup::connect(info, &candidate, &tls, application_name, replication).await {
                Ok(wire) => return Ok(wire),
                Err(failure) => order.failed(failure, &candidate, info),
            }
        }
        Err(order.into_error())
    }

    /// Connects and applies [`session_settings`]; errors name the side.
    pub async fn open(info: &Conninfo, side: Side, application_name: &str) -> Result<Self> {
        Self::open_as(info, side, application_name, false).await
    }

    /// The same for a walsender of the source, whose settings also decide how values are printed in the stream.
    pub async fn open_replication(info: &Conninfo, application_name: &str) -> Result<Self> {
        Self::open_as(info, Side::Source, application_name, true).await
    }

    async fn open_as(info: &Conninfo, side: Side, application_name: &str, replication: bool) -> Result<Self> {
        let open = async {
            let mut wire = Self::connect(info, application_name, replication).await?;
            wire.execute(&session_settings(side, wire.version())).await?;
            Ok(wire)
        };
        open.await.map_err(|e: Error| e.context(side))
    }

    /// The process id of the server's backend.
    pub fn pid(&self) -> i32 {
        self.canceller.pid
    }

    /// A parameter that the server reported: `server_version`, `TimeZone`, …
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// `server_version_num`: 150020 for 15.20.
    pub fn version(&self) -> u32 {
        crate::pg::connect::session::version_num(self.parameter("server_version").unwrap_or_default())
    }

    /// Cancels this connection's statement from another task.
    pub fn cancel_handle(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Says goodbye, so that the server does not log a lost connection.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.outbox);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.flush()).await;
    }

    /// Runs statements and returns the rows of all of them as text.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        self.send_query(sql)?;
        self.flush().await?;
        self.answer(|frame| {
            if frame.tag == b'D' {
                let text = |value: Bytes| String::from_utf8_lossy(&value).into_owned();
                rows.push(data_row(frame.body)?.into_iter().map(|value| value.map(text)).collect());
            }
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// Runs statements; the row count of the last one that has one, or 0.
    pub async fn execute(&mut self, sql: &str) -> Result<u64> {
        self.send_query(sql)?;
        self.flush().await?;
        self.answer(|_| Ok(())).await
    }

    fn send_query(&mut self, sql: &str) -> Result<()> {
        frontend::query(sql, &mut self.outbox).map_err(|e| Error::failed(format!("a statement cannot be sent: {e}")))
    }

    /// Reads up to ReadyForQuery. The server's error comes before any other; the row count is that of the last statement.
    async fn answer(&mut self, mut each: impl FnMut(Frame) -> Result<()>) -> Result<u64> {
        let mut failure = None;
        let mut rows = 0;
        loop {
            let frame = match self.frame().await {
                Ok(frame) => frame,
                // after a FATAL error the connection ends: that error is the cause
                Err(broken) => return Err(failure.unwrap_or(broken)),
            };
            match frame.tag {
                b'E' => {
                    failure.get_or_insert(server_error(&frame.body));
                }
                b'Z' => return failure.map_or(Ok(rows), Err),
                b'C' => rows = row_count(&frame.body),
                // There is no data for a COPY that was begun here. Without an end the server would wait for ever.
                b'G' => {
                    frontend::copy_fail("no data", &mut self.outbox).map_err(Error::from)?;
                    self.flush().await?;
                }
                b'W' => {
                    frontend::copy_done(&mut self.outbox);
                    self.flush().await?;
                }
                _ => {
                    if let Err(e) = each(frame) {
                        failure.get_or_insert(e);
                    }
                }
            }
        }
    }

    /// The next message that is not merely a notice.
    async fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The same from what has been read already.
    fn buffered(&mut self) -> Result<Option<Frame>> {
        Ok(if self.skip_notices()?.is_some() { self.take() } else { None })
    }

    /// Takes notices, which are logged, and parameters, which are kept; the type of the whole message that is now the first.
    fn skip_notices(&mut self) -> Result<Option<u8>> {
        while self.frame_len()?.is_some_and(|len| len <= self.inbox.len()) {
            let tag = self.inbox[0];
            // NoticeResponse, ParameterStatus, NotificationResponse
            if !matches!(tag, b'N' | b'S' | b'A') {
                return Ok(Some(tag));
            }
            let Some(Frame { body, .. }) = self.take() else { break };
            if tag == b'N' {
                let notice = server_error(&body);
                tracing::debug!(server = %self.peer, sqlstate = notice.sqlstate, "{}", notice.message);
            } else if tag == b'S' {
                let mut parts = body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
                if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                    self.parameters.insert(name, value);
                }
            }
        }
        Ok(None)
    }

    /// The first message in the inbox, if it is whole.
    fn take(&mut self) -> Option<Frame> {
        let len = self.frame_len().ok()?.filter(|len| *len <= self.inbox.len())?;
        let mut body = self.inbox.split_to(len).freeze();
        let tag = body.get_u8();
        body.advance(4);
        Some(Frame { tag, body })
    }

    /// The length of the first frame with its header, once that has been read.
    fn frame_len(&self) -> Result<Option<usize>> {
        frame_len_at(&self.inbox, 0).map_err(|()| Error::connection(format!("{} does not speak PostgreSQL's protocol", self.peer)))
    }

    /// Waits until the server has sent more. Cancel-safe.
    pub async fn fill(&mut self) -> Result<()> {
        let missing = self.frame_len()?.map_or(0, |len| len.saturating_sub(self.inbox.len()));
        if self.inbox.capacity() - self.inbox.len() < missing.max(READ_BYTES / 16) {
            self.inbox.reserve(missing.max(READ_BYTES));
        }
        match self.io.read_buf(&mut self.inbox).await {
            Ok(0) => Err(self.closed()),
            Ok(_) => Ok(()),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// Writes what is to be written. Cancel-safe: the rest goes out with the next call.
    async fn flush(&mut self) -> Result<()> {
        while !self.outbox.is_empty() {
            if let Err(e) = self.io.write_buf(&mut self.outbox).await {
                return Err(self.last_words(e).await);
            }
        }
        match self.io.flush().await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.last_words(e).await),
        }
    }

    /// Why a write failed: the server's error before it closed the connection, if there is one.
    async fn last_words(&mut self, write: std::io::Error) -> Error {
        let read = async {
            loop {
                let frame = self.frame().await?;
                if frame.tag == b'E' {
                    return Ok::<_, Error>(server_error(&frame.body));
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(1), read).await {
            Ok(Ok(said)) => said,
            _ => self.broken(write),
        }
    }

    /// Ready once the outbox is empty; what was written still has to be flushed.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.outbox.is_empty() {
            match ready!(Pin::new(&mut *self.io).poll_write(cx, &self.outbox))? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                written => self.outbox.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when something was read. It reads little at a time, because most data goes the other way.
    fn poll_inbox(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut chunk = [0; 4096];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut *self.io).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.inbox.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    fn broken(&self, e: std::io::Error) -> Error {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            return self.closed();
        }
        Error::connection(format!("the connection to {} broke: {}", self.peer, reason(&e))).source(e)
    }

    fn closed(&self) -> Error {
        Error::connection(format!("{} closed the connection", self.peer))
    }
}

/// The length, with its header, of the frame that begins at `at`; an error when that is no frame.
fn frame_len_at(bytes: &[u8], at: usize) -> Result<Option<usize>, ()> {
    let Some(header) = bytes.get(at + 1..at + 5) else { return Ok(None) };
    let len = u32::from_be_bytes(header.try_into().expect("four bytes were taken")) as usize;
    if (4..=MAX_FRAME_BYTES).contains(&len) { Ok(Some(len + 1)) } else { Err(()) }
}

/// ErrorResponse and NoticeResponse: fields of one type byte and a string each (documentation 55.8).
fn server_error(body: &[u8]) -> Error {
    let mut code = String::new();
    let (mut message, mut detail, mut hint) = (String::new(), None, None);
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'C' => code = text,
            b'M' => message = text,
            b'D' => detail = Some(text),
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    Error::database(&code, &message, detail.as_deref(), hint.as_deref())
}

/// The number at the end of a command tag: `COPY 12`, `INSERT 0 3`; 0 for `SET`.
fn row_count(tag: &[u8]) -> u64 {
    let tag = String::from_utf8_lossy(tag);
    tag.trim_end_matches('\0').rsplit(' ').next().and_then(|last| last.parse().ok()).unwrap_or(0)
}

/// DataRow: its values as they are; NULL is `None`.
fn data_row(mut body: Bytes) -> Result<Vec<Option<Bytes>>> {
    let malformed = || Error::failed("the server sent a malformed row").hint("is there a proxy or pooler in between? Connect to the server itself");
    let columns = body.try_get_u16().map_err(|_| malformed())?;
    (0..columns)
        .map(|_| {
            let len = body.try_get_i32().map_err(|_| malformed())?;
            let Ok(len) = usize::try_from(len) else { return Ok(None) };
            if body.remaining() < len { Err(malformed()) } else { Ok(Some(body.split_to(len))) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_measured_with_their_header() {
        assert_eq!(frame_len_at(b"", 0), Ok(None));
        assert_eq!(frame_len_at(b"Z\0\0\0", 0), Ok(None));
        assert_eq!(frame_len_at(b"Z\0\0\0\x05I", 0), Ok(Some(6)));
        assert_eq!(frame_len_at(b"xxZ\0\0\0\x05", 2), Ok(Some(6)));
        assert_eq!(frame_len_at(b"HTTP/1.1", 0), Err(()));
        assert_eq!(frame_len_at(b"Z\0\0\0\x03", 0), Err(()));
    }

    #[test]
    fn answers_are_read() {
        let e = server_error(b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey exists.\0Hnone\0\0");
        assert_eq!((e.sqlstate.as_deref(), e.detail.as_deref(), e.hint.as_deref()), (Some("23505"), Some("Key exists."), Some("none")));
        for (tag, rows) in [("COPY 12\0", 12), ("INSERT 0 3\0", 3), ("SET\0", 0), ("CREATE TABLE\0", 0)] {
            assert_eq!(row_count(tag.as_bytes()), rows, "{tag}");
        }
        let row = Bytes::from_static(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff");
        assert_eq!(data_row(row).unwrap(), [Some(Bytes::from_static(b"a")), None]);
        assert!(data_row(Bytes::from_static(b"\0\x01\0\0\0\x05a")).is_err());
    }

    #[test]
    fn the_futures_can_be_spawned() {
        fn spawnable<T: Send>(_: impl FnOnce() -> T) {}
        fn wire() -> Wire {
            unreachable!("never called")
        }
        fn info() -> Conninfo {
            unreachable!("never called")
        }
        spawnable(|| async { Wire::open(&info(), Side::Source, "").await });
        spawnable(|| async { crate::pg::client::connect(&info(), Side::Source, "").await });
        spawnable(|| async { pipe_copy(&mut wire(), &mut wire(), &mut |_, _| {}).await });
        spawnable(|| async { wire().simple("").await });
        spawnable(|| async { wire().fill().await });
        spawnable(|| async { wire().cancel_handle().cancel().await });
    }
}
