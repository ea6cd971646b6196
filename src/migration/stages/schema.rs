//! Stage 3: roles, extensions, and the schema as far as it is needed before the rows.

use crate::migration::restore;

use crate::{
    error::Result,
    event::{Event, Level, Stage},
    migration::{context::Context, restore::roles},
    pg::{
        catalog::{self},
        client::Client,
        dump::Statement,
        ledger,
        object::ObjectKind,
        timescale::{self, Timescale},
    },
};

pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Schema).await;
    let source = cx.source("schema").await?;
    let mut target = cx.target("schema").await?;
    let ended = catalog::end_leftovers(&target, &cx.record.id).await? + catalog::end_leftovers(&source, &cx.record.id).await?;
    if ended > 0 {
        cx.notice(Level::Info, format!("ended {ended} sessions of an earlier run")).await;
    }
    let migration = ledger::LedgerMigration {
        id: cx.record.id.clone(),
        source_system_id: cx.record.source.system_id.clone(),
        source_db: cx.record.source.database.clone(),
        lanes: cx.config.replay_lanes,
        search_path: catalog::default_search_path(&source).await?,
        finished: false,
    };
    ledger::create(&mut target, &migration, env!("CARGO_PKG_VERSION")).await?;
    if !cx.is_finished(Stage::Schema) {
        let sides = cx.sides();
        let (schema, timescale) = cx.unless_stopped(async { tokio::try_join!(restore::dump(&sides), create_timescale(cx, &target)) }).await?;
        restore::refuse_uncovered(&source, &schema, &catalog::relations(&source).await?).await?;
        cx.record.schema = Some(schema.digest.clone());
        cx.save()?;
        // What depends on the hypertables is reported when they are chosen.
        for note in schema.notes.iter().filter(|n| n.object.kind != ObjectKind::Publication && n.hypertable.is_none()) {
            cx.not_moved(&note.object, &note.reason).await?;
        }
        cx.work.replace("sql/schema.sql", text_of(&schema.statements).as_bytes())?;
        if !cx.config.skip_roles {
            roles::create(cx, &source, &target).await?;
        }
        if let Some(timescale) = timescale {
            let version = timescale.installed.clone().unwrap_or_default();
            cx.notice(Level::Info, format!("TimescaleDB {version} created in schema {}", timescale.schema)).await;
            cx.endpoints.1.timescale.clone_from(&timescale.installed);
            cx.timescale = timescale;
            let (source, target) = cx.endpoints.clone();
            cx.reporter.report(Event::Connected { source, target }).await;
        }
        drop(target);
        restore::restore(cx, &schema).await?;
    }
    cx.finish(Stage::Schema).await
}

fn text_of(statements: &[Statement]) -> String {
    let one =
        |s: &Statement| format!("-- {} ({})\n{};\n", s.object.to_string().replace('\n', " "), s.phase.as_str(), s.shown().trim_end_matches(';'));
    statements.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Creates the extension where it is available and not installed yet.
async fn create_timescale(cx: &Context, target: &Client) -> Result<Option<Timescale>> {
    if !cx.timescale.can_be_created() {
        return Ok(None);
    }
    target.batch_execute(&timescale::create_extension(&cx.timescale.schema)).await?;
    timescale::inspect(target).await.map(Some)
}
