//! The command line: flags and environment, read with clap and merged into a [`Config`].

pub mod pages;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::{io::IsTerminal, path::PathBuf, time::Duration};

use crate::{
    config::{self, Config, FrontKind, NewTables, OnConflict},
    error::{Error, Result},
    format,
    plan::{FollowDdl, Plan},
    scope::Scope,
    ui,
};

/// Headings of `--help`, the most common options first.
const CONNECTION: &str = "Connection";
const SCOPE: &str = "Scope";
const COPY: &str = "Copy";
const REPLAY: &str = "Replay";
const CUTOVER: &str = "Cutover";
const OUTPUT: &str = "Output";

const AFTER_HELP: &str = "\
Examples:
  hyperlift --source postgres://app@old-db/shop --target postgres://app@new-db/shop
      Migrate with the dashboard. The same command continues after a stop.
  hyperlift check --source postgres://app@old-db/shop --target postgres://app@new-db/shop
      Only run the preflight checks.
  hyperlift migrate --plan plan.toml --yes --cutover-when-ready --plain
      Migrate without a terminal, with the choices of an earlier run and the URIs of the environment.
  hyperlift demo
      Try it on this machine.

Exit codes:
  0 done; 1 failed; 2 usage or configuration; 3 a check or gate refused; 4 stopped, can be
  continued; 5 finished with differences; 130, 143 ended immediately by a repeated signal";

/// Only what such a command has of its own: the options of a migration mean nothing to it.
const OWN_ARGUMENTS: &str = "{about-with-newline}\n{usage-heading} {usage}\n\nArguments:\n{positionals}";

/// Moves a live PostgreSQL database to TimescaleDB with a few seconds of downtime
#[derive(Debug, Parser)]
#[command(name = "hyperlift", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub migrate: MigrateArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a migration, or continue the one in --dir. This is the default
    Migrate(Box<MigrateArgs>),
    /// Run only the preflight checks. Changes nothing on either server
    Check(Box<CheckArgs>),
    /// Remove what hyperlift made on both servers: slot, publications, ledger, spool. Resets replica identities. Keeps every migrated object
    Clean(Box<MigrateArgs>),
    /// Try hyperlift on this machine: starts a source, a target and an application that writes, and migrates
    Demo(DemoArgs),
    /// Print a completion script for a shell
    #[command(help_template = OWN_ARGUMENTS, override_usage = "hyperlift completions <SHELL>")]
    Completions {
        /// bash, elvish, fish, powershell or zsh
        #[arg(value_enum, hide_possible_values = true)]
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands into a folder
    #[command(help_template = OWN_ARGUMENTS, override_usage = "hyperlift man [DIR]")]
    Man {
        /// Folder for hyperlift.1, hyperlift-migrate.1 and so on. It is created if it does not exist
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// Print the checks and what they mean, without connecting
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub migrate: MigrateArgs,
}

#[derive(Clone, Debug, Default, Args)]
pub struct MigrateArgs {
    /// Database to move from, as URI or key=value. [env: PGCOPYDB_SOURCE_PGURI or SOURCE]
    #[arg(long, value_name = "URI", global = true, help_heading = CONNECTION)]
    pub source: Option<String>,
    /// TimescaleDB database to move to. [env: PGCOPYDB_TARGET_PGURI or TARGET]
    #[arg(long, value_name = "URI", global = true, help_heading = CONNECTION)]
    pub target: Option<String>,
    /// Work directory for spool, plan, journal and log. [default: ./hyperlift] [env: HYPERLIFT_DIR or PGCOPYDB_DIR]
    #[arg(long, value_name = "DIR", global = true, help_heading = CONNECTION)]
    pub dir: Option<PathBuf>,
    /// File with choices made beforehand: scope, hypertables, replica identities. See plan.toml in the work directory of an earlier run
    #[arg(long, value_name = "FILE", global = true, help_heading = CONNECTION)]
    pub plan: Option<PathBuf>,
    /// The pg_dump to use. [default: the lowest installed version that can dump the source] [env: HYPERLIFT_PG_DUMP]
    #[arg(long, value_name = "FILE", global = true, help_heading = CONNECTION)]
    pub pg_dump: Option<PathBuf>,

    /// Migrate only this: schema:NAME, table:SCHEMA.NAME, data:…, index:… or extension:NAME, with * and ? as in psql. Can be repeated
    #[arg(long, value_name = "KIND:PATTERN", global = true, help_heading = SCOPE)]
    pub include: Vec<String>,
    /// Leave this out. data:… leaves out the rows of a table, but not the table. Can be repeated. Filters are fixed once the migration has begun
    #[arg(long, value_name = "KIND:PATTERN", global = true, help_heading = SCOPE)]
    pub exclude: Vec<String>,
    /// Give objects to the roles that own them on the source. Otherwise all belong to the user of the target
    #[arg(long, global = true, help_heading = SCOPE)]
    pub owners: bool,
    /// Grant what is granted on the source, with default privileges
    #[arg(long, global = true, help_heading = SCOPE)]
    pub grants: bool,
    /// Use another role on the target for a role of the source. Can be repeated
    #[arg(long = "map-role", value_name = "OLD=NEW", value_parser = role_pair, global = true, help_heading = SCOPE)]
    pub map_roles: Vec<(String, String)>,
    /// Do not create the source's roles on the target
    #[arg(long, global = true, help_heading = SCOPE)]
    pub skip_roles: bool,
    /// Do not create the source's extensions on the target
    #[arg(long, global = true, help_heading = SCOPE)]
    pub skip_extensions: bool,
    /// Create the source's publications, without hypertables
    #[arg(long, global = true, help_heading = SCOPE)]
    pub publications: bool,
    /// Create the source's subscriptions, disabled and without their slots, because the source still reads those
    #[arg(long, global = true, help_heading = SCOPE)]
    pub subscriptions: bool,

    /// Number of tables to copy in parallel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), global = true, help_heading = COPY)]
    pub table_jobs: u32,
    /// Number of indexes to build in parallel, also on one table
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64), global = true, help_heading = COPY)]
    pub index_jobs: u32,
    /// Copy tables larger than this in parts, by several jobs in parallel. [default: by the size of the database, 64 MB or more]
    #[arg(long, value_name = "SIZE", global = true, help_heading = COPY)]
    pub split_tables_larger_than: Option<String>,
    /// Limit of all copies together, per second, to spare the source. [default: no limit]
    #[arg(long, value_name = "SIZE", global = true, help_heading = COPY)]
    pub copy_rate: Option<String>,

    /// Number of parallel replay workers. Fixed when the migration begins
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64), global = true, help_heading = REPLAY)]
    pub replay_lanes: u32,
    /// ANALYZE the target when the lag is below this
    #[arg(long, value_name = "SIZE", default_value = "30MB", global = true, help_heading = REPLAY)]
    pub analyze_below: String,
    /// When a change finds no row on the target, or collides there: stop and ask, copy the table again, or count it and continue
    /// (exit code 5 at the end). One of: stop, copy, count
    #[arg(long, value_name = "POLICY", value_enum, default_value_t, hide_possible_values = true, global = true, help_heading = REPLAY)]
    pub on_conflict: OnConflict,
    /// Which changes of the source's schema hyperlift makes on the target by itself: none, those that remove no rows (unless the plan
    /// says otherwise), or all. One of: ask, safe, all
    #[arg(long, value_name = "WHICH", value_enum, hide_possible_values = true, global = true, help_heading = REPLAY)]
    pub follow_ddl: Option<FollowDdl>,
    /// What is done about tables that are made on the source after the copy: they are made on the target, copied and replayed, or only
    /// reported. One of: take, tell
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, hide_possible_values = true, global = true, help_heading = REPLAY)]
    pub new_tables: NewTables,

    /// Continue without asking, where nothing has to be decided
    #[arg(long, short = 'y', global = true, help_heading = CUTOVER)]
    pub yes: bool,
    /// Cut over without asking when all gates are passed, ANALYZE is done and the source is quiet
    #[arg(long, global = true, help_heading = CUTOVER)]
    pub cutover_when_ready: bool,
    /// With --cutover-when-ready: cut over although the source's schema changed since the copy and the target lacks the change. The
    /// objects are named, and the exit code is 5
    #[arg(long, global = true, help_heading = CUTOVER)]
    pub accept_schema_changes: bool,
    /// The source counts as quiet after this many seconds without a published change
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true, help_heading = CUTOVER)]
    pub quiet_for: u64,
    /// Without a terminal, watch for late writes this many seconds after the cutover
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true, help_heading = CUTOVER)]
    pub linger: u64,

    /// Print one line per event instead of the dashboard
    #[arg(long, conflicts_with = "json", global = true, help_heading = OUTPUT)]
    pub plain: bool,
    /// Print one JSON object per event instead of the dashboard
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub json: bool,
    /// Colours of the dashboard
    #[arg(long, value_enum, default_value_t, global = true, help_heading = OUTPUT)]
    pub color: ColorChoice,
    /// Use only ASCII characters in the dashboard
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub ascii: bool,
    /// Do not ring the bell when a question opens
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub no_bell: bool,
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
    /// The server that HYPERLIFT_TEST_TIMESCALE names
    Given,
    /// TimescaleDB installed with PostgreSQL
    Native,
    /// TimescaleDB in PGlite, under Node
    Pglite,
    /// PostgreSQL, without hypertables
    Plain,
}

#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Size of the demo database: 1 is about 60 MB
    #[arg(long, value_name = "FACTOR")]
    pub size: Option<f64>,
    /// What to migrate to. [default: the first of these that can be started here]
    #[arg(long, value_enum)]
    pub on: Option<DemoTarget>,
    /// Number of sessions of the application that writes
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
            on_conflict: self.on_conflict,
            follow_ddl: self.follow_ddl,
            new_tables: self.new_tables,
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
            accept_schema_changes: self.accept_schema_changes,
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

/// A size in bytes, as a flag gives it.
fn size(flag: &str, text: &str) -> Result<u64> {
    format::parse_bytes(text).ok_or_else(|| Error::usage(format!("--{flag}: not a size: {text:?}")).hint("write for instance 30MB or 1GB"))
}

fn positive(flag: &str, text: &str) -> Result<u64> {
    let bytes = size(flag, text)?;
    if bytes == 0 { Err(Error::usage(format!("--{flag}: it has to be more than 0")).hint("leave the flag out for the default")) } else { Ok(bytes) }
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
        assert!(matches!(check.command, Some(Command::Check(a)) if a.migrate.source.is_some() && !a.list));
    }

    /// The help of a command, on a terminal of 100 columns.
    fn help(path: &[&str]) -> String {
        let mut command = Cli::command().term_width(100);
        command.build();
        let command = path.iter().fold(&mut command, |command, name| command.find_subcommand_mut(name).expect("there is such a command"));
        command.render_help().to_string()
    }

    #[test]
    fn help_in_groups() {
        insta::assert_snapshot!("help", help(&[]));
        insta::assert_snapshot!("help_of_check", help(&["check"]));
        insta::assert_snapshot!("help_of_man", help(&["man"]));
    }

    #[test]
    fn every_option_has_a_heading() {
        let command = Cli::command();
        let bare: Vec<_> = command.get_arguments().filter(|a| a.get_help_heading().is_none()).map(clap::Arg::get_id).collect();
        assert!(bare.iter().all(|id| ["help", "version"].contains(&id.as_str())), "{bare:?}");
    }
}
