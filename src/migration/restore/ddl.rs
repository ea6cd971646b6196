//! Running the schema's statements on the target, each with its ledger row in one transaction (I2).

use std::{collections::HashSet, time::Duration};

use super::existing;
use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Answer, Event, FailedStatement, Level, Subject},
    migration::prompts::PromptSender,
    pg::{
        catalog::versions,
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        dump::Statement,
        ledger,
        object::ObjectRef,
    },
    sqlstate,
};

/// A connection to the target for DDL, made again when it breaks.
pub struct DdlSession {
    target: Conninfo,
    source: Conninfo,
    application_name: String,
    /// Run once on each connection.
    settings: String,
    client: Option<Client>,
}

impl DdlSession {
    pub fn new(config: &Config, application_name: String, settings: impl Into<String>) -> Self {
        let (target, source) = (config.target.clone(), config.source.clone());
        Self { target, source, application_name, settings: settings.into(), client: None }
    }

    /// Whether a statement failed because its object exists already, as on the source; else the failure, with what to do.
    pub async fn accept_existing(&mut self, object: &ObjectRef, sql: &str, failure: Error) -> Result<()> {
        let (source, name) = (self.source.clone(), self.application_name.clone());
        // Boxed, because it is rare and every statement's future would be as large.
        Box::pin(existing::accept(self.client().await?, (source, name), object, sql, failure)).await
    }

    pub async fn client(&mut self) -> Result<&Client> {
        if self.client.as_ref().is_none_or(|c| c.is_closed()) {
            let fresh = client::connect(&self.target, Side::Target, &self.application_name).await?;
            fresh.batch_execute(&self.settings).await?;
            self.client = Some(fresh);
        }
        Ok(self.client.as_ref().expect("it was just connected"))
    }

    async fn execute(&mut self, sql: &str) -> Result<()> {
        in_transaction(self.client().await?, sql).await
    }

    /// Whether the ledger has a statement. It has it after a failure when the answer was lost, or when a session of an earlier run committed late.
    pub async fn has(&mut self, phase: &str, digest: &str) -> Result<bool> {
        Ok(ledger::executed(self.client().await?, phase).await?.contains(digest))
    }

    /// The default `search_path` on the source.
    async fn source_path(&mut self) -> Option<String> {
        ledger::migration(self.client().await.ok()?).await.ok()??.search_path
    }
}

/// How many statements run in one transaction: each holds a few locks until its end.
const BATCH: usize = 100;
/// Begins the reason of a statement that the operator has skipped.
pub const SKIPPED: &str = "skipped by the operator";
/// Something that the statement needs was not found.
pub const NOT_FOUND: [&str; 4] = [sqlstate::UNDEFINED_FUNCTION, sqlstate::UNDEFINED_TABLE, sqlstate::UNDEFINED_OBJECT, sqlstate::INVALID_SCHEMA_NAME];

/// Runs statements in their order, [`BATCH`] in one transaction; where a batch fails, each by itself. Without an `asker` a statement that fails
/// is skipped, and the ledger records why.
pub async fn run_all(
    session: &mut DdlSession,
    statements: &[&Statement],
    executed: &HashSet<String>,
    reporter: &Reporter,
    prompts: Option<&PromptSender>,
    progress: impl Fn(usize, &Statement),
) -> Result<()> {
    for (n, batch) in statements.chunks(BATCH).enumerate() {
        let left: Vec<&Statement> = batch.iter().copied().filter(|s| !executed.contains(&s.digest())).collect();
        let Some(first) = left.first() else { continue };
        progress(n * BATCH, first);
        if left.len() > 1 && session.execute(&batch_sql(&left)).await.is_ok() {
            continue;
        }
        for (i, statement) in left.into_iter().enumerate() {
            progress(n * BATCH + i, statement);
            run_or_skip(session, statement, executed, reporter, prompts).await?;
        }
    }
    Ok(())
}

fn batch_sql(statements: &[&Statement]) -> String {
    statements.iter().map(|s| with_record(s)).collect::<Vec<_>>().join(";\n")
}

/// The statement, and the one that records it.
fn with_record(statement: &Statement) -> String {
    let record = ledger::record_ddl(statement.phase.as_str(), &statement.object.to_string(), &statement.digest());
    format!("{};\n{record}", statement.sql.trim_end_matches(';'))
}

/// Runs one statement unless the ledger has it. Passing trouble is waited out; on another error the operator decides; `Ok(false)` means skipped.
pub async fn run(
    session: &mut DdlSession,
    statement: &Statement,
    executed: &HashSet<String>,
    reporter: &Reporter,
    prompts: &PromptSender,
) -> Result<bool> {
    run_or_skip(session, statement, executed, reporter, Some(prompts)).await
}

async fn run_or_skip(
    session: &mut DdlSession,
    statement: &Statement,
    executed: &HashSet<String>,
    reporter: &Reporter,
    prompts: Option<&PromptSender>,
) -> Result<bool> {
    let digest = statement.digest();
    if executed.contains(&digest) {
        return Ok(true);
    }
    let (phase, object) = (statement.phase.as_str(), statement.object.to_string());
    let done = with_record(statement);
    loop {
        let e = match run_with_retry(session, &object, &done, reporter).await {
            Ok(()) => return Ok(true),
            Err(e) => e,
        };
        if session.has(phase, &digest).await.unwrap_or(false) {
            return Ok(true);
        }
        let Err(e) = session.accept_existing(&statement.object, &statement.sql, e).await else {
            session.execute(&ledger::record_ddl(phase, &object, &digest)).await?;
            reporter.notice(Level::Info, format!("{object} exists already, as on the source")).await;
            return Ok(true);
        };
        let Some(prompts) = prompts else {
            session.execute(&ledger::skip_ddl(phase, &object, &digest, &e.to_string())).await?;
            return Ok(false);
        };
        report_failure(reporter, &object, statement.shown(), &e).await;
        let reason = e.to_string();
        if prompts.ask(Subject::Object(object.clone()), e).await? == Answer::Skip {
            session.execute(&ledger::skip_ddl(phase, &object, &digest, &format!("{SKIPPED}: {reason}"))).await?;
            reporter.report(Event::StatementSkipped { object }).await;
            return Ok(false);
        }
    }
}

/// Runs statements as one transaction, again after transient errors such as a restart of the target. Where something is not found they run
/// with the `search_path` of the source's database, because functions that they call may need it (N-4).
pub async fn run_with_retry(session: &mut DdlSession, object: &str, sql: &str, reporter: &Reporter) -> Result<()> {
    let mut delay = Duration::from_millis(250);
    let mut with_path = None;
    loop {
        match session.execute(with_path.as_deref().unwrap_or(sql)).await {
            Err(e) if e.is_transient() => reporter.notice(Level::Warn, format!("{object}: {e}; retrying")).await,
            Err(e) if NOT_FOUND.iter().any(|code| e.has_code(code)) => {
                let Some(path) = session.source_path().await else { return Err(e) };
                if with_path.is_some() {
                    return Err(with_search_path_hint(e, session.client().await?.version(), &path));
                }
                with_path = Some(format!("set local search_path = {path};\n{sql}"));
                continue;
            }
            other => return other,
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(10));
    }
}

/// Adds a hint where the path of the source did not help: newer servers ignore `search_path` while they fill an index or a materialised view.
pub fn with_search_path_hint(e: Error, version: u32, path: &str) -> Error {
    if version / 10_000 < versions::CATALOG_PATH_ALONE || !NOT_FOUND.iter().any(|code| e.has_code(code)) {
        return e;
    }
    e.hint(format!(
        "from PostgreSQL {} on functions of indexes and materialised views find by search_path only what is in the catalog: \
         alter function … set search_path = {path} on the target, then retry",
        versions::CATALOG_PATH_ALONE
    ))
}

/// Runs statements in the transaction that is open; after an error it goes on without them. Where something is not found they run with this
/// `search_path`, as in [`run_with_retry`].
pub async fn in_savepoint(client: &Client, sql: &str, path: Option<&str>) -> Result<()> {
    let run = async |sql: &str| {
        let result = client.batch_execute(&format!("savepoint statement;\n{sql};\nrelease savepoint statement")).await.map_err(Error::from);
        if result.is_err() {
            client.batch_execute("rollback to savepoint statement; release savepoint statement").await.ok();
        }
        result
    };
    match (run(sql).await, path) {
        (Err(e), Some(path)) if NOT_FOUND.iter().any(|code| e.has_code(code)) => {
            run(&format!("set local search_path = {path};\n{sql};\nset local search_path = ''")).await
        }
        (result, _) => result,
    }
}

/// Runs statements as one transaction.
pub async fn in_transaction(client: &Client, sql: &str) -> Result<()> {
    let result = client.batch_execute(&format!("begin;\n{sql};\ncommit")).await;
    if let Err(e) = result {
        let error = Error::from(e);
        // Without this an error would leave the session in the failed transaction.
        client.batch_execute("rollback").await.ok();
        return Err(error);
    }
    Ok(())
}

pub async fn report_failure(reporter: &Reporter, object: &str, sql: &str, e: &Error) {
    tracing::error!(object, sqlstate = e.sqlstate, "failed: {}", e.message);
    reporter
        .report(Event::StatementFailed(FailedStatement {
            object: object.into(),
            message: e.message.clone(),
            sqlstate: e.sqlstate.clone(),
            sql: sql.into(),
        }))
        .await;
}
