//! The latest rows of a slot, for those who want to look: they may not be committed yet.

use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use millrace_common::types::NextOffset;
use tokio::sync::{Notify, oneshot};

/// Requests that may wait for a slot's task.
const MOST_WAITING: usize = 16;

/// The last rows that a slot took in.
#[derive(Debug, Clone)]
pub(crate) struct LatestRows {
    /// `None` before the first row.
    pub(crate) rows: Option<RecordBatch>,
    /// Rows of offsets from here on are not committed to the lake.
    pub(crate) lake_cursor: NextOffset,
    pub(crate) topic_cursor: NextOffset,
}

/// The way to a slot's task.
#[derive(Debug, Default)]
pub(crate) struct LatestRequests {
    waiting: Mutex<Vec<oneshot::Sender<LatestRows>>>,
    asked: Notify,
}

impl LatestRequests {
    /// Asks the slot; `None` if it ends before it answers, or has too many such requests already. Set a deadline: a
    /// slot that waits for Kafka may not answer soon.
    pub(crate) async fn ask(&self) -> Option<LatestRows> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.lock();
            waiting.retain(|request| !request.is_closed());
            if waiting.len() >= MOST_WAITING {
                return None;
            }
            waiting.push(answer);
        }
        self.asked.notify_one();
        answered.await.ok()
    }

    /// Resolves when somebody has asked since the last call.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Answers everybody who waits.
    pub(crate) fn answer(&self, latest: &LatestRows) {
        for request in self.lock().drain(..) {
            // Who asked may have gone.
            let _ = request.send(latest.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<oneshot::Sender<LatestRows>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
