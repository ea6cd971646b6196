//! The terminal: opened, drawn to in one write a frame, and restored whatever happens.

use crossterm::{
    cursor::Show,
    event::{DisableBracketedPaste, EnableBracketedPaste},
    execute, queue,
    style::Print,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, SetTitle, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Terminal, backend::CrosstermBackend, layout::Rect};
use std::{
    io::{self, BufWriter, Stdout, Write, stdout},
    process::Stdio,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// A whole frame fits: it is one write, so nobody sees half of it.
const BUFFER: usize = 64 << 10;
/// tmux answers at once, unless its server hangs.
const TMUX: Duration = Duration::from_secs(2);

/// Whether the terminal is ours now: it is given back once, by whoever comes first.
static OPEN: AtomicBool = AtomicBool::new(false);

pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Raw mode, alternate screen, bracketed paste; no mouse, so that text can be selected. A panic restores the terminal first.
    pub fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                hook(info);
            }));
        });
        let opened = enter().and_then(|()| Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(BUFFER, stdout()))));
        opened.map(|terminal| Self { terminal }).inspect_err(|_| restore())
    }

    /// Takes the terminal again when a panic elsewhere gave it back: one worker's end is not the dashboard's.
    pub fn ensure_open(&mut self) -> io::Result<()> {
        if !OPEN.load(Ordering::SeqCst) {
            enter()?;
            self.redraw()?;
        }
        Ok(())
    }

    pub fn area(&self) -> io::Result<Rect> {
        Ok(self.terminal.size()?.into())
    }

    /// Everything is drawn again by the next frame. `Terminal::clear` would ask the terminal for its cursor and may wait for seconds.
    pub fn redraw(&mut self) -> io::Result<()> {
        let area = self.area()?;
        self.terminal.resize(area)
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

/// A terminal that is gone cannot be restored, so failures are of no interest.
fn restore() {
    if OPEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), DisableBracketedPaste, SetTitle(""), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

fn enter() -> io::Result<()> {
    OPEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
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
