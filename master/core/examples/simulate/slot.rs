//! A slot's life on its worker: it opens, commits, gives up, by the steps of docs/delivery.md.

use millrace_master_core::Event;
use millrace_types::{Epoch, Halt, HaltKind, SlotId, SlotPhase, StopReason};

use crate::kafka::Commit;
use crate::worker::{Order, Run};
use crate::world::{Task, World};

/// How long a slot tries its last commit before it is given up without.
const PATIENCE: u64 = 10_000;
const COMMIT_INTERVAL: u64 = 900;

impl World<'_> {
    pub(crate) fn order(&mut self, number: usize, order: Order) {
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
                None => self.start_slot(number, &slot, epoch, version),
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

    fn start_slot(&mut self, number: usize, slot: &SlotId, epoch: Epoch, version: Option<u64>) {
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
        self.set_slot_timer(number, slot, wait);
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

    pub(crate) fn last_commit(&mut self, number: usize, slot: &SlotId) {
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
            Some((epoch, version)) => self.start_slot(number, slot, epoch, version),
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
