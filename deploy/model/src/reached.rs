//! What must have happened somewhere within a bound, or its exploration shows little: each fault where it hurts, and each
//! outcome that the protocol has for one. It judges steps, and changes nothing.

use crate::bounds::Bound;
use crate::rules::is_finished;
use crate::state::{Flush, LateStore, Offsets, Phase, Publish, Record, State, Step, Worker};
use crate::step::Action;

/// Something that a bound must reach.
#[derive(Debug, Clone, Copy)]
pub struct Sometimes {
    pub text: &'static str,
    /// The bounds that must reach it.
    due: fn(&Bound) -> bool,
    happened: fn(&Seen<'_>) -> bool,
}

/// One step, as the explorer took it.
struct Seen<'a> {
    before: &'a State,
    action: &'a Action,
    after: &'a State,
    bound: &'a Bound,
}

impl Seen<'_> {
    fn is(&self, what: &str) -> bool {
        self.action.what == what
    }

    /// Who took the step, as it was before.
    fn worker(&self) -> Option<&Worker> {
        self.action.worker.map(|index| &self.before.workers[index])
    }

    /// Whether the step is one that its worker takes by the protocol, although a successor has claimed the slot.
    fn is_of_a_deposed_owner(&self) -> bool {
        let claimed = self.before.committed().map_or(0, |record| record.epoch);
        !self.action.is_fault
            && self.worker().is_some_and(|worker| worker.phase > Phase::Idle && worker.epoch < claimed)
            && !self.is(GRANTED)
    }

    fn kills(&self, when: impl Fn(&Worker) -> bool) -> bool {
        self.is(KILLED) && self.worker().is_some_and(when)
    }

    /// Files under final keys are others than before.
    fn changes_the_lake(&self) -> bool {
        self.before.store.files != self.after.store.files
    }
}

const GRANTED: &str = "is granted the slot";
const KILLED: &str = "is killed; its process starts anew";

const fn always(_: &Bound) -> bool {
    true
}

const fn crashes(bound: &Bound) -> bool {
    bound.faults.crashes > 0
}

const fn moves(bound: &Bound) -> bool {
    bound.faults.moves > 0
}

const fn kafka(bound: &Bound) -> bool {
    bound.faults.kafka > 0
}

const fn store(bound: &Bound) -> bool {
    bound.faults.store > 0
}

const fn builds(bound: &Bound) -> bool {
    bound.faults.builds > 0
}

/// Both builds come to different verdicts of some record.
const fn verdicts(bound: &Bound) -> bool {
    builds(bound) && bound.rejects[0] != bound.rejects[1]
}

const fn judges_again(bound: &Bound) -> bool {
    verdicts(bound) && bound.has_topic
}

const fn two_records(bound: &Bound) -> bool {
    bound.records > 1
}

/// A first owner's crash leaves the second one something to do in the staging prefix, and a third deposes that.
const fn crash_and_move(bound: &Bound) -> bool {
    moves(bound) && crashes(bound)
}

const fn expiries(bound: &Bound) -> bool {
    bound.faults.expiries > 0
}

/// All of them, the quiet ones first.
pub const SOMETIMES: [Sometimes; 40] = [
    at_times("everything is committed and published", always, |seen| is_finished(seen.after, seen.bound)),
    at_times("a read of the record waits until what was committed is stable", always, |seen| {
        let State { workers, kafka, .. } = seen.after;
        kafka.pending.is_some() && workers.iter().any(|worker| worker.phase == Phase::Read)
    }),
    at_times(
        "one transaction commits a flush and for the topic",
        |bound| bound.has_topic,
        |seen| seen.is("begins to commit a flush and what the topic waits for"),
    ),
    at_times("a staged flush waits until the one before it is published", two_records, |seen| {
        seen.after.workers.iter().any(|worker| worker.staged.is_some() && worker.publication.flush.is_some())
    }),
    at_times("a worker is killed between fence and claim", crashes, |seen| {
        seen.kills(|worker| worker.phase == Phase::Claim)
    }),
    at_times("a worker is killed between two uploads of a flush", crashes, |seen| {
        seen.kills(|worker| worker.staging.is_some() && worker.next_put > 0)
    }),
    at_times("a worker is killed between stage and commit", crashes, |seen| {
        seen.kills(|worker| worker.staged.is_some())
    }),
    at_times("a worker is killed within a transaction", crashes, |seen| {
        seen.kills(|worker| worker.in_transaction && worker.commit.step == Step::End)
    }),
    at_times("a worker is killed between commit and publication", crashes, |seen| {
        seen.kills(|worker| worker.phase == Phase::Work && worker.publication.flush.is_some())
    }),
    at_times("a worker is killed between copy and deletion", crashes, |seen| {
        seen.kills(|worker| worker.publication.step == Publish::DeleteStaged)
    }),
    at_times("a worker is killed while it rolls forward", crashes, |seen| {
        seen.kills(|worker| worker.phase == Phase::RollForward)
    }),
    at_times("a successor publishes what its predecessor committed", moves, |seen| {
        seen.changes_the_lake() && seen.worker().is_some_and(|worker| worker.phase == Phase::RollForward)
    }),
    at_times("a successor deletes what was staged and never committed", moves, |seen| {
        let Some(index) = seen.action.worker else { return false };
        let (before, after) = (&seen.before.store.flushes, &seen.after.workers[index].listed);
        seen.is("deletes a staged object that it listed")
            && before
                .iter()
                .zip(after)
                .zip(seen.before.workers[index].listed)
                .any(|((flush, now), listed)| flush.present & listed & !now != 0)
    }),
    at_times("an owner is taken for dead and lives", moves, |seen| {
        seen.is("is granted the slot, whose owner is silent and lives")
    }),
    at_times("a resumed owner is fenced", moves, |seen| seen.is("is refused as fenced, and stops")),
    at_times("a resumed owner uploads beside its successor", moves, |seen| {
        seen.is_of_a_deposed_owner() && seen.action.code == "flush::stage"
    }),
    at_times("a resumed owner publishes beside its successor", moves, |seen| {
        seen.is_of_a_deposed_owner() && seen.changes_the_lake()
    }),
    at_times("a resumed owner misses a file that its successor has published", moves, |seen| {
        seen.is_of_a_deposed_owner() && seen.is("finds no staged file to copy")
    }),
    at_times(
        "a resumed owner lists or deletes in the staging prefix beside its successor",
        crash_and_move,
        |seen| seen.is_of_a_deposed_owner() && seen.is("deletes a staged object that it listed"),
    ),
    at_times("a resumed owner misses the manifest that its successor has followed", crash_and_move, |seen| {
        seen.is_of_a_deposed_owner() && seen.is("does not find the manifest")
    }),
    at_times(
        "two deposed owners run beside the third",
        |bound| bound.workers > 2,
        |seen| {
            let claimed = seen.after.committed().map_or(0, |record| record.epoch);
            let deposed =
                |worker: &&Worker| worker.phase > Phase::Idle && worker.epoch > 0 && worker.epoch < claimed;
            seen.after.workers.iter().filter(deposed).count() == 2
        },
    ),
    at_times("a commit is applied and its answer is lost", kafka, |seen| {
        seen.is("sends EndTxn, which is applied; the answer is lost: doubt")
    }),
    at_times("a late EndTxn commits what is open", kafka, |seen| {
        seen.is("a late EndTxn arrives and commits what is open")
    }),
    at_times("a late TxnOffsetCommit replaces the record of a transaction", kafka, |seen| {
        seen.is("a late TxnOffsetCommit arrives and replaces the record")
    }),
    at_times("a late request comes too late to do anything", kafka, |seen| {
        seen.is("a late request arrives, and there is nothing that it could do")
    }),
    at_times("after a doubt the record tells that it was committed", kafka, |seen| {
        let Some(worker) = seen.worker() else { return false };
        let own = |record: Record| record.epoch == worker.epoch && record.topic > 0;
        seen.is("reads the record") && worker.committed_last && seen.before.kafka.record.is_some_and(own)
    }),
    at_times("a transaction is open for too long, and its owner lives", expiries, |seen| {
        seen.is("the transaction is open for too long: Kafka aborts it and fences its producer")
            && seen.before.workers.iter().any(|worker| worker.in_transaction)
    }),
    at_times("a fence of somebody who is gone deposes the owner", expiries, |seen| {
        let owns = |worker: &Worker| worker.phase == Phase::Work && worker.current;
        seen.is("a fence of somebody who is gone arrives late") && seen.before.workers.iter().any(owns)
    }),
    at_times("a late upload arrives", store, |seen| {
        seen.is("a late upload arrives") && seen.before.store.flushes != seen.after.store.flushes
    }),
    at_times("a late copy arrives", store, |seen| seen.is("a late copy arrives") && seen.changes_the_lake()),
    at_times("a late deletion arrives, and its sender has gone on", store, |seen| {
        let deletion = matches!(seen.before.store.late, LateStore::Delete(..));
        deletion && seen.is("a late deletion arrives")
    }),
    at_times("a copy answers 200 with an error in its body", store, |seen| {
        seen.is("copies a file; the answer is 200 with an error in its body")
    }),
    at_times("a new build begins where the old one has staged and not committed", builds, |seen| {
        let of_other = |worker: &Worker| {
            let is_other =
                |(listed, flush): (&u8, &Flush)| *listed != 0 && flush.used && flush.build != worker.build;
            worker.listed.iter().zip(&seen.before.store.flushes).any(is_other)
        };
        seen.worker().is_some_and(|worker| worker.phase == Phase::Collect && of_other(worker))
    }),
    at_times("a new build publishes what the old one committed", builds, |seen| {
        seen.changes_the_lake()
            && seen.worker().is_some_and(|worker| {
                let flush = seen.before.flush(worker.publication.flush);
                worker.phase == Phase::RollForward && flush.build != worker.build
            })
    }),
    at_times("the lake leaves out what the record says was rejected", judges_again, |seen| {
        seen.is("takes a record in")
            && seen.worker().is_some_and(|worker| {
                let accepts = |offset: u8| seen.bound.rejects[usize::from(worker.build)] >> offset & 1 == 0;
                let taken = worker.position;
                let decided: Offsets = worker.record.rejected;
                taken < worker.topic_from && decided >> taken & 1 == 1 && accepts(taken)
            })
    }),
    at_times("a build halts over what is on the topic and it refuses", judges_again, |seen| {
        seen.is("refuses what is on the topic, and halts: transform_changed")
    }),
    at_times(
        "a changed transform waits until the sinks are level",
        |bound| bound.faults.definitions > 0,
        |seen| seen.is("is level, and opens anew with the new definition"),
    ),
    at_times(
        "a slot halts because its record is lost",
        |bound| bound.faults.record_losses > 0,
        |seen| seen.is("finds no record, and halts: record_lost"),
    ),
    at_times(
        "a grant's epoch is behind the record's",
        |bound| bound.faults.forgets > 0,
        |seen| seen.is("reads a record with a higher epoch, and stops"),
    ),
    at_times(
        "two workers hold grants of one epoch",
        |bound| bound.faults.forgets > 0,
        |seen| {
            let [one, other, _] = &seen.after.workers;
            one.phase > Phase::Idle && other.phase > Phase::Idle && one.epoch == other.epoch
        },
    ),
];

const fn at_times(text: &'static str, due: fn(&Bound) -> bool, happened: fn(&Seen<'_>) -> bool) -> Sometimes {
    Sometimes { text, due, happened }
}

/// Which of [`SOMETIMES`] have happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Reached(u64);

impl Reached {
    pub(crate) fn note(&mut self, before: &State, action: &Action, after: &State, bound: &Bound) {
        let seen = Seen { before, action, after, bound };
        for (number, sometimes) in SOMETIMES.iter().enumerate() {
            if self.0 >> number & 1 == 0 && (sometimes.happened)(&seen) {
                self.0 |= 1 << number;
            }
        }
    }

    /// How many of what `bound` must reach have happened, and the texts of those that have not.
    pub fn against(&self, bound: &Bound) -> (usize, Vec<&'static str>) {
        let due = SOMETIMES.iter().enumerate().filter(|(_, sometimes)| (sometimes.due)(bound));
        let (happened, missing): (Vec<_>, Vec<_>) = due.partition(|(number, _)| self.0 >> number & 1 == 1);
        (happened.len(), missing.into_iter().map(|(_, sometimes)| sometimes.text).collect())
    }
}
