//! Replay by itself, without a migration around it: a stream that is received once into a spool, and replayed into one database after
//! the other, by sets or in order, with lanes that are killed and start again where `_hyperlift.lane` says.

use hyperlift::{
    error::Error,
    lsn::{Lsn, Position},
    name::TableName,
    pg::{
        catalog::{self, ShapeColumn},
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        ledger::{self, Spread},
        own::Names,
        publication::{self, Publications, Published},
        slot,
        target_table::{self, TableKind},
        timescale,
    },
    replay::{
        self, ReplayHandle, ReplaySpec,
        lane::{Conflict, ConflictPolicy, LaneProgress},
        pgoutput::{self, Message, OldKind, Operation, Value},
        receiver::{Origin, Receiver, StartPositions},
        relation::{Relation, RelationCounters, RelationIndex},
        router::DistributionPolicy,
        spool::{self, SpoolReader},
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Database, PATIENCE};

/// Waits for what must come.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: has not happened in {PATIENCE:?}"))
}

async fn open(database: &Database, side: Side, name: &str) -> Client {
    client::connect(&Conninfo::parse(&database.uri).unwrap(), side, name).await.unwrap()
}

/// Changes of a source, from the making of its slot on.
pub struct Stream {
    /// Of the migration, for names on both sides.
    id: String,
    source: Conninfo,
    system_id: String,
    folder: tempfile::TempDir,
    pub start: Lsn,
    /// Everything up to here is in the spool.
    pub end: Lsn,
    relations: Vec<catalog::SourceRelation>,
    shapes: HashMap<u32, Vec<ShapeColumn>>,
    receiver: Receiver,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Updates that bring an old key.
    pub rekeyed: u64,
    /// Updates with a value that stays out of the stream.
    pub incomplete: u64,
    /// Updates that bring both: an old key, and not all values.
    pub rekeyed_incomplete: u64,
    /// Changes of the largest transaction.
    pub largest: u64,
}

impl Contents {
    pub fn rows(&self) -> u64 {
        self.inserts + self.updates + self.deletes
    }
}

impl Stream {
    /// Publishes all tables of the database, makes a slot, and begins to receive. Of the tables in `insert_only`, updates and deletes
    /// do not come.
    pub async fn open(source: &Database, insert_only: &[&str]) -> Self {
        let id = source.value("select current_database()").await;
        let client = open(source, Side::Source, "test").await;
        let relations = catalog::relations(&client).await.unwrap();
        let shapes = catalog::shapes(&client, &hyperlift::scope::Scope::default()).await.unwrap().into_values().map(|s| (s.oid, s.columns)).collect();
        let published: Vec<Published<'_>> =
            relations.iter().map(|r| Published { relation: r, insert_only: insert_only.contains(&r.table.to_string().as_str()) }).collect();
        let names = Names::new(&id);
        publication::publish(&client, &names, &published).await.unwrap();
        let start = slot::create(&client, &names.slot).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let system_id = source.value("select system_identifier from pg_control_system()").await;
        let source = Conninfo::parse(&source.uri).unwrap();
        let origin = Origin {
            source: source.clone(),
            application_name: format!("hyperlift/{id}/receiver"),
            slot: names.slot,
            publications: vec![names.publication, names.insert_only],
            recorded: Publications::new(),
            system_id: system_id.clone(),
        };
        let receiver =
            Receiver::start(origin, folder.path().join("spool"), StartPositions { start, copied: start }, CancellationToken::new()).await.unwrap();
        Self { id, source, system_id, folder, start, end: start, relations, shapes, receiver }
    }

    /// The error with which receiving ends by itself.
    pub async fn failure(self) -> Error {
        let error = in_time("the end of the receiver", self.receiver.waiter().spooled(Lsn(u64::MAX))).await.unwrap_err();
        remove(&self.source, &self.id).await;
        error
    }

    /// Receives everything that is committed by now.
    pub async fn receive(&mut self) {
        let client = client::connect(&self.source, Side::Source, "test").await.unwrap();
        self.end = catalog::mark_end_of_stream(&client).await.unwrap();
        in_time("the end of the stream", self.receiver.waiter().spooled(self.end)).await.unwrap();
    }

    /// Reads the spool.
    pub fn contents(&self) -> Contents {
        let mut found = Contents::default();
        let mut reader = SpoolReader::open(&self.folder.path().join("spool"), self.start).unwrap();
        let (end, mut transaction) = (self.receiver.status.borrow().end, 0);
        while let Some(block) = reader.next(end).unwrap() {
            for record in spool::records(block).filter(|r| r.first() != Some(&spool::WATERMARK)) {
                transaction += 1;
                match pgoutput::decode(&record).unwrap() {
                    Message::Begin { .. } => transaction = 0,
                    Message::Commit { .. } => found.largest = found.largest.max(transaction),
                    Message::Row { operation: Operation::Insert { .. }, .. } => found.inserts += 1,
                    Message::Row { operation: Operation::Delete { .. }, .. } => found.deletes += 1,
                    Message::Truncate { .. } => found.truncates += 1,
                    Message::Row { operation: Operation::Update { old, new }, .. } => {
                        let (rekeyed, incomplete) = (matches!(old, Some((OldKind::Key, _))), new.values().any(|v| v == Value::Unchanged));
                        found.updates += 1;
                        found.rekeyed += u64::from(rekeyed);
                        found.incomplete += u64::from(incomplete);
                        found.rekeyed_incomplete += u64::from(rekeyed && incomplete);
                    }
                    Message::Relation(_) | Message::Other(_) => transaction -= 1,
                }
            }
        }
        found
    }

    /// Ends the receiving and removes slot and publications.
    pub async fn close(self) {
        let Self { receiver, source, id, .. } = self;
        receiver.stop().await.unwrap();
        remove(&source, &id).await;
    }
}

async fn remove(source: &Conninfo, id: &str) {
    let client = client::connect(source, Side::Source, "test").await.unwrap();
    let names = Names::new(id);
    client.execute("select pg_drop_replication_slot($1)", &[&names.slot]).await.unwrap();
    client.batch_execute(&format!("drop publication {}, {}", names.publication, names.insert_only)).await.unwrap();
}

/// Replay into one database, by one run after the other.
pub struct Replay<'a> {
    stream: &'a Stream,
    target: &'a Database,
    in_order: bool,
    lanes: u32,
    /// Where all lanes stop together, which ends their batches.
    pub barriers: Vec<Lsn>,
    /// Changes by relation, of all runs.
    pub counters: BTreeMap<TableName, RelationCounters>,
}

impl<'a> Replay<'a> {
    /// The ledger is made, the relations are given to the lanes one by one.
    pub async fn new(stream: &'a Stream, target: &'a Database, lanes: u32, in_order: bool) -> Self {
        let mut client = open(target, Side::Target, "test").await;
        let migration = ledger::LedgerMigration {
            id: stream.id.clone(),
            source_system_id: stream.system_id.clone(),
            source_db: stream.source.dbname().into(),
            lanes,
            search_path: None,
            finished: false,
        };
        ledger::create(&mut client, &migration, "test").await.unwrap();
        let planned: Vec<_> = stream.relations.iter().enumerate().map(|(i, r)| (r.oid, r.table.clone(), i as u32 % lanes)).collect();
        ledger::plan_relations(&client, &planned).await.unwrap();
        Self { stream, target, in_order, lanes, barriers: Vec::new(), counters: BTreeMap::new() }
    }

    /// The relations as the catch-up stage finds them after a copy that saw nothing, how their keys are distributed, and leaves.
    async fn relations(&self, client: &Client) -> (Vec<Relation>, Vec<Spread>, HashMap<TableName, RelationIndex>) {
        let has_timescale = timescale::inspect(client).await.unwrap().installed.is_some();
        let entries = ledger::relations(client).await.unwrap();
        let (mut relations, mut spread, mut leaves) = (Vec::new(), Vec::new(), HashMap::new());
        for (index, r) in self.stream.relations.iter().enumerate() {
            let hypertable = has_timescale && timescale::hypertables(client).await.unwrap().contains_key(&r.table);
            let shape = target_table::target_table(client, &r.table, hypertable).await.unwrap().expect("the target has the table");
            if shape.kind == TableKind::Partitioned {
                leaves.extend(catalog::leaves(client, &r.table).await.unwrap().into_iter().map(|leaf| (leaf, RelationIndex(index))));
            }
            let relation = Relation { oid: r.oid, table: r.table.clone(), lane: index as u32 % self.lanes, shape, ..Relation::default() };
            assert!(relation.wants(self.stream.start, 3), "everything in the stream counts");
            spread.push(entries.get(&r.oid).map(|e| e.spread).unwrap_or_default());
            relations.push(relation);
        }
        (relations, spread, leaves)
    }

    pub async fn positions(&self) -> Vec<Position> {
        ledger::lane_positions(&open(self.target, Side::Target, "test").await).await.unwrap()
    }

    /// Starts router and lanes at the lanes' positions. `end_leftovers`: sessions of a killed run are ended first, as a migration does.
    pub async fn start(&self, end_leftovers: bool) -> Run {
        let client = open(self.target, Side::Target, "test").await;
        if end_leftovers {
            catalog::end_leftovers(&client, &self.stream.id).await.unwrap();
        }
        let (relations, spread, leaves) = self.relations(&client).await;
        let handle = replay::start(ReplaySpec {
            source: self.stream.source.clone(),
            source_client: client::connect(&self.stream.source, Side::Source, "test").await.unwrap(),
            target: Conninfo::parse(&self.target.uri).unwrap(),
            migration: self.stream.id.clone(),
            path: String::new(),
            relations,
            spread,
            positions: self.positions().await,
            side_lane: None,
            leaves,
            partitions: BTreeMap::new(),
            shapes: self.stream.shapes.clone(),
            schema_changes: Vec::new(),
            spool_dir: self.stream.folder.path().join("spool"),
            receiver: self.stream.receiver.status.clone(),
            on_conflict: ConflictPolicy::Stop,
            // Every table of which it is possible, as soon as it is met.
            distribution: DistributionPolicy::All,
            in_order: self.in_order,
            cancel: CancellationToken::new(),
        });
        for lsn in &self.barriers {
            tokio::spawn(handle.barrier(*lsn));
        }
        let (end, reached) = oneshot::channel();
        let barrier = handle.barrier(self.stream.end);
        tokio::spawn(async move {
            if barrier.await.is_ok() {
                let _ = end.send(());
            }
        });
        Run { id: self.stream.id.clone(), handle, reached }
    }

    /// Adds what a run has counted.
    pub fn add(&mut self, run: &Run) {
        for (relation, counters) in run.handle.relations.borrow().iter().zip(&run.handle.counters) {
            self.counters.entry(relation.table.clone()).or_default().add(&counters.borrow());
        }
    }

    /// Runs to the end of the stream; nothing may prevent it.
    pub async fn finish(&mut self) {
        let mut run = self.start(true).await;
        run.end().await;
        self.add(&run);
        run.stop().await;
    }

    /// Runs to the end of the stream, killed on the way as often as there are numbers in `kills`: each is about how many changes a run
    /// may apply before it is killed; with zero it is killed at some time after its start.
    pub async fn finish_with_kills(&mut self, kills: &[u64], rng: &mut fastrand::Rng) {
        let mut kills = kills.iter();
        let mut end_leftovers = true;
        loop {
            let mut run = self.start(end_leftovers).await;
            let kill = kills.next();
            let pause = Duration::from_millis(rng.u64(0..if kill == Some(&0) { 500 } else { 60 }));
            // A session that is killed in the middle of a batch: the lane does it again.
            let victim = rng.bool().then(|| format!("hyperlift/{}/lane-{}", run.id, rng.u32(0..self.lanes)));
            let lanes = run.handle.lanes.clone();
            let next = tokio::select! {
                next = run.next() => Some(next),
                () = moment(&lanes, kill) => None,
            };
            match next {
                Some(Next::End) => {
                    self.add(&run);
                    run.stop().await;
                    return;
                }
                Some(Next::Conflict(conflict)) => panic!("{}", describe(&conflict)),
                // A lane has met what a killed run had committed meanwhile, and asks to start again.
                Some(Next::Ended(e)) if !end_leftovers && e.to_string().contains("a session of an earlier run") => end_leftovers = true,
                Some(Next::Ended(e)) => panic!("{e}"),
                None => {
                    if let Some(victim) = victim {
                        let client = open(self.target, Side::Target, "test").await;
                        client
                            .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1", &[&victim])
                            .await
                            .unwrap();
                    }
                    sleep(pause).await;
                    run.kill(rng).await;
                    self.add(&run);
                    end_leftovers = rng.u8(0..4) > 0;
                }
            }
        }
    }
}

/// Until all lanes together have applied this many changes; for ever without a number.
async fn moment(lanes: &[watch::Receiver<LaneProgress>], changes: Option<&u64>) {
    let Some(changes) = changes else { return std::future::pending().await };
    while lanes.iter().map(|l| l.borrow().changes).sum::<u64>() < *changes {
        sleep(Duration::from_millis(2)).await;
    }
}

/// What a lane asks the operator.
pub fn describe(conflict: &Conflict) -> String {
    format!("lane {}: {}", conflict.lane, conflict.error)
}

/// One run of router and lanes.
pub struct Run {
    id: String,
    handle: ReplayHandle,
    reached: oneshot::Receiver<()>,
}

/// What comes of a run.
pub enum Next {
    /// All lanes have applied the whole stream.
    End,
    Conflict(Conflict),
    Ended(Error),
}

impl Run {
    /// Waits for the end of the stream, or for what prevents it.
    pub async fn next(&mut self) -> Next {
        let next = async {
            tokio::select! {
                biased;
                Some(conflict) = self.handle.conflicts.recv() => Next::Conflict(conflict),
                Some(error) = self.handle.failures.recv() => {
                    assert!(!error.to_string().contains("it died"), "a task of replay died: {error}");
                    Next::Ended(error)
                }
                // No table changes its shape.
                Some(change) = self.handle.schema_changes.recv() => panic!("{} is said to be another table", change.now),
                Ok(()) = &mut self.reached => Next::End,
            }
        };
        in_time("the end of the stream", next).await
    }

    /// The end of the stream, which must come next.
    pub async fn end(&mut self) {
        match self.next().await {
            Next::End => {}
            Next::Conflict(conflict) => panic!("{}", describe(&conflict)),
            Next::Ended(e) => panic!("{e}"),
        }
    }

    /// The conflict that must come next: what it says, and the way to answer it.
    pub async fn conflict(&mut self) -> Conflict {
        match self.next().await {
            Next::Conflict(conflict) => conflict,
            Next::End => panic!("replay went through to the end"),
            Next::Ended(e) => panic!("replay ended: {e}"),
        }
    }

    /// Ends it in order.
    pub async fn stop(self) {
        self.handle.stop().await;
    }

    /// Ends it in one of the ways in which a process may end; transactions that are under way lose their connections.
    async fn kill(&mut self, rng: &mut fastrand::Rng) {
        let mut workers = self.handle.abort_handles().to_vec();
        match rng.u8(0..3) {
            0 => in_time("the end of a cancelled run", self.handle.stop()).await,
            1 => workers.iter().for_each(AbortHandle::abort),
            // The lanes end one by one, so that their positions differ.
            _ => {
                let router = workers.pop().unwrap();
                rng.shuffle(&mut workers);
                for lane in &workers {
                    lane.abort();
                    sleep(Duration::from_millis(rng.u64(0..15))).await;
                }
                router.abort();
            }
        }
        in_time("the end of a killed run", self.handle.ended()).await;
        if let Ok(conflict) = self.handle.conflicts.try_recv() {
            panic!("{}", describe(&conflict));
        }
    }
}

/// The rows of a table, by their hash: how many of them there are, and how they begin.
type Rows = BTreeMap<String, (u64, String)>;

/// A table to be compared.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Quoted.
    pub table: String,
    /// The same row may not be in another leaf.
    pub by_leaf: bool,
}

/// All rows of a table, without their order. Columns by name, in the order of the alphabet.
async fn rows_of(database: &Database, compared: &Compared) -> Rows {
    let table = compared.table.trim_start_matches("only ").replace('\'', "''");
    let columns = format!(
        "select coalesce(string_agg('t.' || quote_ident(attname), ', ' order by attname collate \"C\"), '') from pg_attribute
          where attrelid = '{table}'::regclass and attnum > 0 and not attisdropped"
    );
    let columns = database.value(&columns).await;
    let leaf = if compared.by_leaf { "t.tableoid::regclass::text || ' ' || " } else { "" };
    let sql = format!(
        "select md5(r), count(*), left(regexp_replace(min(r), '[0-9a-f]{{64,}}', '…', 'g'), 300) from (select {leaf}row({columns})::text as r from {} t) x group by 1 order by 1",
        compared.table
    );
    let rows = hyperlift::demo::query_text(&database.uri, &sql).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    rows.iter().map(|r| (text(&r[0]), (text(&r[1]).parse().unwrap(), text(&r[2])))).collect()
}

/// In what a database differs from the source, for people; empty when it does not.
pub async fn differences(source: &Database, target: &Database, tables: &[Compared]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for compared in tables {
        let (there, here) = tokio::join!(rows_of(source, compared), rows_of(target, compared));
        if there == here {
            continue;
        }
        let total = |rows: &Rows| rows.values().map(|(n, _)| n).sum::<u64>();
        let mut text = format!("{} rows on the source, {} on the target", total(&there), total(&here));
        for (side, one, other) in [("source", &there, &here), ("target", &here, &there)] {
            let only = one.iter().filter(|(hash, (n, _))| other.get(*hash).is_none_or(|(m, _)| n > m));
            for (_, (n, row)) in only.take(4) {
                let _ = write!(text, "\n  more on the {side}, {n} times: {row}");
            }
        }
        found.insert(compared.table.clone(), text);
    }
    found
}
