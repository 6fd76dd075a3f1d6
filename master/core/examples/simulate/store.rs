//! The modelled store: records, one leader by a lease, and writes that compare both the leader and a sequence, as the
//! real one in etcd does.

use std::collections::BTreeMap;

use millrace_master_core::{Record, RecordKey, Write};

use crate::network::{Answer, Ask, Message, Node};
use crate::rules::Rule;
use crate::world::World;

/// Who leads.
#[derive(Debug, Clone)]
struct Leader {
    master: usize,
    term: u64,
    until: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) records: BTreeMap<RecordKey, Record>,
    leader: Option<Leader>,
    terms: u64,
    /// Rises with each write and fence, and is never an earlier one again.
    revision: u64,
    /// The last write's.
    word: u64,
    pub(crate) down_until: u64,
    /// The last write left nothing half done.
    pub(crate) whole: bool,
    /// Flaw: nothing is compared.
    compares_nothing: bool,
}

/// What the question for all records came to.
#[derive(Debug)]
pub(crate) enum Loaded {
    Records(Vec<Record>),
    Deposed,
    /// Something was written since it was asked where the store stands.
    Overtaken,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// An earlier try of it took effect.
    DoneBefore,
    Deposed,
    /// Another write of the same leader came between.
    Overtaken,
}

impl Store {
    pub(crate) fn new(compares_nothing: bool) -> Self {
        Self { compares_nothing, whole: true, ..Self::default() }
    }

    /// All is gone, the leadership too; no earlier write takes effect.
    pub(crate) fn lose(&mut self) {
        self.records.clear();
        self.revision += 1;
        (self.leader, self.word, self.whole) = (None, 0, true);
    }

    /// Leads, or is told who does. A master that comes back within its lease takes its own leadership up again.
    pub(crate) fn campaign(&mut self, now: u64, master: usize, lease: u64) -> Result<u64, usize> {
        match &self.leader {
            Some(leader) if leader.until > now && leader.master != master => return Err(leader.master),
            Some(leader) if leader.until > now => return Ok(leader.term),
            Some(_) | None => {}
        }
        self.terms += 1;
        self.leader = Some(Leader { master, term: self.terms, until: now + lease });
        Ok(self.terms)
    }

    pub(crate) fn keep_alive(&mut self, now: u64, term: u64, lease: u64) -> bool {
        match &mut self.leader {
            Some(leader) if leader.term == term && leader.until > now => {
                leader.until = now + lease;
                true
            }
            Some(_) | None => false,
        }
    }

    pub(crate) fn leads(&self, now: u64, term: u64) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.term == term && leader.until > now)
    }

    /// From here on no earlier write of this leader takes effect, nor this question when it is late; and all records.
    pub(crate) fn load(&mut self, now: u64, term: u64, after: u64) -> Loaded {
        if !self.leads(now, term) {
            return Loaded::Deposed;
        }
        if self.revision != after {
            return Loaded::Overtaken;
        }
        self.revision += 1;
        Loaded::Records(self.records.values().cloned().collect())
    }

    /// One transaction.
    pub(crate) fn write(&mut self, now: u64, term: u64, after: u64, word: u64, writes: &[Write]) -> Written {
        if !self.compares_nothing {
            if !self.leads(now, term) {
                return Written::Deposed;
            }
            if self.word == word && self.revision == after + 1 {
                return Written::DoneBefore;
            }
            if self.revision != after {
                return Written::Overtaken;
            }
        }
        self.revision += 1;
        self.word = word;
        for write in writes {
            match write {
                Write::Put(record) => drop(self.records.insert(record.key(), record.clone())),
                Write::Delete(key) => drop(self.records.remove(key)),
            }
        }
        Written::Done
    }
}

impl World<'_> {
    /// A question of a master reaches the store.
    pub(crate) fn ask_store(&mut self, number: usize, incarnation: u64, ask: Ask) {
        let (now, lease) = (self.now, self.plan.lease);
        if now < self.store.down_until {
            return;
        }
        let answer = match ask {
            Ask::Campaign => match self.store.campaign(now, number, lease) {
                Ok(term) => Answer::Leads { term, asked: self.masters[number].clock.now(now) },
                Err(leader) => {
                    self.tally.count("campaigns lost");
                    Answer::Follows { leader }
                }
            },
            Ask::KeepAlive { term, asked } if self.store.keep_alive(now, term, lease) => {
                Answer::Kept { term, asked }
            }
            Ask::KeepAlive { term, .. } => Answer::NotKept { term },
            Ask::Sequence { term, word } => Answer::Sequence { term, word, revision: self.store.revision },
            Ask::Load { term, word, after } => match self.store.load(now, term, after) {
                Loaded::Records(records) => {
                    let (revision, whole) = (self.store.revision, self.store.whole);
                    Answer::Loaded { term, word, revision, records, whole }
                }
                Loaded::Deposed => Answer::NotKept { term },
                Loaded::Overtaken => Answer::Sequence { term, word, revision: self.store.revision },
            },
            Ask::Write { term, after, word, writes, whole } => {
                let leads = self.store.leads(now, term);
                let written = self.store.write(now, term, after, word, &writes);
                if written == Written::Done {
                    self.store.whole = whole;
                    if !leads {
                        let what = format!("master {number} writes in term {term}, which is over");
                        self.breaks(Rule::DeposedWritesNothing, what);
                    }
                    self.check_stored(&writes);
                    if let Some(span) = self.masters[number].crashes_after_write.take()
                        && self.masters[number].incarnation == incarnation
                    {
                        self.tally.count("crashes between write and directives");
                        self.crash_master(number, span);
                    }
                    if std::mem::take(&mut self.masters[number].loses_answer) {
                        self.tally.count("messages lost");
                        return;
                    }
                }
                Answer::Written { word, written }
            }
        };
        let message = Message::Answer { incarnation, answer };
        self.send(Node::Store, Node::Master(number), message, false);
    }
}
