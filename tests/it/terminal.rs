//! The program in a terminal, as an operator sees and drives it.

use super::{demo_run::expect_nothing_left, runner::eventually};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::{
    io::{Read, Write},
    num::NonZeroU16,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// What the dashboard asks of an operator between another key and `Y`.
const CALM: Duration = Duration::from_millis(600);

/// `hyperlift demo` in a terminal of its own; its servers and files are in a folder of its own.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    /// Both are gone once it has hung up.
    lines: Option<(Box<dyn MasterPty + Send>, Box<dyn Write + Send>)>,
    hung_up: Arc<AtomicBool>,
    screen: Arc<Mutex<vt100::Parser>>,
    folder: TempDir,
}

fn size(columns: u16, rows: u16) -> (NonZeroU16, NonZeroU16) {
    (NonZeroU16::new(rows).unwrap(), NonZeroU16::new(columns).unwrap())
}

fn pty_size(columns: u16, rows: u16) -> PtySize {
    PtySize { rows, cols: columns, pixel_width: 0, pixel_height: 0 }
}

impl Terminal {
    /// Starts the demo with a small database on 120x36.
    fn demo(arguments: &[&str]) -> Self {
        Self::demo_on((120, 36), arguments)
    }

    /// Starts it on a terminal that says it has this size; it shows 120x36.
    fn demo_on((columns, rows): (u16, u16), arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // the servers may run as another user
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let pty = native_pty_system().openpty(pty_size(columns, rows)).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_hyperlift"));
        command.args(["demo", "--size", "0.1", "--writers", "2"]);
        command.args(arguments);
        for name in [
            "SOURCE", "TARGET", "PGCOPYDB_SOURCE_PGURI", "PGCOPYDB_TARGET_PGURI", "HYPERLIFT_DIR", "PGCOPYDB_DIR", "TMUX", "STY", "LC_ALL",
            "COLUMNS", "LINES",
        ] {
            command.env_remove(name);
        }
        for (name, value) in [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("RUST_BACKTRACE", "0")] {
            command.env(name, value);
        }
        command.env("TMPDIR", folder.path());
        command.cwd(Path::new("/"));
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let (rows, columns) = size(120, 36);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 200)));
        let (mut reader, shown) = (pty.master.try_clone_reader().unwrap(), Arc::clone(&screen));
        let hung_up = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&hung_up);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer)
                && !gone.load(Ordering::Relaxed)
            {
                shown.lock().unwrap_or_else(PoisonError::into_inner).process(&buffer[..n]);
            }
        });
        let keyboard = pty.master.take_writer().unwrap();
        Self { child, lines: Some((pty.master, keyboard)), hung_up, screen, folder }
    }

    fn look<T>(&self, at: impl FnOnce(&vt100::Screen) -> T) -> T {
        at(self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen())
    }

    fn text(&self) -> String {
        self.look(vt100::Screen::contents)
    }

    /// Waits until the screen shows all of this.
    async fn shows(&mut self, parts: &[&str]) {
        self.until(&parts.join(" and "), |text| parts.iter().all(|part| text.contains(part))).await;
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&str) -> bool) {
        let mut ended = None;
        let mut seen = false;
        let (child, screen) = (&mut self.child, &self.screen);
        let text = || screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents();
        let deadline = tokio::time::timeout(Duration::from_secs(90), async {
            eventually(what, async || {
                ended = child.try_wait().unwrap();
                seen = condition(&text());
                seen || ended.is_some()
            })
            .await;
        })
        .await;
        assert!(deadline.is_ok() && seen, "the screen does not show {what} ({ended:?}):\n{}", text());
    }

    fn press(&mut self, keys: &str) {
        let (_, keyboard) = self.lines.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// Moves the cursor down until the row is the selected one.
    async fn goes_down_to(&mut self, row: &str) {
        let selected = |text: &str| text.lines().find(|l| l.contains("│›")).and_then(|l| l.split("  ").next()).map(str::to_owned);
        for _ in 0..30 {
            let before = self.text();
            if before.contains(row) {
                return;
            }
            self.press("j");
            self.until("another row under the cursor", |text| selected(text) != selected(&before)).await;
        }
        panic!("no {row}:\n{}", self.text());
    }

    /// Waits for a stage's prompt and answers it.
    async fn continues(&mut self, stage: &str) {
        self.shows(&[&format!("▶{stage}"), "[ c ", "WAITING FOR YOU"]).await;
        self.press("c");
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        let (height, width) = size(columns, rows);
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen_mut().set_size(height, width);
        self.lines.as_ref().unwrap().0.resize(pty_size(columns, rows)).unwrap();
    }

    /// The window is closed, or the connection lost: nobody has the other end of the terminal open any more.
    fn hang_up(&mut self) {
        // the reader ends when it reads again
        self.hung_up.store(true, Ordering::Relaxed);
        self.lines = None;
    }

    async fn exit_code(&mut self) -> u32 {
        let child = &mut self.child;
        let mut code = None;
        eventually("the program ends", async || {
            code = child.try_wait().unwrap().map(|status| status.exit_code());
            code.is_some()
        })
        .await;
        code.unwrap()
    }

    /// Waits for the end; the terminal has to be as it was before.
    async fn end(&mut self) -> (u32, String) {
        let code = self.exit_code().await;
        let restored = |screen: &vt100::Screen| !screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste();
        let screen = Arc::clone(&self.screen);
        eventually("the terminal is given back", async || restored(screen.lock().unwrap_or_else(PoisonError::into_inner).screen())).await;
        (code, self.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_operator_takes_the_demo_from_the_first_check_to_the_exit_summary() {
    let mut terminal = Terminal::demo(&[]);
    terminal.continues("1 Preflight").await;

    terminal.shows(&["▶2 Identity", "3 open", "not yet: 3 open"]).await;
    // the row that needs the operator is the selected one
    terminal.shows(&["›shop.audit_log"]).await;
    terminal.press("f");
    // the settled row stays under the cursor: the same key twice changes no other table
    terminal.shows(&["2 open", "›shop.audit_log"]).await;
    terminal.goes_down_to("›shop.sessions").await;
    terminal.press("u");
    terminal.shows(&["1 open", "›shop.sessions"]).await;
    terminal.goes_down_to("›\"Odd Names\".\"import log\"").await;
    terminal.press("i");
    terminal.shows(&["INSERT-ONLY", "Type its name"]).await;
    terminal.press("\"Odd Names\".\"import log\"\r");
    terminal.shows(&["0 open", "1 accepted", "2 applied", "1 table is insert-only"]).await;
    terminal.continues("2 Identity").await;

    terminal.shows(&["▶4 Hypertables", "0 of", "[ ] public.metrics", "[ ] public.events"]).await;
    terminal.press("a");
    // the sentence comes with the engine's answer; a c before that would answer an earlier question
    terminal.shows(&["[x] public.metrics", "[x] public.events", "2 tables become hypertables"]).await;
    terminal.continues("4 Hypertables").await;

    terminal.shows(&["▶6 Catch-up", "✓5 Copy", "Source DB - Target DB", "public.metrics"]).await;
    terminal.press("C");
    terminal.shows(&["CUTOVER", "must have STOPPED WRITING", "[ Y  cut over now ]"]).await;
    // a Y directly after another key is ignored
    terminal.press("jY");
    terminal.shows(&["Y did not count"]).await;
    let mut done = terminal.text().contains("Migration successfully completed");
    assert!(!done, "{}", terminal.text());
    while !done {
        // an operator has to wait, too: a key that comes too early is refused
        tokio::time::sleep(CALM).await;
        terminal.press("Y");
        terminal.until("an answer to Y", |text| text.contains("Y did not count") || text.contains("▶9 Done") || text.contains("▶8 Cutover")).await;
        done = !terminal.text().contains("cut over now");
    }
    terminal.shows(&["▶9 Done", "Migration successfully completed", "2 of them hypertables", "Late writes on the source: none seen"]).await;
    terminal.press("q");

    let (code, text) = terminal.end().await;
    assert_eq!(code, 0, "{text}");
    for part in ["COMPLETED after", "2 of them hypertables", "cleaned   slot", "next ", "source and target are equal"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[tokio::test]
async fn q_twice_stops_safely_on_a_terminal_that_changes_its_size() {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/plan.toml");
    let mut terminal = Terminal::demo(&["--yes", "--plan", plan]);
    terminal.shows(&["▶6 Catch-up", "Source DB - Target DB"]).await;
    terminal.resize(80, 24);
    // only marks are left of the other stages
    terminal.shows(&["▶6 Catch-up ·7 ·8 ·9", "lag "]).await;
    terminal.resize(52, 14);
    terminal.shows(&["terminal is 52x14, need 60x16", "the migration continues"]).await;
    terminal.resize(120, 36);
    terminal.shows(&["✓5 Copy  ▶6 Catch-up", "Before cutover"]).await;
    terminal.press("q");
    terminal.shows(&["QUIT?", "[ q  stop safely ]"]).await;
    terminal.press("\u{1b}");
    terminal.until("the question is gone", |text| !text.contains("QUIT?")).await;
    terminal.press("q");
    terminal.shows(&["QUIT?"]).await;
    terminal.press("q");
    let (code, text) = terminal.end().await;
    assert_eq!(code, 4, "{text}");
    for part in [
        "STOPPED at Catch-up after",
        "stays on the source and holds WAL",
        "continue  the same command, with --dir",
        "give up   hyperlift clean --dir",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[tokio::test]
async fn a_terminal_without_a_size_is_drawn_to() {
    let mut terminal = Terminal::demo_on((0, 0), &[]);
    let says_size = |terminal: &Terminal, columns, rows| terminal.lines.as_ref().unwrap().0.resize(pty_size(columns, rows)).unwrap();
    // 80x24 has only marks of the other stages.
    terminal.shows(&["▶1 Preflight ·2", "WAITING FOR YOU"]).await;
    says_size(&terminal, 120, 36);
    terminal.shows(&["▶1 Preflight", "9 Done"]).await;
    for (columns, rows) in [(0, 0), (0, 24), (80, 0)] {
        says_size(&terminal, columns, rows);
        terminal.shows(&["▶1 Preflight ·2"]).await;
        says_size(&terminal, 120, 36);
        terminal.shows(&["▶1 Preflight", "9 Done"]).await;
    }
    terminal.press("q");
    terminal.shows(&["QUIT?"]).await;
    terminal.press("q");
    let (code, text) = terminal.end().await;
    assert_eq!(code, 4, "{text}");
}

#[tokio::test]
async fn a_terminal_that_goes_away_stops_the_migration_safely() {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/plan.toml");
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("work");
    let mut terminal = Terminal::demo(&["--yes", "--plan", plan, "--dir", dir.to_str().unwrap()]);
    terminal.shows(&["▶6 Catch-up", "Source DB - Target DB"]).await;
    terminal.hang_up();
    assert_eq!(terminal.exit_code().await, 4);
    let journal = std::fs::read_to_string(dir.join("journal.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["stage"]), (&"stopped".into(), &"catch_up".into()), "{last}");
    expect_nothing_left(terminal.folder.path()).await;
}

#[tokio::test]
async fn copies_are_paused_in_the_middle_of_a_table_and_their_number_changes_while_they_run() {
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo/plan.toml");
    let mut terminal = Terminal::demo(&["--yes", "--plan", plan, "--on", "plain", "--split-tables-larger-than", "256kB", "--copy-rate", "512kB"]);
    terminal.shows(&["▶5 Copy", "p: pause copy", "copy jobs 4", "copying"]).await;
    terminal.press("p");
    // A table is in the middle.
    terminal.shows(&["p: resume copy", "paused", "copying"]).await;
    for (key, jobs) in [("-", "copy jobs 3"), ("-", "copy jobs 2"), ("+", "copy jobs 3"), ("-", "copy jobs 2")] {
        terminal.press(key);
        terminal.shows(&[jobs, "p: resume copy"]).await;
    }
    terminal.press("p");
    terminal.shows(&["p: pause copy"]).await;
    terminal.press("+");
    terminal.shows(&["copy jobs 3"]).await;
    terminal.shows(&["▶6 Catch-up", "✓5 Copy"]).await;
    terminal.press("q");
    terminal.shows(&["QUIT?"]).await;
    terminal.press("q");
    let (code, text) = terminal.end().await;
    assert_eq!(code, 4, "{text}");
}
