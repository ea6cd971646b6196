//! The one place that starts throw-away PostgreSQL servers.
//!
//! Each server lives in a folder of its own, kept by a small shell process (the keeper) that reads a pipe from this process. When
//! this process ends, however it ends, the keeper reads the end of the pipe, stops the server and removes the folder.

use super::{execute, query_text};
use crate::error::{Error, Result};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

/// Signals are ignored so that nothing but the end of the pipe ends the keeper: a ctrl-c in the terminal must not take the servers away
/// before the migration has stopped, and a closed stdout must not keep the folder from being removed.
const KEEPER: &str = r#"
trap '' HUP INT QUIT TERM PIPE
bin=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/hyperlift-XXXXXX") || exit 1
cd "$dir" || exit 1
echo "$dir"
while IFS= read -r command; do
    eval "$command" </dev/null >>"$dir/keeper.log" 2>&1
    echo "$?"
done
[ ! -f data/postmaster.pid ] || "$bin/pg_ctl" stop -s -D data -m immediate </dev/null >/dev/null 2>&1
cd / && rm -rf "$dir"
"#;

/// Below the range that Linux gives to outgoing connections: a client that keeps trying to reach a stopped server can then never take
/// its port, nor connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// One installed version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    pub bin: PathBuf,
    pub major: u32,
}

impl Programs {
    /// The version to use: `HYPERLIFT_PG_BIN`, else the newest of Debian's, else the one of `pg_config` in `PATH`.
    pub fn newest() -> Result<Self> {
        Self::all().into_iter().next_back().ok_or_else(|| {
            Error::failed("no PostgreSQL server programs were found")
                .hint("install PostgreSQL (`make setup`), or set HYPERLIFT_PG_BIN to the folder of initdb and postgres")
        })
    }

    /// Every installed version, oldest first. `HYPERLIFT_PG_BIN` leaves only that one.
    pub fn all() -> Vec<Self> {
        if let Some(bin) = std::env::var_os("HYPERLIFT_PG_BIN").filter(|bin| !bin.is_empty()) {
            return Self::at(PathBuf::from(bin)).into_iter().collect();
        }
        let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut all: Vec<_> = folders.filter_map(|folder| Self::at(folder.path().join("bin"))).collect();
        all.sort_by_key(|programs| programs.major);
        if all.is_empty() {
            all.extend(output("pg_config", &["--bindir"]).and_then(|bin| Self::at(PathBuf::from(bin))));
        }
        all
    }

    /// The version in a folder; `None` when there is none.
    pub fn at(bin: PathBuf) -> Option<Self> {
        if !bin.join("initdb").exists() || !bin.join("pg_ctl").exists() {
            return None;
        }
        // postgres (PostgreSQL) 17.5 (Debian 17.5-1), or 18beta1
        let version = output(bin.join("postgres"), &["--version"])?;
        let number: String = version.split_whitespace().nth(2)?.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major: number.parse().ok()?, bin })
    }

    /// Whether this installation has the TimescaleDB extension.
    pub fn has_timescale(&self) -> bool {
        let mut shares = vec![self.bin.join("../share"), self.bin.join("../share/postgresql")];
        if self.bin.starts_with("/usr/lib/postgresql") {
            shares.push(PathBuf::from(format!("/usr/share/postgresql/{}", self.major)));
        }
        shares.extend(output(self.bin.join("pg_config"), &["--sharedir"]).map(PathBuf::from));
        shares.iter().any(|share| share.join("extension/timescaledb.control").exists())
    }
}

/// What a program prints on stdout, trimmed, if it ends well.
pub(super) fn output(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How to start a server; the default is a source of a logical migration, without durability.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Which PostgreSQL; the newest when none is given.
    pub programs: Option<Programs>,
    /// With a password, every connection has to authenticate with SCRAM; without, everyone is let in.
    pub password: Option<String>,
    /// Lines of `postgresql.conf` beyond (and above) the usual ones.
    pub settings: Vec<(String, String)>,
    /// Files written into the data directory before the start, for instance `pg_hba.conf` or `server.key`.
    pub files: Vec<(String, String)>,
    /// Leaves `fsync` on.
    pub durable: bool,
    /// Preloads TimescaleDB (which has to be installed).
    pub timescale: bool,
}

impl ServerOptions {
    /// Adds a line of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    fn configuration(&self, socket_folder: &str) -> String {
        let mut settings: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", socket_folder),
            ("logging_collector", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("wal_level", "logical"),
            ("max_connections", "100"),
            ("max_worker_processes", "16"),
            ("fsync", if self.durable { "on" } else { "off" }),
        ];
        if self.timescale {
            settings.extend([("shared_preload_libraries", "timescaledb"), ("timescaledb.telemetry_level", "off")]);
        }
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        settings.iter().fold(String::from("\n"), |mut text, (name, value)| {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
            text
        })
    }
}

/// A running (or stopped) throw-away server. It is stopped and removed when this is dropped, or when the process dies.
#[derive(Debug)]
pub struct Server {
    keeper: Keeper,
    programs: Programs,
    password: Option<String>,
    port: u16,
}

impl Server {
    /// Makes a cluster with the superuser `postgres` (UTF-8, locale C.UTF-8) and starts it on a free port of 127.0.0.1.
    pub async fn start(options: ServerOptions) -> Result<Self> {
        let programs = match options.programs.clone() {
            Some(programs) => programs,
            None => blocking(Programs::newest).await?,
        };
        let keeper = Keeper::start(&programs).await?;
        make_cluster(&keeper, &programs, options.password.as_deref()).await?;
        let data = keeper.dir.join("data");
        // the path of a socket has to fit into 107 bytes
        let socket_folder = keeper.dir.to_str().filter(|dir| dir.len() < 85).unwrap_or_default();
        append(&data.join("postgresql.conf"), &options.configuration(socket_folder))?;
        for (name, contents) in &options.files {
            write_as_owner(&data, name, contents)?;
        }
        let mut server = Self { keeper, programs, password: options.password, port: 0 };
        for _ in 0..20 {
            server.port = fastrand::u16(PORTS);
            if std::net::TcpListener::bind(("127.0.0.1", server.port)).is_err() {
                continue;
            }
            append(&data.join("postgresql.conf"), &format!("port = {}\n", server.port))?;
            match server.restart().await {
                Err(_) if server.log().contains("Address already in use") => {
                    fs::write(server.log_file(), "")?;
                }
                result => return result.map(|()| server),
            }
        }
        Err(Error::failed("no free port was found for a throw-away server"))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The PostgreSQL that it runs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The major version of the server.
    pub fn major(&self) -> u32 {
        self.programs.major
    }

    /// The folder of the server: `data`, `server.log`, and the socket.
    pub fn dir(&self) -> &Path {
        &self.keeper.dir
    }

    /// What the server has logged since it was made.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.keeper.dir.join("server.log")
    }

    /// The URI of one of its databases for the superuser.
    pub fn uri(&self, database: &str) -> String {
        let password = self.password.iter().fold(String::new(), |_, password| format!(":{}", percent(password)));
        format!("postgres://postgres{password}@127.0.0.1:{}/{}", self.port, percent(database))
    }

    /// Creates a database and gives its URI.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        self.execute("postgres", &format!("create database {}", crate::name::ident(name))).await?;
        Ok(self.uri(name))
    }

    /// Runs one or more statements.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<()> {
        execute(&self.uri(database), sql).await
    }

    /// The rows of one or more statements, every value as text.
    pub async fn query_text(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        query_text(&self.uri(database), sql).await
    }

    /// Ends all sessions and shuts down cleanly; the data stays.
    pub async fn stop(&self) -> Result<()> {
        self.control("stop -m fast").await
    }

    /// Crashes: all processes end immediately, and nothing more is written; the next start recovers from the WAL.
    pub async fn kill(&self) -> Result<()> {
        self.control("stop -m immediate").await
    }

    /// Starts again after [`Server::stop`] or [`Server::kill`], on the same port.
    pub async fn restart(&self) -> Result<()> {
        self.control("start -l server.log").await
    }

    async fn control(&self, what: &str) -> Result<()> {
        let command = format!("{} -s -w -D data {what}", shell(&self.programs.bin.join("pg_ctl")));
        self.keeper.run(command).await.map_err(|e| {
            let log = self.log();
            let start = log.char_indices().rev().nth(2000).map_or(0, |(i, _)| i);
            e.context(format!("throw-away server on port {}", self.port)).detail(log[start..].trim())
        })
    }
}

/// The shell process that owns a folder and runs commands in it, as a user that PostgreSQL accepts.
#[derive(Debug)]
struct Keeper {
    dir: PathBuf,
    pipes: Arc<Mutex<Pipes>>,
}

/// An empty folder of this user. It is removed when this process ends, however it ends.
#[derive(Debug)]
pub struct Scratch(Keeper);

impl Scratch {
    pub async fn new() -> Result<Self> {
        Keeper::spawn(Command::new("sh"), Path::new("")).await.map(Self)
    }

    pub fn path(&self) -> &Path {
        &self.0.dir
    }
}

/// Plain pipes, used from blocking threads: a server outlives the runtime of the test that happened to start it.
#[derive(Debug)]
struct Pipes {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Keeper {
    async fn start(programs: &Programs) -> Result<Self> {
        Self::spawn(as_postgres("sh")?, &programs.bin).await
    }

    /// Starts the keeper in this shell; `bin` is where the programs of its server are.
    async fn spawn(mut command: Command, bin: &Path) -> Result<Self> {
        command.args(["-c", KEEPER, "hyperlift-keeper"]).arg(bin);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).current_dir("/");
        blocking(move || {
            let mut child = command.spawn().map_err(|e| Error::from(e).context("start sh"))?;
            let commands = child.stdin.take();
            let answers = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe"));
            let mut pipes = Pipes { child, commands, answers };
            let dir = PathBuf::from(pipes.answer()?);
            Ok(Self { dir, pipes: Arc::new(Mutex::new(pipes)) })
        })
        .await
    }

    /// Runs a shell command in the folder. It ends even when the caller does not wait for it.
    async fn run(&self, command: String) -> Result<()> {
        let (pipes, log) = (Arc::clone(&self.pipes), self.dir.join("keeper.log"));
        blocking(move || {
            let mut pipes = pipes.lock().unwrap_or_else(PoisonError::into_inner);
            let commands = pipes.commands.as_mut().ok_or_else(|| Error::failed("the server was closed"))?;
            commands.write_all(format!("{command}\n").as_bytes())?;
            match pipes.answer()?.as_str() {
                "0" => Ok(()),
                code => {
                    let output = fs::read_to_string(log).unwrap_or_default();
                    Err(Error::failed(format!("exit code {code} of {command}")).detail(output.trim()))
                }
            }
        })
        .await
    }
}

impl Pipes {
    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(Error::failed("the keeper of a throw-away server ended"));
        }
        Ok(line.trim_end().to_owned())
    }
}

/// Waits for the keeper, a fraction of a second, so that the server and its folder are gone after the drop.
impl Drop for Pipes {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.child.wait();
    }
}

/// The first cluster of each version in this process, never started, is the template of all others: copying is much quicker than initdb.
static TEMPLATES: tokio::sync::Mutex<BTreeMap<PathBuf, Keeper>> = tokio::sync::Mutex::const_new(BTreeMap::new());

async fn make_cluster(keeper: &Keeper, programs: &Programs, password: Option<&str>) -> Result<()> {
    let initdb = format!("{} -D data -U postgres -E UTF8 --locale=C.UTF-8 --no-sync", shell(&programs.bin.join("initdb")));
    let resetwal = programs.bin.join("pg_resetwal");
    if let Some(password) = password {
        write_as_owner(&keeper.dir, "password", password)?;
        return keeper.run(format!("{initdb} --auth=scram-sha-256 --pwfile=password && rm password")).await;
    }
    if !resetwal.exists() {
        return keeper.run(format!("{initdb} --auth=trust")).await;
    }
    let mut templates = TEMPLATES.lock().await;
    if !templates.contains_key(&programs.bin) {
        let template = Keeper::start(programs).await?;
        template.run(format!("{initdb} --auth=trust")).await?;
        templates.insert(programs.bin.clone(), template);
    }
    let template = templates[&programs.bin].dir.join("data");
    drop(templates);
    keeper.run(format!("cp -a --reflink=auto {} data", shell(&template))).await?;
    // A copy needs a system identifier of its own, or source and target would be taken for the same server. It is in the first 8
    // bytes of the control file; pg_resetwal, forced to accept the checksum that is now wrong, writes the new one everywhere. pg_createsubscriber
    // does the same.
    let mut control = fs::OpenOptions::new().write(true).open(keeper.dir.join("data/global/pg_control"))?;
    control.write_all(&fastrand::u64(1 << 60..1 << 62).to_ne_bytes())?;
    drop(control);
    keeper.run(format!("{} -f -D data", shell(&resetwal))).await
}

/// A command that runs as this user. When this is root it runs as the user `postgres`, because the server refuses to run as root.
fn as_postgres(program: &str) -> Result<Command> {
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = if root {
        output("id", &["-u", "postgres"]).ok_or_else(|| {
            Error::failed("there is no user postgres to run a server as").hint("install PostgreSQL (`make setup`), or do not run as root")
        })?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--", program]);
        command
    } else {
        Command::new(program)
    };
    // no PG* variable of the caller may reach the server; messages in English because the log is read
    command.env_clear().env("LC_ALL", "C");
    for name in ["PATH", "TMPDIR", "LD_LIBRARY_PATH"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    Ok(command)
}

fn append(file: &Path, text: &str) -> Result<()> {
    Ok(fs::OpenOptions::new().append(true).open(file)?.write_all(text.as_bytes())?)
}

/// Writes a file (mode 0600) that belongs to the owner of the folder.
fn write_as_owner(folder: &Path, name: &str, contents: &str) -> Result<()> {
    let file = folder.join(name);
    fs::write(&file, contents)?;
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let owner = fs::metadata(folder)?;
    Ok(std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid()))?)
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::failed("a task of a throw-away server panicked").source(e))?
}

/// A path as one word of a shell command.
fn shell(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// Percent-encodes all that is not plainly allowed in a URI (RFC 3986, 2.3).
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}
