//! What a worker does at a time, on its session of the target.

use std::cmp::Reverse;

use super::plan::BuildStep;
use crate::{
    bus::Reporter,
    error::Result,
    event::Level,
    migration::restore::ddl,
    name::{TableName, ident, literal},
    pg::{catalog, dump::Phase, ledger, local_rows},
};

/// Thousands of small relations would each wait for the disk. A target that crashes loses the indexes together with their entries in the
/// ledger. `build_post_index` flushes everything, reads the ledger again, and builds what was lost.
const NOT_FLUSHED: &str = "set local synchronous_commit = off";

/// Settings of a session that builds. The server's own value is kept if it is larger. A quarter of a gigabyte sorts most indexes without
/// going to disk; all jobs together get a gigabyte at most, because it is not known how much memory the target has.
pub fn settings(index_jobs: u32) -> String {
    let kilobytes = (256 << 10).min((1 << 20) / index_jobs.max(1));
    format!(
        "select set_config('maintenance_work_mem', greatest(setting::bigint, {kilobytes}) || 'kB', false)
           from pg_settings where name = 'maintenance_work_mem'"
    )
}

/// One piece of work for a worker.
#[derive(Clone, Debug)]
pub enum IndexWork {
    /// A small relation as a whole, with ANALYZE: the planner needs statistics immediately, because replay begins with large sets of rows.
    Whole(Vec<BuildStep>),
    /// A step, and the number of its table within the relation.
    Step(usize, BuildStep),
    /// The same for a step that is recorded as skipped, with the error that made the operator skip it.
    Skip(usize, BuildStep, String),
    Analyze,
}

/// Work that can begin: that of the largest relation first, otherwise in the order of `ordinal`.
pub struct ReadyWork {
    pub bytes: u64,
    pub ordinal: Reverse<usize>,
    pub relation: usize,
    pub work: IndexWork,
}

impl Ord for ReadyWork {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.bytes, self.ordinal).cmp(&(other.bytes, other.ordinal))
    }
}
impl PartialOrd for ReadyWork {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for ReadyWork {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for ReadyWork {}

pub struct IndexWorker {
    pub number: u32,
    pub session: ddl::DdlSession,
}

impl IndexWork {
    /// `changed`: rows or indexes of the table have changed in this run, so that it needs ANALYZE.
    pub async fn run(&self, session: &mut ddl::DdlSession, table: &TableName, changed: bool, reporter: &Reporter) -> Result<()> {
        match self {
            Self::Whole(steps) => {
                let first = std::iter::once(NOT_FLUSHED.to_owned());
                let all: Vec<String> = first.chain(steps.iter().map(BuildStep::recorded)).chain([local_rows::analyze(table)]).collect();
                ddl::run_with_retry(session, &table.to_string(), &all.join(";\n"), reporter).await
            }
            Self::Step(_, step) => step.run(session, reporter).await,
            Self::Skip(_, step, failure) => ddl::run_with_retry(session, &step.object, &step.skipped(failure), reporter).await,
            Self::Analyze => {
                // An earlier run may have been killed before its ANALYZE.
                let due = format!("select pg_stat_get_last_analyze_time(to_regclass({})) is null", literal(&table.sql()));
                if changed || catalog::value(session.client().await?, &due).await? {
                    ddl::run_with_retry(session, &format!("ANALYZE {table}"), &local_rows::analyze(table), reporter).await?;
                }
                Ok(())
            }
        }
    }
}

impl BuildStep {
    async fn run(&self, session: &mut ddl::DdlSession, reporter: &Reporter) -> Result<()> {
        let recorded = self.recorded();
        let Err(e) = ddl::run_with_retry(session, &self.object, &recorded, reporter).await else { return Ok(()) };
        for digest in std::iter::once(&self.digest).chain(&self.needed_by) {
            if session.has(Phase::Index.as_str(), digest).await.unwrap_or(false) {
                return Ok(());
            }
        }
        let Some(leftover) = self.leftover(session).await.filter(|_| e.has_code(crate::sqlstate::DUPLICATE_TABLE)) else {
            session.accept_existing(&self.object.as_str().into(), &self.sql, e).await?;
            let record = ledger::record_ddl(Phase::Index.as_str(), &self.object, &self.digest);
            ddl::run_with_retry(session, &self.object, &record, reporter).await?;
            reporter.notice(Level::Info, format!("{} exists already, as on the source", self.object)).await;
            return Ok(());
        };
        reporter.notice(Level::Warn, format!("{}: the invalid index {leftover} on the target is dropped and built again", self.object)).await;
        ddl::run_with_retry(session, &self.object, &format!("drop index {};\n{recorded}", leftover.sql()), reporter).await
    }

    /// The invalid index of this name on the same table that an interrupted build has left. An index of a partition root is no such
    /// leftover: it is invalid until every partition has its index.
    async fn leftover(&self, session: &mut ddl::DdlSession) -> Option<TableName> {
        let (table, name) = (self.table.as_ref()?, self.index.as_ref()?);
        let index = TableName::new(&table.schema, name);
        let sql = format!(
            "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
               where i.indexrelid = to_regclass({}) and i.indrelid = to_regclass({}) and not i.indisvalid and c.relkind = 'i')",
            literal(&format!("{}.{}", ident(&table.schema), ident(name))),
            literal(&table.sql())
        );
        catalog::value::<bool>(session.client().await.ok()?, &sql).await.ok()?.then_some(index)
    }
}
