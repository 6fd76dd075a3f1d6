//! The coordinator: its implementation follows; these are the signatures that the shell builds on.

use millrace_types::Millis;

use crate::{ClusterView, Event, Record, Rejection, RestoreError, Settings, Step};

/// The scheduler's whole state. One task of the shell owns it.
#[derive(Debug)]
pub struct Coordinator {}

impl Coordinator {
    /// The coordinator as its records tell.
    pub fn restore(_settings: Settings, _records: Vec<Record>, _now: Millis) -> Result<Self, RestoreError> {
        unreachable!("not built yet")
    }

    /// Takes one event at `now`.
    pub fn apply(&mut self, _now: Millis, _event: Event) -> Result<Step, Rejection> {
        unreachable!("not built yet")
    }

    /// When [`Event::DeadlineReached`] is due.
    pub fn next_deadline(&self) -> Option<Millis> {
        unreachable!("not built yet")
    }

    /// The cluster as it stands.
    pub fn view(&self) -> ClusterView {
        unreachable!("not built yet")
    }
}
