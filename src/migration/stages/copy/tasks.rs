//! The tasks of the copy: one that fails, or panics, ends the stage.

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Error, Result};

/// Tasks whose failure, or panic, ends the stage; and whose end the stage waits for.
#[derive(Clone)]
pub struct StageTasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    failures: mpsc::UnboundedSender<Error>,
}

impl StageTasks {
    /// Tasks that end when `cancel` does; and the errors of those that fail.
    pub fn new(cancel: CancellationToken) -> (Self, mpsc::UnboundedReceiver<Error>) {
        let (failures, failed) = mpsc::unbounded_channel();
        (Self { tracker: TaskTracker::new(), cancel, failures }, failed)
    }

    pub fn run(&self, work: impl Future<Output = Result<()>> + Send + 'static) {
        let Self { cancel, failures, .. } = self.clone();
        self.tracker.spawn(async move {
            let mut work = tokio::spawn(work);
            let result = tokio::select! {
                () = cancel.cancelled() => {
                    work.abort();
                    let _ = work.await;
                    return;
                }
                // A panic must not end in a silent dead worker.
                result = &mut work => result.unwrap_or_else(|e| Err(Error::failed(format!("a worker died: {e}")))),
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
