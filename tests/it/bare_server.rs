//! A bare server for the tests of the connection layer, which ask for passwords and certificates.

/// A PostgreSQL server in a temporary directory, stopped when dropped.
pub struct Server {
    dir: tempfile::TempDir,
    pub port: u16,
}

impl Server {
    const BIN: &str = "/usr/lib/postgresql/15/bin";

    /// Starts a server that asks for `hyper`'s password "it's:secret" over TCP and for none over its unix socket.
    #[allow(clippy::missing_panics_doc)]
    pub fn start(settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("hyperlift-").tempdir_in("/tmp").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { dir, port };
        let at = server.path();
        std::fs::write(format!("{at}/password"), "it's:secret\n").unwrap();
        run("chown", &["-R", "postgres", &at]);
        let auth = ["--auth-local=trust", "--auth-host=scram-sha-256", "-U", "hyper", "--no-sync", "-E", "UTF8"];
        Self::command("initdb", &[&["-D", &format!("{at}/data"), "--pwfile", &format!("{at}/password")], &auth[..]].concat());
        let more =
            format!("port={port}\nunix_socket_directories='{at}'\nwal_level=logical\nfsync=off\nautovacuum=off\n{settings}\n").replace("{dir}", &at);
        let conf = format!("{at}/data/postgresql.conf");
        std::fs::write(&conf, std::fs::read_to_string(&conf).unwrap() + &more).unwrap();
        server
    }
    #[must_use]
    pub fn run(self) -> Self {
        Self::command("pg_ctl", &["-D", &format!("{}/data", self.path()), "-w", "-l", &format!("{}/log", self.path()), "start"]);
        self
    }
    pub fn path(&self) -> String {
        self.dir.path().display().to_string()
    }
    fn command(program: &str, args: &[&str]) {
        run("runuser", &[&["-u", "postgres", "--", &format!("{}/{program}", Self::BIN)], args].concat());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        Self::command("pg_ctl", &["-D", &format!("{}/data", self.path()), "-m", "immediate", "stop"]);
    }
}

pub fn run(program: &str, args: &[&str]) {
    let output = std::process::Command::new(program).args(args).stdin(std::process::Stdio::null()).output().unwrap();
    assert!(output.status.success() || args.contains(&"stop"), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
