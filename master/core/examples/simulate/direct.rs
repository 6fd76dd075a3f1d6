//! What leaves a master: answers and directives, on the streams of the workers that they are for.

use millrace_master_core::{Directive, Event, Rejection, Step};
use millrace_types::{Millis, StopReason, WorkerId};

use crate::flaws::Flaw;
use crate::master::{Asker, Role};
use crate::network::{Message, Node};
use crate::rules::Rule;
use crate::worker::{Order, Session};
use crate::world::{Task, World};

impl World<'_> {
    pub(crate) fn carry_out(&mut self, number: usize, step: Step, asker: Option<(Asker, u64)>) {
        if let Some((Asker { worker, incarnation, attempt }, session)) = asker {
            let process = self.masters[number].incarnation;
            let session = Session { master: number, incarnation: process, number: session };
            let message = Message::Registered { incarnation, attempt, session };
            self.send(Node::Master(number), Node::Worker(worker), message, true);
        }
        for directive in step.directives {
            self.direct(number, directive);
        }
    }

    fn direct(&mut self, number: usize, directive: Directive) {
        match directive {
            Directive::Grant { session, worker, slot, epoch, definition, .. } => {
                self.check_stored_first(number, &worker, &slot, epoch);
                let fresh = self.note_grant(number, &slot, epoch, worker);
                self.tally.count(if fresh { "grants" } else { "directives repeated" });
                let version = definition.max_rate;
                self.send_order(number, session, Order::Grant { slot, epoch, version });
            }
            Directive::Revoke { session, worker, slot, epoch } => {
                self.send_order(number, session, Order::Revoke { slot: slot.clone(), epoch });
                if self.flaw == Some(Flaw::SlotTakenUnasked) {
                    let reason = StopReason::Revoked;
                    let event = Event::SlotStopped { session, worker, slot, epoch, reason };
                    let now = Millis(self.masters[number].clock.now(self.now));
                    if let Role::Leading(leading) = &mut self.masters[number].role
                        && leading.pending.is_none()
                        && let Ok(step) = leading.core.apply(now, event)
                        && let Err((rule, what)) = leading.watch.check(&step, &leading.core, false)
                    {
                        self.breaks(rule, what);
                    }
                }
            }
            Directive::Leave { session, .. } => self.send_order(number, session, Order::Leave),
            Directive::ReportAll { session, .. } => {
                self.tally.count("questions for all reports");
                self.send_order(number, session, Order::ReportAll);
            }
            Directive::Probe { worker, .. } => self.probe(number, &worker),
            Directive::EndSession { session, .. } => self.end_session(number, session),
        }
    }

    fn send_order(&mut self, number: usize, session: u64, order: Order) {
        let Role::Leading(leading) = &self.masters[number].role else { return };
        let Some((worker, incarnation)) = leading.sessions.get(&session).copied() else { return };
        let message = Message::Order { incarnation, session, order };
        self.send(Node::Master(number), Node::Worker(worker), message, false);
    }

    /// A word of a stream that this process has ended: the other end did not hear that.
    pub(crate) fn end_unknown_session(&mut self, number: usize, event: &Event) {
        let known = match (&self.masters[number].role, event) {
            (Role::Leading(leading), Event::Heartbeat { session, .. }) => {
                leading.sessions.contains_key(session)
            }
            (Role::Standby { .. } | Role::Loading { .. }, Event::Heartbeat { .. }) => false,
            _ => true,
        };
        if !known {
            self.reset(number, event);
        }
    }

    /// Nobody holds this end of the stream any more.
    pub(crate) fn reset(&mut self, number: usize, event: &Event) {
        let Event::Heartbeat { session, worker, .. } = event else { return };
        let Some(worker) = self.workers.iter().position(|known| known.spec.id == *worker) else { return };
        let incarnation = self.workers[worker].incarnation;
        let message = Message::End { incarnation, session: *session };
        self.send(Node::Master(number), Node::Worker(worker), message, true);
    }

    fn end_session(&mut self, number: usize, session: u64) {
        let Role::Leading(leading) = &mut self.masters[number].role else { return };
        let Some((worker, incarnation)) = leading.sessions.remove(&session) else { return };
        let message = Message::End { incarnation, session };
        self.send(Node::Master(number), Node::Worker(worker), message, true);
    }

    /// A connection to the worker's port: refused when the process is gone, and the way there and back is free.
    fn probe(&mut self, number: usize, worker: &WorkerId) {
        let gone = self.workers.iter().position(|known| known.spec.id == *worker && !known.is_up());
        let Some(gone) = gone else { return };
        let (here, there) = (Node::Master(number), Node::Worker(gone));
        if self.network.is_cut(here, there, self.now) || self.network.is_cut(there, here, self.now) {
            return;
        }
        let incarnation = self.masters[number].incarnation;
        let event = Box::new(Event::ProcessGone { worker: worker.clone() });
        let message = Box::new(Message::Tell { incarnation, event });
        self.after(20, Task::Deliver { to: here, message });
    }

    pub(crate) fn rejected(&mut self, number: usize, rejection: Rejection, asker: Option<(Asker, u64)>) {
        if let Some((asker, session)) = asker {
            if let Role::Leading(leading) = &mut self.masters[number].role {
                leading.sessions.remove(&session);
            }
            self.refuse(number, asker, None);
        }
        match rejection {
            Rejection::StaleSession { session, .. } => {
                self.tally.count("stale sessions refused");
                self.end_session(number, session);
            }
            Rejection::IdTaken { .. } => self.tally.count("ids refused to second processes"),
            Rejection::Offer { .. } => self.tally.count("offers of nothing refused"),
            Rejection::PipelineExists { .. }
            | Rejection::PipelineOver { .. }
            | Rejection::AlreadyPaused { .. }
            | Rejection::NothingToResume { .. }
            | Rejection::UnknownPipeline { .. }
            | Rejection::UnknownWorker { .. }
            | Rejection::WorkerIsDead { .. }
            | Rejection::NotDrained { .. }
            | Rejection::WorkerIsLeaving { .. }
            | Rejection::UnknownSlot { .. }
            | Rejection::NotHalted { .. } => {}
            other => self.breaks(Rule::NoPanic, format!("refused: {other}")),
        }
    }
}
