//! From the store's records to the state. Refuses what no build of this version can have written.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_types::{Epoch, SlotId, WorkerSpec};

use crate::backlog::Dirty;
use crate::coordinator::Coordinator;
use crate::history::MoveReason;
use crate::record::{
    CompletedRecord, PipelineRecord, RECORD_VERSION, Record, RecordBody, RecordKey, RestoreError, SlotGroup,
    SlotRecord, Stage,
};
use crate::state::{Completed, Hold, Life, Pipeline, Resend, Slot, Worker};

impl Coordinator {
    pub(crate) fn take_records(&mut self, records: Vec<Record>) -> Result<(), RestoreError> {
        let mut bodies = BTreeMap::new();
        for record in records {
            let key = record.key();
            if record.version != RECORD_VERSION {
                return Err(RestoreError::Version { key, version: record.version });
            }
            if bodies.insert(key.clone(), record.body).is_some() {
                return Err(RestoreError::Twice { key });
            }
        }
        let mut groups = Vec::new();
        for (key, body) in bodies {
            match body {
                RecordBody::Pipeline(pipeline) => self.take_pipeline(*pipeline),
                RecordBody::Completed(completed) => self.take_completed(*completed),
                RecordBody::Worker { spec, dead, drained } => self.take_worker(spec, dead, drained),
                RecordBody::Slots { group, slots } => groups.push((key, group, slots)),
            }
        }
        for (key, group, slots) in groups {
            self.take_slots(&group, slots).map_err(|problem| RestoreError::Damaged { key, problem })?;
        }
        self.check_all_partitions()
    }

    fn take_pipeline(&mut self, PipelineRecord { definition, stage }: PipelineRecord) {
        let id = definition.id.clone();
        let partitions = vec![0; definition.source.topics.len()];
        self.pipelines.insert(id, Pipeline::new(Arc::new(definition), partitions, stage));
    }

    fn take_completed(&mut self, CompletedRecord { definition, killed_at_ms, slots }: CompletedRecord) {
        let id = definition.id.clone();
        self.completed.insert(id, Completed { definition: Arc::new(definition), killed_at_ms, slots });
    }

    fn take_worker(&mut self, spec: WorkerSpec, dead: bool, drained: bool) {
        let id = spec.id.clone();
        let life =
            if dead { Life::Dead } else { Life::Unknown { until: self.now.plus(self.settings.lease) } };
        let mut worker = Worker::new(spec, life, self.now);
        worker.drain.asked = drained;
        if drained {
            self.draining.insert(id.clone());
        }
        self.workers.insert(id.clone(), worker);
        self.arm(&id);
    }

    fn take_slots(&mut self, group: &SlotGroup, slots: BTreeMap<i32, SlotRecord>) -> Result<(), String> {
        if self.completed.contains_key(&group.pipeline) {
            // The master ended between the two: what remains of them stands in the pipeline's record.
            self.backlog.insert(Dirty::Slots(group.clone()));
            return Ok(());
        }
        let absent = || format!("pipeline {} with a topic number {} is absent", group.pipeline, group.topic);
        let pipeline = self.pipelines.get_mut(&group.pipeline).ok_or_else(absent)?;
        let known = pipeline.partitions.get_mut(usize::from(group.topic)).ok_or_else(absent)?;
        *known += u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let stage = pipeline.stage;
        let (first, last) = group.partitions();
        for (partition, record) in slots {
            if !(first..=last).contains(&partition) {
                return Err(format!("partition {partition} stands in it: expected {first} to {last}"));
            }
            if record.epoch == Epoch(0) && (record.opened || record.owner.is_some()) {
                return Err(format!("partition {partition} has an owner or was opened, but its epoch is 0"));
            }
            let id = SlotId { pipeline: group.pipeline.clone(), topic: group.topic, partition };
            let owner = record.owner.clone();
            let mut slot = Slot::free(record, self.now, MoveReason::MasterRestarted, false);
            if let Some(owner) = owner {
                let known = self.workers.get(&owner).is_some_and(|worker| worker.life != Life::Dead);
                if known && slot.halt.is_none() {
                    let resend = Resend::after(self.now, self.settings.heartbeat);
                    slot.hold = if stage == Stage::Running {
                        Hold::Granted { owner, resend }
                    } else {
                        let reason = MoveReason::MasterRestarted;
                        Hold::Revoking { owner, to: None, since: self.now, reason, resend }
                    };
                } else {
                    // An owner that is gone leaves the slot free: the next grant has a higher epoch in any case.
                    self.backlog.insert(Dirty::Slots(group.clone()));
                }
            }
            self.insert_slot(&id, slot);
        }
        Ok(())
    }

    /// Every topic has its partitions from 0 on without a gap. A pipeline that was not written whole lacks the last
    /// ones, which are found in Kafka again; never the first.
    fn check_all_partitions(&self) -> Result<(), RestoreError> {
        for (id, pipeline) in &self.pipelines {
            for (topic, count) in (0u16..).zip(&pipeline.partitions) {
                let damaged = |problem| RestoreError::Damaged { key: RecordKey::pipeline(id), problem };
                let later = pipeline.partitions.iter().skip(usize::from(topic) + 1);
                if *count == 0 && (topic == 0 || later.clone().any(|count| *count > 0)) {
                    return Err(damaged(format!("no slots are stored for its topic number {topic}")));
                }
                let slot = |partition| SlotId { pipeline: id.clone(), topic, partition };
                let missing = (0i32..).take(*count as usize).find(|n| !self.slots.contains_key(&slot(*n)));
                if let Some(partition) = missing {
                    return Err(damaged(format!(
                        "slot {} is not stored, but higher ones are",
                        slot(partition)
                    )));
                }
            }
        }
        Ok(())
    }
}
