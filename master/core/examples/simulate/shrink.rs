//! From a plan that fails to a small one that fails alike: parts are taken away as long as the same rule is broken.

use crate::flaws::Flaw;
use crate::plan::{Ending, Plan};
use crate::rules::Rule;
use crate::world::run;

/// Runs that are spent at most.
const MOST_RUNS: usize = 1_500;

struct Shrinking {
    rule: Rule,
    flaw: Option<Flaw>,
    plan: Plan,
    runs: usize,
}

/// A plan that breaks the same rule, and from which no part can be taken by this way of trying.
pub(crate) fn shrink(plan: &Plan, rule: Rule, flaw: Option<Flaw>) -> Plan {
    let mut shrinking = Shrinking { rule, flaw, plan: plan.clone(), runs: 0 };
    loop {
        let size = shrinking.size();
        shrinking.take_steps();
        shrinking.take_actors();
        shrinking.simplify();
        if shrinking.size() == size || shrinking.runs >= MOST_RUNS {
            return shrinking.plan;
        }
    }
}

impl Shrinking {
    fn size(&self) -> (usize, usize, u64) {
        let Plan { steps, workers, pipelines, masters, storm, .. } = &self.plan;
        let actors = workers.iter().flatten().count() + pipelines.iter().flatten().count() + masters;
        (steps.len(), actors, *storm)
    }

    /// Keeps the plan if it still fails alike.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.runs >= MOST_RUNS {
            return false;
        }
        self.runs += 1;
        let fails = run(&plan, self.flaw, false).violation.is_some_and(|found| found.rule == self.rule);
        if fails {
            self.plan = plan;
        }
        fails
    }

    /// Delta debugging (Zeller, Hildebrandt, 2002): halves first, then ever smaller pieces.
    fn take_steps(&mut self) {
        let mut piece = self.plan.steps.len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < self.plan.steps.len() {
                let mut plan = self.plan.clone();
                let end = (at + piece).min(plan.steps.len());
                plan.steps.drain(at..end);
                if !self.try_plan(plan) {
                    at += piece;
                }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
    }

    fn take_actors(&mut self) {
        for number in 0..self.plan.workers.len() {
            if self.plan.workers[number].is_some() {
                let mut plan = self.plan.clone();
                plan.workers[number] = None;
                self.try_plan(plan);
            }
        }
        for number in 0..self.plan.pipelines.len() {
            if self.plan.pipelines[number].is_some() {
                let mut plan = self.plan.clone();
                plan.pipelines[number] = None;
                self.try_plan(plan);
            }
        }
        while self.plan.masters > 1 {
            let mut plan = self.plan.clone();
            plan.masters -= 1;
            if !self.try_plan(plan) {
                break;
            }
        }
    }

    /// Fewer partitions, plain workers, a shorter storm, no ending.
    fn simplify(&mut self) {
        for number in 0..self.plan.pipelines.len() {
            while self.plan.pipelines[number]
                .as_ref()
                .is_some_and(|known| known.partitions.iter().any(|n| *n > 1))
            {
                let mut plan = self.plan.clone();
                if let Some(known) = &mut plan.pipelines[number] {
                    for count in &mut known.partitions {
                        *count = count.div_ceil(2);
                    }
                }
                if !self.try_plan(plan) {
                    break;
                }
            }
        }
        for number in 0..self.plan.workers.len() {
            let mut plan = self.plan.clone();
            if let Some(worker) = &mut plan.workers[number]
                && (worker.drift != 0 || worker.zone.is_some() || worker.speed_percent != 100)
            {
                (worker.drift, worker.zone, worker.speed_percent) = (0, None, 100);
                self.try_plan(plan);
            }
        }
        let last = self.plan.steps.last().map_or(500, |step| step.at + 500);
        if last < self.plan.storm {
            let mut plan = self.plan.clone();
            plan.storm = last;
            self.try_plan(plan);
        }
        if self.plan.ending != Ending::None {
            let mut plan = self.plan.clone();
            plan.ending = Ending::None;
            self.try_plan(plan);
        }
    }
}
