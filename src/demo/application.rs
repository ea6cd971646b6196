//! An application that keeps writing to the demo database while it is migrated.
//!
//! It does what real ones do: single rows and batches, long transactions, savepoints, key changes, rows that move between partitions,
//! updates that leave a large value unchanged, cascading deletes, TRUNCATE. Each session has rows of its own, so every error of a
//! statement comes from outside: it ends the session and is returned by [`Application::stop`].

use super::{
    actions::{ACTIONS, Action, PAUSE},
    connect,
};
use crate::error::{Error, Kind, Result};
use std::{
    collections::BTreeMap,
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// How the application writes.
#[derive(Clone, Debug)]
pub struct Load {
    pub sessions: u32,
    /// With the same seed, each session makes the same choices again.
    pub seed: u64,
    /// Transactions per second of all sessions together; `None` is without limit.
    pub rate_per_second: Option<f64>,
    /// Also UPDATE and DELETE in the tables without a replica identity. PostgreSQL refuses them while such a table is in a publication
    /// that publishes updates.
    pub unidentified: bool,
    /// Connects again when a connection breaks, and waits while the database is read-only, instead of ending with the error.
    pub patient: bool,
    /// The longest time that a long transaction takes.
    pub long_transaction: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self { sessions: 4, seed: 1, rate_per_second: None, unidentified: false, patient: false, long_transaction: Duration::from_secs(4) }
    }
}

/// What the sessions have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Committed transactions.
    pub transactions: u64,
    /// The same, for each kind of transaction.
    pub by_action: BTreeMap<&'static str, u64>,
    /// Connections that broke and were opened again. Whether their last transaction was committed is unknown.
    pub reconnects: u64,
    /// Transactions refused because the database was read-only.
    pub refused: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.reconnects += other.reconnects;
        self.refused += other.refused;
        for (action, count) in other.by_action {
            *self.by_action.entry(action).or_default() += count;
        }
    }
}

/// The running application. Dropping it also stops it, without waiting.
#[derive(Debug)]
pub struct Application {
    sessions: Vec<JoinHandle<Result<Totals>>>,
    stop: CancellationToken,
    running: Arc<RunningTotals>,
}

/// What all sessions count while they run.
#[derive(Debug, Default)]
struct RunningTotals {
    transactions: AtomicU64,
    refused: AtomicU64,
}

impl Application {
    /// Starts the sessions; all are connected when it returns.
    pub async fn start(uri: &str, load: Load) -> Result<Self> {
        let mut application = Self { sessions: Vec::new(), stop: CancellationToken::new(), running: Arc::default() };
        for number in 0..load.sessions {
            let session = ApplicationSession {
                client: open(uri).await?,
                uri: uri.to_owned(),
                rng: fastrand::Rng::with_seed(load.seed.wrapping_mul(1000) + u64::from(number)),
                number,
                stop: application.stop.clone(),
                running: Arc::clone(&application.running),
                totals: Totals::default(),
                load: load.clone(),
            };
            application.sessions.push(tokio::spawn(session.run()));
        }
        Ok(application)
    }

    /// Transactions committed so far.
    pub fn transactions(&self) -> u64 {
        self.running.transactions.load(Ordering::Relaxed)
    }

    /// Transactions refused so far because the database was read-only.
    pub fn refused(&self) -> u64 {
        self.running.refused.load(Ordering::Relaxed)
    }

    /// Whether a session has ended with an error, which [`Application::stop`] will return.
    pub fn has_failed(&self) -> bool {
        !self.stop.is_cancelled() && self.sessions.iter().any(JoinHandle::is_finished)
    }

    /// Ends after the current transactions. Returns the first error of a session, if there was one.
    pub async fn stop(mut self) -> Result<Totals> {
        self.stop.cancel();
        let (mut totals, mut failure) = (Totals::default(), None);
        for session in std::mem::take(&mut self.sessions) {
            match session.await.map_err(|e| Error::failed("a session of the demo application panicked").source(e)) {
                Ok(Ok(session)) => totals += session,
                Ok(Err(e)) | Err(e) => failure = failure.or(Some(e)),
            }
        }
        failure.map_or(Ok(totals), Err)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn open(uri: &str) -> Result<Client> {
    let client = connect(uri).await?;
    client.batch_execute("set application_name = 'demo application'").await?;
    Ok(client)
}

struct ApplicationSession {
    client: Client,
    uri: String,
    rng: fastrand::Rng,
    number: u32,
    stop: CancellationToken,
    running: Arc<RunningTotals>,
    totals: Totals,
    load: Load,
}

impl ApplicationSession {
    async fn run(mut self) -> Result<Totals> {
        let pause = self.load.rate_per_second.map(|rate| Duration::from_secs_f64(f64::from(self.load.sessions) / rate.max(0.001)));
        let mut ticks = interval(pause.unwrap_or(Duration::from_nanos(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if pause.is_some() {
                let _ = self.stop.run_until_cancelled(ticks.tick()).await;
            }
            if self.stop.is_cancelled() {
                return Ok(self.totals);
            }
            let action = self.choose();
            match self.transact(action).await {
                Ok(()) => {
                    self.running.transactions.fetch_add(1, Ordering::Relaxed);
                    self.totals.transactions += 1;
                    *self.totals.by_action.entry(action.name).or_default() += 1;
                }
                Err(e) if self.load.patient && e.has_code(crate::sqlstate::READ_ONLY_TRANSACTION) => {
                    self.running.refused.fetch_add(1, Ordering::Relaxed);
                    self.totals.refused += 1;
                    let _ = self.stop.run_until_cancelled(sleep(Duration::from_millis(200))).await;
                    if self.client.batch_execute("rollback").await.is_err() {
                        self.reconnect().await;
                    }
                }
                Err(e) if self.load.patient && e.kind == Kind::Connection => self.reconnect().await,
                Err(e) => return Err(e.context(format!("demo application, {}", action.name))),
            }
        }
    }

    async fn reconnect(&mut self) {
        while !self.stop.is_cancelled() {
            if let Ok(client) = open(&self.uri).await {
                self.client = client;
                self.totals.reconnects += 1;
                return;
            }
            let _ = self.stop.run_until_cancelled(sleep(Duration::from_millis(200))).await;
        }
    }

    fn choose(&mut self) -> &'static Action {
        let possible = |action: &&Action| (!action.unidentified || self.load.unidentified) && (!action.one_session || self.number == 0);
        let actions: Vec<_> = ACTIONS.iter().filter(possible).collect();
        let sum: u32 = actions.iter().map(|action| action.weight).sum();
        let mut point = self.rng.u32(..sum);
        for action in actions {
            if point < action.weight {
                return action;
            }
            point -= action.weight;
        }
        unreachable!("the point lies below the sum of the weights")
    }

    /// Runs the statements of an action in one transaction, its pause between them where it has one.
    async fn transact(&mut self, action: &Action) -> Result<()> {
        let sql = self.fill(action.sql);
        let Some((before, after)) = sql.split_once(PAUSE) else {
            return Ok(self.client.batch_execute(&format!("begin; {sql}; commit")).await?);
        };
        self.client.batch_execute(&format!("begin; {before}")).await?;
        let until = Instant::now() + self.load.long_transaction.mul_f64(self.rng.f64());
        let _ = self.stop.run_until_cancelled(tokio::time::sleep_until(until)).await;
        Ok(self.client.batch_execute(&format!("{after}; commit")).await?)
    }

    /// Fills the placeholders, each with one choice for the whole action. The id of a row decides to which session it belongs.
    fn fill(&mut self, sql: &str) -> String {
        let (sessions, number) = (self.load.sessions, self.number);
        let mut own = |table: &str, id: &str| {
            let random = self.rng.f64();
            format!(
                "(select {id} from {table} where {id} % {sessions} = {number} and {id} <= greatest({sessions}, {random} * (select max({id}) from {table})) order by {id} desc limit 1)"
            )
        };
        let mut text = sql.to_owned();
        for (placeholder, table, id) in [
            ("{event}", "public.events", "id"),
            ("{document}", "public.documents", "id"),
            ("{customer}", "shop.customers", "id"),
            ("{order}", "shop.orders", "id"),
            ("{note}", r#""Odd Names"."Order Notes""#, r#""Note Id""#),
        ] {
            if text.contains(placeholder) {
                text = text.replace(placeholder, &own(table, id));
            }
        }
        // the demo has devices 1 to 160
        let device = 1 + number % 160 + sessions * self.rng.u32(..(160 / sessions).max(1));
        text.replace("{device}", &device.min(160).to_string())
            .replace("{own}", &format!("% {sessions} = {number}"))
            .replace("{sessions}", &sessions.to_string())
            .replace("{n}", &self.rng.u32(..1_000_000_000).to_string())
    }
}
