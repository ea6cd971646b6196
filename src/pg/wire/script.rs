//! Many requests in one round trip: they are sent without waiting for the answers to the first ones, so that a batch does not cost a round
//! trip for each statement.

use std::{
    borrow::Cow,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;

use super::{Frame, Wire, data_row, row_count, server_error};
use crate::error::{Error, Result};

/// Written at a time, bytes.
const WRITE_BYTES: usize = 256 << 10;
/// Payload of a CopyData frame, about, bytes.
const FRAME_BYTES: usize = 64 << 10;
/// Prepared statements kept by a connection.
const STATEMENTS: usize = 256;

/// A request to the server.
#[derive(Debug)]
pub enum Request<'a> {
    /// One or more statements without parameters, as a simple query.
    Query(Cow<'a, str>),
    /// `copy … from stdin` with its data.
    Copy(String, CopyData),
    /// A statement with parameters in text format, prepared on its first use. `None` is NULL.
    Execute(Cow<'a, str>, Vec<Option<Cow<'a, [u8]>>>),
}

/// What the server answered to one request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The row count of its (last) command tag.
    pub count: u64,
    /// Rows that it returned, in text format.
    pub rows: Vec<Vec<Option<Bytes>>>,
}

/// The first request that failed. Those after it were refused or rolled back, if they belong to the same transaction.
#[derive(Debug)]
pub struct Failed {
    /// Its index; `None` when the connection broke.
    pub at: Option<usize>,
    pub error: Error,
    /// To the requests before it, if they are known.
    pub before: Vec<Response>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { at: None, error, before: Vec::new() }
    }
}

/// Rows for `copy … from stdin` in text format (documentation of COPY, "Text Format"), in CopyData frames.
#[derive(Debug, Default)]
pub struct CopyData {
    frames: BytesMut,
    /// Where the length of the open frame is.
    open: Option<usize>,
    fields: usize,
}

impl CopyData {
    /// The next value of the row; `None` is NULL.
    pub fn field(&mut self, value: Option<&[u8]>) {
        if self.open.is_none() {
            self.frames.put_u8(b'd');
            self.open = Some(self.frames.len());
            self.frames.put_u32(0);
        }
        if self.fields > 0 {
            self.frames.put_u8(b'\t');
        }
        self.fields += 1;
        let Some(value) = value else { return self.frames.put_slice(b"\\N") };
        // Without an early exit the compiler compares many bytes in one instruction.
        if !value.iter().fold(false, |found, b| found | matches!(b, b'\\' | b'\n' | b'\r' | b'\t')) {
            return self.frames.put_slice(value);
        }
        for b in value {
            match b {
                b'\\' => self.frames.put_slice(b"\\\\"),
                b'\n' => self.frames.put_slice(b"\\n"),
                b'\r' => self.frames.put_slice(b"\\r"),
                b'\t' => self.frames.put_slice(b"\\t"),
                _ => self.frames.put_u8(*b),
            }
        }
    }

    pub fn end_row(&mut self) {
        self.frames.put_u8(b'\n');
        self.fields = 0;
        if self.open.is_some_and(|at| self.frames.len() - at > FRAME_BYTES) {
            self.close_frame();
        }
    }

    fn close_frame(&mut self) {
        if let Some(at) = self.open.take() {
            let length = (self.frames.len() - at) as u32;
            self.frames[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// How the answers of a request end.
struct Sent {
    /// Ends with a ReadyForQuery of its own, or shares one with the next request.
    ready: bool,
    /// The name of the statement that its Parse makes.
    parses: Option<(String, String)>,
}

impl Wire {
    /// Sends all requests and reads all answers. After an error of the server the connection is ready for more; requests after the
    /// failed one were not run, if all of them belong to one transaction.
    pub async fn run(&mut self, requests: Vec<Request<'_>>) -> Result<Vec<Response>, Failed> {
        let mut sent = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        let mut parsed_now: Vec<(String, String)> = Vec::new();
        if self.statements.len() > STATEMENTS {
            for name in std::mem::take(&mut self.statements).into_values() {
                frontend::close(b'S', &name, &mut self.outbox).map_err(Error::from)?;
            }
        }
        while let Some(request) = requests.next() {
            let more = matches!(requests.peek(), Some(Request::Execute(..)));
            let mut this = Sent { ready: true, parses: None };
            match request {
                Request::Query(sql) => self.send_query(&sql)?,
                Request::Copy(sql, mut data) => {
                    data.close_frame();
                    self.send_query(&sql)?;
                    // What the server did not ask for, because the COPY failed, it ignores (documentation 55.2.5).
                    self.outbox.unsplit(data.frames);
                    frontend::copy_done(&mut self.outbox);
                }
                Request::Execute(sql, parameters) => {
                    this.ready = !more;
                    let known = self.statements.get(&*sql).or_else(|| parsed_now.iter().find(|(s, _)| *s == sql).map(|(_, name)| name)).cloned();
                    let name = if let Some(name) = known {
                        name
                    } else {
                        self.named += 1;
                        let name = format!("s{}", self.named);
                        frontend::parse(&name, &sql, [], &mut self.outbox).map_err(Error::from)?;
                        parsed_now.push((sql.into_owned(), name.clone()));
                        this.parses = parsed_now.last().cloned();
                        name
                    };
                    self.bind(&name, &parameters)?;
                    frontend::execute("", 0, &mut self.outbox).map_err(Error::from)?;
                    if this.ready {
                        frontend::sync(&mut self.outbox);
                    }
                }
            }
            sent.push(this);
            if self.outbox.len() >= WRITE_BYTES {
                self.write_and_read().await?;
            }
        }
        self.write_and_read().await?;
        self.answers(sent).await
    }

    fn bind(&mut self, statement: &str, parameters: &[Option<Cow<'_, [u8]>>]) -> Result<()> {
        let write = |value: &Option<Cow<'_, [u8]>>, out: &mut BytesMut| {
            Ok(match value {
                None => postgres_protocol::IsNull::Yes,
                Some(text) => {
                    out.extend_from_slice(text);
                    postgres_protocol::IsNull::No
                }
            })
        };
        frontend::bind("", statement, [], parameters, write, [], &mut self.outbox).map_err(|e| match e {
            frontend::BindError::Conversion(e) => Error::failed(format!("a parameter cannot be sent: {e}")),
            frontend::BindError::Serialization(e) => Error::from(e),
        })
    }

    async fn answers(&mut self, sent: Vec<Sent>) -> Result<Vec<Response>, Failed> {
        let mut answers = Vec::with_capacity(sent.len());
        let mut failed: Option<Failed> = None;
        let mut skipping = false;
        for (at, request) in sent.into_iter().enumerate() {
            let mut answer = Response::default();
            // After an error the server is silent up to the Sync.
            let mut done = skipping && !request.ready;
            while !done {
                let Frame { tag, body } = match self.frame().await {
                    Ok(frame) => frame,
                    // After a FATAL error the connection ends: that error is the cause.
                    Err(broken) => return Err(failed.filter(|f| f.error.is_transient()).unwrap_or(broken.into())),
                };
                match tag {
                    b'1' => {
                        if let Some((sql, name)) = &request.parses {
                            self.statements.insert(sql.clone(), name.clone());
                        }
                    }
                    b'D' => answer.rows.push(data_row(body)?),
                    b'C' => {
                        answer.count = row_count(&body);
                        done = !request.ready;
                    }
                    b'E' => {
                        failed.get_or_insert(Failed { at: Some(at), error: server_error(&body), before: Vec::new() });
                        skipping = !request.ready;
                        done = skipping;
                    }
                    b'Z' => {
                        skipping = false;
                        done = true;
                    }
                    // BindComplete, CloseComplete, EmptyQueryResponse, RowDescription, CopyInResponse
                    _ => {}
                }
            }
            answers.push(answer);
        }
        match failed {
            None => Ok(answers),
            Some(mut failed) => {
                answers.truncate(failed.at.unwrap_or(0));
                failed.before = answers;
                Err(failed)
            }
        }
    }

    /// Writes the outbox and reads meanwhile: the server may stop reading until its answers are taken.
    async fn write_and_read(&mut self) -> Result<()> {
        match poll_fn(|cx| self.poll_write_and_read(cx)).await {
            Ok(()) => Ok(()),
            Err(e) => Err(self.last_words(e).await),
        }
    }

    fn poll_write_and_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(written) = self.poll_outbox(cx) {
            written?;
            // Frees its memory: a batch may have been large.
            self.outbox = BytesMut::new();
            return Pin::new(&mut *self.io).poll_flush(cx);
        }
        loop {
            ready!(self.poll_inbox(cx))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_6_copy_text_is_escaped() {
        let mut data = CopyData::default();
        data.field(Some(b"a\tb\nc\\d\re"));
        data.field(None);
        data.field(Some(b""));
        data.field(Some(b"\\N"));
        data.end_row();
        data.close_frame();
        let payload = b"a\\tb\\nc\\\\d\\re\t\\N\t\t\\\\N\n";
        assert_eq!(data.frames[..5], [b'd', 0, 0, 0, payload.len() as u8 + 4]);
        assert_eq!(&data.frames[5..], payload);
    }
}
