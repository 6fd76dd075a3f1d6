//! Looks at each step of one coordinator, with a memory of its own of what that was told and what it had stored.

use std::collections::{BTreeMap, BTreeSet};

use millrace_master_core::{
    ClusterView, Coordinator, Directive, Event, MoveReason, Record, RecordBody, RecordKey, Settings,
    SlotState, Stage, Step, Write,
};
use millrace_types::{Epoch, Millis, PipelineId, SlotId, WorkerId};

use crate::rules::Rule;

/// A broken rule, and how.
pub(crate) type Broken = (Rule, String);

#[derive(Debug)]
pub(crate) struct Watch {
    settings: Settings,
    /// What is stored when all its writes are.
    mirror: BTreeMap<RecordKey, Record>,
    owners: BTreeMap<SlotId, (Epoch, Option<WorkerId>)>,
    places: BTreeMap<WorkerId, u32>,
    asked_to_drain: BTreeSet<WorkerId>,
    leaving: BTreeSet<WorkerId>,
    sessions: BTreeMap<WorkerId, u64>,
    heard: BTreeMap<WorkerId, Millis>,
    patience: Millis,
    now: Millis,
    /// Words and ends of owners since all was stored last.
    words: BTreeSet<(SlotId, WorkerId)>,
    ended: BTreeSet<WorkerId>,
    /// Slots that owners lost since then.
    taken: Vec<(SlotId, WorkerId)>,
    /// When each slot's owner changed last, as far as this coordinator did it.
    moved: BTreeMap<SlotId, Millis>,
    asked_to_even: Option<Millis>,
}

/// A grant that was not there before.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) worker: WorkerId,
    pub(crate) reason: Option<MoveReason>,
}

impl Watch {
    pub(crate) fn new(settings: Settings, records: &[Record], now: Millis) -> Self {
        let mut watch = Self {
            settings,
            mirror: BTreeMap::new(),
            owners: BTreeMap::new(),
            places: BTreeMap::new(),
            asked_to_drain: BTreeSet::new(),
            leaving: BTreeSet::new(),
            sessions: BTreeMap::new(),
            heard: BTreeMap::new(),
            patience: now,
            now,
            words: BTreeSet::new(),
            ended: BTreeSet::new(),
            taken: Vec::new(),
            moved: BTreeMap::new(),
            asked_to_even: None,
        };
        for record in records {
            watch.take(record);
            watch.mirror.insert(record.key(), record.clone());
        }
        watch
    }

    fn take(&mut self, record: &Record) {
        match &record.body {
            RecordBody::Worker { spec, drained, .. } => {
                self.places.entry(spec.id.clone()).or_insert(spec.max_slots);
                if *drained {
                    self.asked_to_drain.insert(spec.id.clone());
                }
            }
            RecordBody::Slots { group, slots } => {
                for (partition, slot) in slots {
                    let id = SlotId {
                        pipeline: group.pipeline.clone(),
                        topic: group.topic,
                        partition: *partition,
                    };
                    self.owners.insert(id, (slot.epoch, slot.owner.clone()));
                }
            }
            RecordBody::Pipeline(_) | RecordBody::Completed(_) => {}
        }
    }

    /// Notes a fact that the coordinator is about to be told, at `now`; `due` is its deadline.
    pub(crate) fn note(&mut self, now: Millis, due: Option<Millis>, event: &Event) {
        self.now = self.now.max(now);
        let heartbeat = self.settings.heartbeat;
        if due.is_some_and(|due| self.now > due.plus(heartbeat)) {
            self.patience = self.now.plus(Millis(heartbeat.0 * 2));
        }
        match event {
            Event::Heartbeat { session, worker, draining, .. }
                if self.sessions.get(worker) == Some(session) =>
            {
                self.heard.insert(worker.clone(), self.now);
                if *draining {
                    self.leaving.insert(worker.clone());
                } else {
                    self.leaving.remove(worker);
                }
            }
            Event::SessionLost { session, worker } if self.sessions.get(worker) == Some(session) => {
                self.sessions.remove(worker);
            }
            Event::SlotStopped { session, worker, slot, .. }
                if self.sessions.get(worker) == Some(session) =>
            {
                self.words.insert((slot.clone(), worker.clone()));
            }
            Event::Rebalance => self.asked_to_even = Some(self.now),
            _ => {}
        }
    }

    /// What counts only when the coordinator took it.
    pub(crate) fn accepted(&mut self, event: &Event) {
        match event {
            Event::WorkerDrained { worker } => drop(self.asked_to_drain.insert(worker.clone())),
            Event::WorkerRecommissioned { worker } => drop(self.asked_to_drain.remove(worker)),
            Event::WorkerRegistered { session, spec, .. } => {
                self.places.insert(spec.id.clone(), spec.max_slots);
                self.sessions.insert(spec.id.clone(), *session);
                self.heard.insert(spec.id.clone(), self.now);
                let known = self.mirror.get(&RecordKey::worker(&spec.id)).map(|record| &record.body);
                match known {
                    Some(RecordBody::Worker { spec: known, .. }) if known.pid == spec.pid => {}
                    Some(_) | None => {
                        self.ended.insert(spec.id.clone());
                        self.leaving.remove(&spec.id);
                    }
                }
            }
            _ => {}
        }
    }

    /// Checks a step before any of it is carried out.
    pub(crate) fn check(
        &mut self,
        step: &Step,
        core: &Coordinator,
        deep: bool,
    ) -> Result<Vec<Fresh>, Broken> {
        let fresh = self.check_grants(step)?;
        let whole = core.is_written();
        self.take_writes(step);
        if whole {
            self.check_taken()?;
        }
        if whole && !step.writes.is_empty() {
            self.check_places()?;
            self.check_memory(core, deep)?;
        }
        let revokes = step.directives.iter().any(|directive| matches!(directive, Directive::Revoke { .. }));
        if fresh.is_empty() && !revokes {
            return Ok(fresh);
        }
        let view = core.view();
        self.check_moves(&view)?;
        self.note_moves(fresh, &view)
    }

    fn check_grants(&self, step: &Step) -> Result<Vec<Fresh>, Broken> {
        let mut fresh = Vec::new();
        for directive in &step.directives {
            let Directive::Grant { worker, session, slot, epoch, .. } = directive else { continue };
            let known = self.owners.get(slot);
            if known.is_some_and(|(known, owner)| known == epoch && owner.as_ref() == Some(worker)) {
                continue;
            }
            if let Some((before, _)) = known.filter(|(before, _)| before >= epoch) {
                return Err((Rule::EpochsRise, format!("{slot}: epoch {epoch} is granted after {before}")));
            }
            if let Some(why) = self.unwilling(worker, *session) {
                let what = format!("{slot} is granted to {worker}, which {why}");
                return Err((Rule::GrantsToTheWilling, what));
            }
            fresh.push(Fresh { slot: slot.clone(), epoch: *epoch, worker: worker.clone(), reason: None });
        }
        Ok(fresh)
    }

    /// Why the worker must not be granted anything.
    fn unwilling(&self, worker: &WorkerId, session: u64) -> Option<String> {
        if self.asked_to_drain.contains(worker) {
            return Some("is to be drained".to_owned());
        }
        if self.leaving.contains(worker) {
            return Some("is about to end".to_owned());
        }
        if self.sessions.get(worker) != Some(&session) {
            return Some(format!("has no session {session}"));
        }
        let Some(heard) = self.heard.get(worker) else { return Some("was never heard".to_owned()) };
        let until = heard.plus(self.settings.lease).max(self.patience);
        (until < self.now).then(|| format!("was heard at {heard} last, and it is {} now", self.now))
    }

    fn take_writes(&mut self, step: &Step) {
        for write in &step.writes {
            match write {
                Write::Put(record) => {
                    if let RecordBody::Slots { group, slots } = &record.body {
                        for (partition, slot) in slots {
                            let (pipeline, topic) = (group.pipeline.clone(), group.topic);
                            let id = SlotId { pipeline, topic, partition: *partition };
                            if let Some((_, Some(before))) = self.owners.get(&id)
                                && slot.owner.as_ref() != Some(before)
                            {
                                self.taken.push((id, before.clone()));
                            }
                        }
                        self.take(record);
                    }
                    self.mirror.insert(record.key(), record.clone());
                }
                Write::Delete(key) => match self.mirror.remove(key).map(|record| record.body) {
                    Some(RecordBody::Slots { group, slots }) => {
                        for partition in slots.into_keys() {
                            let pipeline = group.pipeline.clone();
                            let slot = SlotId { pipeline, topic: group.topic, partition };
                            self.owners.remove(&slot);
                            self.moved.remove(&slot);
                        }
                    }
                    // A worker that is forgotten comes back as any other.
                    Some(RecordBody::Worker { spec, .. }) => {
                        self.asked_to_drain.remove(&spec.id);
                        self.leaving.remove(&spec.id);
                    }
                    Some(_) | None => {}
                },
            }
        }
    }

    fn check_taken(&mut self) -> Result<(), Broken> {
        for (slot, owner) in std::mem::take(&mut self.taken) {
            let dead = match self.mirror.get(&RecordKey::worker(&owner)).map(|record| &record.body) {
                Some(RecordBody::Worker { dead, .. }) => *dead,
                Some(_) | None => true,
            };
            if !dead && !self.ended.contains(&owner) && !self.words.contains(&(slot.clone(), owner.clone())) {
                let what =
                    format!("{slot} is taken from {owner}, which lives and did not say that it stopped");
                return Err((Rule::OwnersAreAsked, what));
            }
        }
        self.words.clear();
        self.ended.clear();
        Ok(())
    }

    fn check_places(&self) -> Result<(), Broken> {
        let mut owned: BTreeMap<&WorkerId, u32> = BTreeMap::new();
        for owner in self.owners.values().filter_map(|(_, owner)| owner.as_ref()) {
            *owned.entry(owner).or_default() += 1;
        }
        for (worker, count) in owned {
            let places = self.places.get(worker).copied().unwrap_or(0);
            if count > places {
                return Err((
                    Rule::PlacesSuffice,
                    format!("{worker} owns {count} slots and has {places} places"),
                ));
            }
        }
        Ok(())
    }

    fn check_memory(&self, core: &Coordinator, deep: bool) -> Result<(), Broken> {
        let broken = |what| Err((Rule::RestoreEqualsMemory, what));
        if let Some(what) = difference(core.records(), &self.mirror) {
            return broken(format!("memory and store differ: {what}"));
        }
        if !deep {
            return Ok(());
        }
        let records = self.mirror.values().cloned().collect();
        match Coordinator::restore(self.settings.clone(), records, self.now) {
            Err(error) => broken(format!("what is stored can't be restored: {error}")),
            Ok(restored) => match difference(restored.records(), &self.mirror) {
                Some(what) => broken(format!("restored and stored differ: {what}")),
                None => Ok(()),
            },
        }
    }

    fn check_moves(&self, view: &ClusterView) -> Result<(), Broken> {
        let running = |pipeline: &PipelineId| match self
            .mirror
            .get(&RecordKey::pipeline(pipeline))
            .map(|record| &record.body)
        {
            Some(RecordBody::Pipeline(pipeline)) => pipeline.stage == Stage::Running,
            Some(_) | None => false,
        };
        let mut of_workers: BTreeMap<&WorkerId, usize> = BTreeMap::new();
        let mut all = 0;
        for slot in view.slots.iter().filter(|slot| slot.state == SlotState::Revoking) {
            if let Some(owner) = slot.owner.as_ref().filter(|_| running(&slot.slot.pipeline)) {
                all += 1;
                *of_workers.entry(owner).or_default() += 1;
            }
        }
        if all > self.settings.moves_at_a_time {
            let most = self.settings.moves_at_a_time;
            return Err((Rule::MovesAreBounded, format!("{all} moves are under way, {most} may be")));
        }
        let most = self.settings.moves_of_a_worker;
        match of_workers.into_iter().find(|(_, count)| *count > most) {
            Some((worker, count)) => Err((
                Rule::MovesAreBounded,
                format!("{count} moves from {worker} are under way, {most} may be"),
            )),
            None => Ok(()),
        }
    }

    fn note_moves(&mut self, mut fresh: Vec<Fresh>, view: &ClusterView) -> Result<Vec<Fresh>, Broken> {
        for grant in &mut fresh {
            let is_this =
                |moved: &&millrace_master_core::Move| moved.slot == grant.slot && moved.epoch == grant.epoch;
            let Some(moved) = view.moves.iter().rev().find(is_this) else { continue };
            grant.reason = Some(moved.reason.clone());
            if moved.from.as_ref().is_none_or(|from| *from == moved.to) {
                continue;
            }
            let before = self.moved.insert(grant.slot.clone(), moved.granted_at);
            let rested_at = before.map(|before| before.plus(self.settings.rest));
            let for_the_load =
                matches!(moved.reason, MoveReason::Uneven { .. } | MoveReason::FairShare { .. });
            // It is done when joins have settled.
            let wait = Millis(self.settings.settle.0 + self.settings.heartbeat.0);
            let asked = self
                .asked_to_even
                .is_some_and(|asked| before.is_some_and(|before| asked.plus(wait) >= before));
            if let Some(rested_at) = rested_at.filter(|at| for_the_load && !asked && moved.begun_at < *at) {
                let what = format!(
                    "{} is moved to {} at {} ({}), although it rests until {rested_at}",
                    moved.slot, moved.to, moved.begun_at, moved.reason
                );
                return Err((Rule::NoFlapping, what));
            }
        }
        Ok(fresh)
    }
}

/// Tells the first difference.
pub(crate) fn difference(mut records: Vec<Record>, stored: &BTreeMap<RecordKey, Record>) -> Option<String> {
    records.sort_by_cached_key(Record::key);
    if records.iter().eq(stored.values()) {
        return None;
    }
    let found: BTreeMap<RecordKey, &Record> = records.iter().map(|record| (record.key(), record)).collect();
    let keys: BTreeSet<&RecordKey> = found.keys().chain(stored.keys()).collect();
    let differs = keys.into_iter().find(|key| found.get(*key).copied() != stored.get(*key))?;
    Some(format!("{differs}: {:?} is not {:?}", found.get(differs), stored.get(differs)))
}
