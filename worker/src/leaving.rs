//! The way out: a worker that is told to stop says so, and runs on while its slots move to others, so that each of
//! them pauses for its own move and not for the whole worker's end.

use std::time::Duration;

use millrace_common::http::Readiness;
use millrace_common::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::manager::RunningSlots;

/// Clones share their state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving {
    begun: CancellationToken,
    may_end: CancellationToken,
}

impl Leaving {
    /// Whether heartbeats say that the worker drains.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// The master moves nothing more from here.
    pub(crate) fn may_end(&self) {
        self.may_end.cancel();
    }

    /// Waits until the master has moved what it can, at most for `longest`. A worker that has no session has nobody to
    /// wait for. `changed`: told that a heartbeat should not wait for its time. `stop`: begun when a task panicked.
    pub(crate) async fn drain(
        &self,
        changed: &Notify,
        running: &RunningSlots,
        readiness: &Readiness,
        longest: Duration,
        shutdown: &Shutdown,
        stop: &Shutdown,
    ) {
        let slots = running.reports().len();
        if slots == 0 || longest.is_zero() {
            return;
        }
        if let Some(reason) = readiness.waiting_for() {
            return info!(slots, reason, "no session with a master that could move the slots");
        }
        info!(slots, ?longest, "slots are to move to other workers");
        self.begun.cancel();
        changed.notify_one();
        tokio::select! {
            () = self.may_end.cancelled() => info!(slots = running.reports().len(), "nothing more is moved"),
            () = tokio::time::sleep(longest) => {
                warn!(slots = running.reports().len(), ?longest, "not all slots were moved in time");
            }
            () = shutdown.insisted() => info!(slots = running.reports().len(), "told once more, not waiting"),
            () = stop.begun() => {}
        }
    }
}
