//! A worker as the master sees it: it opens, runs and gives up slots, by the same rules as the real one.

use std::collections::BTreeMap;

use millrace_types::{Epoch, Halt, HaltKind, SlotId, SlotPhase, SlotReport, StopReason, WorkerSpec};

use super::super::support;
use super::model::{Chance, Kafka};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Up,
    Frozen,
    Gone,
}

#[derive(Debug, Clone)]
pub(super) enum Order {
    Grant { slot: SlotId, epoch: Epoch, version: Option<u64> },
    Revoke { slot: SlotId, epoch: Epoch },
}

#[derive(Debug)]
struct RunningSlot {
    epoch: Epoch,
    /// Of the definition that it runs by.
    version: Option<u64>,
    cursor: Option<i64>,
    phase: SlotPhase,
    /// When its phase ends: an opening is done, a last commit is made.
    until: u64,
    opening: Option<u64>,
    next: Option<(Epoch, Option<u64>)>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) spec: WorkerSpec,
    /// Never given twice, unlike ids.
    pub(super) incarnation: u64,
    pub(super) process: Process,
    pub(super) session: Option<u64>,
    /// When it tries to register next, without a session.
    pub(super) register_at: u64,
    pub(super) heartbeat_at: u64,
    slots: BTreeMap<SlotId, RunningSlot>,
}

/// A slot that ended by itself or as asked.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) slot: SlotId,
    pub(super) epoch: Epoch,
    pub(super) reason: StopReason,
}

impl Worker {
    pub(super) fn new(spec: WorkerSpec, incarnation: u64, now: u64) -> Self {
        Self {
            spec,
            incarnation,
            process: Process::Up,
            session: None,
            register_at: now,
            heartbeat_at: now,
            slots: BTreeMap::new(),
        }
    }

    pub(super) fn reports(&self) -> Vec<SlotReport> {
        let reports = self.slots.iter().map(|(slot, running)| match running.cursor {
            Some(cursor) => support::report_at(slot, running.epoch, running.phase, cursor),
            None => support::report(slot, running.epoch, running.phase),
        });
        reports.collect()
    }

    pub(super) fn runs(&self, slot: &SlotId) -> Option<(Epoch, SlotPhase)> {
        self.slots.get(slot).map(|running| (running.epoch, running.phase))
    }

    pub(super) fn version(&self, slot: &SlotId) -> Option<u64> {
        self.slots.get(slot).and_then(|running| running.version)
    }

    pub(super) fn running_slots(&self) -> Vec<SlotId> {
        self.slots.keys().cloned().collect()
    }

    /// A process that dies runs nothing.
    pub(super) fn die(&mut self) {
        self.process = Process::Gone;
        self.session = None;
        self.slots.clear();
    }

    pub(super) fn take(&mut self, order: Order, now: u64, chance: &mut Chance) -> Option<Stopped> {
        match order {
            Order::Grant { slot, epoch, version } => {
                match self.slots.get_mut(&slot) {
                    Some(running) if running.epoch < epoch => {
                        running.next = Some((epoch, version));
                        running.phase = SlotPhase::Revoking;
                        running.until = now;
                    }
                    Some(_) => {}
                    None => self.start(slot, epoch, version, now, chance),
                }
                None
            }
            Order::Revoke { slot, epoch } => match self.slots.get_mut(&slot) {
                Some(running) if running.epoch <= epoch => {
                    running.next = None;
                    if running.phase != SlotPhase::Revoking {
                        running.phase = SlotPhase::Revoking;
                        running.until = now + chance.between(0, 400);
                    }
                    None
                }
                Some(_) => None,
                None => Some(Stopped { slot, epoch, reason: StopReason::Revoked }),
            },
        }
    }

    fn start(&mut self, slot: SlotId, epoch: Epoch, version: Option<u64>, now: u64, chance: &mut Chance) {
        let until = now + chance.between(5, 300);
        let phase = SlotPhase::Opening;
        let running = RunningSlot { epoch, version, cursor: None, phase, until, opening: None, next: None };
        self.slots.insert(slot, running);
    }

    /// One moment of work. `failing`: chances of unasked stops, in percent.
    pub(super) fn work(
        &mut self,
        now: u64,
        kafka: &mut Kafka,
        chance: &mut Chance,
        failing: u64,
    ) -> Vec<Stopped> {
        let mut ended = Vec::new();
        for (slot, running) in &mut self.slots {
            let reason = match running.phase {
                SlotPhase::Opening if running.until <= now => {
                    match kafka.open(slot, self.incarnation, running.epoch) {
                        Err(recorded) => Some(StopReason::EpochBehind { recorded }),
                        Ok(_) if chance.percent(failing) => {
                            Some(StopReason::Failed { detail: "by chance".to_owned() })
                        }
                        Ok(_) if chance.percent(failing / 4) => {
                            let detail = "by chance".to_owned();
                            Some(StopReason::Halted(Halt { kind: HaltKind::OffsetsLost, detail }))
                        }
                        Ok(opening) => {
                            running.opening = Some(opening);
                            running.phase = SlotPhase::Running;
                            running.cursor = Some(kafka.cursor(slot));
                            None
                        }
                    }
                }
                SlotPhase::Running if chance.percent(20) => {
                    let opening = running.opening.unwrap_or(0);
                    if kafka.commit(slot, self.incarnation, opening) {
                        running.cursor = Some(kafka.cursor(slot));
                        None
                    } else {
                        Some(StopReason::Fenced)
                    }
                }
                SlotPhase::Revoking if running.until <= now => Some(StopReason::Revoked),
                SlotPhase::Opening | SlotPhase::Running | SlotPhase::Revoking => None,
            };
            if let Some(reason) = reason {
                ended.push(Stopped { slot: slot.clone(), epoch: running.epoch, reason });
            }
        }
        let mut told = Vec::new();
        for stopped in ended {
            match self.slots.remove(&stopped.slot).and_then(|running| running.next) {
                Some((epoch, version)) => self.start(stopped.slot, epoch, version, now, chance),
                None => told.push(stopped),
            }
        }
        told
    }
}
