//! Which master is asked next: those of the list in turn, the one that a standby names before them, and for a while
//! none that has just gone silent.
//!
//! A frozen master, or one on a host that is cut off, takes connections and answers nothing, and its fellows name it as
//! the leader until its lease ends: to wait for it twice would take longer than the next leader waits for this worker.
//! It knows no clock and connects to nobody.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How long a silent master is left alone: the next leader is there by then.
const LEFT_ALONE: Duration = Duration::from_secs(4);

/// The masters of `--master`, and what is known of them.
#[derive(Debug)]
pub(crate) struct Masters {
    /// The next one first; not empty.
    listed: VecDeque<String>,
    named: Option<String>,
    /// Until when each is left alone.
    silent: BTreeMap<String, Instant>,
}

impl Masters {
    /// `None` for an empty list.
    pub(crate) fn new(listed: &[String]) -> Option<Self> {
        (!listed.is_empty()).then(|| Self {
            listed: listed.iter().cloned().collect(),
            named: None,
            silent: BTreeMap::new(),
        })
    }

    /// The `host:port` to ask at `now`, and whether a standby named it.
    pub(crate) fn next(&mut self, now: Instant) -> (String, bool) {
        if let Some(named) = self.named.take().filter(|named| !self.is_left_alone(named, now)) {
            return (named, true);
        }
        // When all were silent, the next one all the same.
        let passed_over = self.listed.iter().position(|master| !self.is_left_alone(master, now)).unwrap_or(0);
        self.listed.rotate_left(passed_over);
        let next = self.listed[0].clone();
        self.listed.rotate_left(1);
        (next, false)
    }

    /// `master` did not answer, or stopped to.
    pub(crate) fn went_silent(&mut self, master: &str, now: Instant) {
        self.silent.retain(|_, until| now < *until);
        self.silent.insert(master.to_owned(), now + LEFT_ALONE);
    }

    /// A standby says that `leader` leads. Returns whether it is asked at once.
    pub(crate) fn was_named(&mut self, leader: String, now: Instant) -> bool {
        let is_asked = !self.is_left_alone(&leader, now);
        self.named = Some(leader).filter(|_| is_asked);
        is_asked
    }

    fn is_left_alone(&self, master: &str, now: Instant) -> bool {
        self.silent.get(master).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(listed: &[&str]) -> Masters {
        let listed: Vec<String> = listed.iter().map(|&master| master.to_owned()).collect();
        Masters::new(&listed).expect("not empty")
    }

    #[test]
    fn the_list_is_asked_in_turn_and_the_named_one_before_it() {
        let (mut masters, now) = (masters(&["a", "b", "c"]), Instant::now());
        assert_eq!(masters.next(now), ("a".into(), false));
        assert_eq!(masters.next(now), ("b".into(), false));
        assert!(masters.was_named("elsewhere".into(), now));
        assert_eq!(masters.next(now), ("elsewhere".into(), true));
        assert_eq!(masters.next(now), ("c".into(), false));
        assert_eq!(masters.next(now), ("a".into(), false));
        assert!(Masters::new(&[]).is_none());
    }

    #[test]
    fn a_silent_master_is_left_alone_though_it_is_next_and_named_until_its_fellows_know_better() {
        let (mut masters, now) = (masters(&["a", "b", "c"]), Instant::now());
        masters.went_silent("a", now);
        assert_eq!(masters.next(now), ("b".into(), false));
        assert!(!masters.was_named("a".into(), now), "b has not noticed yet");
        assert_eq!(masters.next(now), ("c".into(), false));
        assert!(masters.was_named("b".into(), now), "c has");
        assert_eq!(masters.next(now), ("b".into(), true));
        assert_eq!(masters.next(now), ("b".into(), false), "its turn is passed over");
        let later = now + LEFT_ALONE;
        assert_eq!(masters.next(later), ("c".into(), false));
        assert_eq!(masters.next(later), ("a".into(), false));
        assert!(masters.was_named("a".into(), later));
    }

    #[test]
    fn when_all_were_silent_all_are_asked_in_turn() {
        for listed in [&["a"][..], &["a", "b"]] {
            let (mut masters, now) = (masters(listed), Instant::now());
            for _ in 0..3 {
                for master in listed {
                    assert_eq!(masters.next(now), ((*master).to_owned(), false));
                    masters.went_silent(master, now);
                }
            }
        }
    }
}
