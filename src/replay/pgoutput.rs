//! Decoder of pgoutput, protocol version 1 (PostgreSQL documentation 55.9, "Logical Replication Message Formats").
//!
//! Values stay slices of the buffer that was read; nothing is copied.

use bytes::{Buf, Bytes};
use jiff::Timestamp;

use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The four states of a replicated value; the stream of version 1 is text only, so `Binary` has no variant here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    /// A TOAST value that the update did not touch: it is not in the stream.
    Unchanged,
    /// The output of the type's output function.
    Text(Bytes),
}

pub type Tuple = Vec<Value>;

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
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
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Option<(OldKind, Tuple)>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        kind: OldKind,
        old: Tuple,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// Origin, Type and logical messages: they carry nothing to replay.
    Other(u8),
}

/// Decodes one message.
pub fn decode(mut m: Bytes) -> Result<Message> {
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
            Message::Insert { relation, new: tuple(b)? }
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
            Message::Update { relation, old, new: tuple(b)? }
        }
        b'D' => {
            let relation = u32_(b)?;
            let tag = u8_(b)?;
            let kind = old_kind(tag).ok_or_else(|| malformed(format_args!("tuple tag {tag}")))?;
            Message::Delete { relation, kind, old: tuple(b)? }
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

fn relation(b: &mut Bytes) -> Result<RelationMessage> {
    let (oid, schema, name, identity) = (u32_(b)?, string(b)?, string(b)?, u8_(b)?);
    let n = u16_(b)?;
    let columns = (0..n)
        .map(|_| {
            let flags = u8_(b)?;
            let name = string(b)?;
            Ok(ColumnMessage { key: flags & 1 != 0, name, type_oid: u32_(b)?, type_modifier: u32_(b)? as i32 })
        })
        .collect::<Result<_>>()?;
    // An empty schema name stands for pg_catalog.
    let schema = if schema.is_empty() { "pg_catalog".into() } else { schema };
    Ok(RelationMessage { oid, schema, name, identity, columns })
}

fn tuple(b: &mut Bytes) -> Result<Tuple> {
    let n = u16_(b)?;
    (0..n)
        .map(|_| {
            Ok(match u8_(b)? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b't' => {
                    let len = u32_(b)? as usize;
                    need(b, len)?;
                    Value::Text(b.split_to(len))
                }
                tag => return Err(malformed(format_args!("value tag {tag}"))),
            })
        })
        .collect()
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

fn need(b: &Bytes, n: usize) -> Result<()> {
    if b.remaining() < n { Err(malformed(format_args!("it ends {} bytes early", n - b.remaining()))) } else { Ok(()) }
}

fn expect(b: &mut Bytes, tag: u8) -> Result<()> {
    let found = u8_(b)?;
    if found == tag { Ok(()) } else { Err(malformed(format_args!("tag {found} instead of {tag}"))) }
}

fn u8_(b: &mut Bytes) -> Result<u8> {
    need(b, 1)?;
    Ok(b.get_u8())
}
fn u16_(b: &mut Bytes) -> Result<u16> {
    need(b, 2)?;
    Ok(b.get_u16())
}
fn u32_(b: &mut Bytes) -> Result<u32> {
    need(b, 4)?;
    Ok(b.get_u32())
}
fn lsn(b: &mut Bytes) -> Result<Lsn> {
    need(b, 8)?;
    Ok(Lsn(b.get_u64()))
}
fn time(b: &mut Bytes) -> Result<Timestamp> {
    need(b, 8)?;
    Timestamp::from_microsecond(b.get_i64().saturating_add(EPOCH_MICROS)).map_err(|e| malformed(format_args!("{e}")))
}
fn string(b: &mut Bytes) -> Result<String> {
    let end = b.iter().position(|c| *c == 0).ok_or_else(|| malformed(format_args!("a string without end")))?;
    let text = String::from_utf8_lossy(&b[..end]).into_owned();
    b.advance(end + 1);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    fn put_tuple(b: &mut BytesMut, values: &[Value]) {
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

    fn update() -> (BytesMut, Message) {
        let old = vec![Value::Text(Bytes::from_static(b"1")), Value::Null];
        let new = vec![Value::Text(Bytes::from_static(b"2")), Value::Unchanged];
        let mut b = BytesMut::new();
        b.put_u8(b'U');
        b.put_u32(77);
        b.put_u8(b'K');
        put_tuple(&mut b, &old);
        b.put_u8(b'N');
        put_tuple(&mut b, &new);
        (b, Message::Update { relation: 77, old: Some((OldKind::Key, old)), new })
    }

    #[test]
    fn an_update_with_old_key_and_unchanged_value() {
        let (bytes, message) = update();
        assert_eq!(decode(bytes.freeze()).unwrap(), message);
    }

    #[test]
    fn a_message_that_ends_early_is_an_error_at_every_length() {
        let (bytes, _) = update();
        let bytes = bytes.freeze();
        for n in 0..bytes.len() {
            assert!(decode(bytes.slice(..n)).is_err(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = decode(Bytes::from(bytes));
        }
    }
}
