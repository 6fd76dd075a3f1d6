//! One slot's accountants, led along its raw records together. Pure.

use millrace_common::types::NextOffset;

use super::{Account, Accountant, Place, QuarantineAccountant, RawFact};
use crate::finding::Findings;

/// The accountants of the sinks that the pipeline has, and of its quarantine.
#[derive(Debug)]
pub struct Accountants {
    pub lake: Option<Accountant>,
    pub topic: Option<Accountant>,
    pub quarantine: QuarantineAccountant,
}

/// What a slot has committed, read after everything else; the same twice where it has one sink.
#[derive(Debug, Clone, Copy)]
pub struct CursorsNow {
    pub lake: NextOffset,
    pub topic: NextOffset,
}

impl Accountants {
    /// The raw topic no longer holds what lies below `offset`.
    pub fn gone_until(&mut self, offset: i64) {
        self.sinks().for_each(|accountant| accountant.gone_until(offset));
        self.quarantine.gone_until(offset);
    }

    /// The next raw record. What one sink shows of a record whose fate could have been either holds for the other.
    pub fn raw(&mut self, mut record: RawFact) {
        self.quarantine.raw(&record);
        match self.topic.as_mut().map(|topic| topic.raw(&record)) {
            Some(Place::InSink) => record.was_kept(),
            Some(Place::LeftOut) => record.was_left_out(),
            _ => {}
        }
        if let Some(lake) = &mut self.lake {
            lake.raw(&record);
        }
    }

    /// Says that all raw records were handed in.
    pub fn raw_done(&mut self) {
        self.sinks().for_each(Accountant::raw_done);
    }

    /// The account of the slot. `end`: that of the raw partition, taken before all else.
    pub fn finish(self, end: NextOffset, now: CursorsNow) -> (Account, Findings) {
        // What is quarantined is committed with the topic sink, where there is one.
        let (mut account, mut findings) = self.quarantine.finish(end, now.topic);
        let has_lake = self.lake.is_some();
        if let Some(accountant) = self.lake {
            let (of_lake, found) = accountant.finish(now.lake);
            account.add(&of_lake);
            findings.merge(found);
        }
        if let Some(accountant) = self.topic {
            let (of_topic, found) = accountant.finish(now.topic);
            account.add_topic(&of_topic, !has_lake);
            findings.merge(found);
        }
        (account, findings)
    }

    fn sinks(&mut self) -> impl Iterator<Item = &mut Accountant> {
        self.lake.iter_mut().chain(&mut self.topic)
    }
}
