//! Who sends which events when. Pure: the time is an argument.
//!
//! The schedule doesn't wait for answers: a slow collector delays no event's due time, so that lateness shows
//! instead of vanishing. What is late is caught up, but never more than [`MOST_LATE`]: after a long outage there is
//! no flood.

use std::time::Duration;

use tokio::time::Instant;

/// The most lateness that is caught up.
const MOST_LATE: Duration = Duration::from_secs(2);
/// At low rates batches are made smaller, so that this many go out each second.
const LEAST_BATCHES_A_SECOND: u64 = 10;

/// Events to send together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Number of the first event; the run's first is 0.
    pub(super) first: u64,
    pub(super) events: u64,
    pub(super) due: Instant,
}

#[derive(Debug)]
pub(super) struct Schedule {
    /// Events a second; `None` is as fast as possible.
    rate: Option<u64>,
    batch: u64,
    count: u64,
    next_event: u64,
    next_due: Option<Instant>,
}

impl Schedule {
    /// `rate` 0 is as fast as possible; `count` events at most.
    pub(super) fn new(rate: u64, batch: u64, count: Option<u64>) -> Self {
        let rate = (rate > 0).then_some(rate);
        let batch = rate.map_or(batch, |rate| batch.min(rate.div_ceil(LEAST_BATCHES_A_SECOND)));
        Self { rate, batch, count: count.unwrap_or(u64::MAX), next_event: 0, next_due: None }
    }

    /// Events a second; `None` is as fast as possible.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The next events to send; `None` when there are no more.
    pub(super) fn take(&mut self, now: Instant) -> Option<Turn> {
        let events = self.batch.min(self.count - self.next_event);
        if events == 0 {
            return None;
        }
        let first = self.next_event;
        self.next_event += events;
        let Some(rate) = self.rate else { return Some(Turn { first, events, due: now }) };
        let earliest = now.checked_sub(MOST_LATE).unwrap_or(now);
        let due = self.next_due.unwrap_or(now).max(earliest);
        self.next_due = Some(due + Duration::from_nanos(events.saturating_mul(1_000_000_000) / rate));
        Some(Turn { first, events, due })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_the_rate_whenever_they_are_taken() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000, 100, None);
        for turn in 0..50 {
            let due = start + Duration::from_millis(turn * 100);
            // Early, on time, or up to half a second late.
            let now = if turn == 0 { start } else { due + Duration::from_millis(turn * 37 % 600) };
            let now = now.checked_sub(Duration::from_millis(100)).filter(|now| *now > start).unwrap_or(start);
            assert_eq!(schedule.take(now), Some(Turn { first: turn * 100, events: 100, due }));
        }
    }

    #[test]
    fn after_an_outage_only_a_little_is_caught_up() {
        let start = Instant::now();
        let mut schedule = Schedule::new(1000, 100, None);
        schedule.take(start);
        let back = start + Duration::from_secs(3600);
        let late = std::iter::repeat_with(|| schedule.take(back).expect("endless"));
        let caught_up: u64 = late.take_while(|turn| turn.due < back).map(|turn| turn.events).sum();
        assert_eq!(caught_up, 2000);
    }

    #[test]
    fn the_count_is_kept_and_slow_rates_have_small_batches() {
        let start = Instant::now();
        let mut schedule = Schedule::new(0, 100, Some(250));
        let sizes: Vec<u64> = std::iter::from_fn(|| schedule.take(start)).map(|turn| turn.events).collect();
        assert_eq!(sizes, [100, 100, 50]);
        for (rate, expected) in [(5, 1), (25, 3), (1000, 100), (1_000_000, 100)] {
            let turn = Schedule::new(rate, 100, None).take(start).expect("endless");
            assert_eq!(turn.events, expected, "{rate}");
        }
    }
}
