//! The running copy: carries out the operator's commands, and shows the operator what failed.

use std::{collections::HashSet, sync::Arc};
use tokio::sync::{mpsc, watch};

use super::super::{shared::CopyShared, tasks::StageTasks, worker::CopyWorker};
use crate::{
    error::{Error, Result},
    event::{Command, Event, Stage},
    migration::{
        context::Context,
        prompts::{Desk, Resolution},
    },
    name::TableName,
};

/// No more jobs than this.
pub const MOST_JOBS: u32 = 64;

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
    pub desk: Desk,
    pub pause: watch::Sender<bool>,
    /// How many jobs the operator wants.
    pub want: watch::Sender<u32>,
}

impl RunningCopy {
    /// Starts as many jobs as the operator wants, and carries out commands until no relation remains.
    pub async fn drive(&mut self, cx: &mut Context) -> Result<()> {
        let Self { shared, tasks, failed, done, remaining, desk, pause, want } = self;
        let mut table_jobs = *want.borrow();
        let mut started = 0;
        loop {
            while started < table_jobs {
                tasks.spawn(CopyWorker::new(shared.clone(), started).run());
                started += 1;
            }
            if remaining.is_empty() {
                break Ok(());
            }
            tokio::select! {
                biased;
                Some(error) = failed.recv() => break Err(error),
                Some(table) = done.recv() => { remaining.remove(&table); }
                trouble = desk.next() => match trouble {
                    Ok((object, error)) => cx.open_trouble(Stage::Copy, &object, format!("{object} failed: {error}")).await,
                    Err(e) => break Err(e),
                },
                command = cx.command() => match command {
                    Err(e) => break Err(e),
                    Ok(Command::Pause) => { pause.send_replace(true); cx.reporter.report(Event::Paused { paused: true }).await; }
                    Ok(Command::Resume) => { pause.send_replace(false); cx.reporter.report(Event::Paused { paused: false }).await; }
                    Ok(Command::SetJobs { table_jobs: jobs }) => {
                        table_jobs = jobs.clamp(1, MOST_JOBS);
                        want.send_replace(table_jobs);
                        cx.reporter.report(Event::JobsChanged { table_jobs, index_jobs: cx.config.index_jobs }).await;
                    }
                    Ok(command) => match desk.answer(&command) {
                        Some((object, resolution)) => cx.close_trouble(&object, resolution == Resolution::Retry).await,
                        None => cx.refuse(&command, Stage::Copy).await,
                    },
                },
            }
        }
    }

    /// Ends what still runs.
    pub async fn end(self) {
        let Self { shared, tasks, .. } = self;
        drop(shared);
        tasks.end().await;
    }
}
