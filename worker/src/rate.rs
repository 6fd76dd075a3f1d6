//! A pipeline's `max_rate` on this worker: the slots share one allowance of records a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be taken at once, in seconds of the rate.
const BURST_SECONDS: f64 = 0.1;

/// A bucket that fills by `max_rate` records a second.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    records: f64,
    at: Instant,
}

impl Rate {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53rd bit")]
    pub(crate) fn new(max_rate: u64, now: Instant) -> Self {
        Self { per_second: max_rate.max(1) as f64, bucket: Mutex::new(Bucket { records: 0.0, at: now }) }
    }

    /// Takes up to `most` records out of the allowance; else how long it takes until there is one.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between zero and a batch"
    )]
    pub(crate) fn take(&self, most: usize, now: Instant) -> Result<usize, Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second;
        bucket.records = (bucket.records + filled).min((self.per_second * BURST_SECONDS).max(1.0));
        bucket.at = bucket.at.max(now);
        if bucket.records < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.records) / self.per_second));
        }
        let taken = (bucket.records as usize).min(most);
        bucket.records -= taken as f64;
        Ok(taken)
    }

    /// Gives back what was taken and not used.
    #[expect(clippy::cast_precision_loss, reason = "at most a batch")]
    pub(crate) fn give_back(&self, records: usize) {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).records += records as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_than_the_rate_is_taken(rate in 1..100_000u64, steps in proptest::collection::vec((0..500u64, 1..20_000usize), 1..100)) {
            let start = Instant::now();
            let bucket = Rate::new(rate, start);
            let (mut at, mut taken) = (start, 0usize);
            for (wait, most) in steps {
                at += Duration::from_millis(wait);
                taken += bucket.take(most, at).unwrap_or(0);
            }
            let allowed = (at - start).as_secs_f64() * rate as f64;
            prop_assert!(taken as f64 <= allowed + 1.0, "{taken} of {allowed}");
        }

        #[test]
        fn who_waits_as_told_gets_a_record(rate in 1..100_000u64) {
            let start = Instant::now();
            let bucket = Rate::new(rate, start);
            let wait = bucket.take(5, start).expect_err("empty");
            prop_assert!(bucket.take(5, start + wait + Duration::from_nanos(2)).is_ok());
        }
    }
}
