//! The program itself, as a child: its events, its signals and its end.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

pub use super::support::until as eventually;

/// The program, with nothing of the caller's environment that it would take for its own.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyperlift"));
    for name in ["SOURCE", "TARGET", "PGCOPYDB_SOURCE_PGURI", "PGCOPYDB_TARGET_PGURI", "HYPERLIFT_DIR", "PGCOPYDB_DIR", "HYPERLIFT_LOG"] {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "0");
    command
}

/// A running program that prints its events.
pub struct Running {
    child: Child,
    events: Arc<Mutex<Vec<Value>>>,
    stdout: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

/// What is left of it.
pub struct Ended {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub events: Vec<Value>,
    pub stderr: String,
}

impl Running {
    /// Starts the program with `--json` and these arguments.
    pub fn start<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = program();
        command.arg("--json").args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (out, mut err) = (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
        let known = Arc::clone(&events);
        let stdout = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                known.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = err.read_to_string(&mut text);
            text
        });
        Self { child, events, stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// Waits for an event of this kind for which the condition holds, now or since the start.
    pub async fn event(&mut self, kind: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        let mut ended = false;
        let (events, child) = (&self.events, &mut self.child);
        eventually(&format!("event {kind}"), async || {
            // asked before the events are read, so that none of them is missed
            ended = child.try_wait().unwrap().is_some();
            let events = events.lock().unwrap_or_else(PoisonError::into_inner);
            found = events.iter().find(|e| e["event"] == kind && condition(e)).cloned();
            found.is_some() || ended
        })
        .await;
        match found {
            Some(event) => event,
            None => panic!("the program ended before event {kind}: {}", self.wait().await),
        }
    }

    /// Waits until a stage has begun.
    pub async fn stage(&mut self, stage: &str) {
        self.event("stage_changed", |e| e["stage"] == stage && e["state"] == "running").await;
    }

    pub fn signal(&self, name: &str) {
        let kill = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(kill.unwrap().success(), "kill -{name}");
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Ended {
        self.wait().await
    }

    /// Ends it as a power failure would.
    pub async fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait().await
    }

    async fn wait(&mut self) -> Ended {
        let child = &mut self.child;
        let mut code = None;
        eventually("the program ends", async || match child.try_wait().unwrap() {
            Some(status) => {
                code = status.code();
                true
            }
            None => false,
        })
        .await;
        self.stdout.take().unwrap().join().unwrap();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        Ended { code, events, stderr }
    }
}

/// A test that failed leaves nothing running.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The program has to have ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// All events of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|e| e["event"] == kind).collect()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}; on stderr:\n{}the last events:", self.code, self.stderr)?;
        self.events.iter().rev().take(25).rev().try_for_each(|event| writeln!(f, "{event}"))
    }
}
