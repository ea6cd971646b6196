//! The router: reads the spool in order, decodes, maps leaves to their roots, tests visibility (I1), and hands each change to its
//! relation's lane. It holds barriers (I7).

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use std::{collections::HashMap, path::PathBuf, sync::Arc};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    change::Change,
    key,
    lane::{Feed, Resolution, Shared, Spreading, Together, Trouble},
    pgoutput::{self, Message, RelationMessage},
    receiver,
    relation::Relation,
    reshape::{self, Definitions},
    spool::{self, Reader},
};
use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::TableName,
    pg::{
        catalog::{self, ShapeColumn},
        client::{self, Client, Side},
        conninfo::Conninfo,
        ledger,
        target::{self, Equality},
        timescale,
    },
};

/// Messages on their way to one lane.
pub const LANE_QUEUE: usize = 64;
/// Changes on their way to all lanes together, and in their batches, kB.
const QUEUE_KILOBYTES: u32 = 24 << 10;
/// Changes for a lane are sent when there are so many bytes of them.
const PACK_BYTES: usize = 128 << 10;

/// A relation that has two fifths of so many bytes of changes is spread over the lanes.
const HOT_BYTES: u64 = 1 << 20;

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

/// A relation's DDL is done on the target, too.
#[derive(Clone, Debug)]
pub struct Reshaped {
    /// On the source.
    pub oid: u32,
    pub before: TableName,
    pub now: TableName,
    pub columns: Vec<ShapeColumn>,
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

/// What is observed to find the one relation that most changes are for.
#[derive(Default)]
struct Hot {
    /// Routed since the last look, by relation.
    bytes: Vec<u64>,
    all: u64,
    /// A queue began to fill: lanes do not keep up.
    pressed: bool,
    /// Its keys change.
    banned: Vec<bool>,
}

struct State {
    hot: Hot,
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
        let by_oid = self.shared.relations.iter().enumerate().map(|(i, r)| (r.oid, i)).collect();
        let relations = self.shared.relations.len();
        let mut state = State {
            hot: Hot { bytes: vec![0; relations], banned: vec![false; relations], ..Hot::default() },
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

    /// Barriers whose LSN is routed: all lanes stop, the answer is given, and they go on with the next message.
    async fn answer_barriers(&mut self, state: &mut State) -> Result<()> {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiting).into_iter().partition(|r| r.lsn <= state.routed);
        state.waiting = later;
        if due.is_empty() {
            return Ok(());
        }
        self.tell_all(state.routed).await?;
        self.stop_lanes().await?;
        for request in due {
            let _ = request.reached.send(());
        }
        Ok(())
    }

    /// Every lane applies what it has and writes its position; returns the positions.
    async fn stop_lanes(&self) -> Result<Vec<Position>> {
        let mut answers = Vec::new();
        for lane in &self.lanes {
            let (reached, answer) = oneshot::channel();
            send(lane, Feed::Barrier(reached)).await?;
            answers.push(answer);
        }
        let mut positions = Vec::new();
        for answer in answers {
            positions.push(answer.await.map_err(|_| lane_gone())?);
        }
        Ok(positions)
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
                state.transaction = Some(Transaction { commit, time, xid, changes: 0, lanes: vec![false; self.lanes.len()] });
            }
            Message::Commit { end, .. } => {
                if let Some(transaction) = state.transaction.take() {
                    state.routed = state.routed.max(end);
                    for (pack, _) in state.packs.iter_mut().zip(&transaction.lanes).filter(|(_, touched)| **touched) {
                        pack.up_to = Some(end);
                    }
                    self.progress.send_modify(|p| (p.routed, p.last_commit) = (state.routed, Some(transaction.time)));
                }
            }
            Message::Relation(message) => {
                let target = self.target_of(&message, state).await?;
                let keys = target.map_or_else(Vec::new, |target| key::columns(&message, &self.shared.relations[target]));
                state.known.insert(message.oid, Known { message: Arc::new(message), target, checked: false, keys });
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
        let root = loop {
            match catalog::partition_root(&self.source, message.oid).await {
                Err(e) if e.is_transient() => {
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    let name = format!("hyperlift/{}/router", self.shared.migration);
                    if let Ok(fresh) = client::connect(&self.source_info, client::Side::Source, &name).await {
                        self.source = fresh;
                    }
                }
                other => break other?,
            }
        };
        let name = TableName::new(&message.schema, &message.name);
        let target = root.and_then(|oid| state.by_oid.get(&oid).copied()).or_else(|| self.leaves.get(&name).copied());
        if let Some(target) = target {
            state.by_oid.insert(message.oid, target);
        }
        Ok(target)
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
        let way = if relation.spread { key::lane(message, &known.keys, self.lanes.len()) } else { Some(relation.lane as usize) };
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
        if way.is_none() {
            // A row whose key moves from lane to lane; where that happens once, it happens again.
            state.hot.banned[target] = true;
            self.spread(target, false, Position { change: position.change - 1, ..position }, state).await?;
        }
        let Some(transaction) = &mut state.transaction else { return Ok(()) };
        transaction.lanes[lane] = true;
        state.hot.bytes[target] += message.len() as u64;
        state.hot.all += message.len() as u64;
        let known = &state.known[&oid];
        let change = Change { position, relation: known.message.clone(), target, message: Bytes::new() };
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

    /// C-12: before the first change of a relation that is described anew. If its table was altered, all lanes stop here until the
    /// target's is, too.
    async fn check_shape(&mut self, oid: u32, index: usize, state: &mut State) -> Result<()> {
        let message = state.known[&oid].message.clone();
        let relation = self.shared.relations[index].clone();
        if self.shapes.get(&relation.oid).is_some_and(|before| !reshape::is_as_before(&relation, &message, before)) {
            self.send_packs(state).await?;
            self.stop_lanes().await?;
            loop {
                let (fresh, due) = match self.due(&relation, &message).await {
                    Err(e) if e.is_transient() => {
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        continue;
                    }
                    other => other?,
                };
                if due.is_empty() || self.ask(index, &relation, &due).await? == Resolution::Accept {
                    self.reshape(index, &relation, fresh, &message).await?;
                    break;
                }
            }
        }
        if let Some(known) = state.known.get_mut(&oid) {
            known.checked = true;
        }
        Ok(())
    }

    /// The table as it is on the target, and the statements that it still needs.
    async fn due(&mut self, relation: &Relation, message: &RelationMessage) -> Result<(Relation, Vec<String>)> {
        let name = format!("hyperlift/{}/router", self.shared.migration);
        if self.source.is_closed() {
            self.source = client::connect(&self.source_info, Side::Source, &name).await?;
        }
        let definitions = Definitions::ask(&self.source, message).await?;
        let client = client::connect(&self.shared.target, Side::Target, &name).await?;
        let hypertables = timescale::inspect(&client).await?.installed.is_some();
        let is_leaf = message.oid != relation.oid;
        // It may have been renamed meanwhile, and its name may be another table's.
        if let Some(table) = catalog::name_of(&client, relation.target.oid).await?
            && let Some(target) = target::target_table(&client, &table, hypertables).await?
        {
            let before = self.shapes.get(&relation.oid).map_or(&[][..], Vec::as_slice);
            let due = reshape::statements(&table, is_leaf, message, before, &target, &definitions);
            return Ok((Relation { table, target, ..relation.clone() }, due));
        }
        Err(Error::failed(format!("{} is gone from the target", relation.table)).hint("who dropped it? Run `hyperlift clean` and start again"))
    }

    async fn ask(&self, index: usize, relation: &Relation, due: &[String]) -> Result<Resolution> {
        let sql = due.join(";\n");
        let error =
            Error::failed(format!("{} was altered on the source; replay waits until its table on the target is altered, too", relation.table))
                .hint(format!("run on the target: {}; then retry, or start hyperlift again", due.join("; ")));
        let (answer, answered) = oneshot::channel();
        let trouble = Trouble { lane: relation.lane, target: Some(index), sql: Some(sql), error, answer };
        self.shared.trouble.send(trouble).await.map_err(|_| Error::stopped())?;
        answered.await.map_err(|_| Error::stopped())
    }

    async fn reshape(&mut self, index: usize, before: &Relation, fresh: Relation, message: &RelationMessage) -> Result<()> {
        let columns = reshape::columns(message);
        self.shapes.insert(before.oid, columns.clone());
        let _ = self.reshaped.send(Reshaped { oid: before.oid, before: before.table.clone(), now: fresh.table.clone(), columns });
        let mut relations = self.shared.relations.to_vec();
        relations[index] = fresh;
        self.shared.relations = Arc::new(relations);
        for lane in &self.lanes {
            send(lane, Feed::Reshaped(self.shared.relations.clone())).await?;
        }
        Ok(())
    }

    /// A TRUNCATE is a barrier: all lanes stop, one of them truncates and moves all positions in one transaction.
    async fn truncate(&mut self, oids: &[u32], state: &mut State) -> Result<()> {
        let transaction = state.transaction.as_mut().ok_or_else(|| Error::failed("a change outside of a transaction in the stream"))?;
        transaction.changes += 1;
        let to = Position { lsn: transaction.commit, change: transaction.changes };
        if self.positions.iter().all(|p| to <= *p) {
            return Ok(());
        }
        let (mut statements, mut targets) = (Vec::new(), Vec::new());
        for oid in oids {
            let known = state
                .known
                .get(oid)
                .ok_or_else(|| Error::failed(format!("a TRUNCATE of a relation that the stream has not described (OID {oid})")))?;
            let Some(target) = known.target else { continue };
            let relation = &self.shared.relations[target];
            if !relation.wants(transaction.commit, transaction.xid) {
                continue;
            }
            // A leaf is truncated under its own name. ONLY is refused on hypertables, and would spare the leaves of a root.
            let leaf = TableName::new(&known.message.schema, &known.message.name);
            let table = if leaf == relation.table || *oid == relation.oid { &relation.table } else { &leaf };
            let only = relation.target.only();
            // RESTART IDENTITY needs nothing here: the cutover sets the sequences.
            statements.push(format!("truncate {only}{}", table.sql()));
            targets.push(target);
        }
        if statements.is_empty() {
            return Ok(());
        }
        self.together(statements, targets, to, state).await
    }

    /// All lanes stop, one of them does something for all and moves all positions in one transaction, and they go on.
    async fn together(&mut self, statements: Vec<String>, targets: Vec<usize>, to: Position, state: &mut State) -> Result<()> {
        self.send_packs(state).await?;
        let positions = self.stop_lanes().await?;
        let (done, finished) = oneshot::channel();
        let lanes = positions.into_iter().enumerate().map(|(i, p)| (i as u32, p)).collect();
        send(&self.lanes[0], Feed::Together(Box::new(Together { statements, targets, lanes, to, done }))).await?;
        finished.await.map_err(|_| lane_gone())?;
        if let Some(transaction) = &mut state.transaction {
            transaction.lanes.fill(true);
        }
        for lane in &self.lanes {
            send(lane, Feed::Moved(to)).await?;
        }
        Ok(())
    }

    /// The one relation that most changes are for would keep one lane busy and the others idle: its keys are spread.
    async fn divide_anew(&mut self, state: &mut State) -> Result<()> {
        // Everything routed so far is before it.
        let to = state.transaction.as_ref().map_or_else(|| Position::after(state.routed), |t| Position { lsn: t.commit, change: t.changes });
        // A lane that was further when this run began has applied changes that would come to another one now.
        if self.lanes.len() < 2 || self.positions.iter().any(|p| *p > to) {
            return Ok(());
        }
        // Its table was altered.
        for target in 0..state.hot.bytes.len() {
            if self.shared.relations[target].spread && !self.may_spread(target, state) {
                self.spread(target, false, to, state).await?;
            }
        }
        let due = match self.shared.spreading {
            Spreading::Never => false,
            Spreading::All => true,
            Spreading::Hot => state.hot.all >= HOT_BYTES && state.hot.pressed,
        };
        if !due {
            return Ok(());
        }
        let hot = std::mem::take(&mut state.hot);
        let most = |bytes: u64| bytes > 0 && (self.shared.spreading == Spreading::All || bytes * 5 > hot.all * 2);
        let found: Vec<usize> = (0..hot.bytes.len())
            .filter(|i| most(hot.bytes[*i]) && !hot.banned[*i])
            .filter(|i| !self.shared.relations[*i].spread && self.may_spread(*i, state))
            .collect();
        state.hot = Hot { bytes: vec![0; hot.bytes.len()], banned: hot.banned, ..Hot::default() };
        for target in found {
            self.spread(target, true, to, state).await?;
        }
        Ok(())
    }

    /// Whether rows of different keys are independent, and keys that are equal print the same.
    fn may_spread(&self, target: usize, state: &State) -> bool {
        let relation = &self.shared.relations[target];
        let table = &relation.target;
        let keyed = |known: &Known| {
            let in_key = |i: &usize| table.primary_key.contains(&known.message.columns[*i].name);
            known.target != Some(target) || (!known.keys.is_empty() && known.keys.iter().all(in_key))
        };
        let exact = |column: &String| table.columns.get(column).is_some_and(|c| c.equality == Equality::Exact);
        state.known.values().all(keyed) && table.spreadable && !table.primary_key.is_empty() && table.primary_key.iter().all(exact)
    }

    /// From `to` on the changes of a relation go to another lane, or to all by their keys.
    async fn spread(&mut self, target: usize, spread: bool, to: Position, state: &mut State) -> Result<()> {
        let table = self.shared.relations[target].table.clone();
        tracing::info!(%table, spread, at = %to.lsn, "the keys of a table are divided among the lanes in another way");
        let statement = ledger::spread_relation(self.shared.relations[target].oid, spread);
        self.together(vec![statement], Vec::new(), to, state).await?;
        let mut relations = self.shared.relations.to_vec();
        relations[target].spread = spread;
        self.shared.relations = Arc::new(relations);
        Ok(())
    }
}

async fn send(lane: &mpsc::Sender<Feed>, feed: Feed) -> Result<()> {
    lane.send(feed).await.map_err(|_| lane_gone())
}

fn lane_gone() -> Error {
    Error::failed("a replay lane has ended").hint("see the log for the reason")
}
