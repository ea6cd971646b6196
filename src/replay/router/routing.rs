//! The state of the router: what it was given, what the stream has described, and what is on its way to the lanes.

use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

use super::{
    hot_table::HotTableFinder,
    spec::{BarrierRequest, LANE_QUEUE, RouterSpec},
    transaction::{OpenTransaction, Pack},
};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
    name::TableName,
    pg::{
        catalog::{self, Partition},
        client::{self, Client},
        connect::session::Side,
        ledger::Spread,
    },
    replay::{
        key,
        lane::Feed,
        pgoutput::RelationMessage,
        relation::{Relation, RelationIndex, Relations},
    },
};

/// Changes on their way to all lanes, and in their batches, kB.
const QUEUE_KILOBYTES: u32 = 24 << 10;
/// Before the source is asked again after a transient error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A relation as the stream describes it, and which replayed relation it belongs to.
#[derive(Clone)]
pub struct Described {
    pub message: Arc<RelationMessage>,
    /// `None`: out of scope.
    pub relation: Option<RelationIndex>,
    /// Its columns are what they should be.
    pub checked: bool,
    /// Columns of its key.
    pub keys: Vec<usize>,
    /// The one of them with which the target's primary key begins.
    pub first: Option<usize>,
}

pub struct Routing {
    pub spec: RouterSpec,
    /// The same that the lanes see.
    pub relations: Arc<Relations>,
    /// What the stream has described so far, by OID.
    pub described: HashMap<u32, Described>,
    /// Replayed relations by the OIDs of tables and leaves on the source; `None`: known to be replayed by other lanes.
    by_oid: HashMap<u32, Option<RelationIndex>>,
    pub hot: HotTableFinder,
    pub packs: Vec<Pack>,
    /// Memory of changes on their way.
    memory: Arc<Semaphore>,
    pub transaction: Option<Box<OpenTransaction>>,
    /// End of the last whole transaction or watermark.
    pub routed: Lsn,
    /// Barriers that are requested, but not reached.
    pub waiting: Vec<BarrierRequest>,
    /// The backlog was read once to find a hot table.
    pub looked_ahead: bool,
}

impl Routing {
    pub fn new(spec: RouterSpec) -> Self {
        let relations = spec.relations.borrow().clone();
        let mut by_oid: HashMap<u32, _> = relations.indices().map(|index| (relations[index].oid, Some(index))).collect();
        let partitions: Vec<_> = spec.partitions.iter().filter_map(|(oid, p)| Some((*oid, *by_oid.get(&p.root)?))).collect();
        for (leaf, root) in partitions {
            // A leaf that was copied by itself is a relation of its own.
            by_oid.entry(leaf).or_insert(root);
        }
        Self {
            hot: HotTableFinder::new(relations.len(), spec.lanes.len()),
            relations,
            described: HashMap::new(),
            by_oid,
            packs: spec.lanes.iter().map(|_| Pack::default()).collect(),
            memory: Arc::new(Semaphore::new(QUEUE_KILOBYTES as usize)),
            transaction: None,
            routed: spec.positions.iter().min().copied().unwrap_or_default().lsn,
            waiting: Vec::new(),
            looked_ahead: false,
            spec,
        }
    }

    /// Takes the transaction that is being read, for a change of it. It has to be put back.
    pub fn take_transaction(&mut self) -> Result<Box<OpenTransaction>> {
        self.transaction.take().ok_or_else(|| Error::failed("a change outside of a transaction in the stream"))
    }

    /// Gives a relation another table or shape, for all lanes, too.
    pub fn set_relation(&mut self, index: RelationIndex, relation: Relation) {
        self.relations = Arc::new(self.relations.with(index, relation));
        self.spec.relations.send_replace(self.relations.clone());
    }

    /// Takes a relation as the stream describes it from here on.
    pub async fn describe(&mut self, message: RelationMessage) -> Result<()> {
        let relation = self.relation_of(&message).await?;
        let described = self.described_as(Arc::new(message), relation);
        self.described.insert(described.message.oid, described);
        Ok(())
    }

    pub fn described_as(&self, message: Arc<RelationMessage>, index: Option<RelationIndex>) -> Described {
        let relation = index.map(|index| &self.relations[index]);
        let keys = relation.map_or_else(Vec::new, |r| key::columns(&message, r));
        let first = relation.and_then(|r| r.shape.primary_key.first());
        let first = keys.iter().copied().find(|i| Some(&message.columns[*i].name) == first);
        Described { message, relation: index, checked: false, keys, first }
    }

    /// The replayed relation of a relation message: itself, or the root of which it is a leaf. Known by OID (C-32). `None` when it
    /// belongs to nothing that is replayed: it may be gone from the source since, which matters only if a change of it is still due.
    async fn relation_of(&mut self, message: &RelationMessage) -> Result<Option<RelationIndex>> {
        if let Some(relation) = self.by_oid.get(&message.oid) {
            return Ok(*relation);
        }
        let partition = self.partition(message.oid).await?;
        let name = TableName::new(&message.schema, &message.name);
        let root = partition.and_then(|(p, _)| self.by_oid.get(&p.root).copied().flatten());
        let relation = root.or_else(|| self.spec.leaves.get(&name).copied());
        if relation.is_some() || self.spec.side_lane.is_some() {
            self.by_oid.insert(message.oid, relation);
        }
        Ok(relation)
    }

    /// A partition as it is on the source now, and the leaves of its root. The question is repeated while the source cannot be reached.
    pub async fn partition(&mut self, oid: u32) -> Result<Option<(Partition, Vec<u32>)>> {
        loop {
            let answer = match self.source().await {
                Ok(source) => catalog::partition(source, oid).await,
                Err(e) => Err(e),
            };
            match answer {
                Err(e) if e.is_transient() => tokio::time::sleep(RETRY_DELAY).await,
                other => return other,
            }
        }
    }

    /// The connection to the source; a new one if it was lost.
    pub async fn source(&mut self) -> Result<&Client> {
        if self.spec.source.is_closed() {
            self.spec.source = client::connect(&self.spec.source_info, Side::Source, &self.application_name()).await?;
        }
        Ok(&self.spec.source)
    }

    pub fn application_name(&self) -> String {
        format!("hyperlift/{}/router", self.spec.migration)
    }

    /// The lane of a change; `None` for one that moves a row from one lane to another.
    pub fn lane_of(&self, index: RelationIndex, described: &Described, message: &[u8]) -> Option<usize> {
        let lanes = self.spec.lanes.len();
        match self.spec.spread[index.0] {
            Spread::No => Some(self.relations[index].lane as usize),
            Spread::First => described.first.and_then(|column| key::lane(message, &[column], lanes)),
            Spread::Key => key::lane(message, &described.keys, lanes),
        }
    }

    /// The lane of a change, if its relation were distributed by the first column of its key. A key of one column need not ask.
    pub fn lane_by_first(&self, described: &Described, message: &[u8]) -> usize {
        let column = described.first.filter(|_| described.keys.len() > 1);
        column.and_then(|column| key::lane(message, &[column], self.spec.lanes.len())).unwrap_or_default()
    }

    /// The ledger's number of the first lane; the others follow.
    pub fn first_lane(&self) -> u32 {
        self.spec.side_lane.unwrap_or(0)
    }

    pub async fn send(&self, lane: usize, feed: Feed) -> Result<()> {
        self.spec.lanes[lane].send(feed).await.map_err(|_| lane_gone())
    }

    /// Lets all lanes know how far the stream is routed.
    pub async fn report_routed(&self) -> Result<()> {
        for lane in 0..self.spec.lanes.len() {
            self.send(lane, Feed::UpTo(self.routed)).await?;
        }
        self.spec.progress.send_if_modified(|p| {
            let news = p.routed != self.routed;
            p.routed = self.routed;
            news
        });
        Ok(())
    }

    pub async fn send_packs(&mut self) -> Result<()> {
        for lane in 0..self.packs.len() {
            self.send_pack(lane).await?;
        }
        Ok(())
    }

    pub async fn send_pack(&mut self, lane: usize) -> Result<()> {
        let pack = &mut self.packs[lane];
        if pack.is_empty() {
            return match pack.up_to.take() {
                Some(lsn) => self.send(lane, Feed::UpTo(lsn)).await,
                None => Ok(()),
            };
        }
        self.hot.pressed |= self.spec.lanes[lane].capacity() < LANE_QUEUE * 7 / 8;
        let kilobytes = ((pack.bytes() >> 10) as u32 + 1).min(QUEUE_KILOBYTES);
        let permit = if let Ok(permit) = self.memory.clone().try_acquire_many_owned(kilobytes) {
            permit
        } else {
            self.hot.pressed = true;
            // Lanes may hold the memory in the batch of a transaction that waits for these very changes.
            for lane in 0..self.spec.lanes.len() {
                self.send(lane, Feed::Flush).await?;
            }
            self.memory.clone().acquire_many_owned(kilobytes).await.expect("the semaphore is never closed")
        };
        let (changes, up_to) = self.packs[lane].take();
        self.send(lane, Feed::Changes(changes, permit, up_to)).await
    }
}

pub fn lane_gone() -> Error {
    Error::failed("a replay lane has ended").hint("see the log for the reason")
}
