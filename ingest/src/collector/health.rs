//! Whether Kafka acknowledges the records of a topic, as far as is known: so that clients need not wait for what will
//! not come. Pure but for its flags: whoever sees reports and metadata says so, and time is an argument.
//!
//! ```text
//! open ──── records fail, none acknowledged for a while; or no broker answers ────▶ shut
//! shut ──── a broker answers, and a partition has a leader ───────────────────────▶ trial
//! trial ─── a record is acknowledged ─────────────────────────────────────────────▶ open
//! trial ─── a record fails ───────────────────────────────────────────────────────▶ shut
//! ```

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

/// How the way to a topic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Way {
    /// Records are taken.
    Open,
    /// One request at each look is.
    Trial,
    /// None is.
    Shut,
}

/// The way to one topic.
#[derive(Debug)]
pub(super) struct Health {
    way: AtomicU8,
    /// Of a trial: nobody has it yet.
    trial: AtomicBool,
    acknowledged: AtomicBool,
    failed: AtomicBool,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            way: AtomicU8::new(Way::Open as u8),
            trial: AtomicBool::new(false),
            acknowledged: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }

    pub(super) fn way(&self) -> Way {
        match self.way.load(Ordering::Acquire) {
            way if way == Way::Open as u8 => Way::Open,
            way if way == Way::Trial as u8 => Way::Trial,
            _ => Way::Shut,
        }
    }

    fn set(&self, way: Way) {
        self.way.store(way as u8, Ordering::Release);
    }

    /// Whether a request may send records; it takes the trial, if that is what there is.
    pub(super) fn may_send(&self) -> bool {
        match self.way() {
            Way::Open => true,
            Way::Trial => self.trial.swap(false, Ordering::AcqRel),
            Way::Shut => false,
        }
    }

    /// A record is acknowledged: that says more than anything else.
    pub(super) fn note_acknowledged(&self) {
        if !self.acknowledged.load(Ordering::Relaxed) {
            self.acknowledged.store(true, Ordering::Relaxed);
        }
        if self.way() != Way::Open {
            self.set(Way::Open);
        }
    }

    pub(super) fn note_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// What one look at a topic found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) now: Duration,
    /// Whether Kafka said, within a moment, that a partition of the topic has a leader; `None` if it was not asked.
    pub(super) answers: Option<bool>,
}

/// Looks at one [`Health`] again and again.
#[derive(Debug)]
pub(super) struct Watch {
    last_acknowledged: Duration,
    /// Failures don't count so long after an acknowledgement: some partitions work.
    patience: Duration,
}

impl Watch {
    pub(super) fn new(now: Duration, patience: Duration) -> Self {
        Self { last_acknowledged: now, patience }
    }

    /// Whether Kafka should be asked before the next [`Watch::look`].
    pub(super) fn must_ask(health: &Health) -> bool {
        health.way() == Way::Shut || health.failed.load(Ordering::Relaxed)
    }

    /// How long no record is known to be acknowledged.
    pub(super) fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last_acknowledged)
    }

    /// Sets the way by what came since the last look and by what this one found; returns it.
    pub(super) fn look(&mut self, health: &Health, look: Look) -> Way {
        let failed = health.failed.swap(false, Ordering::Relaxed);
        if health.acknowledged.swap(false, Ordering::Relaxed) {
            self.last_acknowledged = look.now;
        }
        let nothing_comes = self.silent_for(look.now) > self.patience;
        let next = match (health.way(), look.answers) {
            (way, Some(false)) if way != Way::Shut => Some(Way::Shut),
            (Way::Open, _) if failed && nothing_comes => Some(Way::Shut),
            (Way::Trial, _) if failed => Some(Way::Shut),
            (Way::Shut, Some(true)) => Some(Way::Trial),
            _ => None,
        };
        // Who acknowledged meanwhile has opened the way, and it shuts again only for a reason that comes later.
        if let Some(next) = next
            && !health.acknowledged.load(Ordering::Relaxed)
        {
            health.set(next);
        }
        health.trial.store(health.way() == Way::Trial, Ordering::Release);
        health.way()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    struct Scene {
        health: Health,
        watch: Watch,
        now: Duration,
    }

    impl Scene {
        fn new() -> Self {
            Self { health: Health::new(), watch: Watch::new(Duration::ZERO, PATIENCE), now: Duration::ZERO }
        }

        fn look_after(&mut self, seconds: u64, answers: Option<bool>) -> Way {
            self.now += Duration::from_secs(seconds);
            self.watch.look(&self.health, Look { now: self.now, answers })
        }
    }

    #[test]
    fn when_everything_fails_the_way_shuts_and_a_trial_opens_it() {
        let mut scene = Scene::new();
        scene.health.note_acknowledged();
        assert_eq!(scene.look_after(1, None), Way::Open);
        scene.health.note_failed();
        assert!(Watch::must_ask(&scene.health));
        assert_eq!(scene.look_after(6, Some(true)), Way::Shut);
        assert!(!scene.health.may_send() && Watch::must_ask(&scene.health));
        assert_eq!(scene.look_after(1, Some(false)), Way::Shut);
        assert_eq!(scene.look_after(1, Some(true)), Way::Trial);
        assert_eq!([scene.health.may_send(), scene.health.may_send()], [true, false]);
        assert_eq!(scene.look_after(1, None), Way::Trial);
        assert!(scene.health.may_send(), "another trial");
        scene.health.note_acknowledged();
        assert!(scene.health.may_send() && scene.health.may_send(), "at once");
        assert_eq!(scene.look_after(1, None), Way::Open);
    }

    #[test]
    fn one_partition_that_fails_shuts_nothing() {
        let mut scene = Scene::new();
        for _ in 0..10 {
            scene.health.note_acknowledged();
            scene.health.note_failed();
            assert_eq!(scene.look_after(4, Some(true)), Way::Open);
        }
    }

    #[test]
    fn when_no_broker_answers_the_way_shuts_without_waiting_for_failures() {
        let mut scene = Scene::new();
        scene.health.note_acknowledged();
        assert_eq!(scene.look_after(1, Some(false)), Way::Shut);
    }

    #[test]
    fn a_trial_that_fails_shuts_the_way_again() {
        let mut scene = Scene::new();
        scene.look_after(1, Some(false));
        assert_eq!(scene.look_after(1, Some(true)), Way::Trial);
        scene.health.note_failed();
        assert_eq!(scene.look_after(1, Some(true)), Way::Shut);
    }

    #[test]
    fn an_acknowledgement_that_comes_late_opens_a_shut_way() {
        let mut scene = Scene::new();
        scene.look_after(1, Some(false));
        scene.health.note_acknowledged();
        assert!(scene.health.may_send());
        assert_eq!(scene.look_after(1, None), Way::Open);
    }
}
