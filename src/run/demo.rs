//! `hyperlift demo`: a source, a target, data and an application that writes, on this machine; and a migration between them.

use std::{
    io::{self, Write as _},
    time::Duration,
};
use tokio::sync::watch;

use super::Session;
use crate::{
    cli::{DemoArgs, DemoTarget, MigrateArgs},
    config::FrontKind,
    demo::{
        compare::compare,
        data::{self, Size},
        servers::{Programs, Scratch, Server, ServerOptions},
        timescale::{Target, TimescaleKind, start_timescale, timescale_kinds},
        writer::{Load, Totals, Writer},
    },
    error::{Error, Kind, Result},
    event::{PromptKind, Stage},
    plan::Plan,
    state::State,
};

/// The choices of the run without hands.
const PLAN: &str = include_str!("../../assets/demo/plan.toml");
/// The application stops for the cutover once the lag is below this, bytes.
const LEVEL: u64 = 4 << 20;

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
        // Where the extension is installed a server has to preload it, used or not: preflight insists on it.
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
            Self::Timescale(Target { kind: TimescaleKind::Given, .. }) => "TimescaleDB on the server that was given",
            Self::Timescale(Target { kind: TimescaleKind::Native, .. }) => "TimescaleDB",
            Self::Timescale(Target { kind: TimescaleKind::Pglite, .. }) => "TimescaleDB in PGlite (one session: everything takes its turn)",
            Self::Plain { .. } => "plain PostgreSQL: no hypertables are planned",
        }
    }

    /// Transactions a second of the whole application, so that it does not take the machine for itself; in PGlite so few that replay
    /// catches up on a busy machine, too.
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

/// Runs the demo. Servers and folders go with the process, however it ends.
pub async fn run(args: &MigrateArgs, demo: &DemoArgs) -> Result<()> {
    let front = args.front();
    let say = |text: &str| {
        // A reader that has gone away does not stop the demo.
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
    let hands_free = front != FrontKind::Dashboard;
    let scratch = Scratch::new().await?;
    let mut args = args.clone();
    args.source = Some(from.clone());
    args.target = Some(destination.uri().to_owned());
    args.dir = Some(args.dir.unwrap_or_else(|| scratch.path().join("demo")));
    args.yes |= hands_free;
    args.cutover_when_ready |= hands_free;
    args.quiet_for = 2;
    args.linger = 2;
    let mut config = args.config()?;
    if hands_free && config.plan.is_none() {
        let mut plan = Plan::parse(PLAN)?;
        if matches!(destination, Destination::Plain { .. }) {
            plan.hypertables.clear();
        }
        config.plan = Some(plan);
    }
    let load = Load { sessions: demo.writers.clamp(1, 32), rate_per_second: Some(destination.rate()), patient: true, ..Load::default() };
    let writer = Writer::start(&from, load).await?;
    say(&format!("an application with {} sessions is writing to the source; it stops when the cutover box opens", demo.writers));
    let session = Session::start(config, args.ui_options())?;
    let watching = session.front().state.clone();
    let application = tokio::spawn(write_until_the_cutover(writer, watching, hands_free));
    let migrated = session.migrate().await;
    application.abort();
    let written = application.await;
    migrated?;
    let totals = written.map_err(|_| Error::failed("the application was still writing when the migration ended"))??;
    say(&format!("the application committed {} transactions meanwhile; comparing both sides …", totals.transactions));
    let differences = compare(&from, destination.uri(), None).await?;
    if let Some(first) = differences.first() {
        return Err(Error::new(Kind::Differs, format!("{} differences between source and target; the first: {first}", differences.len()))
            .hint("this is a defect of hyperlift: please report it"));
    }
    say("source and target are equal, table by table, row by row");
    if let Destination::Timescale(target) = destination {
        target.close().await?;
    }
    Ok(())
}

/// The application: writes until the target is level with the source (without hands), or until the cutover box is confirmed.
async fn write_until_the_cutover(writer: Writer, mut state: watch::Receiver<State>, hands_free: bool) -> Result<Totals> {
    let ready = |s: &State| {
        let level = s.stage == Some(Stage::CatchUp) && s.replay.lag().is_some_and(|lag| lag < LEVEL) && s.replay.analyze.has_ended();
        let box_open = s.prompt.as_ref().is_some_and(|p| p.kind == PromptKind::Cutover);
        if hands_free { level } else { box_open || s.stage >= Some(Stage::Cutover) }
    };
    if state.wait_for(ready).await.is_ok() && hands_free {
        // A little longer, so that the lag graph is not all that was replayed.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    writer.stop().await
}
