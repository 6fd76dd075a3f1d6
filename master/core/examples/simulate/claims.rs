//! Processes that say what is not so: a second one under an id that is taken, and slots that are claimed by workers that
//! don't own them. The master must not believe them; where it can't know better, Kafka's record does.

use millrace_master_core::Event;
use millrace_types::{Digest, Epoch, SlotId, SlotMetrics, SlotPhase, SlotReport};

use crate::world::World;

/// Processes that are not part of the plan have sessions that nobody serves.
const STRANGER: u32 = 900_000;

impl World<'_> {
    /// Slots that others own, at their epochs and beside them.
    fn claims_of(&self, number: usize) -> Vec<SlotReport> {
        let report = |slot: &SlotId, epoch| SlotReport {
            slot: slot.clone(),
            epoch,
            phase: SlotPhase::Running,
            metrics: SlotMetrics::default(),
        };
        let others = self.workers.iter().enumerate().filter(|(other, _)| *other != number);
        let mut claims: Vec<SlotReport> = others
            .flat_map(|(_, other)| other.runs.iter())
            .take(3)
            .enumerate()
            .map(|(at, (slot, run))| report(slot, if at == 1 { Epoch(0) } else { run.epoch }))
            .collect();
        // One of a pipeline that nobody knows.
        claims.extend(
            self.slots_of(0).first().map(|slot| {
                report(&SlotId { pipeline: crate::act::pipeline_id(99), ..slot.clone() }, Epoch(7))
            }),
        );
        claims
    }

    pub(crate) fn claim_slots(&mut self, number: usize) {
        let worker = &self.workers[number];
        let Some(session) = worker.session.filter(|_| worker.is_up()) else { return };
        let mut reports = worker.reports(self);
        let own: Vec<SlotId> = reports.iter().map(|report| report.slot.clone()).collect();
        reports.extend(self.claims_of(number).into_iter().filter(|claim| !own.contains(&claim.slot)));
        let digest: Digest = reports.iter().map(|report| (&report.slot, report.epoch)).collect();
        let (worker, draining) = (worker.spec.id.clone(), worker.leaving);
        let event = Event::Heartbeat {
            session: session.number,
            worker,
            memory_used_bytes: 1,
            draining,
            digest,
            reports,
        };
        self.tally.count("claims of others' slots");
        self.send_in_session(number, session, event);
    }

    /// It is not heard of again: a worker's own process registers anew when it finds its session ended.
    pub(crate) fn start_second_process(&mut self, number: usize, claims: bool, cores: bool) {
        let Some(leader) = self.leader() else { return };
        let mut spec = self.workers[number].spec.clone();
        spec.pid = STRANGER;
        if !cores {
            spec.cores = 0;
        }
        let running = if claims { self.claims_of(number) } else { Vec::new() };
        let session = self.next_number();
        self.tally.count("second processes");
        self.tell_master(leader, Event::WorkerRegistered { session, spec, running });
    }
}
