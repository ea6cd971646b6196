//! hyperlift's receiving and replaying, put together as its catch-up stage does it. All that these benchmarks know of
//! `hyperlift::replay` is in this file.

use hyperlift::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    pg::{
        catalog,
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        ledger,
        snapshot::Snapshot,
        target_table, timescale,
    },
    replay::{
        lane::{ConflictPolicy, Lane, Progress, Shared, Trouble},
        receiver::{Origin, Places, Receiver, Status},
        relation::{Counters, Relation},
        router::{self, BarrierRequest, LANE_QUEUE, Router},
        spool::Writer,
    },
};
use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::worker::Job;

/// The id of the migration, as it stands in the ledger and in the names of sessions.
const MIGRATION: &str = "bench0";
/// How often the receiver is told what may be deleted, as the catch-up stage does.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// A connection string of our own servers; nothing of the environment counts.
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
            system_id: job.system_id.clone(),
        };
        Receiver::start(origin, job.spool.clone(), Places { start: job.start, confirmed: job.start, copied: job.start }, CancellationToken::new())
            .await
            .map(Self)
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.0.status.clone()
    }

    /// Waits until all that was committed before `lsn` is durable in the spool; a commit must follow it. The receiver is not asked to
    /// hurry, which would make its blocks smaller.
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
        self.0.reacher().reach(lsn).await.map(drop)
    }

    /// Bytes of decoded stream so far.
    pub fn stream_bytes(&self) -> u64 {
        self.0.status.borrow().bytes
    }

    pub async fn stop(self) -> Result<()> {
        self.0.stop().await
    }
}

/// What a receiver that has ended would have said of its spool. The sender has to live for as long as it is read.
pub fn full_spool(dir: &Path, start: Lsn) -> Result<watch::Sender<Status>> {
    let end = Writer::open(dir, start)?.end();
    Ok(watch::Sender::new(Status { end, heard: end.lsn, ..Status::default() }))
}

/// What replay needs to know of the target; making it is not part of catch-up.
pub struct Prepared {
    relations: Vec<Relation>,
    positions: Vec<Position>,
}

/// Makes the ledger on the target, gives each relation its lane (the largest to the least loaded) and looks at the tables. The target
/// stands where the slot does, so every change counts.
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
        relations.push(Relation {
            oid: found.oid,
            table: found.table,
            lane: lane as u32,
            snapshot: Snapshot::default(),
            copied_at: Lsn::ZERO,
            skipped: false,
            target: shape,
            spread: ledger::Spread::No,
        });
    }
    let lanes: Vec<_> = relations.iter().map(|r| (r.oid, r.table.clone(), r.lane)).collect();
    ledger::plan_relations(&target, &lanes).await?;
    Ok(Prepared { relations, positions: ledger::lane_positions(&target).await? })
}

/// Router and lanes, at work.
pub struct Replaying {
    lanes: Vec<watch::Receiver<Progress>>,
    counters: Arc<Vec<watch::Sender<Counters>>>,
    barriers: mpsc::Sender<BarrierRequest>,
    trouble: mpsc::Receiver<Trouble>,
    failures: mpsc::UnboundedReceiver<Error>,
    tasks: Vec<JoinHandle<()>>,
    cancel: CancellationToken,
    /// Never said, but listened to.
    _paused: watch::Sender<bool>,
}

impl Replaying {
    pub async fn start(job: &Job, prepared: Prepared, spool: watch::Receiver<Status>) -> Result<Self> {
        let Prepared { relations, positions } = prepared;
        let relations = Arc::new(relations);
        let cancel = CancellationToken::new();
        let (failure, failures) = mpsc::unbounded_channel();
        let (trouble_sender, trouble) = mpsc::channel(64);
        let counters: Arc<Vec<_>> = Arc::new(relations.iter().map(|_| watch::Sender::new(Counters::default())).collect());
        let shared = Shared {
            target: conninfo(&job.target)?,
            migration: MIGRATION.into(),
            path: String::new(),
            relations: relations.clone(),
            trouble: trouble_sender,
            counters: counters.clone(),
            on_conflict: ConflictPolicy::Stop,
            in_order: false,
            spreading: hyperlift::replay::lane::Spreading::Hot,
            cancel: cancel.clone(),
        };
        let (mut feeds, mut lanes, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for (number, position) in positions.iter().enumerate() {
            let (feed, fed) = mpsc::channel(LANE_QUEUE);
            let (progress, seen) = watch::channel(Progress { position: *position, durable: position.lsn, ..Progress::default() });
            let lane = Lane::new(number as u32, *position, shared.clone(), fed, progress);
            tasks.push(watched(&failure, format!("lane {number}"), lane.run()));
            feeds.push(feed);
            lanes.push(seen);
        }
        let (barriers, requests) = mpsc::channel(4);
        let (paused, pausing) = watch::channel(false);
        let router = Router {
            shared,
            lanes: feeds,
            positions,
            spool_dir: job.spool.clone(),
            receiver: spool,
            progress: watch::Sender::new(router::Progress::default()),
            barriers: requests,
            paused: pausing,
            source: connect(&job.source, Side::Source, "router").await?,
            source_info: conninfo(&job.source)?,
            leaves: HashMap::new(),
            partitions: std::collections::BTreeMap::new(),
            shapes: HashMap::new(),
            reshaped: mpsc::unbounded_channel().0,
        };
        tasks.push(watched(&failure, "the router".into(), router.run()));
        Ok(Self { lanes, counters, barriers, trouble, failures, tasks, cancel, _paused: paused })
    }

    /// Waits until all lanes have applied everything that was committed before `lsn`. While they do, the receiver, if there is one,
    /// hears what it may delete. Trouble of any kind ends it.
    pub async fn barrier(&mut self, lsn: Lsn, receiving: Option<&Receiving>) -> Result<()> {
        let (reached, mut answer) = oneshot::channel();
        let request = BarrierRequest { lsn, reached };
        self.barriers.send(request).await.map_err(|_| Error::failed("the router has ended"))?;
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                biased;
                Some(error) = self.failures.recv() => return Err(error),
                Some(trouble) = self.trouble.recv() => return Err(trouble.error),
                reached = &mut answer => return reached.map_err(|_| Error::failed("the router has ended")),
                _ = tick.tick() => self.tell(receiving),
            }
        }
    }

    /// Runs until `until` is done, otherwise as [`barrier`](Self::barrier).
    pub async fn watch<T>(&mut self, receiving: &Receiving, until: impl Future<Output = T>) -> Result<T> {
        let mut tick = tokio::time::interval(TELL_EVERY);
        tokio::pin!(until);
        loop {
            tokio::select! {
                Some(error) = self.failures.recv() => return Err(error),
                Some(trouble) = self.trouble.recv() => return Err(trouble.error),
                done = &mut until => return Ok(done),
                _ = tick.tick() => self.tell(Some(receiving)),
            }
        }
    }

    fn tell(&self, receiving: Option<&Receiving>) {
        if let Some(Receiving(receiver)) = receiving {
            receiver.applied(self.lanes.iter().map(|l| l.borrow().durable).min().unwrap_or_default());
        }
    }

    /// Ends once every lane stands at or behind `lsn`; `false` when the lanes have ended before.
    pub fn passed(&self, lsn: Lsn) -> impl Future<Output = bool> + Send + 'static {
        let lanes = self.lanes.clone();
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
        self.lanes.iter().map(|l| l.borrow().changes).sum()
    }

    /// How many of them as part of a set.
    pub fn in_sets(&self) -> u64 {
        self.counters.iter().map(|c| c.borrow().sets).sum()
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// A worker whose error, or panic, is told.
fn watched(failure: &mpsc::UnboundedSender<Error>, name: String, work: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<()> {
    let failure = failure.clone();
    tokio::spawn(async move {
        let result = tokio::spawn(work).await.unwrap_or_else(|e| Err(Error::failed(format!("it died: {e}"))));
        if let Err(e) = result {
            let _ = failure.send(e.context(name));
        }
    })
}
