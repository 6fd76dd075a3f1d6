//! A worker as masters and Kafka see it: it registers, sends heartbeats, opens, runs and gives up slots by the same
//! rules as the real one. It keeps its slots whatever becomes of its session; only Kafka's fence, or a revoke, ends one.

use std::collections::{BTreeMap, BTreeSet};

use millrace_master_core::Event;
use millrace_types::{Digest, Epoch, NextOffset, SlotId, SlotMetrics, SlotPhase, SlotReport, WorkerSpec};

use crate::chance::Chance;
use crate::network::{Message, Node};
use crate::world::{Task, World};

/// How long a process that was told to end waits for its slots to be moved.
const LEAVE_BY: u64 = 15_000;
/// Bytes of a record, and cores for a byte a second.
const RECORD_BYTES: f64 = 1_000.0;
const COST: f64 = 1e-6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// It was never started.
    Absent,
    Up,
    Gone,
}

#[derive(Debug, Clone)]
pub(crate) enum Order {
    Grant { slot: SlotId, epoch: Epoch, version: Option<u64> },
    Revoke { slot: SlotId, epoch: Epoch },
    ReportAll,
    Leave,
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) epoch: Epoch,
    /// Of the definition that it runs by.
    pub(crate) version: Option<u64>,
    pub(crate) phase: SlotPhase,
    pub(crate) generation: u64,
    pub(crate) cursors: Option<(i64, i64)>,
    /// What its timer must say to count.
    pub(crate) token: u64,
    pub(crate) commits: u64,
    pub(crate) give_up_at: u64,
    /// It waits for an answer to its commit.
    pub(crate) in_doubt: bool,
    pub(crate) next: Option<(Epoch, Option<u64>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) master: usize,
    /// Which process of it.
    pub(crate) incarnation: u64,
    pub(crate) number: u64,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) spec: WorkerSpec,
    pub(crate) process: Process,
    /// How often it was started.
    pub(crate) incarnation: u64,
    pub(crate) frozen_until: u64,
    pub(crate) leaving: bool,
    pub(crate) speed_percent: u32,
    pub(crate) drift: i64,
    pub(crate) fails_until: u64,
    pub(crate) halts: bool,
    pub(crate) session: Option<Session>,
    /// The attempt that waits for an answer.
    attempt: Option<u64>,
    attempts: u64,
    leader: Option<usize>,
    next_master: usize,
    /// Streams that ended before their first message was read.
    ended: BTreeSet<u64>,
    pub(crate) told: BTreeMap<SlotId, SlotReport>,
    pub(crate) runs: BTreeMap<SlotId, Run>,
    pub(crate) chance: Chance,
}

impl Worker {
    pub(crate) fn new(spec: WorkerSpec, speed_percent: u32, drift: i64, chance: Chance) -> Self {
        Self {
            spec,
            process: Process::Absent,
            incarnation: 0,
            frozen_until: 0,
            leaving: false,
            speed_percent,
            drift,
            fails_until: 0,
            halts: false,
            session: None,
            attempt: None,
            attempts: 0,
            leader: None,
            next_master: 0,
            ended: BTreeSet::new(),
            told: BTreeMap::new(),
            runs: BTreeMap::new(),
            chance,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process == Process::Up
    }

    /// A span of its own clock, by the world's.
    fn span(&self, span: u64) -> u64 {
        span * 1_000 / (1_000 + self.drift) as u64
    }

    pub(crate) fn die(&mut self) {
        self.process = Process::Gone;
        self.frozen_until = 0;
        self.session = None;
        self.attempt = None;
        self.ended.clear();
        self.runs.clear();
        self.told.clear();
    }

    /// What it runs: the epoch, the phase, and by which version of the definition.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&SlotId, Epoch, SlotPhase, Option<u64>)> {
        self.runs.iter().map(|(slot, run)| (slot, run.epoch, run.phase, run.version))
    }

    /// What part of its slots' load its cores can do, at most 1.
    pub(crate) fn keeps_up(&self, world: &World<'_>) -> f64 {
        let running = self.runs.iter().filter(|(_, run)| run.phase == SlotPhase::Running);
        let wanted: f64 = running.map(|(slot, _)| world.rate_shown(slot) * RECORD_BYTES * COST).sum();
        let can = f64::from(self.spec.cores) * f64::from(self.speed_percent) / 100.0;
        if wanted > can { can / wanted } else { 1.0 }
    }

    fn report(&self, world: &World<'_>, slot: &SlotId, run: &Run, part: f64) -> SlotReport {
        let mut metrics = SlotMetrics::default();
        if let Some((topic, lake)) = run.cursors {
            metrics.topic_cursor = Some(NextOffset(topic));
            metrics.lake_cursor = Some(NextOffset(lake));
        }
        if run.phase == SlotPhase::Running {
            let rate = world.rate_shown(slot) * part;
            metrics.records_per_second = rate;
            metrics.bytes_per_second = rate * RECORD_BYTES;
            metrics.cpu = rate * RECORD_BYTES * COST * 100.0 / f64::from(self.speed_percent);
        }
        SlotReport { slot: slot.clone(), epoch: run.epoch, phase: run.phase, metrics }
    }

    pub(crate) fn reports(&self, world: &World<'_>) -> Vec<SlotReport> {
        let part = self.keeps_up(world);
        self.runs.iter().map(|(slot, run)| self.report(world, slot, run, part)).collect()
    }
}

impl World<'_> {
    pub(crate) fn start_worker(&mut self, number: usize) {
        let Some(worker) = self.workers.get_mut(number).filter(|worker| !worker.is_up()) else { return };
        worker.process = Process::Up;
        worker.incarnation += 1;
        worker.leaving = false;
        worker.fails_until = 0;
        worker.spec.pid = 1_000 * (number as u32 + 1) + worker.incarnation as u32;
        worker.next_master = number;
        let incarnation = worker.incarnation;
        self.tally.count("joins");
        self.after(0, Task::Register { worker: number, incarnation });
    }

    pub(crate) fn is_current(&self, number: usize, incarnation: u64) -> bool {
        self.workers.get(number).is_some_and(|worker| worker.is_up() && worker.incarnation == incarnation)
    }

    /// One attempt: the master that a standby named, or the next of the list.
    pub(crate) fn try_to_register(&mut self, number: usize, incarnation: u64) {
        let masters = self.masters.len();
        let worker = &mut self.workers[number];
        if worker.session.is_some() || worker.attempt.is_some() {
            return;
        }
        let master = worker.leader.take().unwrap_or_else(|| {
            worker.next_master += 1;
            worker.next_master % masters
        });
        worker.attempts += 1;
        let attempt = worker.attempts;
        worker.attempt = Some(attempt);
        if self.masters[master].is_down() {
            // Its port refuses connections.
            return self.attempt_failed(number, incarnation, attempt, None);
        }
        let worker = &self.workers[number];
        let (spec, running) = (worker.spec.clone(), worker.reports(self));
        let message = Message::Register { worker: number, incarnation, attempt, spec, running };
        self.send(Node::Worker(number), Node::Master(master), message, true);
        self.after(5_000, Task::RegisterBy { worker: number, incarnation, attempt });
    }

    pub(crate) fn attempt_failed(
        &mut self,
        number: usize,
        incarnation: u64,
        attempt: u64,
        leader: Option<usize>,
    ) {
        let worker = &mut self.workers[number];
        if !worker.is_up() || worker.incarnation != incarnation || worker.attempt != Some(attempt) {
            return;
        }
        worker.attempt = None;
        worker.leader = leader;
        let wait = if leader.is_some() { 5 } else { worker.chance.between(100, 1_000) };
        self.after(wait, Task::Register { worker: number, incarnation });
    }

    pub(crate) fn registered(&mut self, number: usize, incarnation: u64, attempt: u64, session: Session) {
        let worker = &mut self.workers[number];
        if worker.attempt != Some(attempt) {
            // It gave that attempt up: the stream ends.
            return self.tell_session_lost(number, session);
        }
        worker.attempt = None;
        worker.session = Some(session);
        worker.told.clear();
        if worker.ended.remove(&session.number) {
            return self.lose_session(number, session.number);
        }
        let beat = worker.span(self.plan.settings.heartbeat.0);
        self.after(beat, Task::Beat { worker: number, incarnation, session: session.number });
        // A cut that began before is noticed too.
        self.watch_connection(number);
    }

    pub(crate) fn beat(&mut self, number: usize, incarnation: u64, session: u64) {
        let worker = &self.workers[number];
        let Some(current) = worker.session.filter(|current| current.number == session) else { return };
        let reports = worker.reports(self);
        let digest: Digest = reports.iter().map(|report| (&report.slot, report.epoch)).collect();
        let beat = worker.span(self.plan.settings.heartbeat.0);
        let (id, draining) = (worker.spec.id.clone(), worker.leaving);
        let told = std::mem::take(&mut self.workers[number].told);
        let news = reports.iter().filter(|report| told.get(&report.slot) != Some(report)).cloned().collect();
        self.workers[number].told = reports.into_iter().map(|report| (report.slot.clone(), report)).collect();
        let event =
            Event::Heartbeat { session, worker: id, memory_used_bytes: 1, draining, digest, reports: news };
        self.tally.count("heartbeats");
        self.send_in_session(number, current, event);
        self.after(beat, Task::Beat { worker: number, incarnation, session });
    }

    pub(crate) fn send_in_session(&mut self, number: usize, session: Session, event: Event) {
        let message = Message::Tell { incarnation: session.incarnation, event: Box::new(event) };
        self.send(Node::Worker(number), Node::Master(session.master), message, false);
    }

    /// The worker's end of its stream breaks.
    pub(crate) fn lose_session(&mut self, number: usize, session: u64) {
        let worker = &mut self.workers[number];
        let Some(lost) = worker.session.take_if(|current| current.number == session) else {
            if worker.attempt.is_some() {
                worker.ended.insert(session);
            }
            return;
        };
        let incarnation = worker.incarnation;
        let wait = worker.chance.between(10, 1_000);
        self.note(|| format!("w{number} has no session any more"));
        self.tell_session_lost(number, lost);
        self.after(wait, Task::Register { worker: number, incarnation });
    }

    pub(crate) fn tell_session_lost(&mut self, number: usize, session: Session) {
        let worker = self.workers[number].spec.id.clone();
        let event = Box::new(Event::SessionLost { session: session.number, worker });
        let message = Message::Tell { incarnation: session.incarnation, event };
        self.send(Node::Worker(number), Node::Master(session.master), message, true);
    }

    pub(crate) fn kill_worker(&mut self, number: usize) {
        if !self.workers[number].is_up() {
            return;
        }
        self.note(|| format!("w{number} is gone"));
        if let Some(session) = self.workers[number].session {
            self.tell_session_lost(number, session);
        }
        self.workers[number].die();
    }

    pub(crate) fn stop_worker(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        if !worker.is_up() || worker.leaving {
            return;
        }
        self.tally.count("processes told to end");
        let worker = &mut self.workers[number];
        worker.leaving = true;
        let (incarnation, wait) = (worker.incarnation, if worker.session.is_some() { LEAVE_BY } else { 0 });
        self.after(wait, Task::LeaveBy { worker: number, incarnation });
    }

    /// The process ends by itself: what it still runs is committed and given up first.
    pub(crate) fn leave(&mut self, number: usize) {
        let slots: Vec<SlotId> = self.workers[number].runs.keys().cloned().collect();
        for slot in slots {
            let now = self.now;
            if let Some(run) = self.workers[number].runs.get_mut(&slot).filter(|run| !run.in_doubt) {
                run.phase = SlotPhase::Revoking;
                run.give_up_at = now;
                self.last_commit(number, &slot);
            }
        }
        self.kill_worker(number);
    }
}
