//! COPY out of one server into another: CopyData frames are passed on as they are, whatever their format.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::{Wire, frame_len_at, server_error};
use crate::error::{Error, Kind, Result};

/// What a COPY moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of payload, without the protocol's headers.
    pub bytes: u64,
    /// As the source counted them.
    pub rows_out: u64,
    /// As the target counted them.
    pub rows_in: u64,
}

impl Wire {
    /// Begins `copy … to stdout`.
    pub async fn copy_out(&mut self, sql: &str) -> Result<()> {
        self.begin(sql, b'H').await
    }

    /// Begins `copy … from stdin`.
    pub async fn copy_in(&mut self, sql: &str) -> Result<()> {
        self.begin(sql, b'G').await
    }

    /// The same after other statements, in one round trip.
    pub async fn copy_in_after(&mut self, before: &str, sql: &str) -> Result<()> {
        self.send_query(before)?;
        self.send_query(sql)?;
        self.flush().await?;
        let first = self.answer(|_| Ok(())).await;
        if first.as_ref().is_err_and(|e| e.kind == Kind::Connection) {
            return first.map(drop);
        }
        // In a failed transaction the COPY is refused, so the first error is the cause.
        let second = self.begun(b'G').await;
        first.and(second)
    }

    /// Runs a statement that changes the protocol's mode, up to the message that says so.
    pub(super) async fn begin(&mut self, sql: &str, mode: u8) -> Result<()> {
        self.send_query(sql)?;
        self.flush().await?;
        self.begun(mode).await
    }

    async fn begun(&mut self, mode: u8) -> Result<()> {
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                tag if tag == mode => return Ok(()),
                b'E' => {
                    let error = server_error(&frame.body);
                    // The connection stays usable, unless the server is about to end it.
                    let _ = self.answer(|_| Ok(())).await;
                    return Err(error);
                }
                b'Z' => return Err(Error::failed("the statement begins no COPY or replication")),
                _ => {}
            }
        }
    }

    /// The run of whole CopyData frames at the front of the inbox: its length, its frames, and whether another frame follows.
    fn run_of_data(&self) -> Result<Run> {
        let mut run = Run { len: 0, frames: 0, ended: false };
        while let Some(tag) = self.inbox.get(run.len) {
            if *tag != b'd' {
                run.ended = true;
                break;
            }
            match frame_len_at(&self.inbox, run.len) {
                Ok(Some(len)) if run.len + len <= self.inbox.len() => {
                    run.len += len;
                    run.frames += 1;
                }
                Ok(_) => break,
                Err(()) => return Err(Error::connection(format!("{} does not speak PostgreSQL's protocol", self.peer))),
            }
        }
        Ok(run)
    }

    /// Whether the server has said something other than notices, which during `copy … from stdin` can only be an error.
    fn has_error(&mut self) -> bool {
        !matches!(self.skip_notices(), Ok(None))
    }

    /// Waits for an error of the server. Cancel-safe.
    async fn until_error(&mut self) -> Result<()> {
        while !self.has_error() {
            self.fill().await?;
        }
        Ok(())
    }

    /// Writes the outbox and reads meanwhile: a server with an error may never read on. True when there is an error.
    async fn push(&mut self) -> Result<bool> {
        match poll_fn(|cx| self.poll_push(cx)).await {
            Ok(error) => Ok(error),
            Err(e) => Err(self.last_words(e).await),
        }
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Poll::Ready(written) = self.poll_outbox(cx) {
            written?;
            if let Poll::Ready(flushed) = Pin::new(&mut *self.io).poll_flush(cx) {
                return Poll::Ready(flushed.map(|()| false));
            }
        }
        loop {
            ready!(self.poll_inbox(cx))?;
            if self.has_error() {
                return Poll::Ready(Ok(true));
            }
        }
    }

    /// After an error of this server in `copy … from stdin`: the error. If the connection is still
    /// open it is ready for another statement. The server reads the rest of the data and discards it.
    async fn refused_data(&mut self) -> Error {
        let _ = self.flush().await;
        match self.answer(|_| Ok(())).await {
            Err(e) => e,
            Ok(_) => Error::failed("the COPY ended early"),
        }
    }

    /// Stops a `copy … to stdout` that nobody wants to read to its end; the connection is ready for another statement afterwards.
    pub async fn give_up_reading(&mut self) -> Result<()> {
        self.cancel_handle().cancel().await?;
        match self.answer(|_| Ok(())).await {
            // Cancelled, or it had ended by itself.
            Err(e) if e.kind == Kind::Connection => Err(e),
            _ => Ok(()),
        }
    }

    /// Ends `copy … from stdin` without keeping anything.
    async fn give_up(&mut self) {
        if frontend::copy_fail("the source failed", &mut self.outbox).is_ok() && self.flush().await.is_ok() {
            let _ = self.answer(|_| Ok(())).await;
        }
    }
}

struct Run {
    len: usize,
    frames: usize,
    ended: bool,
}

/// Moves all rows from `src`, after [`Wire::copy_out`], to `dst`, after [`Wire::copy_in`].
///
/// `progress` gets the payload bytes and the frames passed on so far; see [`Pipe`].
pub async fn pipe_copy(src: &mut Wire, dst: &mut Wire, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<Copied> {
    let mut pipe = Pipe::default();
    loop {
        if let Some(copied) = pipe.step(src, dst).await? {
            return Ok(copied);
        }
        progress(pipe.bytes, pipe.frames);
    }
}

/// A COPY on its way from one server to another, step by step, so that it can be slowed down or held between two steps.
///
/// Errors begin with `source` or `target`. After an error of the source both connections are ready for another statement if
/// they are still open. After one of the target the source is still sending its table: drop it, or [`Wire::give_up_reading`].
/// Dropping the future of a step is harmless when both connections are dropped with it; the target then keeps nothing.
#[derive(Debug, Default)]
pub struct Pipe {
    /// Payload passed on so far, bytes.
    pub bytes: u64,
    /// Frames passed on so far. A frame is a row in text and CSV format; in binary format there is one more for the end, and the
    /// header comes with or before the first row.
    pub frames: u64,
    /// The source has ended its COPY.
    pub source_ended: bool,
}

impl Pipe {
    /// Passes on what has arrived, after waiting for it; returns what was moved once all of it was.
    pub async fn step(&mut self, src: &mut Wire, dst: &mut Wire) -> Result<Option<Copied>> {
        loop {
            let run = match src.run_of_data() {
                Ok(run) => run,
                Err(e) => return Err(source_failed(e, dst).await),
            };
            if run.len > 0 {
                let chunk = src.inbox.split_to(run.len);
                load(&mut dst.outbox, chunk);
                if dst.push().await.map_err(|e| e.context("target"))? {
                    return Err(dst.refused_data().await.context("target"));
                }
                self.bytes += (run.len - 5 * run.frames) as u64;
                self.frames += run.frames as u64;
                return Ok(None);
            }
            if run.ended {
                match src.skip_notices() {
                    Ok(Some(b'c')) => break,
                    Ok(Some(b'E')) => {
                        self.source_ended = true;
                        let error = src.answer(|_| Ok(())).await.err().unwrap_or_else(|| Error::failed("the COPY ended early"));
                        return Err(source_failed(error, dst).await);
                    }
                    Ok(Some(b'd')) => continue,
                    Ok(Some(_)) => return Err(source_failed(Error::connection(format!("{} sent an unexpected message", src.peer)), dst).await),
                    Ok(None) => {}
                    Err(e) => return Err(source_failed(e, dst).await),
                }
            }
            let heard = tokio::select! {
                read = src.fill() => Heard::Source(read),
                error = dst.until_error() => Heard::Target(error),
            };
            match heard {
                Heard::Source(Ok(())) => {}
                Heard::Source(Err(e)) => return Err(source_failed(e, dst).await),
                Heard::Target(Ok(())) => return Err(dst.refused_data().await.context("target")),
                Heard::Target(Err(e)) => return Err(e.context("target")),
            }
        }
        // The source may still fail after its last row; only its CommandComplete makes the copy whole.
        self.source_ended = true;
        let rows_out = match src.answer(|_| Ok(())).await {
            Ok(rows) => rows,
            Err(e) => return Err(source_failed(e, dst).await),
        };
        frontend::copy_done(&mut dst.outbox);
        if dst.push().await.map_err(|e| e.context("target"))? {
            return Err(dst.refused_data().await.context("target"));
        }
        let rows_in = dst.answer(|_| Ok(())).await.map_err(|e| e.context("target"))?;
        Ok(Some(Copied { bytes: self.bytes, rows_out, rows_in }))
    }
}

enum Heard {
    Source(Result<()>),
    Target(Result<()>),
}

/// Puts `chunk` in the outbox without copying it, as a rule: the outbox is empty.
fn load(outbox: &mut BytesMut, chunk: BytesMut) {
    if outbox.is_empty() { *outbox = chunk } else { outbox.unsplit(chunk) }
}

async fn source_failed(error: Error, dst: &mut Wire) -> Error {
    dst.give_up().await;
    error.context("source")
}
