//! The router: reads the spool in order, decodes, maps leaves to their roots, tests visibility (I1), and hands each change to its
//! relation's lane. It holds barriers (I7).

mod barrier;
mod distribution;
mod hot_table;
mod routing;
mod schema_change;
mod spec;
mod transaction;
mod truncate;

use bytes::Bytes;
use jiff::Timestamp;
use std::time::{Duration, Instant};

use self::{
    routing::{Described, Routing},
    transaction::OpenTransaction,
};
use super::{
    change::Change,
    pgoutput::{self, Message, Peek, RowOp, peek},
    spool::{self, SpoolReader},
};
use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::TableName,
    pg::ledger::Spread,
};

pub use self::spec::{BarrierRequest, DistributionPolicy, LANE_QUEUE, RouterProgress, RouterSpec};

/// Changes for a lane are sent when there are this many bytes of them.
const PACK_BYTES: usize = 128 << 10;
/// Lanes without changes must not keep the spool for the length of a backlog: this often all lanes get to know how far the router is.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// Routes the stream from the lanes' positions on, until `cancel` or an error.
pub async fn run(spec: RouterSpec, cancel: tokio_util::sync::CancellationToken) -> Result<()> {
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = route(spec) => result,
    }
}

async fn route(spec: RouterSpec) -> Result<()> {
    let mut routing = Routing::new(spec);
    let mut reader = SpoolReader::open(&routing.spec.spool_dir, routing.routed)?;
    let mut reported = Instant::now();
    loop {
        routing.spec.paused.wait_for(|p| !p).await.map_err(|_| Error::stopped())?;
        let end = routing.spec.receiver.borrow_and_update().end;
        let Some(block) = tokio::task::block_in_place(|| reader.next(end))? else {
            routing.wait_at_end(end.lsn).await?;
            continue;
        };
        for record in spool::records(block) {
            routing.record(&record).await?;
        }
        routing.send_packs().await?;
        routing.distribute().await?;
        while let Ok(request) = routing.spec.barriers.try_recv() {
            routing.waiting.push(request);
        }
        if routing.transaction.is_none() {
            routing.answer_barriers().await?;
            if reported.elapsed() > REPORT_EVERY {
                reported = Instant::now();
                routing.report_routed().await?;
            }
        }
    }
}

impl Routing {
    /// Everything that is durable was read, up to `end`, which lies between transactions.
    async fn wait_at_end(&mut self, end: Lsn) -> Result<()> {
        self.routed = self.routed.max(end);
        self.report_routed().await?;
        self.answer_barriers().await?;
        tokio::select! {
            Ok(()) = self.spec.receiver.changed() => {}
            Some(request) = self.spec.barriers.recv() => self.waiting.push(request),
            // The receiver has ended. What it has spooled is routed, and its error is the run's.
            else => std::future::pending().await,
        }
        Ok(())
    }

    async fn record(&mut self, record: &[u8]) -> Result<()> {
        if let Peek::Row { op, oid } = peek(record)? {
            let mut transaction = self.take_transaction()?;
            let routed = self.change(&mut transaction, op, oid, record).await;
            self.transaction = Some(transaction);
            return routed;
        }
        if let Some(lsn) = spool::watermark(record) {
            self.routed = self.routed.max(lsn);
            return Ok(());
        }
        match pgoutput::decode(record)? {
            Message::Begin { commit, time, xid } => self.begin(commit, time, xid).await,
            Message::Commit { end, .. } => self.commit(end).await,
            Message::Relation(message) => self.describe(message).await,
            Message::Truncate { relations, .. } => {
                let mut transaction = self.take_transaction()?;
                let truncated = self.truncate(&mut transaction, &relations).await;
                self.transaction = Some(transaction);
                truncated
            }
            Message::Row { .. } | Message::Other(_) => Ok(()),
        }
    }

    async fn begin(&mut self, commit: Lsn, time: Timestamp, xid: u32) -> Result<()> {
        self.transaction = Some(Box::new(OpenTransaction::new(commit, time, xid, self.spec.lanes.len())));
        if !self.looked_ahead && self.spec.positions.iter().all(|p| p.lsn < commit) {
            self.looked_ahead = true;
            self.look_ahead().await?;
        }
        Ok(())
    }

    async fn commit(&mut self, end: Lsn) -> Result<()> {
        let transaction = self.transaction.take().ok_or_else(|| Error::failed("a commit outside of a transaction in the stream"))?;
        self.routed = self.routed.max(end);
        let OpenTransaction { time, lanes, buffered, .. } = *transaction;
        if let Some(buffered) = buffered {
            self.apply_for_all(buffered, Position::after(end)).await?;
        }
        for (pack, _) in self.packs.iter_mut().zip(&lanes).filter(|(_, touched)| **touched) {
            pack.up_to = Some(end);
        }
        self.spec.progress.send_modify(|p| (p.routed, p.last_commit) = (self.routed, Some(time)));
        Ok(())
    }

    async fn change(&mut self, transaction: &mut OpenTransaction, op: RowOp, oid: u32, message: &[u8]) -> Result<()> {
        let position = transaction.next_position();
        let described =
            self.described.get(&oid).ok_or_else(|| Error::failed(format!("a change of a relation that the stream has not described (OID {oid})")))?;
        let Some(index) = described.relation else { return self.out_of_scope(described, position) };
        let lane = self.lane_of(index, described, message);
        let applied = match lane {
            Some(lane) => position <= self.spec.positions[lane],
            None => self.spec.positions.iter().all(|p| position <= *p),
        };
        if applied || !self.relations[index].wants(transaction.commit, transaction.xid) {
            return Ok(());
        }
        if !described.checked {
            self.check_shape(oid, index).await?;
        }
        transaction.deferrable |= self.relations[index].shape.deferrable;
        if lane.is_none() && transaction.deferrable && transaction.buffered.is_none() {
            self.buffer(transaction).await?;
        }
        let description = self.described[&oid].message.clone();
        let mut change = Change { position, relation: index, op, description, message: Bytes::new() };
        if let Some(buffered) = &mut transaction.buffered {
            change.message = Bytes::copy_from_slice(message);
            buffered.push(change);
            return Ok(());
        }
        let lane = if let Some(lane) = lane {
            lane
        } else {
            // A row whose key moves from lane to lane; where that happens once, it happens again.
            self.hot.banned[index.0] = true;
            self.set_spread(index, Spread::No, Position { change: position.change - 1, ..position }).await?;
            transaction.lanes.fill(true);
            self.relations[index].lane as usize
        };
        transaction.lanes[lane] = true;
        let by_first = if self.spec.spread[index.0] == Spread::No { self.lane_by_first(&self.described[&oid], message) } else { lane };
        self.hot.note(index, by_first, message.len());
        self.packs[lane].push(change, message);
        if self.packs[lane].bytes() >= PACK_BYTES { self.send_pack(lane).await } else { Ok(()) }
    }

    /// A change of what is not replayed: harmless only where other lanes replay it, or when every lane is past it.
    fn out_of_scope(&self, described: &Described, position: Position) -> Result<()> {
        if self.spec.side_lane.is_some() || self.spec.positions.iter().all(|p| position <= *p) {
            return Ok(());
        }
        let name = TableName::new(&described.message.schema, &described.message.name);
        Err(Error::failed(format!("the stream changes {name}, which is not part of this migration"))
            .hint("a table or partition that is gone from the source again? Run `hyperlift clean`, empty the target and start again"))
    }
}
