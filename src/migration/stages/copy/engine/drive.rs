//! The running copy: carries out the operator's commands, and shows the operator what failed.

use std::{collections::HashSet, sync::Arc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::DropGuard;

use super::super::{shared::CopyShared, tasks::StageTasks, worker::CopyWorker};
use crate::{
    error::{Error, Result},
    event::{Command, Event, Stage},
    migration::context::Context,
    name::TableName,
};

/// No more jobs than this.
pub const MOST_JOBS: u32 = 64;

/// What the stage does next.
enum Next {
    /// A relation is copied and has its indexes.
    Finished(TableName),
    Pause(bool),
    SetJobs(u32),
}

/// What the operator may order while tables are copied.
fn order(command: Command) -> Result<Next, Command> {
    match command {
        Command::Pause => Ok(Next::Pause(true)),
        Command::Resume => Ok(Next::Pause(false)),
        Command::SetJobs { table_jobs } => Ok(Next::SetJobs(table_jobs)),
        other => Err(other),
    }
}

/// The jobs and the index builders, and the channels between them and the stage.
pub struct RunningCopy {
    pub shared: Arc<CopyShared>,
    pub tasks: StageTasks,
    /// The errors of tasks that failed: the first one ends the stage.
    pub failed: mpsc::UnboundedReceiver<Error>,
    /// Relations that have all their indexes.
    pub done: mpsc::UnboundedReceiver<TableName>,
    /// Relations that have not, yet.
    pub remaining: HashSet<TableName>,
    pub pause: watch::Sender<bool>,
    /// How many jobs the operator wants.
    pub want: watch::Sender<u32>,
    /// Ends the tasks when the copy is given up.
    pub _guard: DropGuard,
}

impl RunningCopy {
    /// Starts as many jobs as the operator wants, and carries out commands until no relation remains.
    pub async fn drive(&mut self, cx: &mut Context) -> Result<()> {
        let Self { shared, tasks, failed, done, remaining, pause, want, .. } = self;
        let mut table_jobs = *want.borrow();
        let mut started = 0;
        loop {
            while started < table_jobs {
                tasks.spawn(CopyWorker::new(shared.clone(), started).run());
                started += 1;
            }
            if remaining.is_empty() {
                return Ok(());
            }
            let next = async {
                tokio::select! {
                    biased;
                    Some(error) = failed.recv() => Err(error),
                    Some(table) = done.recv() => Ok(Next::Finished(table)),
                }
            };
            match cx.prompts.drive(Stage::Copy, next, order).await? {
                Next::Finished(table) => {
                    remaining.remove(&table);
                }
                Next::Pause(paused) => {
                    pause.send_replace(paused);
                    cx.reporter.report(Event::Paused { paused }).await;
                }
                Next::SetJobs(jobs) => {
                    table_jobs = jobs.clamp(1, MOST_JOBS);
                    want.send_replace(table_jobs);
                    cx.reporter.report(Event::JobsChanged { table_jobs, index_jobs: cx.config.index_jobs }).await;
                }
            }
        }
    }

    /// As [`drive`](Self::drive), without commands.
    pub async fn finish(&mut self) -> Result<()> {
        for number in 0..*self.want.borrow() {
            self.tasks.spawn(CopyWorker::new(self.shared.clone(), number).run());
        }
        while !self.remaining.is_empty() {
            tokio::select! {
                biased;
                Some(error) = self.failed.recv() => return Err(error),
                Some(table) = self.done.recv() => {
                    self.remaining.remove(&table);
                }
            }
        }
        Ok(())
    }

    /// Ends what still runs.
    pub async fn end(self) {
        let Self { shared, tasks, .. } = self;
        drop(shared);
        tasks.end().await;
    }
}
