//! Runs a command: puts bus, front end, signals and migration together, and turns the result into an exit code.

pub mod demo;

use crate::migration;
use std::{
    io::{self, Write as _},
    sync::Arc,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::WorkerGuard;

use crate::{
    bus::{self, FrontEnd},
    cli::{Cli, Command, MigrateArgs},
    config::{Config, FrontKind},
    error::{Error, Result},
    event::{self, Answer, Stamped},
    front,
    migration::{
        context::Context,
        stages::{done::clean, preflight},
    },
    report::summary::exit_summary,
    ui,
    work_dir::WorkDir,
};

/// Runs what the command line says and returns the exit code.
pub async fn run(cli: Cli) -> u8 {
    let result = match cli.command {
        None => migrate(&cli.migrate).await,
        Some(Command::Migrate(args)) => migrate(&args).await,
        Some(Command::Check(args)) => check(&args).await,
        Some(Command::Clean(args)) => clean(&args).await,
        Some(Command::Demo(demo)) => demo::run(&cli.migrate, &demo).await,
    };
    match result {
        Ok(()) => 0,
        Err(e) => {
            if !e.is_stop() {
                let hint = e.hint.as_ref().map(|hint| format!("           {hint}\n")).unwrap_or_default();
                // Not `eprintln!`, which panics when nobody reads.
                let _ = write!(io::stderr(), "hyperlift: {e}\n{hint}");
            }
            e.exit_code()
        }
    }
}

async fn migrate(args: &MigrateArgs) -> Result<()> {
    let config = args.config()?;
    Session::start(config, args.ui_options())?.migrate().await
}

/// Everything that runs around a migration.
pub struct Session {
    migration: Context,
    front: FrontEnd,
    kind: FrontKind,
    printer: Option<JoinHandle<Result<()>>>,
    options: ui::Options,
    cancel: CancellationToken,
    hub: JoinHandle<()>,
    _log: WorkerGuard,
}

impl Session {
    pub fn start(config: Config, options: ui::Options) -> Result<Self> {
        let work = WorkDir::open(&config.dir)?;
        let log = log_to(&work);
        let (listener, stream) = mpsc::unbounded_channel::<Arc<Stamped>>();
        let kind = config.front;
        let bus = bus::start(work.journal()?, (kind != FrontKind::Dashboard).then_some(listener));
        let front = bus.front.clone();
        let printer = match kind {
            FrontKind::Dashboard => None,
            FrontKind::Plain => Some(tokio::spawn(front::plain::run(stream, front.clone(), io::stdout()))),
            FrontKind::Json => Some(tokio::spawn(front::json::run(stream, io::stdout()))),
        };
        let cancel = CancellationToken::new();
        signals(&cancel, &front)?;
        let commands = dispatch(bus.commands, cancel.clone());
        let migration = Context::new(config, work, bus.reporter, commands, cancel.clone())?;
        Ok(Self { migration, front, kind, printer, options, cancel, hub: bus.hub, _log: log })
    }

    pub fn front(&self) -> &FrontEnd {
        &self.front
    }

    /// Runs the migration to its end, or to a stop, with its front end.
    pub async fn migrate(self) -> Result<()> {
        let Self { mut migration, front, kind, printer, options, cancel, hub, _log } = self;
        let work = tokio::spawn(async move { migration::run(&mut migration).await });
        let result = if kind == FrontKind::Dashboard { with_dashboard(work, front.clone(), options, cancel).await } else { joined(work.await) };
        let state = front.state.clone();
        drop(front);
        // The reporters are gone with the migration: the hub ends, and the printer after it.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), hub).await;
        if let Some(printer) = printer {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), printer).await;
        }
        if kind != FrontKind::Json {
            // `print!` would panic when the terminal is gone, and a safe stop end with another exit code.
            let mut stdout = io::stdout();
            let _ = write!(stdout, "{}", exit_summary(&state.borrow())).and_then(|()| stdout.flush());
        }
        result
    }
}

fn joined(result: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    result.unwrap_or_else(|e| {
        Err(Error::failed(format!("hyperlift itself failed: {e}")).hint("please report it with the log; the migration can be continued"))
    })
}

/// The dashboard stays until the migration is over; after a failure until the operator has read it.
async fn with_dashboard(mut work: JoinHandle<Result<()>>, front: FrontEnd, options: ui::Options, cancel: CancellationToken) -> Result<()> {
    let close = CancellationToken::new();
    let dashboard = ui::run(front, options, close.clone());
    tokio::pin!(dashboard);
    tokio::select! {
        shown = &mut dashboard => {
            // Left, or the terminal went away: the migration stops safely.
            cancel.cancel();
            let result = joined(work.await);
            shown.and(result)
        }
        result = &mut work => {
            let result = joined(result);
            if result.as_ref().is_ok() || result.as_ref().is_err_and(|e| e.is_stop() || e.kind == crate::error::Kind::Differs) {
                close.cancel();
            }
            dashboard.await?;
            result
        }
    }
}

/// The log file of the work directory; never the terminal.
fn log_to(work: &WorkDir) -> WorkerGuard {
    let file = tracing_appender::rolling::never(work.path(), "hyperlift.log");
    let (writer, guard) = tracing_appender::non_blocking(file);
    let filter = tracing_subscriber::EnvFilter::try_from_env("HYPERLIFT_LOG").unwrap_or_else(|_| "warn,hyperlift=info".into());
    // A second session in one process (the demo, tests) keeps the first one's log.
    let _ = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter).with_ansi(false).try_init();
    guard
}

/// Passes commands to the stages. A stop does not wait for a stage to take it.
fn dispatch(mut commands: mpsc::Receiver<event::Command>, cancel: CancellationToken) -> mpsc::Receiver<event::Command> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            if command == event::Command::Stop {
                cancel.cancel();
            } else if sender.send(command).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// SIGTERM, SIGHUP and ctrl-c stop safely; another SIGTERM, or a third ctrl-c, ends immediately. SIGUSR1 means `c`.
fn signals(cancel: &CancellationToken, front: &FrontEnd) -> Result<()> {
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (mut interrupt, mut user) = (signal(SignalKind::interrupt())?, signal(SignalKind::user_defined1())?);
    let (cancel, front) = (cancel.clone(), front.clone());
    tokio::spawn(async move {
        let mut interrupts = 0;
        loop {
            tokio::select! {
                _ = terminate.recv() => {
                    if cancel.is_cancelled() {
                        std::process::exit(143);
                    }
                    cancel.cancel();
                }
                _ = hangup.recv() => cancel.cancel(),
                _ = interrupt.recv() => {
                    interrupts += 1;
                    if interrupts > 2 {
                        std::process::exit(130);
                    }
                    cancel.cancel();
                }
                _ = user.recv() => {
                    let open = front.state.borrow().prompts.to_continue();
                    if let Some(prompt) = open {
                        let _ = front.commands.send(event::Command::Answer { prompt, answer: Answer::Continue }).await;
                    }
                }
            }
        }
    });
    Ok(())
}

/// Preflight alone, in a directory of its own.
async fn check(args: &MigrateArgs) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut config = args.config()?;
    config.dir = scratch.path().join("check");
    config.yes = true;
    config.interactive = false;
    config.front = if args.json { FrontKind::Json } else { FrontKind::Plain };
    let mut session = Session::start(config, args.ui_options())?;
    let result = preflight::run(&mut session.migration).await;
    let Session { migration, printer, front, .. } = session;
    drop((migration, front));
    if let Some(printer) = printer {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), printer).await;
    }
    result
}

async fn clean(args: &MigrateArgs) -> Result<()> {
    let mut config = args.config()?;
    if !config.dir.join("migration.json").exists() {
        return Err(
            Error::usage(format!("{} holds no migration", config.dir.display())).hint("give --dir the work directory of the migration to clean")
        );
    }
    config.front = if args.json { FrontKind::Json } else { FrontKind::Plain };
    let session = Session::start(config, args.ui_options())?;
    let Session { mut migration, printer, front, .. } = session;
    let left = clean::run(&migration.config, &migration.work, &migration.record, &migration.reporter).await;
    if left.is_empty() && !migration.record.completed {
        // Nothing is left to continue: the directory serves a new migration.
        migration.record = crate::record::Record::default();
        std::fs::remove_file(migration.work.path().join("migration.json"))?;
    }
    drop((migration, front));
    if let Some(printer) = printer {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), printer).await;
    }
    if left.is_empty() { Ok(()) } else { Err(clean::left_over(&left)) }
}
