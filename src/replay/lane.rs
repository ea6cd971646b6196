//! A lane: one replay worker with its own connection to the target. It collects changes into a batch, applies it in one transaction
//! together with its own position, by compare-and-set (I6), and goes on.
//!
//! This lane applies change by change, pipelined; the batch is where sets will be made of them.

use futures_util::{StreamExt as _, TryStreamExt as _, stream::FuturesOrdered};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_postgres::{SimpleQueryMessage, Statement, types};
use tokio_util::sync::CancellationToken;

use super::{
    apply::{self, Move, Step, Work},
    change::{Change, Operation},
    relation::{Counters, Relation},
};
use crate::{
    error::{Error, Kind, Result},
    lsn::{Lsn, Position},
    pg::{
        client::{self, Client, Side},
        conninfo::Conninfo,
    },
};

/// A batch is applied when it has this many changes, or bytes of values; a transaction that touches a deferrable constraint stays whole.
const BATCH_CHANGES: usize = 2_000;
const BATCH_BYTES: usize = 8 << 20;
/// Statements under way on the connection at once.
const PIPELINE: usize = 128;
/// Prepared statements kept.
const STATEMENTS: usize = 256;
/// A lane without changes writes its position this often.
const IDLE_POSITION_EVERY: Duration = Duration::from_secs(10);

/// What the router sends.
pub enum Feed {
    /// A change, and the room that it takes in the queue.
    Change(Box<Change>, OwnedSemaphorePermit),
    /// Apply what there is, also in the middle of a transaction: the room in the queues is needed.
    Flush,
    /// All changes of this lane that were committed before this LSN were sent.
    UpTo(Lsn),
    /// Apply what there is, write the position, then answer and wait for the next message.
    Barrier(oneshot::Sender<Position>),
    /// At a barrier: several relations are truncated, and all lanes move to `to`, in one transaction.
    Truncate(Box<Truncation>),
    /// At a barrier: another lane's transaction has moved this lane here.
    Moved(Position),
}

/// A TRUNCATE of the stream.
pub struct Truncation {
    /// Tables of the target, quoted.
    pub statements: Vec<String>,
    pub targets: Vec<usize>,
    pub lanes: Vec<(u32, Position)>,
    pub to: Position,
    pub done: oneshot::Sender<()>,
}

/// What a lane tells about itself. Absolute values.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Everything before it is applied.
    pub position: Position,
    /// Recorded on the target, durably: the spool below it may go.
    pub durable: Lsn,
    pub waiting: bool,
    pub changes: u64,
    /// Why it has not come further for some seconds, although it tries: the target is down, full or locked.
    pub held_up: Option<String>,
}

/// A change that the target refused, or that found no row. The lane waits for an answer.
pub struct Trouble {
    pub lane: u32,
    /// Index of the relation; `None` for trouble of the whole lane.
    pub target: Option<usize>,
    pub error: Error,
    pub answer: oneshot::Sender<Resolution>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Retry,
    /// The operator accepts that this relation differs: changes that fail are counted, not applied.
    Accept,
}

/// What is done about a change that finds no row, or collides (I9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The lane stops and the operator is asked.
    #[default]
    Stop,
    /// The change is counted as missed, and replay goes on.
    Count,
}

/// What all lanes share.
#[derive(Clone)]
pub struct Shared {
    pub target: Conninfo,
    pub migration: String,
    pub relations: Arc<Vec<Relation>>,
    pub trouble: mpsc::Sender<Trouble>,
    /// Counters of the relations, by index; each lane writes its own relations' only.
    pub counters: Arc<Vec<watch::Sender<Counters>>>,
    pub on_conflict: ConflictPolicy,
    /// Never sets: every change by itself, in order.
    pub in_order: bool,
    pub cancel: CancellationToken,
}

pub struct Lane {
    number: u32,
    shared: Shared,
    feed: mpsc::Receiver<Feed>,
    progress: watch::Sender<Progress>,
    client: Option<Client>,
    statements: HashMap<String, Statement>,
    /// Durable on the target.
    position: Position,
    /// Everything before this was sent to the lane.
    seen: Position,
    written_at: Instant,
    accepted: HashSet<usize>,
    changes: u64,
}

/// Changes that are applied together.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    deferrable: bool,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Batch {
    fn is_full(&self) -> bool {
        !self.deferrable && (self.changes.len() >= BATCH_CHANGES || self.bytes >= BATCH_BYTES)
    }
}

/// How long passing trouble has lasted.
struct Patience {
    delay: Duration,
    tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { delay: Duration::from_millis(100), tries: 0 }
    }
}

/// Why a batch was not applied.
enum Refusal {
    /// The position is not what the lane believes: another session of this lane committed.
    Moved,
    /// This change, by index, failed or found no row.
    Change(usize, Error),
    Lane(Error),
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(e: E) -> Self {
        Self::Lane(e.into())
    }
}

impl Lane {
    pub fn new(number: u32, position: Position, shared: Shared, feed: mpsc::Receiver<Feed>, progress: watch::Sender<Progress>) -> Self {
        Self {
            number,
            shared,
            feed,
            progress,
            client: None,
            statements: HashMap::new(),
            position,
            seen: position,
            written_at: Instant::now(),
            accepted: HashSet::new(),
            changes: 0,
        }
    }

    /// Applies what is fed until the feed ends or the lane is cancelled.
    pub async fn run(mut self) -> Result<()> {
        let cancel = self.shared.cancel.clone();
        tokio::select! {
            // A batch that is under way is dropped with its connection: the target rolls it back.
            () = cancel.cancelled() => Ok(()),
            result = self.work() => result,
        }
    }

    async fn work(&mut self) -> Result<()> {
        let mut batch = Batch::default();
        loop {
            let message = match self.feed.try_recv() {
                Ok(message) => message,
                Err(mpsc::error::TryRecvError::Empty) => {
                    // Nothing waits: at a transaction's end what there is goes out at once.
                    if !batch.changes.is_empty() && self.seen.change == 0 {
                        self.apply(&mut batch).await?;
                        continue;
                    }
                    self.tell(true);
                    match self.feed.recv().await {
                        Some(message) => message,
                        None => return self.apply(&mut batch).await,
                    }
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return self.apply(&mut batch).await,
            };
            match message {
                // A session of before, that committed late, may have applied it (C-30).
                Feed::Change(change, _) if change.position <= self.position => {}
                Feed::Change(change, permit) => {
                    self.seen = self.seen.max(change.position);
                    batch.bytes += change.operation.bytes();
                    batch.deferrable |= self.shared.relations[change.target].target.deferrable;
                    batch.changes.push(*change);
                    // A transaction that has to stay whole must not wait for the room that it takes itself.
                    if !batch.deferrable {
                        batch.permits.push(permit);
                    }
                    if batch.is_full() {
                        self.apply(&mut batch).await?;
                    }
                }
                Feed::UpTo(lsn) => {
                    self.seen = self.seen.max(Position::after(lsn));
                    if batch.changes.is_empty() {
                        if self.written_at.elapsed() >= IDLE_POSITION_EVERY {
                            self.apply(&mut batch).await?;
                        }
                        self.tell(false);
                    } else if batch.changes.len() >= BATCH_CHANGES || batch.bytes >= BATCH_BYTES {
                        self.apply(&mut batch).await?;
                    }
                }
                Feed::Flush if batch.deferrable => batch.permits.clear(),
                Feed::Flush => self.apply(&mut batch).await?,
                Feed::Barrier(reached) => {
                    self.apply(&mut batch).await?;
                    let stands = self.read_position().await?;
                    not_back(self.position, stands)?;
                    self.position = stands;
                    self.seen = self.seen.max(stands);
                    let _ = reached.send(stands);
                }
                Feed::Truncate(truncation) => self.truncate(*truncation).await?,
                Feed::Moved(position) => (self.position, self.seen) = (self.position.max(position), self.seen.max(position)),
            }
        }
    }

    fn tell(&self, waiting: bool) {
        // A lane that has applied all it was sent stands where the router stands.
        let position = if waiting { self.seen } else { self.position };
        self.progress.send_if_modified(|p| {
            let news = p.position != position || p.waiting != waiting || p.changes != self.changes;
            *p = Progress { position, durable: self.position.lsn, waiting, changes: self.changes, held_up: None };
            news
        });
    }

    /// Applies a batch and moves the position behind it, again and again until it is done or the operator stops.
    async fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let to = self.seen;
        if to == self.position {
            return Ok(());
        }
        let mut patience = Patience::default();
        let mut one_by_one = false;
        loop {
            match self.attempt(batch, to, one_by_one).await {
                Ok(counts) => {
                    for (target, counters) in counts {
                        self.shared.counters[target].send_modify(|c| {
                            c.inserts += counters.inserts;
                            c.updates += counters.updates;
                            c.deletes += counters.deletes;
                            c.missed += counters.missed;
                        });
                    }
                    self.changes += batch.changes.len() as u64;
                    self.position = to;
                    self.written_at = Instant::now();
                    *batch = Batch::default();
                    self.tell(false);
                    return Ok(());
                }
                Err(Refusal::Moved) => {
                    // A session of before may have committed this very batch, late (C-30).
                    let stands = self.read_position().await?;
                    tracing::warn!(lane = self.number, believed = ?self.position, found = ?stands, "the lane's position was moved by another session");
                    not_back(self.position, stands)?;
                    batch.changes.retain(|c| c.position > stands);
                    self.position = stands;
                    if stands >= to {
                        self.seen = stands;
                        *batch = Batch::default();
                        return Ok(());
                    }
                }
                Err(Refusal::Lane(error)) if error.is_transient() => self.wait(&mut patience, error).await,
                Err(Refusal::Change(at, error)) => {
                    let change = &batch.changes[at];
                    if self.accepted.contains(&change.target) {
                        one_by_one = true;
                        continue;
                    }
                    let error = error.context(format!("{} of {}", change.operation.word(), apply::describe_row(change)));
                    match self.ask(Some(change.target), error).await? {
                        Resolution::Retry => {}
                        Resolution::Accept => {
                            self.accepted.insert(change.target);
                            one_by_one = true;
                        }
                    }
                }
                Err(Refusal::Lane(error)) => {
                    self.client = None;
                    self.statements.clear();
                    self.ask(None, error).await?;
                }
            }
        }
    }

    async fn ask(&self, target: Option<usize>, error: Error) -> Result<Resolution> {
        let (answer, answered) = oneshot::channel();
        let trouble = Trouble { lane: self.number, target, error, answer };
        self.shared.trouble.send(trouble).await.map_err(|_| Error::stopped())?;
        answered.await.map_err(|_| Error::stopped())
    }

    async fn connected(&mut self) -> Result<&Client> {
        if self.client.as_ref().is_none_or(|c| c.is_closed()) {
            self.statements.clear();
            let name = format!("hyperlift/{}/lane-{}", self.shared.migration, self.number);
            let client = client::connect(&self.shared.target, Side::Target, &name).await?;
            self.client = Some(client);
        }
        Ok(self.client.as_ref().expect("it was just connected"))
    }

    async fn read_position(&mut self) -> Result<Position> {
        let lane = self.number;
        let mut patience = Patience::default();
        loop {
            let result = match self.connected().await {
                Ok(client) => crate::pg::ledger::lane_position(client, lane).await,
                Err(e) => Err(e),
            };
            match result {
                Err(e) if e.is_transient() => self.wait(&mut patience, e).await,
                other => return other,
            }
        }
    }

    /// Before passing trouble is tried again: longer each time, and not in silence.
    async fn wait(&mut self, patience: &mut Patience, error: Error) {
        tracing::warn!(lane = self.number, %error, "trying again");
        self.client = None;
        self.statements.clear();
        patience.tries += 1;
        if patience.tries == 6 {
            self.progress.send_modify(|p| p.held_up = Some(error.to_string()));
        }
        tokio::time::sleep(patience.delay).await;
        patience.delay = (patience.delay * 2).min(Duration::from_secs(10));
    }

    /// `begin`, and the position moved from where the lane believes it is.
    async fn begin(&mut self, to: Position) -> Result<(), Refusal> {
        let from = self.position;
        let sql = format!(
            "begin; set constraints all deferred; update _hyperlift.lane set lsn = '{}', change = {}, at = now() where lane = {} and lsn = '{}' and change = {}",
            to.lsn, to.change, self.number, from.lsn, from.change
        );
        let client = self.connected().await?;
        let messages = client.simple_query(&sql).await?;
        let moved = messages.iter().rev().find_map(|m| if let SimpleQueryMessage::CommandComplete(n) = m { Some(*n) } else { None });
        if moved == Some(1) {
            return Ok(());
        }
        client.batch_execute("rollback").await?;
        Err(Refusal::Moved)
    }

    async fn attempt(&mut self, batch: &Batch, to: Position, one_by_one: bool) -> Result<HashMap<usize, Counters>, Refusal> {
        self.begin(to).await?;
        let result = self.statements_of(batch, one_by_one).await;
        let client = self.client.as_ref().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        match result {
            Ok(counts) => {
                if let Err(e) = client.batch_execute("commit").await {
                    let error = Error::from(e);
                    // A deferred constraint speaks here: no single change can be named, but the last one is in the right transaction.
                    let at = batch.changes.len().checked_sub(1);
                    return Err(match at {
                        Some(at) if !error.is_transient() => Refusal::Change(at, error),
                        _ => Refusal::Lane(error),
                    });
                }
                Ok(counts)
            }
            Err(refusal) => {
                if client.batch_execute("rollback").await.is_err() {
                    self.client = None;
                }
                Err(refusal)
            }
        }
    }

    async fn statements_of(&mut self, batch: &Batch, one_by_one: bool) -> Result<HashMap<usize, Counters>, Refusal> {
        let mut counts: HashMap<usize, Counters> = HashMap::new();
        let relations = self.shared.relations.clone();
        let mut under_way = Vec::new();
        for (at, change) in batch.changes.iter().enumerate() {
            let relation = &relations[change.target];
            let fail = |e: Error| Refusal::Change(at, e.context(&relation.table));
            let count = counts.entry(change.target).or_default();
            match change.operation {
                Operation::Insert { .. } => count.inserts += 1,
                Operation::Update { .. } => count.updates += 1,
                Operation::Delete { .. } => count.deletes += 1,
            }
            let tolerant = one_by_one && self.accepted.contains(&change.target);
            let work = match apply::work(change, relation) {
                Err(_) if tolerant => {
                    count.missed += 1;
                    continue;
                }
                other => other.map_err(fail)?,
            };
            match work {
                Work::Nothing => {}
                Work::One(step) if !one_by_one => {
                    let statement = self.prepared(&step.sql).await.map_err(|e| at_change(at, &relation.table, e))?;
                    under_way.push((at, statement, step));
                    if under_way.len() >= PIPELINE {
                        self.flush(batch, &mut under_way).await?;
                    }
                }
                work => {
                    self.flush(batch, &mut under_way).await?;
                    match self.in_order(work, tolerant).await {
                        Ok(true) => {}
                        Ok(false) if tolerant => counts.entry(change.target).or_default().missed += 1,
                        Ok(false) => return Err(fail(no_row())),
                        Err(e) => return Err(at_change(at, &relation.table, e)),
                    }
                }
            }
        }
        self.flush(batch, &mut under_way).await?;
        Ok(counts)
    }

    /// Sends statements one behind the other without waiting in between; the answers come in order.
    async fn flush(&mut self, batch: &Batch, under_way: &mut Vec<(usize, Statement, Step)>) -> Result<(), Refusal> {
        let client = self.client.as_ref().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        let mut answers: FuturesOrdered<_> =
            under_way.iter().map(|(at, statement, step)| async move { (*at, execute(client, statement, step).await) }).collect();
        let mut first = None;
        while let Some((at, result)) = answers.next().await {
            if first.is_some() {
                continue;
            }
            let table = &self.shared.relations[batch.changes[at].target].table;
            match result {
                Ok(1) => {}
                Ok(_) => first = Some(Refusal::Change(at, no_row().context(table))),
                Err(e) => first = Some(at_change(at, table, e)),
            }
        }
        drop(answers);
        under_way.clear();
        first.map_or(Ok(()), Err)
    }

    /// One change by itself; whether it touched a row. `tolerant`: an error of the data is no error.
    async fn in_order(&mut self, work: Work, tolerant: bool) -> Result<bool> {
        if tolerant {
            self.connected().await?.batch_execute("savepoint change").await?;
        }
        let result = match work {
            Work::Nothing => Ok(1),
            Work::One(step) => self.step(&step).await,
            Work::Move(row) => self.move_row(*row).await,
        };
        match result {
            Ok(rows) => {
                if !tolerant {
                    return Ok(rows == 1);
                }
                // What a deferred constraint would say at the commit, it says now.
                let check = "set constraints all immediate; set constraints all deferred; release savepoint change";
                match self.connected().await?.batch_execute(check).await.map_err(Error::from) {
                    Err(e) if e.is_transient() => Err(e),
                    Err(_) => {
                        self.connected().await?.batch_execute("rollback to savepoint change").await?;
                        Ok(false)
                    }
                    Ok(()) => Ok(rows == 1),
                }
            }
            Err(e) if tolerant && !e.is_transient() => {
                self.connected().await?.batch_execute("rollback to savepoint change").await?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Deletes and inserts a row, unless it is found in place; how many rows were found.
    async fn move_row(&mut self, mut row: Move) -> Result<u64> {
        if let Some(in_place) = &row.in_place
            && self.step(in_place).await? > 0
        {
            return Ok(1);
        }
        if row.kept.is_empty() {
            let deleted = self.step(&row.delete).await?;
            return if deleted == 1 { self.step(&row.insert).await } else { Ok(deleted) };
        }
        let statement = self.prepared(&row.delete.sql).await?;
        let client = self.client.as_ref().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        let parameters = row.delete.parameters.iter().map(|p| Parameter(p.as_deref()));
        let deleted: Vec<_> = client.query_raw(&statement, parameters).await?.try_collect().await?;
        let [values] = deleted.as_slice() else { return Ok(deleted.len() as u64) };
        for (n, parameter) in row.kept.iter().enumerate() {
            row.insert.parameters[*parameter] = values.try_get::<_, Option<String>>(n)?.map(bytes::Bytes::from);
        }
        self.step(&row.insert).await
    }

    async fn step(&mut self, step: &Step) -> Result<u64> {
        let statement = self.prepared(&step.sql).await?;
        let client = self.client.as_ref().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        execute(client, &statement, step).await
    }

    async fn prepared(&mut self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        if self.statements.len() >= STATEMENTS {
            self.statements.clear();
        }
        let client = self.client.as_ref().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        let statement = client.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    async fn truncate(&mut self, mut truncation: Truncation) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            match self.try_truncate(&truncation).await {
                Ok(()) => {
                    for target in &truncation.targets {
                        self.shared.counters[*target].send_modify(|c| c.truncates += 1);
                    }
                    self.changes += 1;
                    let _ = truncation.done.send(());
                    return Ok(());
                }
                Err(error) if error.is_transient() => self.wait(&mut patience, error).await,
                // Nothing that is tried here again would be right.
                Err(error) if error.kind == Kind::Differs => return Err(error),
                Err(error) => {
                    self.client = None;
                    match self.ask(truncation.targets.first().copied(), error.context("TRUNCATE")).await? {
                        Resolution::Retry => {}
                        // The positions still move; the tables keep their rows.
                        Resolution::Accept => truncation.statements.clear(),
                    }
                }
            }
        }
    }

    async fn try_truncate(&mut self, truncation: &Truncation) -> Result<()> {
        let to = truncation.to;
        let mut sql = String::from("begin;");
        for (lane, from) in truncation.lanes.iter().filter(|(_, from)| *from < to) {
            // A division by zero undoes all when a lane does not stand where it should.
            let _ = write!(
                sql,
                "with moved as (update _hyperlift.lane set lsn = '{}', change = {}, at = now() where lane = {lane} and lsn = '{}' and change = {} returning 1) select 1 / count(*) from moved;",
                to.lsn, to.change, from.lsn, from.change
            );
        }
        for statement in &truncation.statements {
            sql.push_str(statement);
            sql.push(';');
        }
        sql.push_str("commit");
        let client = self.connected().await?;
        match client.batch_execute(&sql).await {
            Ok(()) => Ok(()),
            Err(e) => {
                let error = Error::from(e);
                client.batch_execute("rollback").await.ok();
                // An earlier attempt whose answer was lost may have committed: it moved all lanes at once.
                if !error.has_code("22012") {
                    return Err(error);
                }
                let stands = self.read_position().await?;
                if stands >= to { Ok(()) } else { Err(moved_elsewhere(stands)) }
            }
        }
    }
}

/// A target that stands before what it had acknowledged has lost commits: it failed over, or was restored.
fn not_back(believed: Position, stands: Position) -> Result<()> {
    if stands >= believed {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target has gone back: its lane stands at {} although {} was committed", stands.lsn, believed.lsn))
        .hint("did it fail over to an asynchronous standby? Start hyperlift again: it goes on from where the target stands, if the spool still reaches back"))
}

fn moved_elsewhere(stands: Position) -> Error {
    Error::new(Kind::Differs, format!("a session of an earlier run has moved a lane to {}", stands.lsn))
        .hint("start hyperlift again: it goes on from there")
}

fn no_row() -> Error {
    Error::failed("no such row on the target").hint("the table was changed on the target, or copied wrongly: look at the row on both sides")
}

/// An error of the data belongs to its change; trouble of the connection to the lane.
fn at_change(at: usize, table: &crate::name::TableName, e: Error) -> Refusal {
    if e.is_transient() { Refusal::Lane(e) } else { Refusal::Change(at, e.context(table)) }
}

async fn execute(client: &Client, statement: &Statement, step: &Step) -> Result<u64> {
    Ok(client.execute_raw(statement, step.parameters.iter().map(|p| Parameter(p.as_deref()))).await?)
}

/// A value in the text format of whatever type the server took for the parameter.
#[derive(Debug)]
struct Parameter<'a>(Option<&'a [u8]>);

impl types::ToSql for Parameter<'_> {
    fn to_sql(&self, _: &types::Type, out: &mut bytes::BytesMut) -> Result<types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match self.0 {
            None => types::IsNull::Yes,
            Some(text) => {
                out.extend_from_slice(text);
                types::IsNull::No
            }
        })
    }

    fn accepts(_: &types::Type) -> bool {
        true
    }

    fn encode_format(&self, _: &types::Type) -> types::Format {
        types::Format::Text
    }

    types::to_sql_checked!();
}
