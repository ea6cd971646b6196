//! Where a database is and how to get in: a connection string completed as libpq does it (PostgreSQL documentation 34.1.2,
//! 34.15 to 34.17), so whatever works with psql works here.
//!
//! Knows nothing of sockets. A password leaves it only for the server and for the environment of a child process.

mod files;
mod syntax;

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::config::{self, ChannelBinding, SslNegotiation, TargetSessionAttrs};

use crate::error::{Error, Result};

pub use files::Env;

/// How long connecting may take by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// TCP keepalives notice a dead peer within a minute.
pub(in crate::pg) const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub(in crate::pg) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(in crate::pg) const KEEPALIVE_RETRIES: u32 = 3;

/// Keys with a meaning here, and the variable that fills each when the string and the service do not.
const KEYS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("dbname", "PGDATABASE"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("options", "PGOPTIONS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("channel_binding", "PGCHANNELBINDING"),
    // They decide whom to trust, so they must not be ignored: `Conninfo::build` refuses them.
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslpassword", ""),
    ("require_auth", "PGREQUIREAUTH"),
];

/// Keys of libpq that change nothing here.
const HARMLESS: &[&str] = &[
    "application_name", "client_encoding", "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "krbsrvname", "load_balance_hosts", "max_protocol_version", "min_protocol_version", "replication",
    "requirepeer", "ssl_max_protocol_version", "sslcertmode", "sslcompression", "sslkeylogfile", "sslsni", "tcp_user_timeout",
];

/// Variables of libpq that a child with [`Conninfo::child_env`] must not inherit: each could lead it elsewhere.
pub const FOREIGN_ENV: &[&str] = &[
    "PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT",
    "PGSSLCERT", "PGSSLKEY", "PGSSLNEGOTIATION", "PGSSLMINPROTOCOLVERSION", "PGOPTIONS", "PGCONNECT_TIMEOUT", "PGTARGETSESSIONATTRS",
    "PGCHANNELBINDING", "PGREQUIREPEER", "PGREQUIRESSL", "PGCLIENTENCODING", "PGAPPNAME", "PGTZ", "PGDATESTYLE",
];

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// Which of several servers is accepted (libpq's `target_session_attrs`). `primary` and `standby` are taken as `read-write` and `read-only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAttribute {
    Any,
    ReadWrite,
    ReadOnly,
    PreferStandby,
}

/// One server of the list.
#[derive(Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the directory of a unix socket (begins with `/`).
    pub name: String,
    /// Where to connect instead of looking `name` up.
    pub addr: Option<IpAddr>,
    pub port: u16,
    /// From the password file, which may differ by host.
    password: Option<String>,
}

impl Host {
    pub fn is_unix(&self) -> bool {
        self.name.starts_with('/')
    }
}

/// `host:port`, for people.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') { write!(f, "[{}]:{}", self.name, self.port) } else { write!(f, "{}:{}", self.name, self.port) }
    }
}

/// What the `ssl*` keys say, with libpq's default files filled in where they exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssl {
    pub mode: SslMode,
    /// A file, or `system`.
    pub rootcert: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
    /// TLS from the first byte (PostgreSQL 17).
    pub direct: bool,
    /// `ssl_min_protocol_version=TLSv1.3`; 1.2 is the least in any case.
    pub only_tls13: bool,
}

/// A complete description of how to connect.
#[derive(Clone)]
pub struct Conninfo {
    hosts: Vec<Host>,
    user: String,
    /// From the string, the service or `PGPASSWORD`: for all hosts.
    password: Option<String>,
    dbname: String,
    ssl: Ssl,
    options: Option<String>,
    /// None: no limit.
    connect_timeout: Option<Duration>,
    session: SessionAttribute,
    channel_binding: ChannelBinding,
}

/// Leaves the password out.
impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conninfo").field("address", &self.address()).field("user", &self.user).field("ssl", &self.ssl).finish_non_exhaustive()
    }
}

impl Conninfo {
    /// Reads a URI or `key=value` words; what they leave open comes from the environment and libpq's files.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_with(text, &|name| std::env::var(name).ok())
    }

    /// [`parse`](Self::parse) with another environment.
    pub fn parse_with(text: &str, env: Env<'_>) -> Result<Self> {
        let account = files::account();
        let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).or_else(|| account.as_ref().map(|(_, home)| home.clone()));
        let os_user = account.map(|(user, _)| user).or_else(|| env("LOGNAME")).or_else(|| env("USER"));
        let mut given: HashMap<String, String> = HashMap::new();
        for (key, value) in syntax::pairs(text)? {
            check_key(&key)?;
            given.insert(key, value);
        }
        let named = |given: &HashMap<String, String>, key: &str, variable: &str| given.get(key).cloned().or_else(|| env(variable));
        if let Some(service) = named(&given, "service", "PGSERVICE") {
            let file = named(&given, "servicefile", "PGSERVICEFILE");
            for (key, value) in files::service(&service, file.as_deref(), home.as_deref(), env)? {
                check_key(&key).map_err(|e| e.context(format!("service {service}")))?;
                given.entry(key).or_insert(value);
            }
        }
        // A host from the environment must not complete an address that was given, nor the other way round.
        let placed = given.contains_key("host") || given.contains_key("hostaddr");
        for (key, variable) in KEYS {
            let settled = given.contains_key(*key) || (placed && matches!(*key, "host" | "hostaddr"));
            if !settled && let Some(value) = env(variable).filter(|value| !value.is_empty()) {
                given.insert((*key).to_owned(), value);
            }
        }
        given.retain(|_, value| !value.is_empty());
        Self::build(&given, home.as_deref(), os_user)
    }

    fn build(given: &HashMap<String, String>, home: Option<&Path>, os_user: Option<String>) -> Result<Self> {
        let get = |key: &str| given.get(key).cloned();
        for key in ["sslcrl", "sslcrldir", "sslpassword", "require_auth"] {
            if given.contains_key(key) {
                return Err(Error::usage(format!("the connection parameter {key} is not supported")));
            }
        }
        let user = get("user").or(os_user).ok_or_else(|| Error::usage("the connection string names no user").hint("add the user, or set PGUSER"))?;
        let dbname = get("dbname").unwrap_or_else(|| user.clone());
        let password = get("password");
        let mut hosts = hosts(get("host"), get("hostaddr"), get("port"))?;
        if password.is_none()
            && let Some(path) = get("passfile").map(PathBuf::from).or_else(|| home.map(|home| home.join(".pgpass")))
            && let Some(text) = files::passfile(&path)
        {
            for host in &mut hosts {
                host.password = files::password_in(&text, &host.name, host.port, &dbname, &user);
            }
        }
        let connect_timeout = match get("connect_timeout").map(|text| text.trim().parse::<i64>()) {
            None => Some(CONNECT_TIMEOUT),
            Some(Ok(seconds)) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
            Some(Err(_)) => return Err(Error::usage("connect_timeout is not a whole number of seconds")),
        };
        let session = choice(
            given,
            "target_session_attrs",
            SessionAttribute::Any,
            &[
                ("any", SessionAttribute::Any),
                ("read-write", SessionAttribute::ReadWrite),
                ("primary", SessionAttribute::ReadWrite),
                ("read-only", SessionAttribute::ReadOnly),
                ("standby", SessionAttribute::ReadOnly),
                ("prefer-standby", SessionAttribute::PreferStandby),
            ],
        )?;
        let channel_binding = choice(
            given,
            "channel_binding",
            ChannelBinding::Prefer,
            &[("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)],
        )?;
        let ssl = ssl(given, home)?;
        Ok(Self { hosts, user, password, dbname, ssl, options: get("options"), connect_timeout, session, channel_binding })
    }

    /// `host:port/dbname` for people: never a user or password.
    pub fn address(&self) -> String {
        format!("{}/{}", self.host_port(), self.dbname)
    }

    /// `host:port`; several are separated by commas.
    pub fn host_port(&self) -> String {
        self.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",")
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password for the first host.
    pub fn password(&self) -> Option<&str> {
        self.password_for(&self.hosts[0])
    }

    pub(in crate::pg) fn password_for<'a>(&'a self, host: &'a Host) -> Option<&'a str> {
        self.password.as_deref().or(host.password.as_deref())
    }

    pub fn ssl(&self) -> &Ssl {
        &self.ssl
    }

    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    pub fn session_attribute(&self) -> SessionAttribute {
        self.session
    }

    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// Another database of the same server, with the same password: a password belongs to a role, whatever database the password file names.
    #[must_use]
    pub fn with_dbname(&self, dbname: &str) -> Self {
        Self { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// The same with one of its hosts only.
    #[must_use]
    pub(in crate::pg) fn only(&self, host: &Host) -> Self {
        Self { hosts: vec![host.clone()], ..self.clone() }
    }

    /// The same for tokio-postgres. `verify-*` is left to [`Tls`](super::tls::Tls).
    pub fn config(&self, application_name: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        let all_have_addresses = self.hosts.iter().all(|host| host.addr.is_some());
        for host in &self.hosts {
            match host.addr {
                Some(addr) if all_have_addresses => config.host(&host.name).hostaddr(addr),
                Some(addr) => config.host(addr.to_string()),
                None => config.host(&host.name),
            };
            config.port(host.port);
        }
        config.user(&self.user).dbname(&self.dbname).application_name(application_name);
        if let Some(password) = self.password() {
            config.password(password);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        if let Some(timeout) = self.connect_timeout {
            config.connect_timeout(timeout);
        }
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL).keepalives_retries(KEEPALIVE_RETRIES);
        config.ssl_negotiation(if self.ssl.direct { SslNegotiation::Direct } else { SslNegotiation::Postgres });
        config.channel_binding(self.channel_binding).ssl_mode(match self.ssl.mode {
            SslMode::Disable => config::SslMode::Disable,
            SslMode::Allow | SslMode::Prefer => config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => config::SslMode::Require,
        });
        config.target_session_attrs(match self.session {
            SessionAttribute::ReadWrite => TargetSessionAttrs::ReadWrite,
            SessionAttribute::ReadOnly => TargetSessionAttrs::ReadOnly,
            // tokio-postgres has no preference
            SessionAttribute::Any | SessionAttribute::PreferStandby => TargetSessionAttrs::Any,
        });
        config
    }

    /// The environment in which a libpq program (pg_dump, psql) reaches the same database without anything on its command
    /// line. Remove [`FOREIGN_ENV`] from the child first.
    pub fn child_env(&self) -> Vec<(String, String)> {
        let list = |field: &dyn Fn(&Host) -> String| self.hosts.iter().map(field).collect::<Vec<_>>().join(",");
        let mut env = vec![
            ("PGHOST", list(&|host| host.name.clone())),
            ("PGPORT", list(&|host| host.port.to_string())),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.dbname.clone()),
            ("PGSSLMODE", name_of(self.ssl.mode).to_owned()),
            ("PGGSSENCMODE", "disable".to_owned()),
            ("PGCONNECT_TIMEOUT", self.connect_timeout.map_or(0, |timeout| timeout.as_secs()).to_string()),
        ];
        if self.hosts.iter().any(|host| host.addr.is_some()) {
            env.push(("PGHOSTADDR", list(&|host| host.addr.map(|addr| addr.to_string()).unwrap_or_default())));
        }
        let optional = [
            ("PGPASSWORD", self.password().map(str::to_owned)),
            ("PGSSLROOTCERT", self.ssl.rootcert.clone()),
            ("PGSSLCERT", self.ssl.cert.clone()),
            ("PGSSLKEY", self.ssl.key.clone()),
            ("PGSSLNEGOTIATION", self.ssl.direct.then(|| "direct".to_owned())),
            ("PGSSLMINPROTOCOLVERSION", self.ssl.only_tls13.then(|| "TLSv1.3".to_owned())),
            ("PGOPTIONS", self.options.clone()),
            (
                "PGTARGETSESSIONATTRS",
                match self.session {
                    SessionAttribute::Any => None,
                    SessionAttribute::ReadWrite => Some("read-write".to_owned()),
                    SessionAttribute::ReadOnly => Some("read-only".to_owned()),
                    SessionAttribute::PreferStandby => Some("prefer-standby".to_owned()),
                },
            ),
            (
                "PGCHANNELBINDING",
                match self.channel_binding {
                    ChannelBinding::Disable => Some("disable".to_owned()),
                    ChannelBinding::Require => Some("require".to_owned()),
                    _ => None,
                },
            ),
        ];
        env.extend(optional.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))));
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn check_key(key: &str) -> Result<()> {
    if HARMLESS.contains(&key) || KEYS.iter().any(|(known, _)| *known == key) {
        return Ok(());
    }
    // anything else may be the tail of an unquoted password
    if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        Err(Error::usage(format!("unknown connection parameter \"{key}\"")))
    } else {
        Err(Error::usage("the connection string has a parameter whose name is not a word").hint("put values that contain spaces in single quotes"))
    }
}

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

fn name_of(mode: SslMode) -> &'static str {
    SSL_MODES.iter().find(|(_, known)| *known == mode).map_or("prefer", |(name, _)| name)
}

/// The value of a key with few possible values.
fn choice<T: Copy>(given: &HashMap<String, String>, key: &str, default: T, values: &[(&str, T)]) -> Result<T> {
    let Some(text) = given.get(key) else { return Ok(default) };
    values.iter().find(|(name, _)| name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        Error::usage(format!("{key} is none of {}", names.join(", ")))
    })
}

/// Pairs the comma-separated lists: a single port is for all hosts, otherwise there are as many ports as hosts.
fn hosts(names: Option<String>, addrs: Option<String>, ports: Option<String>) -> Result<Vec<Host>> {
    let list = |text: Option<String>| text.map(|text| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>());
    let (names, addrs, ports) = (list(names), list(addrs), list(ports).unwrap_or_default());
    let count = names.as_ref().or(addrs.as_ref()).map_or(1, Vec::len);
    if names.is_some() && addrs.as_ref().is_some_and(|addrs| addrs.len() != count) {
        return Err(Error::usage("host and hostaddr are lists of different lengths"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::usage(format!("{} ports are given for {count} hosts", ports.len())));
    }
    let item = |list: &Option<Vec<String>>, i: usize| list.as_ref().and_then(|list| list.get(i).cloned()).filter(|item| !item.is_empty());
    (0..count)
        .map(|i| {
            let addr = item(&addrs, i);
            let port = ports.get(if ports.len() == 1 { 0 } else { i }).filter(|port| !port.is_empty());
            let port = port.map_or(Ok(5432), |port| port.parse::<u16>()).ok().filter(|port| *port > 0);
            let name = item(&names, i).or_else(|| addr.clone()).unwrap_or_else(|| "localhost".to_owned());
            Ok(Host {
                name,
                addr: addr.map(|addr| addr.parse().map_err(|_| Error::usage("hostaddr is not an IP address"))).transpose()?,
                port: port.ok_or_else(|| {
                    Error::usage(format!("the port of host {} is not a number from 1 to 65535", i + 1))
                        .hint("put an IPv6 address in brackets; in a password write / as %2F, @ as %40, : as %3A")
                })?,
                password: None,
            })
        })
        .collect()
}

fn ssl(given: &HashMap<String, String>, home: Option<&Path>) -> Result<Ssl> {
    let get = |key: &str| given.get(key).cloned();
    let default_file =
        |name: &str| home.map(|home| home.join(".postgresql").join(name)).filter(|path| path.is_file()).map(|path| path.display().to_string());
    let rootcert = get("sslrootcert");
    let system = rootcert.as_deref() == Some("system");
    let mode = choice(given, "sslmode", if system { SslMode::VerifyFull } else { SslMode::Prefer }, SSL_MODES)?;
    if system && mode != SslMode::VerifyFull {
        return Err(Error::usage("sslrootcert=system goes with sslmode=verify-full only"));
    }
    let direct = choice(given, "sslnegotiation", false, &[("postgres", false), ("direct", true)])?;
    if direct && mode < SslMode::Require {
        return Err(Error::usage("sslnegotiation=direct needs sslmode=require or stronger"));
    }
    let only_tls13 =
        choice(given, "ssl_min_protocol_version", false, &[("TLSv1", false), ("TLSv1.1", false), ("TLSv1.2", false), ("TLSv1.3", true)])?;
    Ok(Ssl {
        mode,
        rootcert: rootcert.or_else(|| default_file("root.crt")),
        cert: get("sslcert").or_else(|| default_file("postgresql.crt")),
        key: get("sslkey").or_else(|| default_file("postgresql.key")),
        direct,
        only_tls13,
    })
}

#[cfg(test)]
mod tests;
