//! The bus: workers report events at one end, the operator gives commands at the other, and one hub in between owns the state.
//!
//! The hub journals facts before anyone sees them, folds every event into [`State`] and marks the front ends dirty: a front
//! end reads the newest state through a `watch` channel, so a slow terminal blocks nobody.

use jiff::Timestamp;
use std::sync::Arc;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    event::{Command, Event, Level, Stamped},
    state::State,
};

/// Events on their way to the hub. When the queue is full, a fact waits and progress is dropped.
const QUEUE: usize = 1_024;

/// The workers' end: reports events.
#[derive(Clone)]
pub struct Reporter {
    events: mpsc::Sender<Stamped>,
}

impl Reporter {
    /// Reports an event. When the queue is full, a fact waits. Progress is dropped, because the next one carries the same absolute values.
    pub async fn report(&self, event: Event) {
        if event.is_progress() {
            self.progress(event);
        } else {
            // The hub ends with the program: an error here means that nobody reads any more.
            let _ = self.events.send(Stamped { at: Timestamp::now(), event }).await;
        }
    }

    /// Reports without waiting, from places that cannot wait.
    pub fn progress(&self, event: Event) {
        let _ = self.events.try_send(Stamped { at: Timestamp::now(), event });
    }

    pub async fn notice(&self, level: Level, text: impl Into<String>) {
        let text = text.into();
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warn => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        self.report(Event::Notice { level, text }).await;
    }
}

/// The end of the front ends: the state to show, and the commands to give.
#[derive(Clone)]
pub struct FrontEnd {
    pub state: watch::Receiver<State>,
    pub commands: mpsc::Sender<Command>,
}

/// What a front end that prints every event reads.
pub type EventStream = mpsc::UnboundedReceiver<Arc<Stamped>>;

/// The bus as it is put together at start.
pub struct Bus {
    pub reporter: Reporter,
    pub front: FrontEnd,
    /// For the migration.
    pub commands: mpsc::Receiver<Command>,
    /// Ends when all reporters are gone.
    pub hub: JoinHandle<()>,
}

/// Starts the hub. `journal` is called with every fact before it is folded in; `listener` gets every event.
pub fn start(mut journal: impl FnMut(&Stamped) + Send + 'static, listener: Option<mpsc::UnboundedSender<Arc<Stamped>>>) -> Bus {
    let (event_sender, mut events) = mpsc::channel::<Stamped>(QUEUE);
    let (state_sender, state) = watch::channel(State::default());
    let (command_sender, commands) = mpsc::channel(64);
    let hub = tokio::spawn(async move {
        while let Some(stamped) = events.recv().await {
            if !stamped.event.is_progress() {
                journal(&stamped);
            }
            state_sender.send_modify(|state| state.apply(&stamped));
            if let Some(listener) = &listener {
                // A listener that has gone away wants no more events.
                let _ = listener.send(Arc::new(stamped));
            }
        }
    });
    Bus { reporter: Reporter { events: event_sender }, front: FrontEnd { state, commands: command_sender }, commands, hub }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Stage, StageState};

    #[tokio::test]
    async fn facts_are_journaled_before_they_are_seen_and_progress_is_not_journaled() {
        let (journaled, mut lines) = mpsc::unbounded_channel();
        let bus = start(move |s| journaled.send(s.event.clone()).unwrap(), None);
        let fact = Event::StageChanged { stage: Stage::Copy, state: StageState::Running };
        bus.reporter.report(Event::SchemaProgress { done: 1, total: 2, object: String::new() }).await;
        bus.reporter.report(fact.clone()).await;
        let mut state = bus.front.state.clone();
        state.wait_for(|s| s.stage == Some(Stage::Copy)).await.unwrap();
        assert_eq!(lines.try_recv().unwrap(), fact);
        assert!(lines.try_recv().is_err());
        drop(bus.reporter);
        bus.hub.await.unwrap();
    }
}
