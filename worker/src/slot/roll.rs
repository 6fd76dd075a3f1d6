//! When a slot closes its files and commits. Pure: time is an argument.

use millrace_common::types::{Millis, RollPolicy};

/// What the slot holds that the lake does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pending {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// When the first record since the last flush was read; `None` when none was.
    pub(crate) oldest_at: Option<Millis>,
    /// When the last one was.
    pub(crate) newest_at: Option<Millis>,
}

/// Why a flush is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RollReason {
    Bytes,
    Rows,
    Age,
    Idle,
}

/// The reason to flush at `now`, if there is one.
pub(crate) fn due(policy: &RollPolicy, pending: &Pending, now: Millis) -> Option<RollReason> {
    let (oldest, newest) = (pending.oldest_at?, pending.newest_at?);
    if pending.bytes >= policy.max_bytes {
        Some(RollReason::Bytes)
    } else if pending.rows >= policy.max_rows {
        Some(RollReason::Rows)
    } else if now.since(oldest).0 >= policy.max_age_ms {
        Some(RollReason::Age)
    } else if now.since(newest).0 >= policy.max_idle_ms {
        Some(RollReason::Idle)
    } else {
        None
    }
}

/// When [`due`] may next change by time alone; `None` when nothing is pending.
pub(crate) fn next_check(policy: &RollPolicy, pending: &Pending) -> Option<Millis> {
    let by_age = pending.oldest_at?.plus(Millis(policy.max_age_ms));
    let by_idle = pending.newest_at?.plus(Millis(policy.max_idle_ms));
    Some(by_age.min(by_idle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RollPolicy =
        RollPolicy { max_bytes: 1000, max_rows: 100, max_age_ms: 10_000, max_idle_ms: 3_000 };

    fn pending(rows: u64, bytes: u64, oldest: u64, newest: u64) -> Pending {
        Pending { rows, bytes, oldest_at: Some(Millis(oldest)), newest_at: Some(Millis(newest)) }
    }

    #[test]
    fn each_limit_rolls_by_itself() {
        assert_eq!(due(&POLICY, &pending(1, 1000, 0, 0), Millis(1)), Some(RollReason::Bytes));
        assert_eq!(due(&POLICY, &pending(100, 1, 0, 0), Millis(1)), Some(RollReason::Rows));
        assert_eq!(due(&POLICY, &pending(1, 1, 0, 9_999), Millis(10_000)), Some(RollReason::Age));
        assert_eq!(due(&POLICY, &pending(1, 1, 0, 0), Millis(3_000)), Some(RollReason::Idle));
        assert_eq!(due(&POLICY, &pending(1, 1, 0, 100), Millis(3_000)), None);
    }

    #[test]
    fn nothing_pending_never_rolls() {
        assert_eq!(due(&POLICY, &Pending::default(), Millis(u64::MAX)), None);
        assert_eq!(next_check(&POLICY, &Pending::default()), None);
    }

    proptest! {
        #[test]
        fn a_slot_that_waits_until_the_next_check_is_due_then_and_not_before(oldest in 0..100_000u64, gap in 0..20_000u64) {
            let pending = pending(1, 1, oldest, oldest + gap);
            let check = next_check(&POLICY, &pending).expect("pending");
            prop_assert!(due(&POLICY, &pending, check).is_some());
            prop_assert!(check.0 == 0 || due(&POLICY, &pending, Millis(check.0 - 1)).is_none());
        }
    }
}
