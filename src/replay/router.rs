//! The router: reads the spool in order, decodes, maps leaves to their roots, tests visibility (I1), and hands each change to its
//! relation's lane. It holds barriers (I7).

mod barrier;
mod ddl;
mod division;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use self::ddl::Reshaped;
use self::{barrier::Whole, division::Hot};
use super::{
    change::Change,
    key,
    lane::{Feed, Shared},
    pgoutput::{self, Message, RelationMessage},
    receiver,
    spool::{self, Reader},
};
use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::TableName,
    pg::{
        catalog::{self, Partition, ShapeColumn},
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        ledger::Spread,
    },
};

/// Messages on their way to one lane.
pub const LANE_QUEUE: usize = 64;
/// Changes on their way to all lanes together, and in their batches, kB.
const QUEUE_KILOBYTES: u32 = 24 << 10;
/// Changes for a lane are sent when there are so many bytes of them.
const PACK_BYTES: usize = 128 << 10;

/// All lanes hear where the router stands at least this often.
const TELL_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// What the router tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// All transactions that ended up to here were handed to the lanes.
    pub routed: Lsn,
    pub last_commit: Option<Timestamp>,
}

/// Ask for it, and the lanes stop together once everything committed before `lsn` is applied. They go on when the answer is dropped
/// or sent back.
pub struct BarrierRequest {
    pub lsn: Lsn,
    pub reached: oneshot::Sender<()>,
}

pub struct Router {
    pub shared: Shared,
    pub lanes: Vec<mpsc::Sender<Feed>>,
    /// Where each lane started.
    pub positions: Vec<Position>,
    pub spool_dir: PathBuf,
    pub receiver: watch::Receiver<receiver::Status>,
    pub progress: watch::Sender<Progress>,
    pub barriers: mpsc::Receiver<BarrierRequest>,
    pub paused: watch::Receiver<bool>,
    /// For the roots of leaves that came into being during the run.
    pub source: Client,
    pub source_info: Conninfo,
    /// Leaves as they stand on the target, with the index of their relation.
    pub leaves: HashMap<TableName, usize>,
    /// Partitions on the source of what is one table on the target, by OID.
    pub partitions: BTreeMap<u32, Partition>,
    /// Columns of the relations as they were copied, by OID. One that is not here is not watched for DDL.
    pub shapes: HashMap<u32, Vec<ShapeColumn>>,
    pub reshaped: mpsc::UnboundedSender<Reshaped>,
}

/// The transaction that is being read.
struct Transaction {
    commit: Lsn,
    time: Timestamp,
    xid: u32,
    /// Changes so far.
    changes: u64,
    /// Lanes that got some.
    lanes: Vec<bool>,
    /// Touches a deferrable constraint, which may be violated until its end: no lane may commit a part of what it does there.
    deferrable: bool,
    whole: Option<Whole>,
}

/// A relation of the stream: its description, and which replayed relation it belongs to.
#[derive(Clone)]
struct Known {
    message: Arc<RelationMessage>,
    /// `None`: out of scope.
    target: Option<usize>,
    /// Its columns are what they should be.
    checked: bool,
    /// Columns of its key.
    keys: Vec<usize>,
    /// That of them with which the target's primary key begins.
    first: Option<usize>,
}

/// Changes that are collected for one lane: packed, so that a rare one does not hold the block that it came in.
#[derive(Default)]
struct Pack {
    bytes: BytesMut,
    /// All but their messages, and where those end.
    changes: Vec<(Change, usize)>,
    up_to: Option<Lsn>,
}

impl Pack {
    fn push(&mut self, change: Change, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.changes.push((change, self.bytes.len()));
        self.up_to = None;
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.changes.len() * size_of::<Change>()
    }

    fn take(&mut self) -> (Vec<Change>, Option<Lsn>) {
        let bytes = self.bytes.split().freeze();
        let mut start = 0;
        let changes = self.changes.drain(..).map(|(mut change, end)| {
            change.message = bytes.slice(std::mem::replace(&mut start, end)..end);
            change
        });
        (changes.collect(), self.up_to.take())
    }
}

struct State {
    hot: Hot,
    looked_ahead: bool,
    packs: Vec<Pack>,
    known: HashMap<u32, Known>,
    by_oid: HashMap<u32, usize>,
    transaction: Option<Transaction>,
    /// End of the last whole transaction or watermark.
    routed: Lsn,
    room: Arc<Semaphore>,
    waiting: Vec<BarrierRequest>,
}

impl Router {
    pub async fn run(mut self) -> Result<()> {
        let cancel = self.shared.cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            result = self.route() => result,
        }
    }

    async fn route(&mut self) -> Result<()> {
        let start = self.positions.iter().min().copied().unwrap_or_default();
        let mut reader = Reader::open(&self.spool_dir, start.lsn)?;
        let mut by_oid: HashMap<u32, usize> = self.shared.relations.iter().enumerate().map(|(i, r)| (r.oid, i)).collect();
        let partitions: Vec<_> = self.partitions.iter().filter_map(|(oid, p)| Some((*oid, *by_oid.get(&p.root)?))).collect();
        by_oid.extend(partitions);
        let relations = self.shared.relations.len();
        let mut state = State {
            hot: Hot::of(relations, self.lanes.len()),
            looked_ahead: false,
            packs: self.lanes.iter().map(|_| Pack::default()).collect(),
            known: HashMap::new(),
            by_oid,
            transaction: None,
            routed: start.lsn,
            room: Arc::new(Semaphore::new(QUEUE_KILOBYTES as usize)),
            waiting: Vec::new(),
        };
        let mut told = std::time::Instant::now();
        loop {
            self.paused.wait_for(|p| !p).await.map_err(|_| Error::stopped())?;
            let end = self.receiver.borrow_and_update().end;
            let block = tokio::task::block_in_place(|| reader.next(end))?;
            if let Some(block) = block {
                for record in spool::records(block) {
                    match pgoutput::row_of(&record) {
                        Some(relation) => self.change(relation, &record, &mut state).await?,
                        None => self.record(&record, &mut state).await?,
                    }
                }
                self.send_packs(&mut state).await?;
                self.divide_anew(&mut state).await?;
            } else {
                // Everything that is durable was read, and the durable end lies between transactions.
                state.routed = state.routed.max(end.lsn);
                self.tell_all(state.routed).await?;
                self.answer_barriers(&mut state).await?;
                tokio::select! {
                    changed = self.receiver.changed() => changed.map_err(|_| Error::failed("the receiver has ended"))?,
                    Some(request) = self.barriers.recv() => state.waiting.push(request),
                }
                continue;
            }
            while let Ok(request) = self.barriers.try_recv() {
                state.waiting.push(request);
            }
            if state.transaction.is_none() {
                self.answer_barriers(&mut state).await?;
                // Lanes without changes must not keep the spool for the length of a backlog.
                if told.elapsed() > TELL_EVERY {
                    told = std::time::Instant::now();
                    self.tell_all(state.routed).await?;
                }
            }
        }
    }

    async fn tell_all(&self, lsn: Lsn) -> Result<()> {
        for lane in &self.lanes {
            send(lane, Feed::UpTo(lsn)).await?;
        }
        self.progress.send_if_modified(|p| {
            let news = p.routed != lsn;
            p.routed = lsn;
            news
        });
        Ok(())
    }

    async fn record(&mut self, record: &[u8], state: &mut State) -> Result<()> {
        if record.first() == Some(&spool::WATERMARK) {
            let lsn = record.get(1..9).map_or(0, |b| u64::from_be_bytes(b.try_into().expect("eight bytes")));
            state.routed = state.routed.max(Lsn(lsn));
            return Ok(());
        }
        match pgoutput::decode(record)? {
            Message::Begin { commit, time, xid } => {
                let lanes = vec![false; self.lanes.len()];
                state.transaction = Some(Transaction { commit, time, xid, changes: 0, lanes, deferrable: false, whole: None });
                if !state.looked_ahead && self.positions.iter().all(|p| p.lsn < commit) {
                    state.looked_ahead = true;
                    Box::pin(self.look_ahead(state)).await?;
                }
            }
            Message::Commit { end, .. } => {
                if let Some(mut transaction) = state.transaction.take() {
                    state.routed = state.routed.max(end);
                    if let Some(Whole { stretches, truncated, lanes }) = transaction.whole.take() {
                        self.hand_to_one(stretches, truncated, lanes, Position::after(end)).await?;
                    }
                    for (pack, _) in state.packs.iter_mut().zip(&transaction.lanes).filter(|(_, touched)| **touched) {
                        pack.up_to = Some(end);
                    }
                    self.progress.send_modify(|p| (p.routed, p.last_commit) = (state.routed, Some(transaction.time)));
                }
            }
            Message::Relation(message) => {
                let target = self.target_of(&message, state).await?;
                state.known.insert(message.oid, self.known(Arc::new(message), target));
            }
            Message::Truncate { relations, .. } => self.truncate(&relations, state).await?,
            Message::Row { .. } | Message::Other(_) => {}
        }
        Ok(())
    }

    /// The replayed relation of a relation message: itself, or the root of which it is a leaf. Known by OID (C-32). `None` when it
    /// belongs to nothing that is replayed: it may be gone from the source since, which matters only if a change of it is still due.
    async fn target_of(&mut self, message: &RelationMessage, state: &mut State) -> Result<Option<usize>> {
        if let Some(target) = state.by_oid.get(&message.oid) {
            return Ok(Some(*target));
        }
        let partition = self.partition(message.oid).await?;
        let name = TableName::new(&message.schema, &message.name);
        let target = partition.and_then(|(p, _)| state.by_oid.get(&p.root).copied()).or_else(|| self.leaves.get(&name).copied());
        if let Some(target) = target {
            state.by_oid.insert(message.oid, target);
        }
        Ok(target)
    }

    /// A partition as it is on the source now, and the leaves of its root; asked for again and again while the source cannot be reached.
    async fn partition(&mut self, oid: u32) -> Result<Option<(Partition, Vec<u32>)>> {
        loop {
            let answer = match self.source().await {
                Ok(source) => catalog::partition(source, oid).await,
                Err(e) => Err(e),
            };
            match answer {
                Err(e) if e.is_transient() => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
                other => return other,
            }
        }
    }

    /// The connection to the source; a new one if it was lost.
    async fn source(&mut self) -> Result<&Client> {
        if self.source.is_closed() {
            let name = format!("hyperlift/{}/router", self.shared.migration);
            self.source = client::connect(&self.source_info, Side::Source, &name).await?;
        }
        Ok(&self.source)
    }

    fn known(&self, message: Arc<RelationMessage>, target: Option<usize>) -> Known {
        let relation = target.map(|target| &self.shared.relations[target]);
        let keys = relation.map_or_else(Vec::new, |r| key::columns(&message, r));
        let first = relation.and_then(|r| r.target.primary_key.first());
        let first = keys.iter().copied().find(|i| Some(&message.columns[*i].name) == first);
        Known { message, target, checked: false, keys, first }
    }

    async fn change(&mut self, oid: u32, message: &[u8], state: &mut State) -> Result<()> {
        let transaction = state.transaction.as_mut().ok_or_else(|| Error::failed("a change outside of a transaction in the stream"))?;
        transaction.changes += 1;
        let known =
            state.known.get(&oid).ok_or_else(|| Error::failed(format!("a change of a relation that the stream has not described (OID {oid})")))?;
        let position = Position { lsn: transaction.commit, change: transaction.changes };
        let Some(target) = known.target else {
            if self.positions.iter().all(|p| position <= *p) {
                return Ok(());
            }
            let name = TableName::new(&known.message.schema, &known.message.name);
            return Err(Error::failed(format!("the stream changes {name}, which is not part of this migration"))
                .hint("a table or partition that is gone from the source again? Run `hyperlift clean`, empty the target and start again"));
        };
        let relation = &self.shared.relations[target];
        let lanes = self.lanes.len();
        let way = match relation.spread {
            Spread::No => Some(relation.lane as usize),
            Spread::First => known.first.and_then(|column| key::lane(message, &[column], lanes)),
            Spread::Key => key::lane(message, &known.keys, lanes),
        };
        let applied = match way {
            Some(lane) => position <= self.positions[lane],
            None => self.positions.iter().all(|p| position <= *p),
        };
        if applied || !relation.wants(transaction.commit, transaction.xid) {
            return Ok(());
        }
        let lane = way.unwrap_or(relation.lane as usize);
        if !known.checked {
            self.check_shape(oid, target, state).await?;
        }
        let Some(transaction) = &mut state.transaction else { return Ok(()) };
        transaction.deferrable |= self.shared.relations[target].target.deferrable;
        if way.is_none() && transaction.deferrable && transaction.whole.is_none() {
            self.gather(state).await?;
        }
        let Some(transaction) = &mut state.transaction else { return Ok(()) };
        let known = &state.known[&oid];
        let mut change = Change { position, relation: known.message.clone(), target, message: Bytes::new() };
        if let Some(whole) = &mut transaction.whole {
            change.message = Bytes::copy_from_slice(message);
            whole.push(change);
            return Ok(());
        }
        if way.is_none() {
            // A row whose key moves from lane to lane; where that happens once, it happens again.
            state.hot.banned[target] = true;
            self.spread(target, Spread::No, Position { change: position.change - 1, ..position }, state).await?;
        }
        let Some(transaction) = &mut state.transaction else { return Ok(()) };
        transaction.lanes[lane] = true;
        let by_first = if self.shared.relations[target].spread == Spread::No { self.lane_by_first(&state.known[&oid], message) } else { lane };
        state.hot.note(target, by_first, message.len());
        state.packs[lane].push(change, message);
        if state.packs[lane].len() >= PACK_BYTES { self.send_pack(lane, state).await } else { Ok(()) }
    }

    async fn send_packs(&self, state: &mut State) -> Result<()> {
        for lane in 0..self.lanes.len() {
            self.send_pack(lane, state).await?;
        }
        Ok(())
    }

    async fn send_pack(&self, lane: usize, state: &mut State) -> Result<()> {
        let pack = &mut state.packs[lane];
        if pack.changes.is_empty() {
            return match pack.up_to.take() {
                Some(lsn) => send(&self.lanes[lane], Feed::UpTo(lsn)).await,
                None => Ok(()),
            };
        }
        state.hot.pressed |= self.lanes[lane].capacity() < LANE_QUEUE * 7 / 8;
        let kilobytes = ((pack.len() >> 10) as u32 + 1).min(QUEUE_KILOBYTES);
        let room = if let Ok(room) = state.room.clone().try_acquire_many_owned(kilobytes) {
            room
        } else {
            state.hot.pressed = true;
            // Lanes may hold the room in the batch of a transaction that waits for these very changes.
            for lane in &self.lanes {
                send(lane, Feed::Flush).await?;
            }
            state.room.clone().acquire_many_owned(kilobytes).await.expect("the semaphore is never closed")
        };
        let (changes, up_to) = state.packs[lane].take();
        send(&self.lanes[lane], Feed::Changes(changes, room, up_to)).await
    }
}

async fn send(lane: &mpsc::Sender<Feed>, feed: Feed) -> Result<()> {
    lane.send(feed).await.map_err(|_| lane_gone())
}

fn lane_gone() -> Error {
    Error::failed("a replay lane has ended").hint("see the log for the reason")
}
