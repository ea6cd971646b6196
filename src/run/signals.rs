//! What signals do to a running migration.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::FrontEnd,
    error::Result,
    event::{self, Answer},
};

/// SIGTERM, SIGHUP and ctrl-c stop safely. Another SIGTERM, or a third ctrl-c, ends the program immediately. SIGUSR1 means `c`.
pub fn listen(cancel: &CancellationToken, front: &FrontEnd) -> Result<()> {
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (mut interrupt, mut user) = (signal(SignalKind::interrupt())?, signal(SignalKind::user_defined1())?);
    let (cancel, front) = (cancel.clone(), front.clone());
    tokio::spawn(async move {
        let mut interrupts = 0;
        loop {
            tokio::select! {
                _ = terminate.recv() => {
                    if cancel.is_cancelled() {
                        std::process::exit(143);
                    }
                    cancel.cancel();
                }
                _ = hangup.recv() => cancel.cancel(),
                _ = interrupt.recv() => {
                    interrupts += 1;
                    if interrupts > 2 {
                        std::process::exit(130);
                    }
                    cancel.cancel();
                }
                _ = user.recv() => {
                    let open = front.state.borrow().prompts.to_continue();
                    if let Some(prompt) = open {
                        let _ = front.commands.send(event::Command::Answer { prompt, answer: Answer::Continue }).await;
                    }
                }
            }
        }
    });
    Ok(())
}
