//! The command line: flags and environment, read with clap and merged into a [`Config`].

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{io::IsTerminal, path::PathBuf, time::Duration};

use crate::{
    config::{self, Config, FrontKind},
    error::{Error, Result},
    format,
    plan::Plan,
    scope::Scope,
    ui,
};

/// Moves a live PostgreSQL database to TimescaleDB with a few seconds of downtime.
#[derive(Debug, Parser)]
#[command(name = "hyperlift", version, about, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub migrate: MigrateArgs,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 usage or configuration; 3 a check or gate refused; 4 stopped, can be continued; \
5 finished with differences; 130, 143 ended at once.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The migration; continues the one found in --dir. This is the default.
    Migrate(Box<MigrateArgs>),
    /// Preflight only: what would stand in the way. Changes nothing.
    Check(Box<MigrateArgs>),
    /// Undo what hyperlift put on both sides: slot, publications, replica identities, ledger, spool. Never a migrated object.
    Clean(Box<MigrateArgs>),
    /// A source, a target, data and an application that writes, on this machine; opens the dashboard on them.
    Demo(DemoArgs),
}

#[derive(Clone, Debug, Default, Args)]
pub struct MigrateArgs {
    /// Database to move from: URI or key=value. Else PGCOPYDB_SOURCE_PGURI or SOURCE of the environment.
    #[arg(long, value_name = "URI", global = true)]
    pub source: Option<String>,
    /// TimescaleDB database to move to. Else PGCOPYDB_TARGET_PGURI or TARGET of the environment.
    #[arg(long, value_name = "URI", global = true)]
    pub target: Option<String>,
    /// Work directory: spool, plan, journal, log. [default: ./hyperlift; also HYPERLIFT_DIR, PGCOPYDB_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    pub dir: Option<PathBuf>,
    /// Choices made beforehand: scope, hypertables and replica identities.
    #[arg(long, value_name = "FILE", global = true)]
    pub plan: Option<PathBuf>,
    /// Migrate only this, repeatable: schema:NAME, table:SCHEMA.NAME, data:…, index:… or extension:NAME, with * and ? as in psql.
    #[arg(long, value_name = "KIND:PATTERN", global = true)]
    pub include: Vec<String>,
    /// Leave this out, repeatable; data:… leaves out the rows of a table, but not the table. Fixed once the migration has begun.
    #[arg(long, value_name = "KIND:PATTERN", global = true)]
    pub exclude: Vec<String>,
    /// The pg_dump to use. [default: the lowest installed version that fits the source; also HYPERLIFT_PG_DUMP]
    #[arg(long, value_name = "FILE", global = true)]
    pub pg_dump: Option<PathBuf>,
    /// Tables copied at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), global = true)]
    pub table_jobs: u32,
    /// Tables larger than this are copied in parts, by several jobs at once. [default: by the size of the database, 64 MB or more]
    #[arg(long, value_name = "SIZE", global = true)]
    pub split_tables_larger_than: Option<String>,
    /// Copy no more than this a second, all jobs together, so that the source does not suffer. [default: no limit]
    #[arg(long, value_name = "SIZE", global = true)]
    pub copy_rate: Option<String>,
    /// Indexes built at once, of one table, too.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), global = true)]
    pub index_jobs: u32,
    /// Replay workers; fixed when the migration begins.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), global = true)]
    pub replay_lanes: u32,
    /// ANALYZE the target once the lag is below this.
    #[arg(long, value_name = "SIZE", default_value = "30MB", global = true)]
    pub analyze_below: String,
    /// A change that finds no row on the target, or collides there: stop and ask, or count it and go on (exit code 5 at the end).
    #[arg(long, value_name = "POLICY", value_enum, default_value_t, global = true)]
    pub on_conflict: OnConflict,
    /// Do not create the source's roles on the target.
    #[arg(long, global = true)]
    pub skip_roles: bool,
    /// Do not create the source's extensions on the target.
    #[arg(long, global = true)]
    pub skip_extensions: bool,
    /// Give objects to the roles that own them on the source. Otherwise all belong to the user of the migration.
    #[arg(long, global = true)]
    pub owners: bool,
    /// Grant what is granted on the source, with default privileges.
    #[arg(long, global = true)]
    pub grants: bool,
    /// Create the source's publications, without hypertables.
    #[arg(long, global = true)]
    pub publications: bool,
    /// Create the source's subscriptions, disabled and without their slots, which the source's still read.
    #[arg(long, global = true)]
    pub subscriptions: bool,
    /// A role of the source that has another name on the target; may be given several times.
    #[arg(long = "map-role", value_name = "OLD=NEW", value_parser = role_pair, global = true)]
    pub map_roles: Vec<(String, String)>,
    /// One line per event instead of the dashboard.
    #[arg(long, conflicts_with = "json", global = true)]
    pub plain: bool,
    /// Events as JSON, one a line, instead of the dashboard.
    #[arg(long, global = true)]
    pub json: bool,
    /// Continue without asking where nothing is open.
    #[arg(long, short = 'y', global = true)]
    pub yes: bool,
    /// Cut over by itself once all gates are green, ANALYZE is done and the source is quiet.
    #[arg(long, global = true)]
    pub cutover_when_ready: bool,
    /// Seconds without a published change after which the source counts as quiet.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true)]
    pub quiet_for: u64,
    /// Seconds to go on looking for late writes after the cutover, without a terminal.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true)]
    pub linger: u64,
    /// Colours of the dashboard.
    #[arg(long, value_enum, default_value_t, global = true)]
    pub color: ColorChoice,
    /// Only ASCII characters in the dashboard.
    #[arg(long, global = true)]
    pub ascii: bool,
    /// No bell when a question opens.
    #[arg(long, global = true)]
    pub no_bell: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum OnConflict {
    #[default]
    Stop,
    Count,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DemoTarget {
    /// The server of HYPERLIFT_TEST_TIMESCALE.
    Given,
    /// TimescaleDB installed beside PostgreSQL.
    Native,
    /// TimescaleDB in PGlite, under Node.
    Pglite,
    /// PostgreSQL, with no hypertables planned.
    Plain,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Size of the demo database: 1 is about 60 MB.
    #[arg(long, value_name = "FACTOR")]
    pub size: Option<f64>,
    /// What to migrate to; by default the best that is found on this machine.
    #[arg(long, value_enum)]
    pub on: Option<DemoTarget>,
    /// Sessions of the application that writes.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub writers: u32,
}

impl MigrateArgs {
    /// The work directory: flag, HYPERLIFT_DIR, PGCOPYDB_DIR, `./hyperlift`.
    pub fn dir(&self) -> PathBuf {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        self.dir.clone().or_else(|| variable("HYPERLIFT_DIR")).or_else(|| variable("PGCOPYDB_DIR")).unwrap_or_else(|| "hyperlift".into())
    }

    pub fn front(&self) -> FrontKind {
        let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
        match (self.json, self.plain) {
            (true, _) => FrontKind::Json,
            (_, true) => FrontKind::Plain,
            _ if !std::io::stdout().is_terminal() || dumb => FrontKind::Plain,
            _ => FrontKind::Dashboard,
        }
    }

    pub fn config(&self) -> Result<Config> {
        let env = |name: &str| std::env::var(name).ok();
        let source = config::uri("source", self.source.clone(), "PGCOPYDB_SOURCE_PGURI", "SOURCE", &env)?;
        let target = config::uri("target", self.target.clone(), "PGCOPYDB_TARGET_PGURI", "TARGET", &env)?;
        let analyze_below = size("analyze-below", &self.analyze_below)?;
        let split_larger_than = self.split_tables_larger_than.as_deref().map(|text| positive("split-tables-larger-than", text)).transpose()?;
        let copy_rate = self.copy_rate.as_deref().map(|text| positive("copy-rate", text)).transpose()?;
        let front = self.front();
        Ok(Config {
            source,
            target,
            dir: self.dir(),
            plan: self.plan.as_deref().map(Plan::read).transpose()?,
            scope: Scope::parse(&self.include, &self.exclude)?,
            pg_dump: self.pg_dump.clone().or_else(|| std::env::var_os("HYPERLIFT_PG_DUMP").filter(|v| !v.is_empty()).map(PathBuf::from)),
            table_jobs: self.table_jobs,
            split_larger_than,
            parts_by_key: false,
            copy_rate,
            index_jobs: self.index_jobs,
            replay_lanes: self.replay_lanes,
            analyze_below,
            on_conflict: match self.on_conflict {
                OnConflict::Stop => config::OnConflict::Stop,
                OnConflict::Count => config::OnConflict::Count,
            },
            skip_roles: self.skip_roles,
            skip_extensions: self.skip_extensions,
            owners: self.owners,
            grants: self.grants,
            publications: self.publications,
            subscriptions: self.subscriptions,
            roles: self.map_roles.iter().cloned().collect(),
            front,
            interactive: front == FrontKind::Dashboard,
            yes: self.yes,
            cutover_when_ready: self.cutover_when_ready,
            quiet_for: Duration::from_secs(self.quiet_for),
            linger: Duration::from_secs(self.linger),
        })
    }

    pub fn ui_options(&self) -> ui::Options {
        let color = match self.color {
            ColorChoice::Auto => ui::Color::Auto,
            ColorChoice::Always => ui::Color::Always,
            ColorChoice::Never => ui::Color::Never,
        };
        ui::Options { ascii: self.ascii || !locale_is_utf8(), color, no_bell: self.no_bell, dir: self.dir() }
    }
}

/// A size as a flag gives it, bytes.
fn size(flag: &str, text: &str) -> Result<u64> {
    format::parse_bytes(text).ok_or_else(|| Error::usage(format!("--{flag}: not a size: {text:?}")).hint("for instance 30MB or 1GB"))
}

fn positive(flag: &str, text: &str) -> Result<u64> {
    let bytes = size(flag, text)?;
    if bytes == 0 {
        Err(Error::usage(format!("--{flag}: it has to be more than nothing")).hint("leave the flag out for the default"))
    } else {
        Ok(bytes)
    }
}

/// `old=new` of `--map-role`.
fn role_pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("write old=new: the name of a role on the source, and on the target".into()),
    }
}

/// LC_ALL, LC_CTYPE, LANG, in this order.
fn locale_is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    locale.is_some_and(|l| {
        let l = l.to_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_migrate_is_the_default() {
        Cli::command().debug_assert();
        let bare = Cli::parse_from(["hyperlift", "--source", "postgres://a@h/x", "--dir", "d"]);
        assert!(bare.command.is_none());
        assert_eq!(bare.migrate.dir(), PathBuf::from("d"));
        let check = Cli::parse_from(["hyperlift", "check", "--source", "postgres://a@h/x"]);
        assert!(matches!(check.command, Some(Command::Check(a)) if a.source.is_some()));
    }
}
