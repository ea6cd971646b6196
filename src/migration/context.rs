//! What every stage works with: configuration, work directory, record, plan, connections, and the prompts.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Command, Endpoint, Event, Level, Stage, StageState},
    migration::prompts::Prompts,
    pg::{
        catalog::{self, Shape},
        client::{self, Client},
        connect::session::Side,
        dump::Dump,
        timescale::Timescale,
    },
    plan::{FollowDdl, Plan},
    record::{Record, new_id},
    scope::Scope,
    work_dir::WorkDir,
};

/// How long a database is waited for that need not be reached.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// What every stage works with.
pub struct Context {
    pub config: Arc<Config>,
    pub work: WorkDir,
    pub record: Record,
    pub plan: Plan,
    pub reporter: Reporter,
    /// The open prompts, and the operator's commands.
    pub prompts: Prompts,
    pub cancel: CancellationToken,
    pub timescale: Timescale,
    pub schema_cache: Arc<SchemaCache>,
    /// The stage that was entered last.
    entered: Stage,
    /// Source and target as the header shows them.
    pub endpoints: (Endpoint, Endpoint),
    /// The filters that this run was given. They may differ from those with which the migration began.
    asked_scope: Scope,
}

/// The last dump of the source's schema, which serves until some definition changes: a large schema takes minutes to dump.
#[derive(Default)]
pub struct SchemaCache {
    /// The state of the source's catalogs before the dump and what was left out, and the dump.
    dumped: Mutex<Option<(String, Dump)>>,
}

impl SchemaCache {
    /// The dump that was made in this state.
    pub fn get(&self, state: &str) -> Option<Dump> {
        self.dumped.lock().ok()?.as_ref().filter(|(then, _)| then == state).map(|(_, dump)| dump.clone())
    }

    pub fn keep(&self, state: String, dump: Dump) {
        if let Ok(mut dumped) = self.dumped.lock() {
            *dumped = Some((state, dump));
        }
    }

    /// Frees its memory.
    pub fn forget(&self) {
        if let Ok(mut dumped) = self.dumped.lock() {
            *dumped = None;
        }
    }
}

/// What it takes to read the schemas of both sides, so that it can be done beside the migration.
#[derive(Clone)]
pub struct Sides {
    pub config: Arc<Config>,
    pub plan: Plan,
    id: String,
    /// The work directory.
    pub dir: PathBuf,
    /// The tables of the source as they were copied, by name.
    pub shapes: BTreeMap<String, Shape>,
    pub schema_cache: Arc<SchemaCache>,
    pub endpoints: (Endpoint, Endpoint),
    /// The target has TimescaleDB when the tables are there.
    pub timescale: bool,
}

impl Sides {
    pub async fn source(&self) -> Result<Client> {
        client::connect(&self.config.source, Side::Source, &format!("hyperlift/{}/schema", self.id)).await
    }

    pub async fn target(&self) -> Result<Client> {
        client::connect(&self.config.target, Side::Target, &format!("hyperlift/{}/schema", self.id)).await
    }
}

impl Context {
    pub fn new(config: Config, work: WorkDir, reporter: Reporter, commands: mpsc::Receiver<Command>, cancel: CancellationToken) -> Result<Self> {
        let record = if work.is_resumed() { work.read_record()? } else { Record { id: new_id(), ..Record::default() } };
        let mut plan = match (&config.plan, work.read_plan()?) {
            (Some(given), _) => given.clone(),
            (None, Some(stored)) => stored,
            (None, None) => Plan::default(),
        };
        plan.owners |= config.owners;
        plan.grants |= config.grants;
        plan.publications |= config.publications;
        plan.subscriptions |= config.subscriptions;
        plan.roles.extend(config.roles.clone());
        if config.owners || config.grants || config.publications || config.subscriptions || !config.roles.is_empty() {
            // A run that continues has to read the schema with the same choices.
            work.write_plan(&plan)?;
        }
        let asked_scope = if config.scope.is_everything() { plan.scope.clone() } else { config.scope.clone() };
        plan.scope = if record.finished.contains(&Stage::Preflight) { record.scope.clone() } else { asked_scope.clone() };
        let endpoint = |address| Endpoint { address, ..Endpoint::default() };
        let endpoints = (endpoint(config.source.address()), endpoint(config.target.address()));
        let prompts = Prompts::new(&config, reporter.clone(), commands, cancel.clone());
        Ok(Self {
            config: Arc::new(config),
            work,
            record,
            plan,
            reporter,
            prompts,
            cancel,
            timescale: Timescale::default(),
            schema_cache: Arc::default(),
            entered: Stage::Preflight,
            endpoints,
            asked_scope,
        })
    }

    /// Something of the source that the target does not have; recorded for the report at the end, and reported once in a run.
    pub async fn not_moved(&mut self, object: impl Into<String>, reason: impl Into<String>) -> Result<()> {
        let found = (object.into(), reason.into());
        if self.record.not_moved.contains(&found) {
            return Ok(());
        }
        let (object, reason) = found.clone();
        self.record.not_moved.push(found);
        self.save()?;
        self.reporter.report(Event::NotMoved { object, reason }).await;
        Ok(())
    }

    /// An object of the source that is different on the target, or missing there, and nobody has accepted it: in the report, and in how the
    /// migration ends.
    pub async fn differs(&mut self, object: impl Into<String>, reason: impl Into<String>) -> Result<()> {
        let object = object.into();
        self.record.different_objects.insert(object.clone());
        self.not_moved(object, reason).await
    }

    /// It is not known whether an object is the same on both sides, because the source does not answer: it counts as different until another
    /// run knows.
    pub async fn unknown(&mut self, object: impl Into<String>, reason: impl Into<String>) -> Result<()> {
        let object = object.into();
        self.record.unknown_objects.insert(object.clone());
        self.differs(object, reason).await
    }

    /// Forgets what an earlier run did not know, where this one finds it out.
    pub fn forget_unknown(&mut self) {
        if self.is_finished(Stage::Done) {
            return;
        }
        let unknown = std::mem::take(&mut self.record.unknown_objects);
        self.record.not_moved.retain(|(object, _)| !unknown.contains(object));
        self.record.different_objects.retain(|object| !unknown.contains(object));
    }

    /// Refuses other filters once the migration has begun, because what is published and copied stays the same selection.
    pub fn refuse_other_scope(&self) -> Result<()> {
        match self.asked_scope.difference(&self.plan.scope).filter(|_| !self.asked_scope.is_everything()) {
            None => Ok(()),
            Some(difference) => {
                let begun = if self.plan.scope.is_everything() { "none".into() } else { self.plan.scope.to_string() };
                Err(Error::refused(format!("the filters are not those with which this migration began: {difference}")).hint(format!(
                    "give none, or those with which it began ({begun}); for other filters run `hyperlift clean`, empty the target and start again"
                )))
            }
        }
    }

    /// Refuses other databases than those of this migration, where no preflight does: what is undone or completed there is not ours. A side
    /// that cannot be reached is reported by whoever needs it.
    pub async fn refuse_other_databases(&self) -> Result<()> {
        for (side, known) in [(Side::Source, &self.record.source), (Side::Target, &self.record.target)] {
            let ask = async {
                let client = match side {
                    Side::Source => self.source("check").await?,
                    Side::Target => self.target("check").await?,
                };
                catalog::server(&client).await
            };
            if let Ok(Ok(server)) = tokio::time::timeout(REACH_TIMEOUT, ask).await {
                known.refuse_other(&side.to_string(), &server)?;
            }
        }
        Ok(())
    }

    /// What it takes to read the schemas of both sides, as of now.
    pub fn sides(&self) -> Sides {
        Sides {
            config: self.config.clone(),
            plan: self.plan.clone(),
            id: self.record.id.clone(),
            dir: self.work.path().to_owned(),
            shapes: self.record.shapes.clone(),
            schema_cache: self.schema_cache.clone(),
            endpoints: self.endpoints.clone(),
            timescale: self.timescale.will_be_there(),
        }
    }

    /// Which changes of the source's schema are made on the target without asking.
    pub fn follow_ddl(&self) -> FollowDdl {
        self.config.follow_ddl.or(self.plan.follow_ddl).unwrap_or_default()
    }

    /// The stage that was entered last in this run.
    pub fn current(&self) -> Stage {
        self.entered
    }

    pub async fn enter(&mut self, stage: Stage) {
        self.entered = stage;
        tracing::info!(stage = stage.title(), "stage");
        self.reporter.report(Event::StageChanged { stage, state: StageState::Running }).await;
    }

    /// The stage is finished: recorded first, reported afterwards.
    pub async fn finish(&mut self, stage: Stage) -> Result<()> {
        if !self.record.finished.contains(&stage) {
            self.record.finished.push(stage);
            self.save()?;
        }
        self.reporter.report(Event::StageChanged { stage, state: StageState::Done }).await;
        Ok(())
    }

    pub fn is_finished(&self, stage: Stage) -> bool {
        self.record.finished.contains(&stage)
    }

    pub fn save(&self) -> Result<()> {
        self.work.write_record(&self.record)
    }

    /// Writes the plan with its choices to the work directory.
    pub fn save_plan(&self) -> Result<()> {
        self.work.write_plan(&self.plan)
    }

    pub fn application(&self, worker: &str) -> String {
        format!("hyperlift/{}/{worker}", self.record.id)
    }

    pub async fn source(&self, worker: &str) -> Result<Client> {
        client::connect(&self.config.source, Side::Source, &self.application(worker)).await
    }

    pub async fn target(&self, worker: &str) -> Result<Client> {
        client::connect(&self.config.target, Side::Target, &self.application(worker)).await
    }

    /// Runs work until it ends or the operator stops.
    pub async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(Error::stopped()),
            result = work => result,
        }
    }

    pub async fn notice(&self, level: Level, text: impl Into<String>) {
        self.reporter.notice(level, text).await;
    }
}
