//! The source's side of a copy: sessions, locks, and snapshots that see everything that the slot does not stream (I1, I3).

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use super::{
    parts::{Heap, Ranges},
    slot,
};
use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::Level,
    lsn::Lsn,
    name::{TableName, literal},
    pg::{
        catalog::{self, SourceRelation},
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        slot as server_slot,
        snapshot::Snapshot,
        wire::{Failed, Request, Response, Wire},
    },
    sqlstate,
};

/// One attempt to lock a table waits no longer than this for a session that has locked it exclusively. Then it is reported and tried again.
const LOCK_TIMEOUT: &str = "2s";
/// The server flushes what was committed several times a second. WAL that is not flushed after this time needs another record.
const WRITE_AFTER: Duration = Duration::from_secs(1);

/// Makes the server read only the ranges of blocks, or of keys, that a query names.
const BY_RANGES: &str = "set local enable_seqscan = off; set local max_parallel_workers_per_gather = 0";

/// How the copies connect to the source, and which snapshots they may use.
pub struct CopySource {
    pub conninfo: Conninfo,
    pub reporter: Reporter,
    /// `hyperlift/<id>/`
    pub prefix: String,
    /// Every transaction that the slot does not stream has a smaller ID. A snapshot sees all of them if its `xmin` is not smaller.
    pub horizon: u64,
}

impl CopySource {
    pub async fn connect(&self, worker: &str) -> Result<SourceSession> {
        let wire = Wire::open(&self.conninfo, Side::Source, &format!("{}{worker}", self.prefix)).await?;
        Ok(SourceSession { wire, in_transaction: false })
    }

    /// A connection beside the one that copies.
    async fn watcher(&self) -> Result<Client> {
        client::connect(&self.conninfo, Side::Source, &format!("{}watch", self.prefix)).await
    }

    /// Takes lock, snapshot, L and columns, in this order and in one round trip; again until the snapshot sees every transaction that the
    /// slot does not stream. A transaction that the session still has is ended first.
    pub async fn lock_and_snapshot(&self, session: &mut SourceSession, relation: &SourceRelation) -> Result<TableSnapshot> {
        let what = format!("the copy of {}", relation.table);
        let begin = format!("begin isolation level repeatable read read only; {}", lock(relation));
        let (table, oid) = (relation.table.sql(), relation.oid.to_string());
        let mut shown = false;
        loop {
            let parameter = |value: &'_ str| vec![Some(Cow::Owned(value.as_bytes().to_vec()))];
            let begin = format!("{}{begin}", session.ending());
            let requests = vec![
                Request::Query(begin.into()),
                Request::Execute(SNAPSHOT.into(), parameter(&table)),
                Request::Execute(COLUMNS.into(), parameter(&oid)),
            ];
            let answers = match session.wire.run(requests).await {
                Ok(answers) => answers,
                Err(Failed { error, .. }) if error.has_code(sqlstate::LOCK_NOT_AVAILABLE) => {
                    self.reporter.notice(Level::Info, format!("{what} waits: the table is locked on the source")).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                Err(Failed { error, .. }) => return Err(error.context("source")),
            };
            // The table is locked by name but published by OID: both must still be the same table.
            if text(&answers, 1, 0, 3).parse() != Ok(relation.oid) {
                return Err(Error::failed(format!("{} is not the same table on the source as when the migration began", relation.table))
                    .hint("was it dropped and created again, or renamed? Run `hyperlift clean`, empty the target and start again"));
            }
            let (snapshot, at): (Snapshot, Lsn) = (text(&answers, 1, 0, 0).parse()?, text(&answers, 1, 0, 1).parse()?);
            if snapshot.xmin < self.horizon {
                // No lock is held while we wait for another transaction.
                session.end().await?;
                let watcher = self.watcher().await?;
                let holders = catalog::holders(&watcher, Some(self.horizon)).await?;
                if holders.is_empty() {
                    // No transaction holds the snapshot back: the next transaction ID itself is below, as may happen after a crash of
                    // the source. This assigns one.
                    server_slot::horizon(&watcher).await?;
                }
                slot::report_holders(&self.reporter, &what, holders, &mut shown).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
            slot::report_holders(&self.reporter, &what, Vec::new(), &mut shown).await;
            let flushed: Lsn = text(&answers, 1, 0, 2).parse()?;
            let columns = (0..answers[2].rows.len()).map(|row| (text(&answers, 2, row, 0), text(&answers, 2, row, 1).parse().unwrap_or(0))).collect();
            return Ok(TableSnapshot { snapshot, at, durable: flushed >= at, columns });
        }
    }

    /// What was copied must be durable on the source before it counts (I3). The session that took the snapshot is still alive, so the
    /// server has not crashed in between.
    pub async fn wait_until_flushed(&self, wire: &mut Wire, at: Lsn) -> Result<()> {
        let mut written = Instant::now();
        loop {
            let rows = wire.simple("select pg_current_wal_flush_lsn()::text").await.map_err(|e| e.context("source"))?;
            let flushed: Lsn = rows.first().and_then(|r| r[0].as_deref()).unwrap_or_default().parse()?;
            if flushed >= at {
                return Ok(());
            }
            if written.elapsed() > WRITE_AFTER {
                // L may be after the header of a page that is still empty, as after a switch of the WAL file. A source without writes
                // would never flush that far.
                let other = self.watcher().await?;
                server_slot::horizon(&other).await?;
                written = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A session of the source that reads for the copy.
pub struct SourceSession {
    pub wire: Wire,
    /// It has a transaction, with a snapshot and locks.
    pub in_transaction: bool,
}

impl SourceSession {
    /// A prefix for statements that begin a transaction: it ends the one that is open.
    fn ending(&mut self) -> &'static str {
        // Rollback, because all are read-only and some have failed.
        if std::mem::replace(&mut self.in_transaction, true) { "rollback; " } else { "" }
    }

    /// Ends the transaction, if there is one, with its locks and its snapshot.
    pub async fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.in_transaction, false) {
            self.wire.simple("rollback").await.map_err(|e| e.context("source"))?;
        }
        Ok(())
    }

    /// Before a part, so that an error in the part does not end the snapshot.
    pub async fn set_savepoint(&mut self) -> Result<()> {
        self.wire.simple("savepoint part").await.map_err(|e| e.context("source")).map(drop)
    }

    /// After a part. Returns whether the snapshot is still alive.
    pub async fn release_savepoint(&mut self) -> bool {
        self.wire.simple("release savepoint part").await.is_ok()
    }

    /// After an error in a part. Returns whether the snapshot is still alive.
    pub async fn back_to_savepoint(&mut self, still_sending: bool) -> bool {
        if still_sending && self.wire.give_up_reading().await.is_err() {
            return false;
        }
        self.wire.simple("rollback to savepoint part; release savepoint part").await.is_ok()
    }
}

/// The snapshot under which a relation is copied, and what was read with it.
pub struct TableSnapshot {
    pub snapshot: Snapshot,
    /// L: where the source's WAL ended right after.
    pub at: Lsn,
    /// L is flushed already.
    pub durable: bool,
    /// The columns that COPY moves, with the OIDs of their types.
    pub columns: Vec<(String, u32)>,
}

/// The snapshot, L, and how far the server's WAL is flushed, in this order; and the OID of the table that was locked by its name.
const SNAPSHOT: &str =
    "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, to_regclass($1)::oid::text";
const COLUMNS: &str = "select attname::text, atttypid::text from pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped and attgenerated = '' order by attnum";

fn lock(relation: &SourceRelation) -> String {
    let only = relation.storage.only();
    format!(
        "set local synchronize_seqscans = off; set local lock_timeout = '{LOCK_TIMEOUT}'; lock table {only}{} in access share mode; set local lock_timeout = 0",
        relation.table.sql()
    )
}

fn text(answers: &[Response], at: usize, row: usize, column: usize) -> String {
    let value = answers.get(at).and_then(|a| a.rows.get(row)).and_then(|r| r.get(column)).and_then(Option::as_ref);
    value.map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
}

/// The tables that hold the rows of a relation, as they are under its lock. A leaf that is a foreign table holds rows only for a target
/// that has no such leaf, because it is one table there (`merged`).
pub async fn heaps(wire: &mut Wire, relation: &SourceRelation, merged: bool) -> Result<Vec<Heap>> {
    let of = if relation.storage.is_partitioned() { "pg_partition_tree($OID) where isleaf" } else { "(select $OID::regclass as relid) t" };
    let sql = format!(
        "select n.nspname::text, c.relname::text, (pg_relation_size(c.oid) / current_setting('block_size')::int)::text, pg_table_size(c.oid)::text, c.relkind::text
           from (select relid from {of}) t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ({}) order by c.oid",
        if merged { "'r', 'f'" } else { "'r'" }
    );
    let rows = wire.simple(&sql.replace("$OID", &relation.oid.to_string())).await.map_err(|e| e.context("source"))?;
    let field = |row: &[Option<String>], n: usize| row.get(n).cloned().flatten().unwrap_or_default();
    Ok(rows
        .iter()
        .map(|r| Heap {
            table: TableName::new(field(r, 0), field(r, 1)),
            blocks: field(r, 2).parse().unwrap_or(0),
            bytes: field(r, 3).parse().unwrap_or(0),
            ranges: if field(r, 4) == "f" { Ranges::Foreign } else { Ranges::Blocks },
        })
        .collect())
}

/// Exports the session's snapshot: others can join it for as long as this transaction lasts.
pub async fn export_snapshot(wire: &mut Wire) -> Result<String> {
    let rows = wire.simple(&format!("{BY_RANGES}; select pg_export_snapshot()")).await.map_err(|e| e.context("source"))?;
    rows.into_iter().next().and_then(|mut r| r.swap_remove(0)).ok_or_else(|| Error::failed("the source exports no snapshot"))
}

/// Lets the session read under a keeper's snapshot. The lock may not take long: an ALTER TABLE that waits for the keeper comes before
/// us, and each would wait for the other (55P03).
pub async fn join_snapshot(session: &mut SourceSession, relation: &SourceRelation, exported: &str) -> Result<()> {
    let begin = format!(
        "{}begin isolation level repeatable read read only; set transaction snapshot {}; {BY_RANGES}; {}",
        session.ending(),
        literal(exported),
        lock(relation)
    );
    match session.wire.simple(&begin).await {
        Ok(_) => Ok(()),
        // invalid_parameter_value: no session exports it any more
        Err(e) if e.has_code(sqlstate::INVALID_PARAMETER_VALUE) => Err(Error::connection(format!("source: the snapshot is gone: {e}"))),
        Err(e) => Err(e.context("source")),
    }
}
