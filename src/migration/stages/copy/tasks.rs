//! The tasks of the copy: one that fails, or panics, ends the stage.

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Error, Result};

/// Tasks that the stage waits for, and that end it when they fail or panic.
#[derive(Clone)]
pub struct StageTasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    failures: mpsc::UnboundedSender<Error>,
}

impl StageTasks {
    /// No tasks yet, and the channel with the errors of those that will fail. `cancel` ends them all.
    pub fn new(cancel: CancellationToken) -> (Self, mpsc::UnboundedReceiver<Error>) {
        let (failures, failed) = mpsc::unbounded_channel();
        (Self { tracker: TaskTracker::new(), cancel, failures }, failed)
    }

    pub fn spawn(&self, work: impl Future<Output = Result<()>> + Send + 'static) {
        let Self { cancel, failures, .. } = self.clone();
        self.tracker.spawn(async move {
            let mut work = tokio::spawn(work);
            let result = tokio::select! {
                () = cancel.cancelled() => {
                    work.abort();
                    let _ = work.await;
                    return;
                }
                // A panic must end the stage, too.
                result = &mut work => result.unwrap_or_else(|e| Err(Error::failed(format!("a worker has ended unexpectedly: {e}")))),
            };
            if let Err(e) = result {
                let _ = failures.send(e);
            }
        });
    }

    /// Cancels them all and waits until they have ended.
    pub async fn end(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
