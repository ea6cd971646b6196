//! The source's side of a copy: sessions, locks, and snapshots that may be used (I1, I3).

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use super::{
    Shared,
    parts::{Heap, Ranges},
    slot,
};
use crate::{
    error::{Error, Result},
    event::Level,
    lsn::Lsn,
    name::{TableName, literal},
    pg::{
        catalog::{self, SourceRelation},
        client::{self},
        connect::session::Side,
        slot as server_slot,
        snapshot::Snapshot,
        wire::{Answer, Failed, Request, Wire},
    },
    sqlstate,
};

/// A source whose tables are locked exclusively is not waited for longer than this at a time.
const LOCK_TIMEOUT: &str = "2s";
/// WAL that is not flushed by then is helped along: the server flushes what was committed several times a second.
const MOVE_ON_AFTER: Duration = Duration::from_secs(1);

/// What makes the server read ranges of blocks or of keys, and nothing but them.
const BY_RANGES: &str = "set local enable_seqscan = off; set local max_parallel_workers_per_gather = 0";

/// A session of the source.
pub struct Session {
    pub wire: Wire,
    /// It has a transaction: a snapshot, and locks.
    pub in_transaction: bool,
}

impl Session {
    pub async fn connect(shared: &Shared, worker: &str) -> Result<Self> {
        let wire = Wire::open(&shared.config.source, Side::Source, &format!("{}{worker}", shared.prefix)).await?;
        Ok(Self { wire, in_transaction: false })
    }

    /// What ends the transaction that there may be, at the front of other statements.
    fn ending(&mut self) -> &'static str {
        // They are all read-only, and some have failed.
        if std::mem::replace(&mut self.in_transaction, true) { "rollback; " } else { "" }
    }

    /// Ends the transaction, if there is one: locks and snapshot are given back.
    pub async fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.in_transaction, false) {
            self.wire.simple("rollback").await.map_err(|e| e.context("source"))?;
        }
        Ok(())
    }

    /// Before a part, so that an error in the middle of it leaves the snapshot alone.
    pub async fn set_savepoint(&mut self) -> Result<()> {
        self.wire.simple("savepoint part").await.map_err(|e| e.context("source")).map(drop)
    }

    /// After a part. Whether the snapshot lives.
    pub async fn release_savepoint(&mut self) -> bool {
        self.wire.simple("release savepoint part").await.is_ok()
    }

    /// After an error in the middle of a part: back to where the part began. Whether the snapshot lives.
    pub async fn back_to_savepoint(&mut self, still_sending: bool) -> bool {
        if still_sending && self.wire.give_up_reading().await.is_err() {
            return false;
        }
        self.wire.simple("rollback to savepoint part; release savepoint part").await.is_ok()
    }
}

/// What a session of the source has taken.
pub struct Taken {
    pub snapshot: Snapshot,
    pub at: Lsn,
    /// L is flushed already.
    pub durable: bool,
    /// Columns that COPY carries, with their types' OIDs.
    pub columns: Vec<(String, u32)>,
}

/// Snapshot, L, and how far the server's WAL is flushed, in this order; and which table it is that was locked by its name.
const TAKE: &str =
    "select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, to_regclass($1)::oid::text";
const COLUMNS: &str = "select attname::text, atttypid::text from pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped and attgenerated = '' order by attnum";

fn lock(relation: &SourceRelation) -> String {
    let only = relation.storage.only();
    format!(
        "set local synchronize_seqscans = off; set local lock_timeout = '{LOCK_TIMEOUT}'; lock table {only}{} in access share mode; set local lock_timeout = 0",
        relation.table.sql()
    )
}

fn text(answers: &[Answer], at: usize, row: usize, column: usize) -> String {
    let value = answers.get(at).and_then(|a| a.rows.get(row)).and_then(|r| r.get(column)).and_then(Option::as_ref);
    value.map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_default()
}

/// Lock, snapshot, L, columns, in this order and in one flight; again until every transaction that the slot does not stream is visible.
/// A transaction that the session still has is ended.
pub async fn open(shared: &Shared, session: &mut Session, relation: &SourceRelation) -> Result<Taken> {
    let what = format!("the copy of {}", relation.table);
    let begin = format!("begin isolation level repeatable read read only; {}", lock(relation));
    let (table, oid) = (relation.table.sql(), relation.oid.to_string());
    let mut shown = false;
    loop {
        let parameter = |value: &'_ str| vec![Some(Cow::Owned(value.as_bytes().to_vec()))];
        let begin = format!("{}{begin}", session.ending());
        let requests =
            vec![Request::Query(begin.into()), Request::Execute(TAKE.into(), parameter(&table)), Request::Execute(COLUMNS.into(), parameter(&oid))];
        let answers = match session.wire.run(requests).await {
            Ok(answers) => answers,
            Err(Failed { error, .. }) if error.has_code(sqlstate::LOCK_NOT_AVAILABLE) => {
                shared.reporter.notice(Level::Info, format!("{what} waits: the table is locked on the source")).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(Failed { error, .. }) => return Err(error.context("source")),
        };
        // Locked by name, published by OID: they must be the same table still.
        if text(&answers, 1, 0, 3).parse() != Ok(relation.oid) {
            return Err(Error::failed(format!("{} is another table on the source than when the migration began", relation.table))
                .hint("was it dropped and made again, or renamed? Run `hyperlift clean`, empty the target and start again"));
        }
        let (snapshot, at): (Snapshot, Lsn) = (text(&answers, 1, 0, 0).parse()?, text(&answers, 1, 0, 1).parse()?);
        if snapshot.xmin < shared.horizon {
            // The lock is not held while we wait for somebody.
            session.end().await?;
            let watcher = client::connect(&shared.config.source, Side::Source, &format!("{}watch", shared.prefix)).await?;
            let holders = catalog::holders(&watcher, Some(shared.horizon)).await?;
            if holders.is_empty() {
                // Nobody holds it back: the counter itself stands below, as it may after a crash of the source. This moves it on.
                server_slot::horizon(&watcher).await?;
            }
            slot::show(&shared.reporter, &what, holders, &mut shown).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        slot::show(&shared.reporter, &what, Vec::new(), &mut shown).await;
        let flushed: Lsn = text(&answers, 1, 0, 2).parse()?;
        let columns = (0..answers[2].rows.len()).map(|row| (text(&answers, 2, row, 0), text(&answers, 2, row, 1).parse().unwrap_or(0))).collect();
        return Ok(Taken { snapshot, at, durable: flushed >= at, columns });
    }
}

/// The tables that hold the rows of a relation, as they are under its lock. Leaves that are foreign tables hold none.
pub async fn heaps(wire: &mut Wire, relation: &SourceRelation) -> Result<Vec<Heap>> {
    let of = if relation.storage.is_partitioned() { "pg_partition_tree($OID) where isleaf" } else { "(select $OID::regclass as relid) t" };
    let sql = format!(
        "select n.nspname::text, c.relname::text, (pg_relation_size(c.oid) / current_setting('block_size')::int)::text, pg_table_size(c.oid)::text
           from (select relid from {of}) t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace
          where c.relkind = 'r' order by c.oid"
    );
    let rows = wire.simple(&sql.replace("$OID", &relation.oid.to_string())).await.map_err(|e| e.context("source"))?;
    let field = |row: &[Option<String>], n: usize| row.get(n).cloned().flatten().unwrap_or_default();
    Ok(rows
        .iter()
        .map(|r| Heap {
            table: TableName::new(field(r, 0), field(r, 1)),
            blocks: field(r, 2).parse().unwrap_or(0),
            bytes: field(r, 3).parse().unwrap_or(0),
            ranges: Ranges::Blocks,
        })
        .collect())
}

/// Lets other sessions read under the snapshot of this one, for as long as its transaction lasts.
pub async fn export(wire: &mut Wire) -> Result<String> {
    let rows = wire.simple(&format!("{BY_RANGES}; select pg_export_snapshot()")).await.map_err(|e| e.context("source"))?;
    rows.into_iter().next().and_then(|mut r| r.swap_remove(0)).ok_or_else(|| Error::failed("the source exports no snapshot"))
}

/// Reads under a keeper's snapshot from now on. It may not wait for long: an ALTER TABLE that waits for the keeper goes before us, and
/// would never get its turn (55P03).
pub async fn join(session: &mut Session, relation: &SourceRelation, exported: &str) -> Result<()> {
    let begin = format!(
        "{}begin isolation level repeatable read read only; set transaction snapshot {}; {BY_RANGES}; {}",
        session.ending(),
        literal(exported),
        lock(relation)
    );
    match session.wire.simple(&begin).await {
        Ok(_) => Ok(()),
        // invalid_parameter_value: nobody exports it any more
        Err(e) if e.has_code(sqlstate::INVALID_PARAMETER_VALUE) => Err(Error::connection(format!("source: the snapshot is gone: {e}"))),
        Err(e) => Err(e.context("source")),
    }
}

/// I3: what was copied must be durable on the source before it counts. The session that took the snapshot still lives, so the server
/// has not crashed in between.
pub async fn wait_durable(shared: &Shared, wire: &mut Wire, at: Lsn) -> Result<()> {
    let mut moved = Instant::now();
    loop {
        let rows = wire.simple("select pg_current_wal_flush_lsn()::text").await.map_err(|e| e.context("source"))?;
        let flushed: Lsn = rows.first().and_then(|r| r[0].as_deref()).unwrap_or_default().parse()?;
        if flushed >= at {
            return Ok(());
        }
        if moved.elapsed() > MOVE_ON_AFTER {
            // L may stand behind the header of a page on which there is nothing yet, as after a switch of the WAL file: a source that
            // nobody writes to would never come so far.
            let other = client::connect(&shared.config.source, Side::Source, &format!("{}watch", shared.prefix)).await?;
            server_slot::horizon(&other).await?;
            moved = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
