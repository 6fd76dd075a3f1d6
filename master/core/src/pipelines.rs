//! A pipeline's way: Running <-> Paused, Changing on the way to another definition, Killed and at last completed.
//!
//! Whatever a person asks for, slots are given up after a last commit first. Which figures may change in a definition
//! is the shell's matter; here only what slots are made of counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_types::{PipelineDefinition, PipelineId, SlotId};

use crate::Rejection;
use crate::backlog::Dirty;
use crate::coordinator::{Balance, Coordinator};
use crate::history::MoveReason;
use crate::record::{MAX_SLOT_RECORDS, SLOTS_PER_RECORD, SlotGroup, SlotRecord, SlotRemains, Stage};
use crate::state::{Completed, Hold, Pipeline, Resend, Slot};

impl Coordinator {
    pub(crate) fn check_submission(
        &self,
        definition: &PipelineDefinition,
        partitions: &[u32],
    ) -> Result<(), Rejection> {
        let pipeline = definition.id.clone();
        if let Some(known) = self.pipelines.get(&pipeline) {
            return if *known.definition == *definition {
                Ok(())
            } else {
                Err(Rejection::PipelineExists { pipeline })
            };
        }
        if self.completed.contains_key(&pipeline) {
            return Err(Rejection::PipelineOver { pipeline });
        }
        let mut known = self
            .pipelines
            .values()
            .map(|known| &known.definition)
            .chain(self.completed.values().map(|completed| &completed.definition));
        if let Some(taken) = known.find(|known| known.name == definition.name) {
            let (name, pipeline) = (definition.name.clone(), taken.id.clone());
            return Err(Rejection::NameTaken { name, pipeline });
        }
        check_counts(definition, partitions)?;
        self.check_slot_records(pipeline, partitions.iter().map(|count| records_for(*count)).sum())
    }

    pub(crate) fn check_resubmission(
        &self,
        definition: &PipelineDefinition,
        partitions: &[u32],
    ) -> Result<(), Rejection> {
        let pipeline = definition.id.clone();
        check_counts(definition, partitions)?;
        let (known, counts) = match (self.pipelines.get(&pipeline), self.completed.get(&pipeline)) {
            (Some(known), _) => (&known.definition, known.partitions.clone()),
            (None, Some(completed)) => (&completed.definition, completed.counts()),
            (None, None) => return Err(Rejection::UnknownPipeline { pipeline }),
        };
        if known.source.topics != definition.source.topics {
            let (known, given) = (known.source.topics.clone(), definition.source.topics.clone());
            return Err(Rejection::OtherTopics { pipeline, known, given });
        }
        for ((topic, known), count) in known.source.topics.iter().zip(&counts).zip(partitions) {
            if count < known {
                let (topic, count, known) = (topic.clone(), *count, *known);
                return Err(Rejection::PartitionsGone { pipeline, topic, count, known });
            }
        }
        let held: usize = match self.pipelines.get(&pipeline) {
            Some(known) => known.partitions.iter().map(|count| records_for(*count)).sum(),
            None => 0,
        };
        let wanted: usize = partitions.iter().map(|count| records_for(*count)).sum();
        self.check_slot_records(pipeline, wanted - held)
    }

    pub(crate) fn check_pause(&self, id: &PipelineId) -> Result<(), Rejection> {
        match self.stage_of(id)? {
            Stage::Running | Stage::Changing => Ok(()),
            Stage::Paused => Err(Rejection::AlreadyPaused { pipeline: id.clone() }),
            Stage::Killed { .. } => Err(Rejection::PipelineOver { pipeline: id.clone() }),
        }
    }

    pub(crate) fn check_resume(&self, id: &PipelineId) -> Result<(), Rejection> {
        match self.stage_of(id)? {
            Stage::Paused => Ok(()),
            Stage::Running | Stage::Changing if self.slots_of(id).any(|(_, slot)| slot.halt.is_some()) => {
                Ok(())
            }
            Stage::Running | Stage::Changing => Err(Rejection::NothingToResume { pipeline: id.clone() }),
            Stage::Killed { .. } => Err(Rejection::PipelineOver { pipeline: id.clone() }),
        }
    }

    pub(crate) fn check_kill(&self, id: &PipelineId) -> Result<(), Rejection> {
        match self.stage_of(id)? {
            Stage::Running | Stage::Changing | Stage::Paused => Ok(()),
            Stage::Killed { .. } => Err(Rejection::PipelineOver { pipeline: id.clone() }),
        }
    }

    pub(crate) fn check_partitions(&self, id: &PipelineId, topic: u16, count: u32) -> Result<(), Rejection> {
        let over = || Rejection::PipelineOver { pipeline: id.clone() };
        if matches!(self.stage_of(id)?, Stage::Killed { .. }) {
            return Err(over());
        }
        let pipeline = self.pipelines.get(id).ok_or_else(over)?;
        let topics = pipeline.partitions.len();
        let index = usize::from(topic);
        let (Some(name), Some(known)) =
            (pipeline.definition.source.topics.get(index), pipeline.partitions.get(index))
        else {
            return Err(Rejection::UnknownTopic { pipeline: id.clone(), topic, topics });
        };
        if count < *known {
            let (pipeline, topic) = (id.clone(), name.clone());
            return Err(Rejection::PartitionsGone { pipeline, topic, count, known: *known });
        }
        self.check_slot_records(id.clone(), records_for(count) - records_for(*known))
    }

    fn stage_of(&self, id: &PipelineId) -> Result<Stage, Rejection> {
        match self.pipelines.get(id) {
            Some(pipeline) => Ok(pipeline.stage),
            None if self.completed.contains_key(id) => Err(Rejection::PipelineOver { pipeline: id.clone() }),
            None => Err(Rejection::UnknownPipeline { pipeline: id.clone() }),
        }
    }

    fn check_slot_records(&self, pipeline: PipelineId, more: usize) -> Result<(), Rejection> {
        let now: usize =
            self.pipelines.values().flat_map(|pipeline| &pipeline.partitions).map(|n| records_for(*n)).sum();
        let records = now + more;
        if records <= MAX_SLOT_RECORDS {
            return Ok(());
        }
        Err(Rejection::TooManySlots {
            pipeline,
            records,
            per_record: SLOTS_PER_RECORD,
            most: MAX_SLOT_RECORDS,
        })
    }

    pub(crate) fn add_pipeline(&mut self, definition: PipelineDefinition, partitions: Vec<u32>) {
        let id = definition.id.clone();
        if self.pipelines.contains_key(&id) {
            return;
        }
        let known = vec![0; partitions.len()];
        let pipeline = Pipeline::new(Arc::new(definition), known, Stage::Running);
        self.pipelines.insert(id.clone(), pipeline);
        self.backlog.insert(Dirty::Pipeline(id.clone()));
        for (topic, count) in (0u16..).zip(partitions) {
            self.add_slots(&id, topic, count, &MoveReason::PipelineSubmitted);
        }
    }

    pub(crate) fn resubmit(&mut self, definition: PipelineDefinition, partitions: Vec<u32>) {
        let id = definition.id.clone();
        if let Some(completed) = self.completed.remove(&id) {
            self.bring_back(&id, &completed);
        }
        let Some(pipeline) = self.pipelines.get_mut(&id) else { return };
        let same =
            PipelineDefinition { weight: definition.weight, ..(*pipeline.definition).clone() } == definition;
        if same && pipeline.stage == Stage::Running {
            // Its weight is the master's matter alone: no slot stops for it.
            if pipeline.definition.weight != definition.weight {
                pipeline.definition = Arc::new(definition);
                self.backlog.insert(Dirty::Pipeline(id.clone()));
                self.look_at_load(Balance::Timely);
            }
        } else {
            pipeline.definition = Arc::new(definition);
            self.enter(&id, Stage::Changing);
        }
        self.clear_halts(&id);
        for (topic, count) in (0u16..).zip(partitions) {
            self.add_slots(&id, topic, count, &MoveReason::PartitionsAdded);
        }
    }

    pub(crate) fn pause(&mut self, id: &PipelineId) {
        self.enter(id, Stage::Paused);
    }

    pub(crate) fn resume_pipeline(&mut self, id: &PipelineId) {
        if self.pipelines.get(id).is_some_and(|pipeline| pipeline.stage == Stage::Paused) {
            self.enter(id, Stage::Changing);
        }
        self.clear_halts(id);
    }

    pub(crate) fn kill(&mut self, id: &PipelineId, at_ms: u64) {
        self.enter(id, Stage::Killed { at_ms });
    }

    /// Whether slots of the pipeline may be granted.
    pub(crate) fn grants_slots_of(&self, id: &PipelineId) -> bool {
        self.pipelines.get(id).is_some_and(|pipeline| pipeline.stage == Stage::Running)
    }

    /// Pipelines whose slots were all given up get where they were to get.
    pub(crate) fn settle_pipelines(&mut self) {
        for id in std::mem::take(&mut self.given_up) {
            match self.pipelines.get(&id).map(|pipeline| pipeline.stage) {
                Some(Stage::Killed { at_ms }) => self.complete(&id, at_ms),
                Some(Stage::Changing) => self.go_on(&id),
                Some(Stage::Running | Stage::Paused) | None => {}
            }
        }
        while self.completed.len() > self.settings.completed_kept {
            let oldest = self.completed.iter().min_by_key(|(id, completed)| (completed.killed_at_ms, *id));
            let Some(id) = oldest.map(|(id, _)| id.clone()) else { return };
            self.completed.remove(&id);
            self.backlog.insert(Dirty::Pipeline(id));
        }
    }

    pub(crate) fn slots_of(&self, id: &PipelineId) -> impl Iterator<Item = (&SlotId, &Slot)> {
        let (first, last) = ends(id);
        self.slots.range(first..=last)
    }

    /// Nobody is to hold a slot of the pipeline until it has left this stage.
    fn enter(&mut self, id: &PipelineId, stage: Stage) {
        if !self.pipelines.contains_key(id) {
            return;
        }
        self.backlog.insert(Dirty::Pipeline(id.clone()));
        self.replan = true;
        let since = self.now;
        let resend = Resend::after(self.now, self.settings.heartbeat);
        let mut revoked = Vec::new();
        let (first, last) = ends(id);
        let avoiding: Vec<SlotId> =
            self.avoiding.range(&first..=&last).map(|(slot, _)| slot.clone()).collect();
        for slot in avoiding {
            self.avoiding.remove(&slot);
        }
        self.change_stage(id, stage, |slot_id, slot| {
            slot.failures = 0;
            slot.retry_at = None;
            match &mut slot.hold {
                Hold::Free { home, .. } => *home = None,
                Hold::Revoking { to, .. } => *to = None,
                Hold::Granted { owner, .. } => {
                    let owner = owner.clone();
                    revoked.push((owner.clone(), slot_id.clone(), slot.epoch));
                    slot.hold = Hold::Revoking { owner, to: None, since, reason: asked(stage), resend };
                }
            }
        });
        for (owner, slot, epoch) in revoked {
            self.revoke_directive(&owner, &slot, epoch);
        }
    }

    /// From here on the slots are granted, by the definition of now: an earlier owner's word, which may go by another
    /// one, is no longer believed. That is stored before the pipeline runs.
    fn go_on(&mut self, id: &PipelineId) {
        let now = self.now;
        let mut forgotten = BTreeSet::new();
        self.change_stage(id, Stage::Running, |slot_id, slot| {
            if slot.granted_to.take().is_some() {
                forgotten.insert(SlotGroup::of(slot_id));
            }
            if let Hold::Free { since, reason, urgent, .. } = &mut slot.hold {
                (*since, *reason, *urgent) = (now, asked(Stage::Running), true);
            }
        });
        for group in forgotten {
            self.backlog.insert(Dirty::Slots(group));
        }
        self.backlog.insert(Dirty::Pipeline(id.clone()));
        self.replan = true;
    }

    /// What remains of the pipeline is stored before its slots are removed.
    fn complete(&mut self, id: &PipelineId, killed_at_ms: u64) {
        self.note_opened();
        let (first, last) = ends(id);
        let slots: Vec<SlotId> = self.slots.range(first..=last).map(|(slot, _)| slot.clone()).collect();
        let Some(pipeline) = self.pipelines.get(id) else { return };
        let mut remains: Vec<Vec<SlotRemains>> = pipeline.partitions.iter().map(|_| Vec::new()).collect();
        let definition = Arc::clone(&pipeline.definition);
        self.backlog.insert(Dirty::Pipeline(id.clone()));
        for slot_id in slots {
            self.backlog.insert(Dirty::Slots(SlotGroup::of(&slot_id)));
            self.avoiding.remove(&slot_id);
            self.moved.remove(&slot_id);
            // They come by topic and partition, from 0 on without a gap.
            if let (Some(slot), Some(topic)) =
                (self.remove_slot(&slot_id), remains.get_mut(usize::from(slot_id.topic)))
            {
                topic.push(SlotRemains(slot.epoch, slot.opened));
            }
        }
        self.pipelines.remove(id);
        self.given_up.remove(id);
        self.completed.insert(id.clone(), Completed { definition, killed_at_ms, slots: remains });
        self.history.completed(id, self.now);
        self.replan = true;
    }

    /// A completed pipeline has its slots again, and waits to go on. They are stored before it is.
    fn bring_back(&mut self, id: &PipelineId, completed: &Completed) {
        let (definition, partitions) = (Arc::clone(&completed.definition), completed.counts());
        self.pipelines.insert(id.clone(), Pipeline::new(definition, partitions, Stage::Changing));
        for (topic, slots) in (0u16..).zip(&completed.slots) {
            for (partition, SlotRemains(epoch, opened)) in (0i32..).zip(slots) {
                let slot = SlotId { pipeline: id.clone(), topic, partition };
                let record = SlotRecord { epoch: *epoch, opened: *opened, ..SlotRecord::default() };
                self.backlog.insert(Dirty::Slots(SlotGroup::of(&slot)));
                self.insert_slot(&slot, Slot::free(record, self.now, asked(Stage::Running), true));
            }
        }
        self.backlog.insert(Dirty::Pipeline(id.clone()));
    }

    fn clear_halts(&mut self, id: &PipelineId) {
        let halted: Vec<SlotId> =
            self.slots_of(id).filter(|(_, slot)| slot.halt.is_some()).map(|(slot, _)| slot.clone()).collect();
        for slot in halted {
            self.resume(&slot, None);
        }
    }

    pub(crate) fn add_slots(&mut self, id: &PipelineId, topic: u16, count: u32, reason: &MoveReason) {
        let Some(known) =
            self.pipelines.get_mut(id).and_then(|pipeline| pipeline.partitions.get_mut(usize::from(topic)))
        else {
            return;
        };
        let added = *known..count;
        *known = count.max(*known);
        // `check_slot_records` keeps the counts far below Kafka's own type's limit.
        for partition in added.filter_map(|number| i32::try_from(number).ok()) {
            let slot = SlotId { pipeline: id.clone(), topic, partition };
            self.backlog.insert(Dirty::Slots(SlotGroup::of(&slot)));
            let mut fresh = Slot::free(SlotRecord::default(), self.now, reason.clone(), false);
            fresh.weight = self.average_load;
            self.insert_slot(&slot, fresh);
            self.replan = true;
        }
    }
}

impl Completed {
    /// Partitions of each source topic.
    fn counts(&self) -> Vec<u32> {
        self.slots.iter().map(|slots| u32::try_from(slots.len()).unwrap_or(u32::MAX)).collect()
    }
}

/// What a person asked for, as the reason of a move.
fn asked(stage: Stage) -> MoveReason {
    let what = match stage {
        Stage::Running => "the pipeline was resumed",
        Stage::Changing => "the pipeline goes on with another definition",
        Stage::Paused => "the pipeline was paused",
        Stage::Killed { .. } => "the pipeline was killed",
    };
    MoveReason::Operator { what: what.to_owned() }
}

/// The first and the last slot that the pipeline can have.
fn ends(id: &PipelineId) -> (SlotId, SlotId) {
    let slot = |topic, partition| SlotId { pipeline: id.clone(), topic, partition };
    (slot(0, 0), slot(u16::MAX, i32::MAX))
}

fn check_counts(definition: &PipelineDefinition, partitions: &[u32]) -> Result<(), Rejection> {
    let (pipeline, topics) = (definition.id.clone(), definition.source.topics.len());
    if partitions.len() != topics || topics == 0 || topics > usize::from(u16::MAX) {
        return Err(Rejection::PartitionCounts { pipeline, given: partitions.len(), topics });
    }
    match definition.source.topics.iter().zip(partitions).find(|(_, count)| **count == 0) {
        Some((topic, _)) => Err(Rejection::NoPartitions { pipeline, topic: topic.clone() }),
        None => Ok(()),
    }
}

/// Records that a topic with `partitions` takes.
fn records_for(partitions: u32) -> usize {
    partitions.div_ceil(SLOTS_PER_RECORD) as usize
}
