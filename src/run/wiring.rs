//! Puts bus, front end, signals, log and migration together.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::WorkerGuard;

use super::signals;
use crate::{
    bus::{self, FrontEnd},
    config::{Config, FrontKind},
    error::{Error, Kind, Result},
    event::{self, Stamped},
    front,
    migration::{self, context::Context},
    report::summary::exit_summary,
    ui,
    work_dir::WorkDir,
};

/// The longest wait for the last lines of output.
const LAST_LINES: Duration = Duration::from_secs(5);

/// One run of the program on a migration, with everything around it.
pub struct Run {
    pub context: Context,
    front: FrontEnd,
    kind: FrontKind,
    printer: Option<JoinHandle<Result<()>>>,
    options: ui::Options,
    cancel: CancellationToken,
    hub: JoinHandle<()>,
    _log: WorkerGuard,
}

impl Run {
    pub fn start(config: Config, options: ui::Options) -> Result<Self> {
        let work = WorkDir::open(&config.dir)?;
        Self::start_in(work, config, options)
    }

    /// Starts in another work directory than the one of the configuration.
    pub fn start_in(work: WorkDir, config: Config, options: ui::Options) -> Result<Self> {
        let log = log_to(work.log()?);
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
        signals::listen(&cancel, &front)?;
        let commands = dispatch(bus.commands, cancel.clone());
        let context = Context::new(config, work, bus.reporter, commands, cancel.clone())?;
        Ok(Self { context, front, kind, printer, options, cancel, hub: bus.hub, _log: log })
    }

    pub fn front(&self) -> &FrontEnd {
        &self.front
    }

    /// Runs the migration to its end, or to a stop, with its front end.
    pub async fn migrate(self) -> Result<()> {
        let Self { mut context, front, kind, printer, options, cancel, hub, _log } = self;
        let work = tokio::spawn(async move { migration::run(&mut context).await });
        let result = if kind == FrontKind::Dashboard { with_dashboard(work, front.clone(), options, cancel).await } else { joined(work.await) };
        let state = front.state.clone();
        drop(front);
        // The reporters are gone with the migration: the hub ends, and the printer after it.
        let _ = tokio::time::timeout(LAST_LINES, hub).await;
        if let Some(printer) = printer {
            let _ = tokio::time::timeout(LAST_LINES, printer).await;
        }
        if kind != FrontKind::Json {
            // `print!` would panic when the terminal is gone, and a safe stop would end with another exit code.
            let mut stdout = io::stdout();
            let _ = write!(stdout, "{}", exit_summary(&state.borrow())).and_then(|()| stdout.flush());
        }
        result
    }

    /// Ends without a migration, as soon as everything that was reported is printed.
    pub async fn close(self) {
        let Self { context, front, printer, .. } = self;
        drop((context, front));
        if let Some(printer) = printer {
            let _ = tokio::time::timeout(LAST_LINES, printer).await;
        }
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
            // The operator left, or the terminal is gone: the migration stops safely.
            cancel.cancel();
            let result = joined(work.await);
            shown.and(result)
        }
        result = &mut work => {
            let result = joined(result);
            if result.as_ref().is_ok() || result.as_ref().is_err_and(|e| e.is_stop() || e.kind == Kind::Differs) {
                close.cancel();
            }
            dashboard.await?;
            result
        }
    }
}

/// The log file of the work directory; never the terminal.
fn log_to(file: File) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(file);
    let filter = tracing_subscriber::EnvFilter::try_from_env("HYPERLIFT_LOG").unwrap_or_else(|_| "warn,hyperlift=info".into());
    // A second run in one process (a test) keeps the first one's log.
    let _ = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter).with_ansi(false).try_init();
    guard
}

/// Passes commands on to the stages. A stop does not wait for a stage to read it.
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
