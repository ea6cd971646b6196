//! `hyperlift demo`: starts a source, a target and an application that writes, on this machine, and migrates between them.

use std::{
    io::{self, Write as _},
    time::Duration,
};
use tokio::sync::watch;

use super::wiring::Run;
use crate::{
    cli::{DemoArgs, DemoTarget, MigrateArgs},
    config::FrontKind,
    demo::{
        application::{Application, Load, Totals},
        compare::compare,
        data::{self, Size},
        servers::{Programs, Scratch, Server, ServerOptions},
        timescale::{Target, TimescaleKind, start_timescale, timescale_kinds},
    },
    error::{Error, Kind, Result},
    event::{PromptKind, Stage},
    plan::Plan,
    state::State,
};

/// The choices for a run without a terminal.
const PLAN: &str = include_str!("../../assets/demo/plan.toml");
/// The application stops for the cutover when the lag is below this, bytes.
const SMALL_LAG: u64 = 4 << 20;

/// Where the demo migrates to.
enum Destination {
    Timescale(Target),
    Plain { uri: String, _server: Server },
}

impl Destination {
    async fn start(wanted: Option<DemoTarget>) -> Result<Self> {
        let kind = match wanted {
            None => timescale_kinds().await.first().copied(),
            Some(DemoTarget::Given) => Some(TimescaleKind::Given),
            Some(DemoTarget::Native) => Some(TimescaleKind::Native),
            Some(DemoTarget::Pglite) => Some(TimescaleKind::Pglite),
            Some(DemoTarget::Plain) => None,
        };
        if let Some(kind) = kind {
            return Ok(Self::Timescale(start_timescale(kind).await?));
        }
        // Where the extension is installed, preflight requires that the server preloads it, even if it is not used.
        let timescale = Programs::newest()?.has_timescale();
        let server = Server::start(ServerOptions { timescale, ..ServerOptions::default() }).await?;
        let uri = server.create_database("target").await?;
        Ok(Self::Plain { uri, _server: server })
    }

    fn uri(&self) -> &str {
        match self {
            Self::Timescale(target) => &target.uri,
            Self::Plain { uri, .. } => uri,
        }
    }

    fn sentence(&self) -> &'static str {
        match self {
            Self::Timescale(Target { kind: TimescaleKind::Given, .. }) => "TimescaleDB on the server of HYPERLIFT_TEST_TIMESCALE",
            Self::Timescale(Target { kind: TimescaleKind::Native, .. }) => "TimescaleDB",
            Self::Timescale(Target { kind: TimescaleKind::Pglite, .. }) => "TimescaleDB in PGlite, which serves one statement at a time",
            Self::Plain { .. } => "plain PostgreSQL, without hypertables",
        }
    }

    /// Transactions per second of the whole application. Limited, because it must leave time for the migration on the same machine; PGlite
    /// is slower, so that replay needs a lower rate to catch up.
    fn rate(&self) -> f64 {
        match self {
            Self::Timescale(Target { kind: TimescaleKind::Pglite, .. }) => 50.0,
            _ => 200.0,
        }
    }

    fn size(&self) -> Size {
        match self {
            Self::Timescale(Target { kind: TimescaleKind::Pglite, .. }) => Size::PGLITE,
            _ => Size::DEMO,
        }
    }
}

/// Runs the demo. Servers and folders are removed when the process ends, however it ends.
pub async fn run(args: &MigrateArgs, demo: &DemoArgs) -> Result<()> {
    let front = args.front();
    let say = |text: &str| {
        // The demo continues when nobody reads its output any more.
        let _ = if front == FrontKind::Json { writeln!(io::stderr(), "demo: {text}") } else { writeln!(io::stdout(), "demo: {text}") };
    };
    say("starting a source and a target …");
    let source = Server::start(ServerOptions::default()).await?;
    let from = source.create_database("shop").await?;
    let destination = Destination::start(demo.on).await?;
    say(&format!("target: {}", destination.sentence()));
    let size = demo.size.map_or_else(|| destination.size(), Size);
    say("filling the source …");
    data::load(&from, size).await?;
    let unattended = front != FrontKind::Dashboard;
    let scratch = Scratch::new().await?;
    let mut args = args.clone();
    args.source = Some(from.clone());
    args.target = Some(destination.uri().to_owned());
    args.dir = Some(args.dir.unwrap_or_else(|| scratch.path().join("demo")));
    args.yes |= unattended;
    args.cutover_when_ready |= unattended;
    args.quiet_for = 2;
    args.linger = 2;
    let mut config = args.config()?;
    if unattended && config.plan.is_none() {
        let mut plan = Plan::parse(PLAN)?;
        if matches!(destination, Destination::Plain { .. }) {
            plan.hypertables.clear();
        }
        config.plan = Some(plan);
    }
    let load = Load { sessions: demo.writers.clamp(1, 32), rate_per_second: Some(destination.rate()), patient: true, ..Load::default() };
    let application = Application::start(&from, load).await?;
    say(&format!("an application with {} sessions is writing to the source; it stops when the cutover box opens", demo.writers));
    let run = Run::start(config, args.ui_options())?;
    let watching = run.front().state.clone();
    let application = tokio::spawn(write_until_the_cutover(application, watching, unattended));
    let migrated = run.migrate().await;
    application.abort();
    let written = application.await;
    migrated?;
    let totals = written.map_err(|_| Error::failed("the application was still writing when the migration ended"))??;
    say(&format!("the application committed {} transactions meanwhile; comparing both sides …", totals.transactions));
    let differences = compare(&from, destination.uri(), None).await?;
    if let Some(first) = differences.first() {
        return Err(Error::new(Kind::Differs, format!("{} differences between source and target; the first: {first}", differences.len()))
            .hint("this is a bug in hyperlift: please report it"));
    }
    say("source and target are equal, table by table, row by row");
    if let Destination::Timescale(target) = destination {
        target.close().await?;
    }
    Ok(())
}

/// Writes until the cutover box is open. Without a terminal there is no box: then until the lag is small and ANALYZE is done.
async fn write_until_the_cutover(application: Application, mut state: watch::Receiver<State>, unattended: bool) -> Result<Totals> {
    let ready = |s: &State| {
        let caught_up = s.stage == Some(Stage::CatchUp) && s.replay.lag().is_some_and(|lag| lag < SMALL_LAG) && s.replay.analyze.has_ended();
        let box_open = s.prompts.shown().is_some_and(|p| p.kind == PromptKind::Cutover);
        if unattended { caught_up } else { box_open || s.stage >= Some(Stage::Cutover) }
    };
    if state.wait_for(ready).await.is_ok() && unattended {
        // A little longer, so that replay does not only see what was written during the copy.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    application.stop().await
}
