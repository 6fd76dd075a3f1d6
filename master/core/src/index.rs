//! What is kept beside the slots so that no event looks at all of them: who holds and who should have what, which
//! slots nobody has, how much is under way. Every change of a slot's hold, epoch or halt goes through
//! [`Coordinator::change_slot`]; of a pipeline's stage, through [`Coordinator::change_stage`].

use millrace_types::{PipelineId, SlotId, WorkerId};

use crate::coordinator::Coordinator;
use crate::record::Stage;
use crate::state::{Hold, Intended, Slot};

/// Slots that wait for something.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Wanted, and nobody is to have them: with whether they ran a moment ago.
    pub(crate) unplaced: std::collections::BTreeMap<SlotId, bool>,
    /// How many of those ran a moment ago.
    pub(crate) urgent: usize,
    /// Free, and it is known who is to have them.
    pub(crate) homed: std::collections::BTreeSet<SlotId>,
    /// Wanted slots that their owners are giving up.
    pub(crate) moving: usize,
}

/// Who has the slot in the end, or is about to, if it is `wanted`.
fn intended(slot: &Slot) -> Option<&WorkerId> {
    match &slot.hold {
        Hold::Free { home, .. } => home.as_ref(),
        Hold::Granted { owner, .. } => Some(owner),
        Hold::Revoking { to, .. } => to.as_ref(),
    }
}

impl Coordinator {
    /// Changes a slot, and what is kept of it elsewhere. An unknown one changes nothing.
    pub(crate) fn change_slot<T>(&mut self, id: &SlotId, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.detach(id);
        let done = self.slots.get_mut(id).map(change);
        self.attach(id);
        done
    }

    /// A slot that was not known before.
    pub(crate) fn insert_slot(&mut self, id: &SlotId, slot: Slot) {
        self.slots.insert(id.clone(), slot);
        self.attach(id);
    }

    pub(crate) fn remove_slot(&mut self, id: &SlotId) -> Option<Slot> {
        self.detach(id);
        self.slots.remove(id)
    }

    /// The pipeline gets into `stage`; each of its slots is changed by the way.
    pub(crate) fn change_stage(
        &mut self,
        id: &PipelineId,
        stage: Stage,
        mut change: impl FnMut(&SlotId, &mut Slot),
    ) {
        let slots: Vec<SlotId> = self.slots_of(id).map(|(slot, _)| slot.clone()).collect();
        for slot in &slots {
            self.detach(slot);
        }
        if let Some(pipeline) = self.pipelines.get_mut(id) {
            pipeline.stage = stage;
        }
        for slot_id in &slots {
            if let Some(slot) = self.slots.get_mut(slot_id) {
                change(slot_id, slot);
            }
            self.attach(slot_id);
        }
        self.note_given_up(id);
    }

    fn detach(&mut self, id: &SlotId) {
        self.enter_in_books(id, false);
    }

    fn attach(&mut self, id: &SlotId) {
        self.enter_in_books(id, true);
        self.note_given_up(&id.pipeline);
    }

    /// Nobody holds a slot of a pipeline that waits for that.
    fn note_given_up(&mut self, id: &PipelineId) {
        let waits = self.pipelines.get(id).is_some_and(|pipeline| {
            pipeline.owned == 0 && matches!(pipeline.stage, Stage::Changing | Stage::Killed { .. })
        });
        if waits {
            self.given_up.insert(id.clone());
        } else if !self.given_up.is_empty() {
            self.given_up.remove(id);
        }
    }

    fn enter_in_books(&mut self, id: &SlotId, enter: bool) {
        let Some(slot) = self.slots.get(id) else { return };
        let pipeline = self.pipelines.get_mut(&id.pipeline);
        let wanted =
            slot.halt.is_none() && pipeline.as_ref().is_some_and(|pipeline| pipeline.stage == Stage::Running);
        let by = |count: &mut usize| *count = if enter { *count + 1 } else { count.saturating_sub(1) };
        if let Some(owner) = slot.owner() {
            if let Some(pipeline) = pipeline {
                by(&mut pipeline.owned);
            }
            if let Some(worker) = self.workers.get_mut(owner) {
                if matches!(slot.hold, Hold::Revoking { .. }) {
                    by(&mut worker.revoking);
                }
                if enter {
                    worker.holds.insert(id.clone());
                    worker.digest.add(id, slot.epoch);
                } else if worker.holds.remove(id) {
                    worker.digest.remove(id, slot.epoch);
                }
            }
        }
        if !wanted {
            return;
        }
        if matches!(slot.hold, Hold::Revoking { .. }) {
            by(&mut self.waiting.moving);
        }
        let worker = intended(slot).and_then(|worker| self.workers.get_mut(worker));
        let urgent = matches!(slot.hold, Hold::Free { urgent: true, .. });
        match (worker, enter) {
            (Some(worker), true) => {
                let held = matches!(slot.hold, Hold::Granted { .. });
                worker.intended.insert(id.clone(), Intended { load: slot.weight, held });
                if matches!(slot.hold, Hold::Free { .. }) {
                    self.waiting.homed.insert(id.clone());
                }
            }
            (Some(worker), false) => {
                worker.intended.remove(id);
                self.waiting.homed.remove(id);
            }
            (None, true) => {
                self.waiting.unplaced.insert(id.clone(), urgent);
                self.waiting.urgent += usize::from(urgent);
            }
            (None, false) => {
                if self.waiting.unplaced.remove(id) == Some(true) {
                    self.waiting.urgent -= 1;
                }
            }
        }
    }
}
