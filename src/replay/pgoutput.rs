//! Decoder of pgoutput, protocol version 1 (PostgreSQL documentation 55.9, "Logical Replication Message Formats").
//!
//! Values stay slices of the message; nothing is copied, and a tuple is taken apart only where its values are wanted.

use bytes::Buf;
use jiff::Timestamp;

use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The four states of a replicated value; the stream of version 1 is text only, so `Binary` has no variant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// A TOAST value that the update did not touch: it is not in the stream.
    Unchanged,
    /// The output of the type's output function.
    Text(&'a [u8]),
}

impl<'a> Value<'a> {
    /// `None` for what has no text.
    pub fn text(self) -> Option<&'a [u8]> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// TupleData: checked when it is decoded, taken apart when it is asked for its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    /// One byte of kind a value; with text a length of four bytes and the text.
    data: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Columns.
    pub fn len(self) -> usize {
        usize::from(self.columns)
    }

    pub fn is_empty(self) -> bool {
        self.columns == 0
    }

    pub fn values(self) -> Values<'a> {
        Values { left: self.columns, data: self.data }
    }

    /// The bytes of the columns from `first` to `last` as the message has them, when all of them have a text.
    pub fn raw(self, first: usize, last: usize) -> Option<&'a [u8]> {
        let mut values = self.values();
        let mut start = self.data;
        for column in 0..=last {
            if column == first {
                start = values.data;
            }
            let value = values.next()?;
            if column >= first && value.text().is_none() {
                return None;
            }
        }
        start.get(..start.len() - values.data.len())
    }
}

/// The values of a tuple.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: u16,
    data: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (kind, rest) = self.data.split_first()?;
        self.data = rest;
        Some(match kind {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            _ => {
                let (len, rest) = self.data.split_first_chunk::<4>()?;
                let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
                self.data = rest;
                Value::Text(text)
            }
        })
    }
}

/// Which columns an old tuple has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldKind {
    /// 'K': the columns of the replica identity; the others are NULL here.
    Key,
    /// 'O': all columns (REPLICA IDENTITY FULL).
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `relreplident`: d(efault), n(othing), f(ull), i(ndex)
    pub identity: u8,
    pub columns: Vec<ColumnMessage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMessage {
    /// Part of the replica identity.
    pub key: bool,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// A row operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    Insert { new: Tuple<'a> },
    Update { old: Option<(OldKind, Tuple<'a>)>, new: Tuple<'a> },
    Delete { kind: OldKind, old: Tuple<'a> },
}

/// The kind of a row operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOp {
    Insert,
    Update,
    Delete,
}

impl RowOp {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        commit: Lsn,
        time: Timestamp,
        xid: u32,
    },
    Commit {
        commit: Lsn,
        end: Lsn,
    },
    Relation(RelationMessage),
    Row {
        relation: u32,
        operation: Operation<'a>,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// Origin, Type and logical messages: they carry nothing to replay.
    Other(u8),
}

/// What a message is, as far as its first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    Begin {
        /// Where the commit record begins.
        commit: Lsn,
    },
    Commit {
        /// Where the commit record ends.
        end: Lsn,
    },
    Row {
        op: RowOp,
        /// Of the relation.
        oid: u32,
    },
    Relation {
        oid: u32,
    },
    Truncate,
    /// Any other tag: of messages that carry nothing to replay, and of records that only the spool knows.
    Other(u8),
}

/// Reads the first bytes of a message. It is for whoever does not need the values of a row, because decoding checks the whole row.
#[inline]
pub fn peek(m: &[u8]) -> Result<Peek> {
    let oid = || m.get(1..).and_then(<[u8]>::first_chunk).map(|b| u32::from_be_bytes(*b)).ok_or_else(|| too_short(m));
    let lsn = |at: usize| m.get(at..).and_then(<[u8]>::first_chunk).map(|b| Lsn(u64::from_be_bytes(*b))).ok_or_else(|| too_short(m));
    Ok(match m.first() {
        Some(b'I') => Peek::Row { op: RowOp::Insert, oid: oid()? },
        Some(b'U') => Peek::Row { op: RowOp::Update, oid: oid()? },
        Some(b'D') => Peek::Row { op: RowOp::Delete, oid: oid()? },
        Some(b'B') => Peek::Begin { commit: lsn(1)? },
        // After the tag: a byte of flags, the LSN of the commit record, the LSN of its end.
        Some(b'C') => Peek::Commit { end: lsn(10)? },
        Some(b'R') => Peek::Relation { oid: oid()? },
        Some(b'T') => Peek::Truncate,
        Some(tag) => Peek::Other(*tag),
        None => return Err(too_short(m)),
    })
}

#[cold]
fn too_short(m: &[u8]) -> Error {
    malformed(format_args!("it has {} bytes", m.len()))
}

/// Decodes one message.
pub fn decode(mut m: &[u8]) -> Result<Message<'_>> {
    let b = &mut m;
    Ok(match u8_(b)? {
        b'B' => Message::Begin { commit: lsn(b)?, time: time(b)?, xid: u32_(b)? },
        b'C' => {
            u8_(b)?;
            Message::Commit { commit: lsn(b)?, end: lsn(b)? }
        }
        b'R' => Message::Relation(relation(b)?),
        b'I' => {
            let relation = u32_(b)?;
            expect(b, b'N')?;
            Message::Row { relation, operation: Operation::Insert { new: tuple(b)? } }
        }
        b'U' => {
            let relation = u32_(b)?;
            let tag = u8_(b)?;
            let old = match old_kind(tag) {
                Some(kind) => {
                    let old = tuple(b)?;
                    expect(b, b'N')?;
                    Some((kind, old))
                }
                None if tag == b'N' => None,
                None => return Err(malformed(format_args!("tuple tag {tag}"))),
            };
            Message::Row { relation, operation: Operation::Update { old, new: tuple(b)? } }
        }
        b'D' => {
            let relation = u32_(b)?;
            let tag = u8_(b)?;
            let kind = old_kind(tag).ok_or_else(|| malformed(format_args!("tuple tag {tag}")))?;
            Message::Row { relation, operation: Operation::Delete { kind, old: tuple(b)? } }
        }
        b'T' => {
            let n = u32_(b)?;
            let flags = u8_(b)?;
            let relations = (0..n).map(|_| u32_(b)).collect::<Result<_>>()?;
            Message::Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 }
        }
        tag @ (b'O' | b'Y' | b'M') => return Ok(Message::Other(tag)),
        tag => return Err(malformed(format_args!("message tag {tag}"))),
    })
}

fn relation(b: &mut &[u8]) -> Result<RelationMessage> {
    let (oid, schema, name, identity) = (u32_(b)?, string(b)?, string(b)?, u8_(b)?);
    let n = u16_(b)?;
    let columns = (0..n)
        .map(|_| {
            let flags = u8_(b)?;
            let name = string(b)?;
            Ok(ColumnMessage { key: flags & 1 != 0, name, type_oid: u32_(b)?, type_modifier: u32_(b)? as i32 })
        })
        .collect::<Result<_>>()?;
    // An empty schema name means pg_catalog.
    let schema = if schema.is_empty() { "pg_catalog".into() } else { schema };
    Ok(RelationMessage { oid, schema, name, identity, columns })
}

fn tuple<'a>(b: &mut &'a [u8]) -> Result<Tuple<'a>> {
    let columns = u16_(b)?;
    let data = *b;
    for _ in 0..columns {
        match u8_(b)? {
            b'n' | b'u' => {}
            b't' => {
                let len = u32_(b)? as usize;
                need(b, len)?;
                b.advance(len);
            }
            tag => return Err(malformed(format_args!("value tag {tag}"))),
        }
    }
    Ok(Tuple { columns, data: &data[..data.len() - b.len()] })
}

fn old_kind(tag: u8) -> Option<OldKind> {
    match tag {
        b'K' => Some(OldKind::Key),
        b'O' => Some(OldKind::Full),
        _ => None,
    }
}

fn malformed(what: std::fmt::Arguments<'_>) -> Error {
    Error::failed(format!("malformed pgoutput message: {what}")).hint("this is a defect of hyperlift or of the spool: please report it with the log")
}

fn need(b: &[u8], n: usize) -> Result<()> {
    if b.len() < n { Err(malformed(format_args!("it ends {} bytes early", n - b.len()))) } else { Ok(()) }
}

fn expect(b: &mut &[u8], tag: u8) -> Result<()> {
    let found = u8_(b)?;
    if found == tag { Ok(()) } else { Err(malformed(format_args!("tag {found} instead of {tag}"))) }
}

fn u8_(b: &mut &[u8]) -> Result<u8> {
    need(b, 1)?;
    Ok(b.get_u8())
}
fn u16_(b: &mut &[u8]) -> Result<u16> {
    need(b, 2)?;
    Ok(b.get_u16())
}
fn u32_(b: &mut &[u8]) -> Result<u32> {
    need(b, 4)?;
    Ok(b.get_u32())
}
fn lsn(b: &mut &[u8]) -> Result<Lsn> {
    need(b, 8)?;
    Ok(Lsn(b.get_u64()))
}
fn time(b: &mut &[u8]) -> Result<Timestamp> {
    need(b, 8)?;
    Timestamp::from_microsecond(b.get_i64().saturating_add(EPOCH_MICROS)).map_err(|e| malformed(format_args!("{e}")))
}
fn string(b: &mut &[u8]) -> Result<String> {
    let end = b.iter().position(|c| *c == 0).ok_or_else(|| malformed(format_args!("a string without end")))?;
    let text = String::from_utf8_lossy(&b[..end]).into_owned();
    b.advance(end + 1);
    Ok(text)
}

/// Writes messages as a walsender does; for tests of what reads them.
#[cfg(test)]
pub mod encode {
    use super::Value;
    use bytes::BufMut;

    fn tuple(b: &mut Vec<u8>, values: &[Value<'_>]) {
        b.put_u16(values.len() as u16);
        for v in values {
            match v {
                Value::Null => b.put_u8(b'n'),
                Value::Unchanged => b.put_u8(b'u'),
                Value::Text(t) => {
                    b.put_u8(b't');
                    b.put_u32(t.len() as u32);
                    b.put_slice(t);
                }
            }
        }
    }

    /// `tag` is I, U or D; tuples come with their tags: N, K or O.
    pub fn row(tag: u8, relation: u32, tuples: &[(u8, &[Value<'_>])]) -> Vec<u8> {
        let mut b = vec![tag];
        b.put_u32(relation);
        for (tag, values) in tuples {
            b.put_u8(*tag);
            tuple(&mut b, values);
        }
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &[Value<'_>] = &[Value::Text(b"1"), Value::Null];
    const NEW: &[Value<'_>] = &[Value::Text(b"2"), Value::Unchanged];

    #[test]
    fn an_update_with_old_key_and_unchanged_value() {
        let bytes = encode::row(b'U', 77, &[(b'K', OLD), (b'N', NEW)]);
        assert_eq!(peek(&bytes).unwrap(), Peek::Row { op: RowOp::Update, oid: 77 });
        let Message::Row { relation: 77, operation: Operation::Update { old: Some((OldKind::Key, old)), new } } = decode(&bytes).unwrap() else {
            panic!()
        };
        assert_eq!((old.values().collect::<Vec<_>>(), new.values().collect::<Vec<_>>()), (OLD.to_vec(), NEW.to_vec()));
        assert_eq!((new.raw(0, 0), new.raw(0, 1)), (Some(&b"t\0\0\0\x012"[..]), None));
    }

    #[test]
    fn a_message_that_ends_early_is_an_error_at_every_length() {
        let bytes = encode::row(b'U', 77, &[(b'K', OLD), (b'N', NEW)]);
        for n in 0..bytes.len() {
            assert!(decode(&bytes[..n]).is_err(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = (peek(&bytes), decode(&bytes));
        }
    }
}
