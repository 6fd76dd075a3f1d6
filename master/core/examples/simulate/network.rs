//! The network: it delays, loses, doubles and reorders messages, and is cut one way or both. A connection that lost
//! something breaks in the end, as TCP's do; until then later messages may still get through.

use std::collections::BTreeMap;

use millrace_master_core::{Event, Record, Write};
use millrace_types::{SlotReport, WorkerSpec};

use crate::chance::Chance;
use crate::store::Written;
use crate::worker::{Order, Session};
use crate::world::{Task, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Worker(usize),
    Master(usize),
    Store,
}

/// Numbers of processes are their incarnations: nobody takes what was meant for an earlier one.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    Register {
        worker: usize,
        incarnation: u64,
        attempt: u64,
        spec: WorkerSpec,
        running: Vec<SlotReport>,
    },
    Registered {
        incarnation: u64,
        attempt: u64,
        session: Session,
    },
    Refused {
        incarnation: u64,
        attempt: u64,
        leader: Option<usize>,
    },
    /// Words of a session, and its end.
    Tell {
        incarnation: u64,
        event: Box<Event>,
    },
    Order {
        incarnation: u64,
        session: u64,
        order: Order,
    },
    /// The stream ended.
    End {
        incarnation: u64,
        session: u64,
    },
    Ask {
        master: usize,
        incarnation: u64,
        ask: Ask,
    },
    Answer {
        incarnation: u64,
        answer: Answer,
    },
}

/// What a master wants of the store.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Campaign,
    /// `asked`: by the master's own clock.
    KeepAlive {
        term: u64,
        asked: u64,
    },
    /// At which revision the store stands.
    Sequence {
        term: u64,
        word: u64,
    },
    /// `after`: that revision.
    Load {
        term: u64,
        word: u64,
        after: u64,
    },
    /// `after`: the revision of the write or fence before.
    Write {
        term: u64,
        after: u64,
        word: u64,
        writes: Vec<Write>,
        whole: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Leads { term: u64, asked: u64 },
    Follows { leader: usize },
    Kept { term: u64, asked: u64 },
    NotKept { term: u64 },
    Sequence { term: u64, word: u64, revision: u64 },
    Loaded { term: u64, word: u64, revision: u64, records: Vec<Record>, whole: bool },
    Written { word: u64, written: Written },
}

/// How bad it is, until when.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) twice: u64,
    pub(crate) late: u64,
    pub(crate) until: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// From where to where, until when.
    cuts: BTreeMap<(Node, Node), u64>,
    links: BTreeMap<(Node, Node), Chance>,
}

impl Network {
    pub(crate) fn cut(&mut self, from: Node, to: Node, until: u64) {
        let known = self.cuts.entry((from, to)).or_default();
        *known = (*known).max(until);
    }

    pub(crate) fn is_cut(&self, from: Node, to: Node, now: u64) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|until| *until > now)
    }

    fn link(&mut self, seed: u64, from: Node, to: Node) -> &mut Chance {
        self.links.entry((from, to)).or_insert_with(|| {
            let number = |node| match node {
                Node::Store => 0,
                Node::Master(number) => 1 + number as u64,
                Node::Worker(number) => 100 + number as u64,
            };
            Chance::of(seed, "link", number(from) * 1_000 + number(to))
        })
    }
}

impl World<'_> {
    /// `connects`: it opens or ends a stream, so its loss is noticed. Others are lost, doubled and late in bad weather.
    pub(crate) fn send(&mut self, from: Node, to: Node, message: Message, connects: bool) {
        let (now, weather) = (self.now, self.network.weather);
        let rough = now < weather.until;
        let cut = self.network.is_cut(from, to, now);
        let link = self.network.link(self.plan.seed, from, to);
        let mut delay = link.between(0, 30);
        let (mut lost, mut twice) = (cut, None);
        if rough && !connects {
            lost |= link.percent(weather.lost);
            if link.percent(weather.late) {
                delay += link.between(0, 2_000);
                self.tally.count("messages late");
            }
            let link = self.network.link(self.plan.seed, from, to);
            twice = link.percent(weather.twice).then(|| link.between(0, 2_000));
        }
        if lost {
            self.tally.count("messages lost");
            return self.damage(from, to, &message);
        }
        if let Some(later) = twice {
            self.tally.count("messages twice");
            self.after(delay + later, Task::Deliver { to, message: Box::new(message.clone()) });
        }
        if delay > 30 || twice.is_some() {
            // Out of order: no stream does that and lives on.
            self.damage(from, to, &message);
        }
        self.after(delay, Task::Deliver { to, message: Box::new(message) });
    }

    /// The stream that a message was lost from breaks sooner or later.
    fn damage(&mut self, from: Node, to: Node, message: &Message) {
        let ((Node::Worker(number), _) | (_, Node::Worker(number))) = (from, to) else { return };
        let session = match message {
            Message::Registered { session, .. } => session.number,
            Message::Order { session, .. } => *session,
            Message::Tell { .. } => match self.workers[number].session {
                Some(session) => session.number,
                None => return,
            },
            _ => return,
        };
        let wait = self.network.link(self.plan.seed, from, to).between(300, 4_000);
        let incarnation = self.workers[number].incarnation;
        self.after(wait, Task::Break { worker: number, incarnation, session });
    }

    /// A worker whose master does not answer its pings gives the stream up.
    pub(crate) fn watch_connection(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        let Some(session) = worker.session else { return };
        let (here, there) = (Node::Worker(number), Node::Master(session.master));
        let stalled = self.masters[session.master].stalled_until > self.now + 3_500;
        if stalled || self.network.is_cut(here, there, self.now) || self.network.is_cut(there, here, self.now)
        {
            let wait = worker.chance.between(3_000, 4_000);
            let incarnation = worker.incarnation;
            self.after(wait, Task::Ping { worker: number, incarnation, session: session.number });
        }
    }

    pub(crate) fn deliver(&mut self, to: Node, message: Message) {
        match (to, message) {
            (Node::Worker(number), Message::Registered { incarnation, attempt, session }) => {
                if self.is_current(number, incarnation) {
                    self.registered(number, incarnation, attempt, session);
                } else {
                    self.tell_session_lost(number, session);
                }
            }
            (Node::Worker(number), Message::Refused { incarnation, attempt, leader }) => {
                self.attempt_failed(number, incarnation, attempt, leader);
            }
            (Node::Worker(number), Message::Order { incarnation, order, .. }) => {
                // Orders of a stream that ended meanwhile wait in the worker's queue.
                if self.is_current(number, incarnation) {
                    self.order(number, order);
                }
            }
            (Node::Worker(number), Message::End { incarnation, session }) => {
                if self.is_current(number, incarnation) {
                    self.lose_session(number, session);
                }
            }
            (Node::Master(number), Message::Register { worker, incarnation, attempt, spec, running }) => {
                self.take_registration(number, worker, incarnation, attempt, spec, running);
            }
            (Node::Master(number), Message::Tell { incarnation, event }) => {
                if self.masters[number].incarnation == incarnation {
                    self.end_unknown_session(number, &event);
                    self.tell_master(number, *event);
                } else {
                    self.reset(number, &event);
                }
            }
            (Node::Master(number), Message::Answer { incarnation, answer }) => {
                if self.masters[number].incarnation == incarnation && !self.masters[number].is_down() {
                    self.take_answer(number, answer);
                }
            }
            (Node::Store, Message::Ask { master, incarnation, ask }) => {
                self.ask_store(master, incarnation, ask);
            }
            (to, message) => unreachable!("{to:?} gets {message:?}"),
        }
    }
}
