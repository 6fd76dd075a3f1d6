//! Orderly stop: one token that everybody watches, one tracker that knows every task.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};

/// Handed to every part of a process. Cloning is cheap; all clones stop together.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    insisted: CancellationToken,
    failed: Arc<AtomicBool>,
    tracker: TaskTracker,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that begins at SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When the process can't listen for signals.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (token, insisted) = (shutdown.token.clone(), shutdown.insisted.clone());
        // Not tracked: it must outlive the drain, or a second signal would kill the process half way.
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if token.is_cancelled() {
                    info!(signal = name, "already stopping");
                    insisted.cancel();
                } else {
                    info!(signal = name, "stopping");
                    token.cancel();
                }
            }
        });
        Ok(shutdown)
    }

    /// A later stop of the same process: tasks and failures are shared, its beginning is its own.
    pub fn later(&self) -> Self {
        Self { token: CancellationToken::new(), ..self.clone() }
    }

    /// Resolves when the process is told to stop once more: whoever waits for something else should not.
    pub async fn insisted(&self) {
        self.insisted.cancelled().await;
    }

    /// Begins the stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether a task panicked: the process must not end as if all were well.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Resolves when the stop begins.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// The token itself, for parts that take one.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `task` under `name`. A panic in it is logged and stops the process: nothing goes on half alive.
    pub fn spawn<F>(&self, name: impl Into<String>, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let guard = PanicStops { shutdown: self.clone(), name };
        self.tracker.spawn(async move {
            let guard = guard;
            task.await;
            debug!(task = guard.name.as_str(), "task ended");
        })
    }

    /// Waits, after the stop has begun, until every task has ended; false if `longest` passed first.
    pub async fn drained(&self, longest: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(longest, self.tracker.wait()).await.is_ok()
    }
}

struct PanicStops {
    shutdown: Shutdown,
    name: String,
}

impl Drop for PanicStops {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(task = self.name.as_str(), "task panicked, stopping the process");
            self.shutdown.failed.store(true, Ordering::SeqCst);
            self.shutdown.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_task_stops_its_siblings() {
        let shutdown = Shutdown::new();
        let sibling = shutdown.clone();
        shutdown.spawn("sibling", async move { sibling.begun().await });
        shutdown.spawn("broken", async { panic!("on purpose") });
        shutdown.begun().await;
        assert!(shutdown.drained(Duration::from_secs(30)).await);
        assert!(shutdown.has_failed());
    }
}
