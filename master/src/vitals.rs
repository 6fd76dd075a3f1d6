//! What workers say of their own processes with each heartbeat, for people: the coordinator does not know of it, for it
//! decides nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_common::types::WorkerId;

/// Cheap to clone; all clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vitals(Arc<Mutex<HashMap<WorkerId, u64>>>);

impl Vitals {
    /// Memory of the worker's process that is in RAM, in bytes; `None` before its first heartbeat.
    pub(crate) fn resident_bytes(&self, worker: &WorkerId) -> Option<u64> {
        self.lock().get(worker).copied()
    }

    pub(crate) fn note(&self, worker: &WorkerId, resident_bytes: u64) {
        // The process could not tell.
        if resident_bytes > 0 {
            self.lock().insert(worker.clone(), resident_bytes);
        }
    }

    /// The session of the worker is over.
    pub(crate) fn forget(&self, worker: &WorkerId) {
        self.lock().remove(worker);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
