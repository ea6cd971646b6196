//! Source and target, two temporary servers, and PostgreSQL's client programs for them.

use hyperlift::{
    demo::{
        query_text,
        servers::{Programs, Scratch, Server, ServerOptions},
    },
    error::{Error, Result},
    name::ident,
};
use std::{ffi::OsStr, path::PathBuf, process::Stdio, time::Duration};
use tokio::process::Command;

use super::measure::{self, Stopwatch};

/// No wait may take longer.
pub const PATIENCE: Duration = Duration::from_secs(1800);

/// Settings of the source beyond those of every temporary server. The sizes are those of a small production server.
const SOURCE: &[(&str, &str)] = &[
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("maintenance_work_mem", "256MB"),
    ("work_mem", "32MB"),
    ("checkpoint_timeout", "15min"),
    ("log_min_messages", "warning"),
];

/// Settings of the target, as an operator sets them for a migration. An apply worker of a subscription turns `synchronous_commit` off
/// anyway.
const TARGET: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_wal_senders", "5"),
    ("max_replication_slots", "20"),
    ("max_logical_replication_workers", "12"),
    ("max_worker_processes", "20"),
    ("shared_buffers", "2GB"),
    ("max_wal_size", "16GB"),
    ("min_wal_size", "2GB"),
    ("maintenance_work_mem", "512MB"),
    ("max_parallel_maintenance_workers", "2"),
    ("work_mem", "32MB"),
    ("checkpoint_timeout", "30min"),
    ("synchronous_commit", "off"),
    // The launcher starts one apply worker in this interval, and the wait for it is not part of catching up.
    ("wal_retrieve_retry_interval", "50ms"),
    ("log_min_messages", "warning"),
];

/// The two servers. They and the scratch folder are removed with this process.
pub struct Clusters {
    pub source: Server,
    pub target: Server,
    /// The target has TimescaleDB.
    pub timescale: bool,
    programs: Programs,
    scratch: Scratch,
    postmasters: [u32; 2],
    /// The system identifier of the source cluster.
    pub system_id: String,
}

impl Clusters {
    /// Starts both, with `fsync`; on the newest version that has TimescaleDB, else on the newest.
    pub async fn start() -> Result<Self> {
        let timescale = Programs::all().into_iter().rev().find(Programs::has_timescale);
        let has_timescale = timescale.is_some();
        let programs = match timescale {
            Some(programs) => programs,
            None => Programs::newest()?,
        };
        let options = |settings: &[(&str, &str)]| {
            let options = ServerOptions { programs: Some(programs.clone()), durable: true, ..ServerOptions::default() };
            settings.iter().fold(options, |options, (name, value)| options.setting(*name, *value))
        };
        let source = Server::start(options(SOURCE)).await?;
        let mut target = ServerOptions { timescale: has_timescale, ..options(TARGET) };
        if has_timescale {
            // Its schedulers would be connected to the databases that are copied.
            target = target.setting("timescaledb.max_background_workers", "0");
        }
        let target = Server::start(target).await?;
        let postmasters = [measure::postmaster(&source.dir().join("data"))?, measure::postmaster(&target.dir().join("data"))?];
        let system_id = value(&source, "postgres", "select system_identifier from pg_control_system()").await?;
        Ok(Self { source, target, timescale: has_timescale, programs, scratch: Scratch::new().await?, postmasters, system_id })
    }

    /// The version of the servers: `PostgreSQL 15.20`.
    pub async fn version(&self) -> Result<String> {
        value(&self.source, "postgres", "select split_part(version(), ' (', 1)").await
    }

    fn path(&self) -> String {
        format!("{}:{}", self.programs.bin.display(), std::env::var("PATH").unwrap_or_default())
    }

    pub fn stopwatch(&self) -> Stopwatch {
        Stopwatch::start(self.postmasters)
    }

    /// A path in a folder that is removed with this process.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A client program of PostgreSQL, without the variables of the caller's environment that it would read. Its sessions commit
    /// asynchronously.
    pub fn program(&self, name: &str) -> Command {
        self.other_program(self.programs.bin.join(name))
    }

    /// The same for any other program. The client programs that it calls are those of these servers.
    pub fn other_program(&self, path: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(path);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command.env("PGOPTIONS", "-c synchronous_commit=off").env("LC_ALL", "C").env("PATH", self.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Creates a database of this name on the target with the contents of the source's, but without foreign keys, because a migration makes
    /// them after replay.
    pub async fn copy_to_target(&self, database: &str) -> Result<()> {
        self.target.create_database(database).await?;
        let folder = self.scratch(&format!("dump-{database}"));
        let mut dump = self.program("pg_dump");
        run(dump.args(["-Fd", "-j2", "-Z0", "-f"]).arg(&folder).arg(self.source.uri(database))).await?;
        let mut restore = self.program("pg_restore");
        restore.args(["-j2", "--no-publications", "--no-subscriptions", "-d", &self.target.uri(database)]).arg(&folder);
        run(&mut restore).await?;
        std::fs::remove_dir_all(&folder)?;
        self.target.execute(database, DROP_FOREIGN_KEYS).await?;
        self.target.execute(database, "vacuum (analyze)").await
    }

    /// Runs a checkpoint on both servers, so that every run begins alike.
    pub async fn settle(&self) -> Result<()> {
        self.source.execute("postgres", "checkpoint").await?;
        self.target.execute("postgres", "checkpoint").await
    }

    /// Drops a slot as soon as its session has ended.
    pub async fn drop_slot(&self, slot: &str) -> Result<()> {
        let sql = format!("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'");
        until(&format!("the end of slot {slot}"), async || match self.source.execute("postgres", &sql).await {
            // object in use
            Err(e) if e.has_code("55006") => Ok(false),
            other => other.map(|()| true),
        })
        .await
    }
}

const DROP_FOREIGN_KEYS: &str = "
    do $$
    declare c record;
    begin
        for c in select conrelid::regclass as on_table, conname from pg_constraint where contype = 'f' loop
            execute format('alter table %s drop constraint %I', c.on_table, c.conname);
        end loop;
    end $$";

/// The only value of the only row.
pub async fn value(server: &Server, database: &str, sql: &str) -> Result<String> {
    let rows = query_text(&server.uri(database), sql).await?;
    rows.into_iter().flatten().flatten().next().ok_or_else(|| Error::failed(format!("no value: {sql}")))
}

/// Creates a database as a copy of another one, file by file.
pub async fn create_from(server: &Server, database: &str, template: &str) -> Result<()> {
    // Before PostgreSQL 15 that was the only strategy.
    let strategy = if server.major() >= 15 { "strategy file_copy" } else { "" };
    drop_database(server, database).await?;
    server.execute("postgres", &format!("create database {} template {} {strategy}", ident(database), ident(template))).await
}

pub async fn drop_database(server: &Server, database: &str) -> Result<()> {
    server.execute("postgres", &format!("drop database if exists {} with (force)", ident(database))).await
}

/// Runs a program to its end; returns what it printed on stdout.
pub async fn run(command: &mut Command) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let limit = tokio::time::timeout(PATIENCE, command.output());
    let output = limit.await.map_err(|_| Error::failed(format!("{name} has not ended in {PATIENCE:?}")))??;
    if !output.status.success() {
        return Err(Error::failed(format!("{name}: {}", output.status)).detail(String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Polls until `happened` returns true. `what` is the name of the event, for the error.
pub async fn until(what: &str, mut happened: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !happened().await? {
        if tokio::time::Instant::now() > deadline {
            return Err(Error::failed(format!("{what}: has not happened in {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
