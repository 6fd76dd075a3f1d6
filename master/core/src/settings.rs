//! The scheduler's spans and bounds. Where they come from (flags, environment) is the shell's matter.

use millrace_types::Millis;

/// Spans by which the [`Coordinator`](crate::Coordinator) judges workers and paces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Interval at which workers are told to send heartbeats.
    pub heartbeat: Millis,
    /// Silence after which a worker with an open session is dead. At least two heartbeats.
    pub lease: Millis,
    /// Span after a dropped session in which the worker may register again and keep its slots.
    pub grace: Millis,
    /// Span after a join in which further joins are gathered, so that a cluster that starts is balanced once.
    pub settle: Millis,
    /// Planned moves under way at the same time, in the whole cluster; 0 is taken as 1.
    pub moves_at_a_time: usize,
    /// Planned moves under way at the same time from one worker: each of their last commits takes its cores.
    /// 0 is taken as 1.
    pub moves_of_a_worker: usize,
    /// How long a dead worker stays on the page.
    pub dead_worker_retention: Millis,
    /// Wait before a slot that failed is granted anew; doubles with each failure that follows.
    pub first_retry: Millis,
    /// Where that doubling ends. A slot that ran twice this long without a failure starts over.
    pub longest_retry: Millis,
    /// Span of the moving averages of slots' figures. A slot watched for less counts as an average one.
    pub load_span: Millis,
    /// How often the load is looked at, to even it out.
    pub balance_interval: Millis,
    /// By how much less load per core must be beside a slot where it goes, in percent of what is there.
    pub margin_percent: u32,
    /// How long a slot that moved is not moved for the load's sake; doubles with each such move, up to
    /// [`Settings::longest_rest`].
    pub rest: Millis,
    /// Moves kept for the page.
    pub moves_kept: usize,
    /// Losses of workers kept for the page and the failover report.
    pub losses_kept: usize,
    /// Completed pipelines kept, the oldest are forgotten.
    pub completed_kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Millis(500),
            lease: Millis(3_000),
            grace: Millis(500),
            settle: Millis(200),
            moves_at_a_time: 32,
            moves_of_a_worker: 2,
            dead_worker_retention: Millis(16 * 60 * 1_000),
            first_retry: Millis(1_000),
            longest_retry: Millis(60_000),
            load_span: Millis(30_000),
            balance_interval: Millis(10_000),
            margin_percent: 20,
            rest: Millis(60_000),
            moves_kept: 256,
            losses_kept: 64,
            completed_kept: 200,
        }
    }
}

/// Settings with which the scheduler can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: expected {expected}")]
pub struct InvalidSettings {
    pub key: &'static str,
    /// With its unit.
    pub value: String,
    pub expected: String,
}

impl Settings {
    /// Where the doubling of [`Settings::rest`] ends.
    pub fn longest_rest(&self) -> Millis {
        Millis(self.rest.0.saturating_mul(32))
    }

    /// Whether the spans fit together.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let wrong =
            |key, value: Millis, expected| Err(InvalidSettings { key, value: value.to_string(), expected });
        let two_heartbeats = Millis(self.heartbeat.0.saturating_mul(2));
        if self.heartbeat == Millis(0) {
            return wrong("heartbeat", self.heartbeat, "at least 1 ms".to_owned());
        }
        if self.lease < two_heartbeats {
            let expected =
                format!("at least two heartbeats ({two_heartbeats}), or live workers are declared dead");
            return wrong("lease", self.lease, expected);
        }
        if self.first_retry == Millis(0) {
            return wrong(
                "first_retry",
                self.first_retry,
                "at least 1 ms, or a failing slot spins".to_owned(),
            );
        }
        for (key, span) in [("load_span", self.load_span), ("balance_interval", self.balance_interval)] {
            if span < self.heartbeat {
                let expected = format!("at least a heartbeat ({})", self.heartbeat);
                return wrong(key, span, expected);
            }
        }
        if self.longest_retry < self.first_retry {
            let expected = format!("at least first_retry ({})", self.first_retry);
            return wrong("longest_retry", self.longest_retry, expected);
        }
        Ok(())
    }
}
