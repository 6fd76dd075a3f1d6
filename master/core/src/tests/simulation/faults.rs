//! What goes wrong in the world, by chance, and the end of it.

use super::super::support;
use super::worker::{Process, Worker};
use super::world::{Message, World};
use crate::{Event, PipelineState, PipelineView, SlotState};

impl World {
    pub(super) fn fault(&mut self) {
        let mut count = self.workers.len();
        if count == 0 || (count < 7 && self.chance.next().is_multiple_of(700)) {
            self.add_worker();
            count += 1;
        }
        let victim = (self.chance.next() % count as u64) as usize;
        match self.chance.next() % 4_000 {
            0..=9 => self.kill(victim),
            10..=21 => self.freeze(victim),
            22..=60 => self.thaw(victim),
            61..=85 => self.cut(victim),
            86..=93 => self.crash_master(),
            94..=101 => {
                let jump = self.chance.between(100, 20_000);
                self.note(|| format!("the master's clock jumps by {jump}"));
                self.clock += jump;
                self.tally.clock_jumps += 1;
            }
            102 => self.lose_store(),
            103..=106 => self.submit(2),
            107..=112 => self.add_partitions(),
            113..=115 => self.restart_under_the_same_id(victim),
            116..=119 => self.resume_all(),
            120..=139 => self.ask_of_a_pipeline(),
            _ => {}
        }
    }

    pub(super) fn add_worker(&mut self) {
        let number = self.next_incarnation;
        self.next_incarnation += 1;
        let mut spec = support::spec(&format!("w{number}"), 1 + (self.chance.next() % 4) as u32);
        spec.pid = 1_000 + number as u32;
        spec.max_slots = self.chance.pick(&[2, 8, 64, 64]).unwrap_or(64);
        self.note(|| format!("worker {} with {} cores, {} slots", spec.id, spec.cores, spec.max_slots));
        self.workers.push(Worker::new(spec, number, self.now));
    }

    pub(super) fn kill(&mut self, victim: usize) {
        if self.workers[victim].process == Process::Gone {
            // Makes room for another one.
            self.workers.swap_remove(victim);
            return;
        }
        self.note(|| format!("kill {}", self.workers[victim].spec.id));
        self.drop_session(victim);
        self.workers[victim].die();
    }

    pub(super) fn freeze(&mut self, victim: usize) {
        if self.workers[victim].process == Process::Up {
            self.note(|| format!("freeze {}", self.workers[victim].spec.id));
            self.workers[victim].process = Process::Frozen;
        }
    }

    pub(super) fn thaw(&mut self, victim: usize) {
        let worker = &mut self.workers[victim];
        if worker.process == Process::Frozen {
            worker.process = Process::Up;
            self.tally.thaws += 1;
            self.note(|| format!("thaw {}", self.workers[victim].spec.id));
        }
    }

    pub(super) fn cut(&mut self, victim: usize) {
        self.note(|| format!("cut {}", self.workers[victim].spec.id));
        self.drop_session(victim);
        let wait = self.chance.between(0, 2_500);
        self.workers[victim].register_at = self.now + wait;
    }

    /// The stream ends for both; the master may hear it late.
    pub(super) fn drop_session(&mut self, victim: usize) {
        let worker = &mut self.workers[victim];
        if let Some(session) = worker.session.take() {
            let worker = worker.spec.id.clone();
            self.send(Message::ToMaster(Event::SessionLost { session, worker }), true);
        }
    }

    pub(super) fn restart_under_the_same_id(&mut self, victim: usize) {
        if self.workers[victim].process == Process::Gone {
            let mut spec = self.workers[victim].spec.clone();
            spec.pid += 50_000;
            self.workers[victim] = Worker::new(spec, self.next_incarnation, self.now);
            self.next_incarnation += 1;
        }
    }

    pub(super) fn crash_master(&mut self) {
        if self.master.take().is_some() {
            self.note(|| "the master crashes".to_owned());
            self.master_back_at = self.now + self.chance.between(0, 6_000);
            self.end_all_sessions();
            self.tally.restarts += 1;
        }
    }

    pub(super) fn end_all_sessions(&mut self) {
        for worker in &mut self.workers {
            if worker.session.take().is_some() {
                worker.register_at = self.now + self.chance.between(0, 1_500);
            }
        }
        self.network.retain(|_, message| matches!(message, Message::ToWorker { .. }));
    }

    /// The store is gone with the master: someone submits the pipeline again, epochs begin anew.
    pub(super) fn lose_store(&mut self) {
        self.crash_master();
        self.note(|| "the store is lost".to_owned());
        self.store.clear();
        self.granted.clear();
        self.highest.clear();
        self.tally.lost_stores += 1;
    }

    pub(super) fn submit(&mut self, pipelines: usize) {
        for number in 1..=pipelines {
            let definition = Box::new(support::definition(&format!("clicks-{number}"), number));
            let partitions = vec![6; number];
            self.apply(Event::PipelineSubmitted { definition, partitions });
        }
    }

    pub(super) fn add_partitions(&mut self) {
        let count = self.chance.between(1, 12) as u32;
        if self.try_apply(Event::PartitionsFound { pipeline: support::slot(0).pipeline, topic: 0, count }) {
            self.tally.added_partitions += 1;
        }
    }

    fn pipelines(&self) -> Vec<PipelineView> {
        let Some(master) = &self.master else { return Vec::new() };
        let view = master.view();
        view.pipelines.into_iter().chain(view.completed).collect()
    }

    /// A person asks for something, by the state that they saw or not.
    fn ask_of_a_pipeline(&mut self) {
        let known = self.pipelines();
        if known.is_empty() {
            return;
        }
        let view = &known[(self.chance.next() % known.len() as u64) as usize];
        let pipeline = view.definition.id.clone();
        let done = match self.chance.next() % 6 {
            0 => self.try_apply(Event::PipelinePaused { pipeline }).then_some(&mut self.tally.pauses),
            1 | 2 => self.try_apply(Event::PipelineResumed { pipeline }).then_some(&mut self.tally.resumes),
            3 => {
                let at_ms = self.now;
                self.try_apply(Event::PipelineKilled { pipeline, at_ms }).then_some(&mut self.tally.kills)
            }
            _ => self.resubmit(view).then_some(&mut self.tally.changes),
        };
        if let Some(count) = done {
            *count += 1;
        }
    }

    /// The pipeline once more, by another definition.
    fn resubmit(&mut self, view: &PipelineView) -> bool {
        let mut definition = Box::new(view.definition.clone());
        definition.max_rate = Some(self.chance.between(1, 1_000_000));
        // More than any topic has by now: partitions never get fewer.
        let partitions = vec![12; definition.source.topics.len()];
        self.try_apply(Event::PipelineResubmitted { definition, partitions })
    }

    pub(super) fn resume_all(&mut self) {
        let Some(master) = &self.master else { return };
        let slots = master.view().slots.into_iter().filter(|slot| slot.state == SlotState::Halted);
        for slot in slots.map(|view| view.slot).collect::<Vec<_>>() {
            self.apply(Event::SlotResumed { slot });
        }
    }

    pub(super) fn end_faults(&mut self) {
        self.note(|| "the faults end".to_owned());
        self.calm = true;
        if self.master.is_none() {
            self.start_master();
        }
        self.submit(1);
        for view in self.pipelines() {
            // The first one shall run in any case, the others as people left them.
            let pipeline = view.definition.id.clone();
            match view.state {
                PipelineState::Killed | PipelineState::Killing if pipeline == support::slot(0).pipeline => {
                    assert!(self.resubmit(&view));
                }
                PipelineState::Paused if pipeline == support::slot(0).pipeline => {
                    assert!(self.try_apply(Event::PipelineResumed { pipeline }));
                }
                _ => {}
            }
        }
        for victim in 0..self.workers.len() {
            self.thaw(victim);
        }
        if self.workers.iter().all(|worker| worker.process == Process::Gone) {
            self.add_worker();
        }
        self.resume_all();
    }
}
