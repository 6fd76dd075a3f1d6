//! What was sent and answered so far, and the report at the end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::delivery::Fate;
use super::source::Sent;

/// Latencies are kept in buckets an eighth of a power of two wide: right to 12 %.
const STEPS: u32 = 8;
const BUCKETS: usize = 64 * STEPS as usize;

/// Counted by all connections.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) ok: AtomicU64,
    pub(super) invalid: AtomicU64,
    pub(super) not_stored: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) not_sent: AtomicU64,
    pub(super) resent: AtomicU64,
    duplicates: AtomicU64,
    unexpected: AtomicU64,
    /// Requests by the microseconds from their due time to their answer.
    latencies: Box<[AtomicU64]>,
}

/// What became of the events, each counted once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// All that went out: ok, invalid, not stored, refused and unknown.
    pub sent: u64,
    /// Acknowledged: in the raw topic.
    pub ok: u64,
    /// Acknowledged: in the invalid topic.
    pub invalid: u64,
    /// Thrown away by the collector, as the request asked: not there.
    pub not_stored: u64,
    /// In requests that the collector turned away as a whole, to the last try: not there.
    pub refused: u64,
    /// Not acknowledged to the last try; each may be there or not.
    pub unknown: u64,
    /// Made, and never sent: the collector was not reached before the end.
    pub not_sent: u64,
    /// How many events were sent again, since they were not acknowledged; each time counts.
    pub resent: u64,
    /// Events that were acknowledged a second time, on purpose.
    pub duplicates: u64,
    /// Valid events called invalid, and invalid ones called ok.
    pub unexpected: u64,
    pub seconds: f64,
    pub events_per_second: f64,
    /// From the time when a request was due to its answer.
    pub latency_ms: Latency,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let count = AtomicU64::default;
        Self {
            ok: count(),
            invalid: count(),
            not_stored: count(),
            refused: count(),
            unknown: count(),
            not_sent: count(),
            resent: count(),
            duplicates: count(),
            unexpected: count(),
            latencies: (0..BUCKETS).map(|_| count()).collect(),
        }
    }
}

impl Tally {
    /// Counts the fates of `events`; the first event whose verdict is not what it should be.
    pub(super) fn note<'a>(&self, events: &'a [Sent], fates: &[Option<Fate>]) -> Option<&'a Sent> {
        let mut counts = [0_u64; 7];
        let mut first_unexpected = None;
        for (sent, fate) in events.iter().zip(fates) {
            let Some(fate) = fate else { continue };
            let (place, is_expected) = match fate {
                Fate::Ok => (0, sent.facts.is_some()),
                Fate::Invalid { .. } => (1, sent.facts.is_none()),
                Fate::NotStored => (2, true),
                Fate::Refused => (3, true),
                Fate::Unknown => (4, true),
                Fate::NotSent => (5, true),
            };
            counts[place] += 1;
            if !is_expected {
                counts[6] += 1;
                first_unexpected = first_unexpected.or(Some(sent));
            }
        }
        let counters = [
            &self.ok,
            &self.invalid,
            &self.not_stored,
            &self.refused,
            &self.unknown,
            &self.not_sent,
            &self.unexpected,
        ];
        for (counter, count) in counters.into_iter().zip(counts) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        first_unexpected
    }

    pub(super) fn note_copies(&self, fates: &[Option<Fate>]) {
        let ok = fates.iter().flatten().filter(|fate| **fate == Fate::Ok).count();
        self.duplicates.fetch_add(ok as u64, Ordering::Relaxed);
    }

    pub(super) fn note_resent(&self, events: usize) {
        self.resent.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) -> u64 {
        [&self.ok, &self.invalid, &self.not_stored, &self.refused, &self.unknown]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    pub(super) fn report(&self, elapsed: Duration) -> Report {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let sent = self.sent();
        let seconds = elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let events_per_second = if seconds > 0.0 { sent as f64 / seconds } else { 0.0 };
        Report {
            sent,
            ok: of(&self.ok),
            invalid: of(&self.invalid),
            not_stored: of(&self.not_stored),
            refused: of(&self.refused),
            unknown: of(&self.unknown),
            not_sent: of(&self.not_sent),
            resent: of(&self.resent),
            duplicates: of(&self.duplicates),
            unexpected: of(&self.unexpected),
            seconds,
            events_per_second,
            latency_ms: self.latency(),
        }
    }

    fn latency(&self) -> Latency {
        let counts: Vec<u64> = self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        // The upper end of the bucket in which the `rank`-th of all lies.
        let at = |rank: u64| {
            let mut seen = 0;
            let index = counts.iter().position(|count| {
                seen += count;
                seen >= rank && seen > 0
            });
            index.map_or(0.0, |index| upper_end(index) / 1000.0)
        };
        Latency { p50: at(all.div_ceil(2)), p99: at((all * 99).div_ceil(100)), max: at(all) }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < u64::from(STEPS) {
        return usize::try_from(micros).unwrap_or(0);
    }
    let power = micros.ilog2();
    let step = (micros >> (power - STEPS.ilog2())) - u64::from(STEPS);
    (power - STEPS.ilog2() + 1) as usize * STEPS as usize + usize::try_from(step).unwrap_or(0)
}

/// The first microsecond beyond bucket `index`.
#[expect(clippy::cast_precision_loss, reason = "shown rounded")]
fn upper_end(index: usize) -> f64 {
    let steps = STEPS as usize;
    if index < steps {
        return (index + 1) as f64;
    }
    let width = f64::exp2((index / steps - 1) as f64);
    (steps + index % steps + 1) as f64 * width
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sent {} events in {:.1} s, {:.0} a second",
            self.sent, self.seconds, self.events_per_second
        )?;
        let lines = [
            ("ok", self.ok, "acknowledged, in the raw topic", true),
            ("invalid", self.invalid, "acknowledged, in the invalid topic", true),
            ("not stored", self.not_stored, "thrown away by the collector, as asked", false),
            ("refused", self.refused, "turned away by the collector, to the last try", true),
            ("unknown", self.unknown, "not acknowledged, to the last try: may be there or not", true),
            ("not sent", self.not_sent, "the collector was not reached", false),
            ("resent", self.resent, "sends beyond the first, for want of an acknowledgement", true),
            ("duplicates", self.duplicates, "sent and acknowledged a second time on purpose", false),
        ];
        for (name, count, meaning, always) in lines {
            if always || count > 0 {
                writeln!(f, "  {name:<10} {count:>12}  {meaning}")?;
            }
        }
        if self.unexpected > 0 {
            writeln!(f, "  {} verdicts differ from what was expected of their events", self.unexpected)?;
        }
        let Latency { p50, p99, max } = self.latency_ms;
        writeln!(
            f,
            "  from due to answered: half within {p50:.1} ms, 99 % within {p99:.1} ms, all within {max:.1} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_its_bucket_and_buckets_are_narrow() {
        for micros in (0..5000).chain([1 << 20, (1 << 20) + 1, (1 << 40) - 1]) {
            let index = bucket(micros);
            #[expect(clippy::cast_precision_loss, reason = "compared with a margin")]
            let exact = micros as f64;
            assert!(upper_end(index) > exact, "{micros}");
            assert!(index == 0 || upper_end(index - 1) <= exact, "{micros}");
            assert!(upper_end(index) <= exact * 1.125 + 1.0, "{micros}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_are_of_requests() {
        let tally = Tally::default();
        for _ in 0..98 {
            tally.answered(Duration::from_millis(10));
        }
        tally.answered(Duration::from_millis(500));
        tally.answered(Duration::from_secs(4));
        let latency = tally.report(Duration::from_secs(1)).latency_ms;
        assert!((10.0..11.3).contains(&latency.p50), "{latency:?}");
        assert!((500.0..563.0).contains(&latency.p99), "{latency:?}");
        assert!((4000.0..4500.0).contains(&latency.max), "{latency:?}");
    }

    #[test]
    fn a_run_that_sent_nothing_has_a_report() {
        let report = Tally::default().report(Duration::ZERO);
        assert_eq!((report.sent, report.latency_ms.max), (0, 0.0));
        assert!(report.to_string().starts_with("sent 0 events"));
    }
}
