//! What the master waits for, gathered from its parts into one answer of `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_common::http::Readiness;

/// Shared by the parts that can be waiting; ready when none is.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    readiness: Readiness,
    waiting: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Health {
    /// `part` waits for `what` at first.
    pub(crate) fn waiting(part: &'static str, what: &str) -> Self {
        let health =
            Self { readiness: Readiness::waiting(what), waiting: Arc::new(Mutex::new(BTreeMap::new())) };
        health.set_waiting(part, what);
        health
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    pub(crate) fn set_waiting(&self, part: &'static str, what: impl Into<String>) {
        self.change(|waiting| waiting.insert(part, what.into()));
    }

    /// `part` no longer waits.
    pub(crate) fn set_ready(&self, part: &'static str) {
        self.change(|waiting| waiting.remove(part));
    }

    /// Everything that is waited for, in words; `None` if nothing.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        self.readiness.waiting_for()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<&'static str, String>) -> Option<String>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting);
        if waiting.is_empty() {
            self.readiness.set_ready();
        } else {
            self.readiness.set_waiting(waiting.values().map(String::as_str).collect::<Vec<_>>().join("; "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_no_part_waits() {
        let health = Health::waiting("kafka", "Kafka");
        health.set_waiting("store", "the disk");
        assert_eq!(health.waiting_for().as_deref(), Some("Kafka; the disk"));
        health.set_ready("kafka");
        assert_eq!(health.waiting_for().as_deref(), Some("the disk"));
        health.set_ready("store");
        assert_eq!(health.waiting_for(), None);
    }
}
