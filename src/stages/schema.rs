//! Stage 3: roles, extensions and the schema up to the point where rows can come, statement by statement.

use super::{
    ddl,
    trouble::{self, Desk, Resolution},
};
use crate::{
    error::{Error, Result},
    event::{Event, Level, Stage},
    migration::Migration,
    name::ident,
    pg::{
        catalog,
        client::Client,
        dump::{self, PgDump, Phase, Schema, Statement},
        ledger, timescale,
    },
};

/// Roles that belong to a server or a managed service; they are never created on the target (N-10).
const RESERVED_ROLES: &str = "^(pg_|rds|cloudsql|azure|_aiven|supabase|neon)|^(postgres|tsdbadmin|tsdbowner|doadmin|avnadmin)$";

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
        finished: false,
    };
    ledger::create(&mut target, &migration, env!("CARGO_PKG_VERSION")).await?;
    if !m.is_finished(Stage::Schema) {
        let schema = m.unless_stopped(dump(m)).await?;
        m.record.schema = Some(schema.digest.clone());
        m.save()?;
        m.work.replace("sql/schema.sql", text_of(&schema.statements).as_bytes())?;
        if !m.config.skip_roles {
            roles(m, &source, &target).await?;
        }
        create_timescale(m, &target).await?;
        drop(target);
        restore(m, &schema).await?;
    }
    m.finish(Stage::Schema).await
}

/// The pg_dump that fits the source.
pub async fn program(m: &Migration) -> Result<PgDump> {
    let source = m.source("schema").await?;
    let server = catalog::server(&source).await?;
    let installed = dump::installed().await;
    dump::choose(&installed, server.major())
        .cloned()
        .ok_or_else(|| Error::refused("no pg_dump fits the source").hint(format!("install postgresql-client-{}", server.major())))
}

/// The schema as it is now, with the plan's hypertables in it.
pub async fn dump(m: &Migration) -> Result<Schema> {
    let mut schema = dump::schema(&program(m).await?, &m.config.source, &m.plan).await?;
    if m.config.skip_extensions {
        schema.statements.retain(|s| !s.object.starts_with("EXTENSION "));
    }
    Ok(schema)
}

fn text_of(statements: &[Statement]) -> String {
    let one = |s: &Statement| format!("-- {} ({})\n{};\n", s.object.replace('\n', " "), s.phase.word(), s.sql.trim_end_matches(';'));
    statements.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Roles that own or may use something, without passwords and without rights that only a superuser can give.
async fn roles(m: &Migration, source: &Client, target: &Client) -> Result<()> {
    let wanted = source
        .query(
            "select rolname::text as name, rolcanlogin as login, rolinherit as inherits, rolcreatedb as createdb, rolcreaterole as createrole
               from pg_roles where rolname !~* $1 and rolname <> current_user order by 1",
            &[&RESERVED_ROLES],
        )
        .await?;
    for role in wanted {
        let name: &str = role.get("name");
        let exists = target.query_opt("select 1 from pg_roles where rolname = $1", &[&name]).await?.is_some();
        if exists {
            continue;
        }
        let right = |column: &str, word: &str| format!(" {}{word}", if role.get::<_, bool>(column) { "" } else { "no" });
        let sql = format!("create role {}{}{}", ident(name), right("login", "login"), right("inherits", "inherit"));
        match target.batch_execute(&sql).await {
            Ok(()) => m.notice(Level::Info, format!("role {name} created without a password")).await,
            Err(e) => m.notice(Level::Warn, format!("role {name} was not created: {}", Error::from(e))).await,
        }
    }
    Ok(())
}

async fn create_timescale(m: &mut Migration, target: &Client) -> Result<()> {
    if m.timescale.installed.is_none() && m.timescale.available.is_some() {
        target.batch_execute("set search_path = public; create extension if not exists timescaledb; set search_path = ''").await?;
        m.timescale = timescale::inspect(target).await?;
        m.notice(Level::Info, format!("TimescaleDB {} created", m.timescale.installed.clone().unwrap_or_default())).await;
        m.endpoints.1.timescale.clone_from(&m.timescale.installed);
        let (source, target) = m.endpoints.clone();
        m.reporter.report(Event::Connected { source, target }).await;
    }
    Ok(())
}

/// Runs the statements that come before the rows.
async fn restore(m: &mut Migration, schema: &Schema) -> Result<()> {
    let statements: Vec<Statement> = schema.statements.iter().filter(|s| s.phase == Phase::PreData).cloned().collect();
    // Flushed once, at the end: thousands of small statements would wait for the disk most of the time.
    let mut session = ddl::Session::new(&m.config.target, m.application("schema"), "set synchronous_commit = off");
    let executed = ledger::executed(session.client().await?, Phase::PreData.word()).await?;
    let (asker, mut desk) = trouble::desk(m.config.interactive);
    let reporter = m.reporter.clone();
    let total = statements.len() as u64;
    let work = async {
        for (done, statement) in statements.iter().enumerate() {
            reporter.report(Event::SchemaProgress { done: done as u64, total, object: statement.object.clone() }).await;
            ddl::run(&mut session, statement, &executed, &reporter, &asker).await?;
        }
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
                let text = format!("{object} failed: {error}");
                let prompt = m.next_prompt(stage, crate::event::PromptKind::Trouble, text, None);
                m.reporter.report(Event::PromptOpened { prompt }).await;
            }
            command = m.command() => {
                let command = command?;
                match desk.answer(&command) {
                    Some(answered) => settled(m, answered).await,
                    None => m.refuse(&command, stage).await,
                }
            }
        }
    }
}

/// The operator has answered: the prompt closes, and what failed is void until it fails again.
pub async fn settled(m: &mut Migration, (object, resolution): (String, Resolution)) {
    if resolution == Resolution::Retry {
        m.reporter.report(Event::StatementRetried { object }).await;
    }
    let id = m.last_prompt();
    m.reporter.report(Event::PromptClosed { id }).await;
}
