//! Indexes and keys of a relation, built as soon as it is copied: the identity's first, then the others.

use std::{collections::HashSet, sync::Arc};
use tokio::sync::{Mutex, mpsc};

use super::{ddl, trouble::Asker};
use crate::{
    bus::Reporter,
    error::Result,
    event::{Event, TableState},
    name::TableName,
    pg::{
        conninfo::Conninfo,
        dump::{Phase, Statement},
        ledger,
    },
};

/// A copied relation whose indexes are due.
pub struct Job {
    pub table: TableName,
    pub rows: u64,
    pub bytes: u64,
    pub statements: Vec<Statement>,
}

pub struct Builder {
    pub target: Conninfo,
    pub application_name: String,
    pub reporter: Reporter,
    pub asker: Asker,
    pub jobs: Arc<Mutex<mpsc::UnboundedReceiver<Job>>>,
    pub done: mpsc::UnboundedSender<TableName>,
}

impl Builder {
    /// Takes jobs until there are no more.
    pub async fn run(self) -> Result<()> {
        // A quarter of a gigabyte sorts most indexes without going to disk.
        let mut session = ddl::Session::new(&self.target, self.application_name.clone(), "set maintenance_work_mem = '256MB'");
        loop {
            let Some(job) = self.jobs.lock().await.recv().await else { return Ok(()) };
            let executed: HashSet<String> = ledger::executed(session.client().await?, Phase::Index.word()).await?;
            let total = job.statements.len() as u64;
            let state = |state| Event::CopyProgress { table: job.table.clone(), state, rows: job.rows, bytes: job.bytes, error: None };
            self.reporter.report(state(TableState::Indexing)).await;
            for (n, statement) in job.statements.iter().enumerate() {
                let progress = Event::IndexProgress { table: job.table.clone(), done: n as u64, total, index: statement.makes.clone() };
                self.reporter.report(progress).await;
                ddl::run(&mut session, statement, &executed, &self.reporter, &self.asker).await?;
            }
            self.reporter.report(Event::IndexProgress { table: job.table.clone(), done: total, total, index: None }).await;
            self.reporter.report(state(TableState::Done)).await;
            // The stage may have been stopped meanwhile.
            let _ = self.done.send(job.table);
        }
    }
}

/// The statements of a relation, and of its leaves, in the order in which they are to be built.
pub fn statements_for(statements: &[Statement], tables: &[TableName], identity_index: Option<&str>) -> Vec<Statement> {
    let mut own: Vec<Statement> =
        statements.iter().filter(|s| s.phase == Phase::Index && s.table.as_ref().is_some_and(|t| tables.contains(t))).cloned().collect();
    // A stable sort: the identity's index first, the order of the dump otherwise.
    own.sort_by_key(|s| s.makes.as_deref() != identity_index || identity_index.is_none());
    own
}
