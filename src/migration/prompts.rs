//! Trouble that needs the operator: a worker asks and waits, the stage shows it and brings back the answer.

use crate::{event::Stage, migration::context::Context};
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Error, Result},
    event::Command,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Retry,
    /// Go on without it.
    Skip,
}

pub struct Trouble {
    /// What failed, as the operator sees it and names it in the answer.
    pub object: String,
    pub error: Error,
    answer: oneshot::Sender<Resolution>,
}

/// The workers' end.
#[derive(Clone)]
pub struct Asker {
    sender: mpsc::Sender<Trouble>,
}

impl Asker {
    /// Waits for the operator.
    pub async fn ask(&self, object: impl Into<String>, error: Error) -> Result<Resolution> {
        let (answer, answered) = oneshot::channel();
        self.sender.send(Trouble { object: object.into(), error, answer }).await.map_err(|_| Error::stopped())?;
        answered.await.map_err(|_| Error::stopped())
    }
}

/// The stage's end: what is open, and who waits for it.
pub struct Desk {
    incoming: mpsc::Receiver<Trouble>,
    open: HashMap<String, oneshot::Sender<Resolution>>,
    interactive: bool,
}

pub fn desk(interactive: bool) -> (Asker, Desk) {
    let (sender, incoming) = mpsc::channel(16);
    (Asker { sender }, Desk { incoming, open: HashMap::new(), interactive })
}

impl Desk {
    /// The next trouble: what and why. Without anybody to ask it is the end of the run.
    pub async fn next(&mut self) -> Result<(String, Error)> {
        let Some(trouble) = self.incoming.recv().await else { return std::future::pending().await };
        if !self.interactive {
            return Err(trouble.error.context(trouble.object));
        }
        self.open.insert(trouble.object.clone(), trouble.answer);
        Ok((trouble.object, trouble.error))
    }

    /// Whether the command answered something that was open.
    pub fn answer(&mut self, command: &Command) -> Option<(String, Resolution)> {
        let (object, resolution) = match command {
            Command::Retry { object } => (object, Resolution::Retry),
            Command::Skip { object } => (object, Resolution::Skip),
            _ => return None,
        };
        let waiting = self.open.remove(object)?;
        let _ = waiting.send(resolution);
        Some((object.clone(), resolution))
    }
}

/// Drives work while its troubles are brought to the operator and back.
pub async fn with_desk<T>(
    cx: &mut Context,
    desk: &mut Desk,
    stage: Stage,
    mut work: std::pin::Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    loop {
        tokio::select! {
            result = &mut work => return result,
            trouble = desk.next() => {
                let (object, error) = trouble?;
                cx.open_trouble(stage, &object, format!("{object} failed: {error}")).await;
            }
            command = cx.command() => {
                let command = command?;
                match desk.answer(&command) {
                    Some((object, resolution)) => cx.close_trouble(&object, resolution == Resolution::Retry).await,
                    None => cx.refuse(&command, stage).await,
                }
            }
        }
    }
}
