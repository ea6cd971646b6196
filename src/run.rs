//! Carries out a command of the command line, and turns the result into an exit code.

pub mod demo;
mod signals;
mod wiring;

use std::io::{self, Write as _};

use self::wiring::Run;
use crate::{
    cli::{CheckArgs, Cli, Command, MigrateArgs, pages},
    config::FrontKind,
    error::{Error, Result},
    event::{Level, Stage},
    migration::{
        context::Context,
        stages::{
            done::clean,
            preflight::{self, checks},
        },
    },
    record::Record,
    work_dir::WorkDir,
};

/// Carries out what the command line says and returns the exit code.
pub async fn run(cli: Cli) -> u8 {
    let result = match cli.command {
        None => migrate(&cli.migrate).await,
        Some(Command::Migrate(args)) => migrate(&args).await,
        Some(Command::Check(args)) => check(&args).await,
        Some(Command::Clean(args)) => clean(&args).await,
        Some(Command::Demo(demo)) => demo::run(&cli.migrate, &demo).await,
        Some(Command::Completions { shell }) => print(&pages::completions(shell)),
        Some(Command::Man { folder: Some(folder) }) => pages::write_man(&folder),
        Some(Command::Man { folder: None }) => pages::man().and_then(|page| print(&page)),
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

/// Not `print!`, which panics when nobody reads.
fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

async fn migrate(args: &MigrateArgs) -> Result<()> {
    Run::start(args.config()?, args.ui_options())?.migrate().await
}

/// Preflight alone. Its directory is a temporary one: the given one would look like a migration to the next run.
async fn check(args: &CheckArgs) -> Result<()> {
    if args.list {
        return print(checks::list().as_bytes());
    }
    let scratch = tempfile::tempdir()?;
    let mut config = args.migrate.config()?;
    config.yes = true;
    config.interactive = false;
    config.front = without_dashboard(&args.migrate);
    let work = WorkDir::open(&scratch.path().join("check"))?;
    let mut run = Run::start_in(work, config, args.migrate.ui_options())?;
    let result = preflight::check_only(&mut run.context).await;
    run.close().await;
    result
}

async fn clean(args: &MigrateArgs) -> Result<()> {
    let dir = args.dir();
    if !dir.join("migration.json").exists() {
        return Err(Error::usage(format!("{} holds no migration", dir.display())).hint("give --dir the work directory of the migration to clean"));
    }
    let mut config = args.config()?;
    config.front = without_dashboard(args);
    let mut run = Run::start(config, args.ui_options())?;
    let result = clean_up(&mut run.context).await;
    run.close().await;
    result
}

/// Removes what the migration made, where the databases are its own.
async fn clean_up(cx: &mut Context) -> Result<()> {
    cx.refuse_other_databases().await?;
    if cx.record.completed && !cx.is_finished(Stage::Done) {
        if !cx.record.objects_finished {
            let text = "foreign keys may be NOT VALID, and materialised views not refreshed: the migration was stopped before that";
            cx.notice(Level::Warn, text).await;
        }
        return clean::finish(cx).await;
    }
    let left = clean::run(&cx.config, &cx.work, &cx.record, &cx.reporter).await;
    if let Some(error) = left.error() {
        return Err(error);
    }
    cx.record.changed_identities.clear();
    if cx.record.completed {
        return cx.save();
    }
    // Nothing is left to continue: the directory serves a new migration.
    cx.record = Record::default();
    Ok(std::fs::remove_file(cx.work.path().join("migration.json"))?)
}

fn without_dashboard(args: &MigrateArgs) -> FrontKind {
    if args.json { FrontKind::Json } else { FrontKind::Plain }
}
