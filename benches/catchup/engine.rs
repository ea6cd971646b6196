//! hyperlift's receiver and replay, started as its catch-up stage starts them. All that these benchmarks know of `hyperlift::replay` is
//! in this file.

use hyperlift::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    pg::{
        catalog,
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        ledger,
        publication::Publications,
        target_table, timescale,
    },
    replay::{
        self, ReplayHandle, ReplaySpec,
        lane::ConflictPolicy,
        receiver::{Origin, Receiver, ReceiverStatus, StartPositions},
        relation::Relation,
        router::DistributionPolicy,
        spool::SpoolWriter,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::job::Job;

/// The id of the migration, as the ledger and the names of sessions have it.
const MIGRATION: &str = "bench0";
/// How often the receiver gets to know what may be deleted, as in the catch-up stage.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// A connection string of our own servers; the environment is ignored.
fn conninfo(uri: &str) -> Result<Conninfo> {
    Conninfo::parse_with(uri, &|_| None)
}

async fn connect(uri: &str, side: Side, worker: &str) -> Result<Client> {
    client::connect(&conninfo(uri)?, side, &format!("hyperlift/{MIGRATION}/{worker}")).await
}

/// The receiver, at work.
pub struct Receiving(Receiver);

impl Receiving {
    pub async fn start(job: &Job) -> Result<Self> {
        let origin = Origin {
            source: conninfo(&job.source)?,
            application_name: format!("hyperlift/{MIGRATION}/receiver"),
            slot: job.slot.clone(),
            publications: vec![job.publication.clone()],
            recorded: Publications::new(),
            system_id: job.system_id.clone(),
        };
        Receiver::start(origin, job.spool.clone(), StartPositions { start: job.start, copied: job.start }, CancellationToken::new()).await.map(Self)
    }

    pub fn status(&self) -> watch::Receiver<ReceiverStatus> {
        self.0.status.clone()
    }

    /// Waits until all that was committed before `lsn` is durable in the spool; a commit must follow it. Nothing waits for a
    /// position in the receiver, because that would make its blocks smaller.
    pub async fn durable(&self, lsn: Lsn) -> Result<()> {
        let ended = self.0.ended();
        let mut status = self.status();
        tokio::select! {
            reached = status.wait_for(|s| s.end.lsn >= lsn) => reached.map(drop).map_err(|_| Error::failed("the receiver has ended")),
            () = ended.cancelled() => Err(Error::failed("the receiver has ended").detail(self.0.status.borrow().broken.clone().unwrap_or_default())),
        }
    }

    /// As [`durable`](Self::durable), also on an idle source.
    pub async fn reach(&self, lsn: Lsn) -> Result<()> {
        self.0.waiter().spooled(lsn).await.map(drop)
    }

    /// Bytes of decoded stream so far.
    pub fn stream_bytes(&self) -> u64 {
        self.0.status.borrow().bytes
    }

    pub async fn stop(self) -> Result<()> {
        self.0.stop().await
    }
}

/// The status of a receiver that has filled its spool and ended. The sender has to live for as long as the status is read.
pub fn full_spool(dir: &Path, start: Lsn) -> Result<watch::Sender<ReceiverStatus>> {
    let end = SpoolWriter::open(dir, start)?.end();
    Ok(watch::Sender::new(ReceiverStatus { end, heard: end.lsn, ..ReceiverStatus::default() }))
}

/// What replay needs to know of the target; making it is not part of catch-up.
pub struct Prepared {
    relations: Vec<Relation>,
    positions: Vec<Position>,
}

/// Makes the ledger on the target, gives each relation its lane (the largest to the least loaded) and reads the shapes of the tables. The
/// target has what the source had when the slot was made, so every change counts.
pub async fn prepare(job: &Job) -> Result<Prepared> {
    let source = connect(&job.source, Side::Source, "prepare").await?;
    let mut target = connect(&job.target, Side::Target, "prepare").await?;
    let migration = ledger::LedgerMigration {
        id: MIGRATION.into(),
        source_system_id: job.system_id.clone(),
        source_db: String::new(),
        lanes: job.lanes,
        search_path: None,
        finished: false,
    };
    ledger::create(&mut target, &migration, "bench").await?;
    let mut load = vec![0; job.lanes as usize];
    let mut relations = Vec::new();
    for found in catalog::relations(&source).await? {
        let lane = (0..load.len()).min_by_key(|lane| load[*lane]).unwrap_or(0);
        load[lane] += found.bytes + 1;
        let missing = || Error::failed(format!("{} is not on the target", found.table));
        let hypertable = job.hypertables && timescale::hypertables(&target).await?.contains_key(&found.table);
        let shape = target_table::target_table(&target, &found.table, hypertable).await?.ok_or_else(missing)?;
        relations.push(Relation { oid: found.oid, table: found.table, lane: lane as u32, shape, ..Relation::default() });
    }
    let lanes: Vec<_> = relations.iter().map(|r| (r.oid, r.table.clone(), r.lane)).collect();
    ledger::plan_relations(&target, &lanes).await?;
    Ok(Prepared { relations, positions: ledger::lane_positions(&target).await? })
}

/// Router and lanes, at work.
pub struct Replaying(ReplayHandle);

impl Replaying {
    pub async fn start(job: &Job, prepared: Prepared, spool: watch::Receiver<ReceiverStatus>) -> Result<Self> {
        let Prepared { relations, positions } = prepared;
        Ok(Self(replay::start(ReplaySpec {
            source: conninfo(&job.source)?,
            source_client: connect(&job.source, Side::Source, "router").await?,
            target: conninfo(&job.target)?,
            migration: MIGRATION.into(),
            path: String::new(),
            spread: vec![ledger::Spread::No; relations.len()],
            relations,
            positions,
            side_lane: None,
            leaves: HashMap::new(),
            partitions: BTreeMap::new(),
            shapes: HashMap::new(),
            schema_changes: Vec::new(),
            spool_dir: job.spool.clone(),
            receiver: spool,
            on_conflict: ConflictPolicy::Stop,
            distribution: DistributionPolicy::Hot,
            in_order: false,
            cancel: CancellationToken::new(),
        })))
    }

    /// Waits until all lanes have applied everything that was committed before `lsn`. Meanwhile the receiver, if there is one, gets to
    /// know what it may delete. A conflict ends it.
    pub async fn barrier(&mut self, lsn: Lsn, receiving: Option<&Receiving>) -> Result<()> {
        let reached = self.0.barrier(lsn);
        self.watch(receiving, reached).await?
    }

    /// Runs until `until` is done, otherwise as [`barrier`](Self::barrier).
    pub async fn watch<T>(&mut self, receiving: Option<&Receiving>, until: impl Future<Output = T>) -> Result<T> {
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                Some(error) = self.0.failures.recv() => return Err(error),
                Some(conflict) = self.0.conflicts.recv() => return Err(conflict.error),
                done = &mut until => return Ok(done),
                _ = tick.tick() => {
                    if let Some(Receiving(receiver)) = receiving {
                        receiver.applied(self.0.durable());
                    }
                }
            }
        }
    }

    /// Ends once every lane has passed `lsn`; `false` when the lanes have ended before.
    pub fn passed(&self, lsn: Lsn) -> impl Future<Output = bool> + Send + 'static {
        let lanes = self.0.lanes.clone();
        async move {
            for mut lane in lanes {
                if lane.wait_for(|p| p.position.lsn >= lsn).await.is_err() {
                    return false;
                }
            }
            true
        }
    }

    /// Row changes applied so far.
    pub fn changes(&self) -> u64 {
        self.0.changes()
    }

    /// How many of them as part of a set.
    pub fn in_sets(&self) -> u64 {
        self.0.counters.iter().map(|c| c.borrow().sets).sum()
    }

    pub async fn stop(self) {
        self.0.stop().await;
    }
}
