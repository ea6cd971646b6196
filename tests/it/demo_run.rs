//! `hyperlift demo` without a terminal: a whole migration on servers of its own, after which nothing is left.

use super::runner::{eventually, program};
use hyperlift::demo::timescale::{TimescaleKind, timescale_kinds};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
};
use tempfile::TempDir;

/// A demo whose servers and files are all in one folder.
struct Demo {
    child: Child,
    folder: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // the servers may run as another user
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = program();
        command.args(["demo", "--plain", "--size", "0.05"]).args(arguments).env("TMPDIR", folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, folder }
    }

    /// Runs it to its end, and returns what it printed.
    async fn finish(mut self) -> String {
        let text = Arc::new(Mutex::new(String::new()));
        let _printed = PrintedOnFailure(Arc::clone(&text));
        let read = |pipe: Box<dyn Read + Send>| {
            let text = Arc::clone(&text);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    text.lock().unwrap_or_else(PoisonError::into_inner).extend([&line, "\n"]);
                }
            })
        };
        let errors = read(Box::new(self.child.stderr.take().unwrap()));
        let printed = read(Box::new(self.child.stdout.take().unwrap()));
        let mut code = None;
        eventually("the demo ends", async || {
            code = self.child.try_wait().unwrap().map(|status| status.code());
            code.is_some()
        })
        .await;
        printed.join().and(errors.join()).unwrap();
        assert_eq!(code, Some(Some(0)));
        expect_nothing_left(self.folder.path()).await;
        text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a demo printed, shown when the test fails.
struct PrintedOnFailure(Arc<Mutex<String>>);

impl Drop for PrintedOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// No process that names the folder or works in it, and nothing inside it.
pub async fn expect_nothing_left(folder: &Path) {
    eventually("servers and folders are gone", async || {
        let of_the_demo = |process: fs::DirEntry| {
            let at = process.path();
            fs::read_link(at.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
                || fs::read(at.join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy()))
        };
        let running = fs::read_dir("/proc").unwrap().flatten().any(of_the_demo);
        !running && fs::read_dir(folder).unwrap().count() == 0
    })
    .await;
}

fn expect_success(text: &str) {
    let successes = text.lines().filter(|line| line.ends_with("Migration successfully completed")).count();
    assert_eq!(successes, 1, "{text}");
    assert!(text.lines().last().unwrap().contains("source and target are equal"), "{text}");
}

#[tokio::test]
async fn the_demo_runs_without_a_terminal_and_leaves_nothing() {
    let text = Demo::start(&[]).finish().await;
    expect_success(&text);
    for part in ["[WATCH] Source DB - Target DB => 0MB", "Syncing last LSN in Source DB to Target DB ...", "COMPLETED", "2 of them hypertables"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[tokio::test]
async fn the_demo_runs_on_pglite_and_leaves_nothing() {
    if !timescale_kinds().await.contains(&TimescaleKind::Pglite) {
        return;
    }
    let text = Demo::start(&["--on", "pglite"]).finish().await;
    assert!(text.contains("demo: target: TimescaleDB in PGlite"), "{text}");
    expect_success(&text);
    assert!(text.contains("2 of them hypertables"), "{text}");
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_server_and_no_folder() {
    let mut demo = Demo::start(&[]);
    let mut lines = BufReader::new(demo.child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("stage=catch-up running")), "the demo ended early");
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    expect_nothing_left(demo.folder.path()).await;
}
