//! Recomputes which of a slot's records are client duplicates. Pure.

use std::collections::BTreeMap;

use millrace_common::record::WindowBounds;
use millrace_common::types::{DEFAULT_DUPLICATE_WINDOW, NextOffset};
use millrace_common::window::Window;

use crate::account::Duplicate;

/// Judges a slot's records in the order of their offsets.
pub(super) struct Duplicates {
    /// By the rule that stands in the slot's record.
    window: Window,
    /// By the widest rule that may have held when it was judged.
    widest: Window,
    /// Offsets below may have been judged by that one.
    rule_changed_at: NextOffset,
}

impl Duplicates {
    /// `size`: that of the pipeline's definition; `low`: the first offset that the raw topic holds; `gone`: offsets and
    /// keys of records below it, as the sinks still have them.
    pub(super) fn new(bounds: WindowBounds, size: u64, low: i64, gone: Vec<(i64, u128)>) -> Self {
        // A floor above what is held is the pipeline's start, or where another rule began to hold. One below has risen
        // with what is held, so the same rule may have looked back further, to what is gone now.
        let window_size = i64::try_from(bounds.size).unwrap_or(i64::MAX);
        let (widest, rule_changed_at) = match bounds.floor.0 > low {
            true => (bounds.size.max(size).max(DEFAULT_DUPLICATE_WINDOW), bounds.floor),
            false => (bounds.size, NextOffset(low.saturating_add(window_size))),
        };
        let mut duplicates = Self {
            window: Window::new(bounds),
            widest: Window::new(WindowBounds { size: widest, floor: NextOffset(0) }),
            rule_changed_at,
        };
        for (offset, key) in gone.into_iter().collect::<BTreeMap<_, _>>() {
            duplicates.judge(offset, Some(key));
        }
        duplicates
    }

    /// `key`: the hash of the record's key.
    pub(super) fn judge(&mut self, offset: i64, key: Option<u128>) -> Duplicate {
        let is_duplicate = self.window.is_duplicate_hash(offset, key);
        let may_be = offset < self.rule_changed_at.0 && self.widest.is_duplicate_hash(offset, key);
        match (is_duplicate, may_be) {
            (true, _) => Duplicate::Yes,
            (false, true) => Duplicate::Perhaps,
            (false, false) => Duplicate::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: i64 = 100;

    fn judged(floor: i64, size: u64, gone: &[(i64, u128)], log: &[(i64, u128)]) -> Vec<Duplicate> {
        let bounds = WindowBounds { size, floor: NextOffset(floor) };
        let mut duplicates = Duplicates::new(bounds, size, LOW, gone.to_vec());
        log.iter().map(|(offset, key)| duplicates.judge(*offset, Some(*key))).collect()
    }

    #[test]
    fn a_key_that_the_window_holds_is_a_duplicate_and_no_other() {
        use Duplicate::{No, Yes};
        let log = [(100, 1), (105, 2), (110, 1), (120, 1), (131, 1), (140, 2)];
        assert_eq!(judged(0, 10, &[], &log), [No, No, Yes, Yes, No, No]);
        assert_eq!(judged(0, 0, &[], &log), [No; 6]);
    }

    #[test]
    fn what_is_gone_is_remembered_by_what_the_sinks_have_of_it() {
        use Duplicate::{No, Perhaps, Yes};
        let log = [(101, 1), (102, 2), (103, 3)];
        assert_eq!(judged(90, 10, &[(96, 1), (95, 2)], &log), [Yes, Yes, No]);
        // The floor has risen since the record was judged.
        assert_eq!(judged(98, 10, &[(96, 1), (95, 2), (99, 3)], &log), [Perhaps, Perhaps, Yes]);
    }

    #[test]
    fn before_another_rule_began_to_hold_nobody_knows() {
        use Duplicate::{No, Perhaps, Yes};
        let log = [(100, 1), (105, 1), (110, 1), (112, 1)];
        assert_eq!(judged(108, 10, &[], &log), [No, Perhaps, No, Yes]);
    }
}
