//! Stage 3: roles, extensions and the schema up to the point where rows can come, statement by statement.

use std::sync::Arc;

use super::{
    ddl, rights, roles,
    trouble::{self, Desk, Resolution},
};
use crate::{
    error::Result,
    event::{Event, Level, Stage},
    migration::Migration,
    pg::{
        catalog,
        client::{self, Client},
        dump::{self, Phase, Schema, Statement},
        extent::{self, Omitted},
        ledger,
        timescale::{self, Timescale},
    },
    plan::Plan,
};

pub async fn run(m: &mut Migration) -> Result<()> {
    m.enter(Stage::Schema).await;
    let source = m.source("schema").await?;
    let mut target = m.target("schema").await?;
    let ended = catalog::end_leftovers(&target, &m.record.id).await? + catalog::end_leftovers(&source, &m.record.id).await?;
    if ended > 0 {
        m.notice(Level::Info, format!("ended {ended} sessions that an earlier run left behind")).await;
    }
    let migration = ledger::Migration {
        id: m.record.id.clone(),
        source_system_id: m.record.source.system_id.clone(),
        source_db: m.record.source.database.clone(),
        lanes: m.config.replay_lanes,
        search_path: catalog::default_search_path(&source).await?,
        finished: false,
    };
    ledger::create(&mut target, &migration, env!("CARGO_PKG_VERSION")).await?;
    if !m.is_finished(Stage::Schema) {
        let (schema, timescale) = m.unless_stopped(async { tokio::try_join!(dump(m), create_timescale(m, &target)) }).await?;
        m.record.schema = Some(schema.digest.clone());
        m.save()?;
        // What becomes of publications depends on hypertables, which may still be chosen.
        for (object, reason) in schema.notes.iter().filter(|(object, _)| !object.starts_with("PUBLICATION ")) {
            m.not_moved(object, reason).await?;
        }
        m.work.replace("sql/schema.sql", text_of(&schema.statements).as_bytes())?;
        if !m.config.skip_roles {
            roles::create(m, &source, &target).await?;
        }
        if let Some(timescale) = timescale {
            m.notice(Level::Info, format!("TimescaleDB {} created", timescale.installed.clone().unwrap_or_default())).await;
            m.endpoints.1.timescale.clone_from(&timescale.installed);
            m.timescale = timescale;
            let (source, target) = m.endpoints.clone();
            m.reporter.report(Event::Connected { source, target }).await;
        }
        drop(target);
        restore(m, &schema).await?;
    }
    m.finish(Stage::Schema).await
}

/// The schema as it is now, with the plan's hypertables in it and without what is left out. While the source's catalogs stay as they
/// were, it is not dumped again.
pub async fn dump(m: &Migration) -> Result<Schema> {
    let source = m.source("schema").await?;
    let state = catalog::schema_state(&source).await?;
    let known = m.dumped.lock().ok().and_then(|dumped| dumped.clone());
    let text = match known {
        Some((then, text)) if then == state => text,
        _ => print(m, &source, &m.plan, &extent::resolve(&source, &m.plan).await?).await?,
    };
    drop(source);
    if let Ok(mut dumped) = m.dumped.lock() {
        *dumped = Some((state, text.clone()));
    }
    understood(m, text, &m.plan).await
}

/// The schema as pg_dump prints it, without what is left out.
pub async fn print(m: &Migration, source: &Client, plan: &Plan, omitted: &Omitted) -> Result<Arc<str>> {
    let program = dump::find(m.config.pg_dump.as_deref(), catalog::server(source).await?.major()).await?;
    dump::text(&program, &m.config.source, plan, omitted).await
}

/// The statements of such a text, for this target.
pub async fn understood(m: &Migration, text: Arc<str>, plan: &Plan) -> Result<Schema> {
    let timescale = m.timescale.installed.is_some() || m.timescale.available.is_some();
    let target = dump::Target { major: client::version_num(&m.endpoints.1.version) / 10_000, timescale };
    let mut schema = dump::schema(text, plan, target).await?;
    if m.config.skip_extensions {
        schema.statements.retain(|s| !s.object.starts_with("EXTENSION "));
    }
    Ok(schema)
}

fn text_of(statements: &[Statement]) -> String {
    let one = |s: &Statement| format!("-- {} ({})\n{};\n", s.object.replace('\n', " "), s.phase.word(), s.shown().trim_end_matches(';'));
    statements.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Creates the extension where it can be had and is not there yet.
async fn create_timescale(m: &Migration, target: &Client) -> Result<Option<Timescale>> {
    if m.timescale.installed.is_some() || m.timescale.available.is_none() {
        return Ok(None);
    }
    target.batch_execute("set search_path = public; create extension if not exists timescaledb; set search_path = ''").await?;
    timescale::inspect(target).await.map(Some)
}

/// Runs the statements that come before the rows.
pub async fn restore(m: &mut Migration, schema: &Schema) -> Result<()> {
    // Flushed once, at the end: thousands of small statements would wait for the disk most of the time.
    let mut session = ddl::Session::new(&m.config.target, m.application("schema"), "set synchronous_commit = off");
    let target = session.client().await?;
    let mut executed = ledger::executed(target, Phase::PreData.word()).await?;
    executed.extend(ledger::executed(target, Phase::Subscription.word()).await?);
    let statements = rights::possible(m, target, schema.statements.iter().filter(|s| s.phase == Phase::PreData)).await?;
    let subscriptions: Vec<&Statement> = schema.statements.iter().filter(|s| s.phase == Phase::Subscription).collect();
    let (asker, mut desk) = trouble::desk(m.config.interactive);
    let reporter = m.reporter.clone();
    let total = statements.len() as u64;
    let work = async {
        let progress = |done: usize, statement: &Statement| {
            reporter.progress(Event::SchemaProgress { done: done as u64, total, object: statement.object.clone() });
        };
        ddl::run_all(&mut session, &statements, &executed, &reporter, Some(&asker), progress).await?;
        ddl::run_all(&mut session, &subscriptions, &executed, &reporter, None, |_, _| {}).await?;
        reporter.report(Event::SchemaProgress { done: total, total, object: String::new() }).await;
        Ok(())
    };
    tokio::pin!(work);
    with_desk(m, &mut desk, Stage::Schema, work).await?;
    ledger::flush(&m.target("schema").await?).await
}

/// Drives work while its troubles are brought to the operator and back.
pub async fn with_desk<T>(
    m: &mut Migration,
    desk: &mut Desk,
    stage: Stage,
    mut work: std::pin::Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    loop {
        tokio::select! {
            result = &mut work => return result,
            trouble = desk.next() => {
                let (object, error) = trouble?;
                m.open_trouble(stage, &object, format!("{object} failed: {error}")).await;
            }
            command = m.command() => {
                let command = command?;
                match desk.answer(&command) {
                    Some((object, resolution)) => m.close_trouble(&object, resolution == Resolution::Retry).await,
                    None => m.refuse(&command, stage).await,
                }
            }
        }
    }
}
