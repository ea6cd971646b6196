//! The terminal: opened, drawn to in one write a frame, and restored whatever happens.

use crossterm::{
    cursor::Show,
    event::{DisableBracketedPaste, EnableBracketedPaste},
    execute, queue,
    style::Print,
    terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, SetTitle, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use std::{
    io::{self, BufWriter, Stdout, Write, stdout},
    mem::ManuallyDrop,
    process::Stdio,
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// A whole frame fits: it is one write, so half of it is never seen.
const BUFFER: usize = 64 << 10;
/// tmux answers immediately, unless its server hangs.
const TMUX: Duration = Duration::from_secs(2);

/// The size of a terminal that does not say it: columns and rows.
const USUAL: (u16, u16) = (80, 24);
/// A larger number in the environment is a mistake, and a frame of that size would not fit into memory.
const LARGEST: u16 = 1000;

/// Whether the terminal is ours now; it is given back once.
static OPEN: AtomicBool = AtomicBool::new(false);
/// What panicked meanwhile.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub struct Screen {
    /// Never dropped: ratatui shows the cursor then, which `restore` does, and panics when the terminal is gone.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<BufWriter<Stdout>>>>,
}

impl Screen {
    /// Raw mode, alternate screen, bracketed paste; no mouse, so that text can be selected.
    ///
    /// While it is open, a panic anywhere is kept and printed when the terminal is given back: one worker's end must not write
    /// into the dashboard. A panic of the dashboard itself drops the screen, and so restores the terminal first.
    pub fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| if OPEN.load(Ordering::SeqCst) { keep(info) } else { hook(info) }));
        });
        let opened = enter().and_then(|()| {
            let backend = CrosstermBackend::new(BufWriter::with_capacity(BUFFER, stdout()));
            // Fixed, because ratatui itself would take a size of zero as it is.
            Terminal::with_options(backend, TerminalOptions { viewport: Viewport::Fixed(size()?) })
        });
        opened.map(|terminal| Self { terminal: ManuallyDrop::new(terminal) }).inspect_err(|_| restore())
    }

    /// Draws a frame in the size that the terminal has now, and returns that size.
    pub fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<Rect> {
        let area = size()?;
        if self.terminal.get_frame().area() != area {
            self.terminal.resize(area)?;
        }
        self.terminal.draw(render)?;
        Ok(area)
    }

    /// Everything is drawn again by the next frame. `Terminal::clear` would ask the terminal for its cursor and may wait for seconds.
    pub fn redraw(&mut self) -> io::Result<()> {
        self.terminal.resize(size()?)
    }

    /// Goes out with the next frame.
    pub fn title(&mut self, title: &str) -> io::Result<()> {
        let title: String = title.chars().filter(|c| !c.is_control()).collect();
        queue!(self.terminal.backend_mut(), SetTitle(title))
    }

    pub fn bell(&mut self) -> io::Result<()> {
        queue!(self.terminal.backend_mut(), Print('\x07'))
    }

    pub fn close(&mut self) {
        let _ = Write::flush(self.terminal.backend_mut());
        restore();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.close();
    }
}

fn size() -> io::Result<Rect> {
    Ok(known_size(crossterm::terminal::size()?, |name| std::env::var(name).ok()))
}

/// Terminals of containers and of `script` may say that they have no columns or no rows. The environment may know better.
fn known_size((columns, rows): (u16, u16), environment: impl Fn(&str) -> Option<String>) -> Rect {
    let known = |said: u16, name: &str, usual: u16| match said {
        0 => environment(name).and_then(|text| text.trim().parse().ok()).filter(|n| (1..=LARGEST).contains(n)).unwrap_or(usual),
        said => said,
    };
    Rect::new(0, 0, known(columns, "COLUMNS", USUAL.0), known(rows, "LINES", USUAL.1))
}

/// A terminal that is gone cannot be restored, so failures are of no interest.
fn restore() {
    if OPEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), DisableBracketedPaste, SetTitle(""), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
        for panic in std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner)) {
            let _ = writeln!(io::stderr(), "{panic}");
        }
    }
}

fn keep(info: &std::panic::PanicHookInfo<'_>) {
    let text = format!("{info}\n{}", std::backtrace::Backtrace::capture());
    tracing::error!("{text}");
    PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

fn enter() -> io::Result<()> {
    OPEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    // A run that was killed leaves the alternate screen open, and what the shell wrote there since.
    execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All), EnableBracketedPaste)
}

/// Puts text into tmux's buffer, and by `-w` into the clipboard of the terminal outside.
pub async fn tmux_buffer(text: &str) -> io::Result<()> {
    let mut child = Command::new("tmux")
        .args(["load-buffer", "-w", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let done = timeout(TMUX, async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).await?;
        }
        child.wait().await
    });
    match done.await {
        Ok(Ok(status)) if status.success() => Ok(()),
        _ => Err(io::Error::other("tmux did not take the text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_without_a_size_has_that_of_the_environment_or_the_usual_one() {
        let nothing = |_: &str| None;
        for (said, known) in [((0, 0), (80, 24)), ((0, 30), (80, 30)), ((100, 0), (100, 24)), ((52, 14), (52, 14))] {
            assert_eq!(known_size(said, nothing), Rect::new(0, 0, known.0, known.1), "{said:?}");
        }
        let environment = |name: &str| Some(if name == "COLUMNS" { "132" } else { "43" }.to_owned());
        for (said, known) in [((0, 0), (132, 43)), ((0, 30), (132, 30)), ((100, 0), (100, 43)), ((52, 14), (52, 14))] {
            assert_eq!(known_size(said, environment), Rect::new(0, 0, known.0, known.1), "{said:?}");
        }
        for mistake in ["", "0", "-1", "60000", "wide"] {
            assert_eq!(known_size((0, 0), |_| Some(mistake.to_owned())), Rect::new(0, 0, 80, 24), "{mistake:?}");
        }
    }
}
