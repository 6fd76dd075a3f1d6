//! How old records were when a sink held them: from their Kafka timestamp until the commit or the publication that took
//! them along. For people; it counts offsets in steps of whole batches and knows of no single record.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Records that were held longer ago do not count any more.
const WINDOW: Duration = Duration::from_secs(60);
/// Steps that are kept apart; beyond them neighbours become one.
const MOST: usize = 4096;

/// Records that were read together and wait for the sink.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// They end below this offset; they begin where those before end.
    next: i64,
    /// Of the oldest, in milliseconds since 1970 UTC.
    timestamp_ms: i64,
}

/// Records that a sink took at once.
#[derive(Debug, Clone, Copy)]
struct Held {
    at: Instant,
    age_ms: u64,
    records: u64,
}

/// Of one slot and one sink.
#[derive(Debug)]
pub(super) struct Freshness {
    waiting: VecDeque<Waiting>,
    held: VecDeque<Held>,
    /// Everything below is held.
    cursor: i64,
}

impl Freshness {
    /// For a sink that holds everything below `cursor`.
    pub(super) fn new(cursor: i64) -> Self {
        Self { waiting: VecDeque::new(), held: VecDeque::new(), cursor }
    }

    /// Records up to `next` were read; `timestamp_ms` is of the first of them.
    pub(super) fn read(&mut self, next: i64, timestamp_ms: i64) {
        let before = self.waiting.back().map_or(self.cursor, |last| last.next);
        // Without a timestamp there is no age.
        if next <= before || timestamp_ms < 0 {
            return;
        }
        if self.waiting.len() == MOST {
            let merge = |pair: &[Waiting]| Waiting {
                next: pair[pair.len() - 1].next,
                timestamp_ms: pair.iter().map(|one| one.timestamp_ms).min().unwrap_or(0),
            };
            self.waiting = self.waiting.make_contiguous().chunks(2).map(merge).collect();
        }
        self.waiting.push_back(Waiting { next, timestamp_ms });
    }

    /// The sink holds everything below `cursor` since `at`, which is `now_ms` by the wall clock.
    pub(super) fn hold(&mut self, cursor: i64, at: Instant, now_ms: u64) {
        while let Some(first) = self.waiting.front().copied().filter(|_| self.cursor < cursor) {
            let next = first.next.min(cursor);
            let age_ms = now_ms.saturating_sub(u64::try_from(first.timestamp_ms).unwrap_or(0));
            let records = u64::try_from(next - self.cursor).unwrap_or(0);
            self.held.push_back(Held { at, age_ms, records });
            self.cursor = next;
            if first.next <= cursor {
                self.waiting.pop_front();
            }
        }
        self.cursor = self.cursor.max(cursor);
        while self.held.len() > MOST || self.held.front().is_some_and(|held| at - held.at > WINDOW) {
            self.held.pop_front();
        }
    }

    /// The age that 99 of 100 records did not exceed, of those held in the minute before the last that were; in
    /// milliseconds.
    pub(super) fn p99_ms(&self) -> Option<u64> {
        let mut ages: Vec<(u64, u64)> = self.held.iter().map(|held| (held.age_ms, held.records)).collect();
        ages.sort_unstable();
        let all: u64 = ages.iter().map(|(_, records)| records).sum();
        let mut left = (all * 99).div_ceil(100);
        ages.into_iter()
            .find(|(_, records)| {
                let is_it = left <= *records;
                left = left.saturating_sub(*records);
                is_it
            })
            .map(|(age, _)| age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_old_record_of_a_hundred_is_left_out_and_two_are_not() {
        let now = Instant::now();
        let mut freshness = Freshness::new(10);
        assert_eq!(freshness.p99_ms(), None);
        // Offset 10 came at 1,000 ms, the others at 9,900.
        freshness.read(11, 1_000);
        freshness.read(110, 9_900);
        freshness.hold(110, now, 10_000);
        assert_eq!(freshness.p99_ms(), Some(100));
        freshness.read(111, 2_000);
        freshness.hold(111, now, 10_000);
        assert_eq!(freshness.p99_ms(), Some(8_000));
        // What is held already is no news, nor is what has no timestamp.
        freshness.read(50, 0);
        freshness.read(112, -1);
        freshness.hold(112, now + WINDOW * 2, 10_000);
        assert_eq!(freshness.p99_ms(), None, "the minute is over");
    }

    #[test]
    fn a_commit_within_a_batch_takes_its_part() {
        let now = Instant::now();
        let mut freshness = Freshness::new(0);
        freshness.read(100, 1_000);
        freshness.hold(40, now, 2_000);
        freshness.hold(100, now, 9_000);
        let parts: Vec<_> = freshness.held.iter().map(|held| (held.age_ms, held.records)).collect();
        assert_eq!(parts, [(1_000, 40), (8_000, 60)]);
        assert_eq!(freshness.p99_ms(), Some(8_000));
    }

    #[test]
    fn a_long_wait_takes_no_more_than_so_much_memory() {
        let mut freshness = Freshness::new(0);
        for next in 1..=100_000 {
            freshness.read(next, next);
        }
        assert!(freshness.waiting.len() <= MOST);
        freshness.hold(100_000, Instant::now(), 100_000);
        assert_eq!(freshness.held.iter().map(|held| held.records).sum::<u64>(), 100_000);
    }
}
