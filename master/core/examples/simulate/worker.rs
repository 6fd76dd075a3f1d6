//! A worker as masters and Kafka see it: it registers, sends heartbeats, opens, runs and gives up slots by the same
//! rules as the real one. It keeps its slots whatever becomes of its session; only Kafka's fence, or a revoke, ends one.

use std::collections::{BTreeMap, BTreeSet};

use millrace_master_core::Event;
use millrace_types::{
    Digest, Epoch, Halt, HaltKind, NextOffset, SlotId, SlotMetrics, SlotPhase, SlotReport, StopReason,
    WorkerSpec,
};

use crate::chance::Chance;
use crate::kafka::Commit;
use crate::network::{Message, Node};
use crate::world::{Task, World};

/// How long a slot tries its last commit before it is given up without.
const PATIENCE: u64 = 10_000;
/// How long a process that was told to end waits for its slots to be moved.
const LEAVE_BY: u64 = 15_000;
const COMMIT_INTERVAL: u64 = 900;
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
struct Run {
    epoch: Epoch,
    /// Of the definition that it runs by.
    version: Option<u64>,
    phase: SlotPhase,
    generation: u64,
    cursors: Option<(i64, i64)>,
    /// What its timer must say to count.
    token: u64,
    commits: u64,
    give_up_at: u64,
    /// It waits for an answer to its commit.
    in_doubt: bool,
    next: Option<(Epoch, Option<u64>)>,
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
    told: BTreeMap<SlotId, SlotReport>,
    runs: BTreeMap<SlotId, Run>,
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

    fn send_in_session(&mut self, number: usize, session: Session, event: Event) {
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

    pub(crate) fn order(&mut self, number: usize, order: Order) {
        let now = self.now;
        let worker = &mut self.workers[number];
        match order {
            Order::ReportAll => worker.told.clear(),
            Order::Leave if worker.leaving => self.leave(number),
            Order::Leave => {}
            Order::Grant { slot, epoch, version } => match worker.runs.get_mut(&slot) {
                Some(run) if run.epoch < epoch => {
                    run.next = Some((epoch, version));
                    self.give_up(number, &slot, 0);
                }
                Some(_) => {}
                None => self.start_slot(number, slot, epoch, version),
            },
            Order::Revoke { slot, epoch } => match worker.runs.get_mut(&slot) {
                Some(run) if run.epoch <= epoch => {
                    run.next = None;
                    let wait = worker.chance.between(0, 400);
                    self.give_up(number, &slot, wait);
                }
                Some(_) => {}
                None => self.tell_stopped(number, slot, epoch, StopReason::Revoked),
            },
        }
        debug_assert!(now == self.now);
    }

    fn give_up(&mut self, number: usize, slot: &SlotId, wait: u64) {
        let now = self.now;
        let worker = &mut self.workers[number];
        let Some(run) = worker.runs.get_mut(slot).filter(|run| run.phase != SlotPhase::Revoking) else {
            return;
        };
        run.phase = SlotPhase::Revoking;
        run.give_up_at = now + PATIENCE;
        if !run.in_doubt {
            self.set_slot_timer(number, slot, wait);
        }
    }

    fn start_slot(&mut self, number: usize, slot: SlotId, epoch: Epoch, version: Option<u64>) {
        let worker = &mut self.workers[number];
        let wait = worker.chance.between(5, 300);
        let run = Run {
            epoch,
            version,
            phase: SlotPhase::Opening,
            generation: 0,
            cursors: None,
            token: 0,
            commits: 0,
            give_up_at: 0,
            in_doubt: false,
            next: None,
        };
        worker.runs.insert(slot.clone(), run);
        self.set_slot_timer(number, &slot, wait);
    }

    fn set_slot_timer(&mut self, number: usize, slot: &SlotId, wait: u64) {
        let token = self.next_number();
        let worker = &mut self.workers[number];
        let incarnation = worker.incarnation;
        let Some(run) = worker.runs.get_mut(slot) else { return };
        run.token = token;
        self.after(wait, Task::Slot { worker: number, incarnation, slot: slot.clone(), token });
    }

    /// A slot's timer went off: it opens, commits, or ends.
    pub(crate) fn work(&mut self, number: usize, slot: &SlotId, token: u64) {
        let now = self.now;
        let Some(run) = self.workers[number].runs.get_mut(slot).filter(|run| run.token == token) else {
            return;
        };
        if std::mem::take(&mut run.in_doubt) {
            // The producer is retired: whoever still owns the slot learns from the record what happened.
            run.cursors = None;
            if run.phase == SlotPhase::Running {
                run.phase = SlotPhase::Opening;
            }
        }
        let (phase, give_up_at) = (run.phase, run.give_up_at);
        if !self.kafka.is_up(now) {
            if phase == SlotPhase::Revoking && now >= give_up_at {
                return self.end_slot(number, slot, StopReason::Revoked);
            }
            return self.set_slot_timer(number, slot, 200);
        }
        match phase {
            SlotPhase::Opening => self.open(number, slot),
            SlotPhase::Running => self.commit(number, slot),
            SlotPhase::Revoking => {
                let stores = self.now >= self.objects_down_until;
                if !stores && now < give_up_at {
                    return self.set_slot_timer(number, slot, 300);
                }
                self.last_commit(number, slot);
            }
        }
    }

    fn open(&mut self, number: usize, slot: &SlotId) {
        let now = self.now;
        let worker = &mut self.workers[number];
        let Some(run) = worker.runs.get_mut(slot) else { return };
        let opened = self.kafka.open(slot, run.epoch);
        let reason = match opened {
            Err(recorded) => StopReason::EpochBehind { recorded },
            Ok(_) if now < worker.fails_until && worker.halts => {
                let detail = "by chance".to_owned();
                StopReason::Halted(Halt { kind: HaltKind::OffsetsLost, detail })
            }
            Ok(_) if now < worker.fails_until => StopReason::Failed { detail: "by chance".to_owned() },
            Ok(opened) => {
                run.generation = opened.generation;
                run.cursors = Some((opened.topic, opened.lake));
                run.phase = SlotPhase::Running;
                let wait = worker.chance.between(100, COMMIT_INTERVAL);
                return self.set_slot_timer(number, slot, wait);
            }
        };
        self.end_slot(number, slot, reason);
    }

    /// The next transaction: all that is there for the topic; for the lake each third time, if its store answers.
    fn next_commit(&self, number: usize, slot: &SlotId, all: bool) -> Option<Commit> {
        let run = self.workers[number].runs.get(slot)?;
        let (topic, lake) = run.cursors?;
        let end = self.kafka.end(slot, self.now);
        let flushes = self.now >= self.objects_down_until && (all || run.commits.is_multiple_of(3));
        let to = if flushes { end } else { lake };
        let (generation, epoch) = (run.generation, run.epoch);
        Some(Commit { slot: slot.clone(), generation, epoch, topic: (topic, end), lake: (lake, to) })
    }

    fn commit(&mut self, number: usize, slot: &SlotId) {
        let Some(commit) = self.next_commit(number, slot, false) else { return };
        let now = self.now;
        let worker = &mut self.workers[number];
        let Some(run) = worker.runs.get_mut(slot) else { return };
        run.commits += 1;
        if now < self.kafka.delays_until && worker.chance.percent(40) {
            run.in_doubt = true;
            let (wait, late) = (worker.chance.between(200, 1_500), worker.chance.between(0, 3_000));
            self.after(late, Task::LateCommit { commit: Box::new(commit) });
            return self.set_slot_timer(number, slot, wait);
        }
        if self.carry_out_commit(number, &commit) {
            let wait = self.workers[number].chance.between(COMMIT_INTERVAL, COMMIT_INTERVAL + 200);
            self.set_slot_timer(number, slot, wait);
        } else {
            self.end_slot(number, slot, StopReason::Fenced);
        }
    }

    fn last_commit(&mut self, number: usize, slot: &SlotId) {
        let fenced = match self.next_commit(number, slot, true) {
            Some(commit) if self.kafka.is_up(self.now) => !self.carry_out_commit(number, &commit),
            Some(_) | None => false,
        };
        self.end_slot(number, slot, if fenced { StopReason::Fenced } else { StopReason::Revoked });
    }

    /// `false`: it is fenced.
    fn carry_out_commit(&mut self, number: usize, commit: &Commit) -> bool {
        match self.kafka.commit(commit) {
            Err((rule, what)) => {
                self.breaks(rule, what);
                false
            }
            Ok(false) => {
                self.tally.count("commits fenced");
                false
            }
            Ok(true) => {
                self.tally.count("commits made");
                if let Some(run) = self.workers[number].runs.get_mut(&commit.slot) {
                    run.cursors = Some((commit.topic.1, commit.lake.1));
                }
                true
            }
        }
    }

    /// A request that was under way takes effect now, if nobody has fenced its sender meanwhile.
    pub(crate) fn late_commit(&mut self, commit: &Commit) {
        match self.kafka.commit(commit) {
            Err((rule, what)) => self.breaks(rule, what),
            Ok(true) => self.tally.count("commits made"),
            Ok(false) => self.tally.count("commits delayed past their owner"),
        }
    }

    fn end_slot(&mut self, number: usize, slot: &SlotId, reason: StopReason) {
        let Some(run) = self.workers[number].runs.remove(slot) else { return };
        match &reason {
            StopReason::EpochBehind { .. } => self.tally.count("epochs behind the record"),
            StopReason::Halted(_) => self.tally.count("halts"),
            StopReason::Failed { .. } => self.tally.count("slots failed"),
            StopReason::Fenced | StopReason::Revoked => {}
        }
        match run.next {
            Some((epoch, version)) => self.start_slot(number, slot.clone(), epoch, version),
            None => self.tell_stopped(number, slot.clone(), run.epoch, reason),
        }
    }

    fn tell_stopped(&mut self, number: usize, slot: SlotId, epoch: Epoch, reason: StopReason) {
        let worker = &self.workers[number];
        if let Some(current) = worker.session {
            let (session, worker) = (current.number, worker.spec.id.clone());
            self.send_in_session(
                number,
                current,
                Event::SlotStopped { session, worker, slot, epoch, reason },
            );
        }
    }
}
