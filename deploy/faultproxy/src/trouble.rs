//! What can be done to connections, to whose, and what came of it. Pure but for the counters.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Whose connections are troubled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Everybody,
    /// Those of the process with this id, on this machine.
    Process(u32),
}

/// Directions, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Requests,
    Answers,
    Both,
}

impl Way {
    pub(crate) fn includes(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

/// Which answers are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Those of at least so many bytes: smaller ones are pings and acknowledgements.
    OfBytes(usize),
    /// Those to Kafka's requests of this API key.
    ToKafka(i16),
}

/// What is done to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing gets through. What waits is delivered when the trouble ends: as TCP does after a cable is plugged in again.
    Cut(Way),
    /// Everything comes later by this.
    Delay(Duration),
    /// So many bytes a second each way on each connection.
    Bandwidth(u64),
    /// The request goes through, its answer is dropped, and the connection is reset; so many times.
    LoseAnswers { which: Answers, times: u32 },
    /// The client's connection is reset, and Kafka gets the request of this API key later by `by`; so many times.
    LateRequests { api_key: i16, by: Duration, times: u32 },
    /// New connections are reset at once.
    Refuse,
}

/// A trouble that has begun. It ends when it is handed to [`crate::Proxy::end`].
#[derive(Debug)]
pub struct Active {
    pub(crate) whom: Whom,
    pub(crate) trouble: Trouble,
    /// How often it may still strike, where that is counted.
    left: AtomicU32,
    bites: AtomicU64,
}

impl Active {
    pub(crate) fn new(whom: Whom, trouble: Trouble) -> Self {
        let left = match trouble {
            Trouble::LoseAnswers { times, .. } | Trouble::LateRequests { times, .. } => times,
            _ => u32::MAX,
        };
        Self { whom, trouble, left: AtomicU32::new(left), bites: AtomicU64::new(0) }
    }

    /// How often it did something: pieces held, delayed or slowed, answers lost, late requests that were answered,
    /// connections refused.
    pub fn bites(&self) -> u64 {
        self.bites.load(Ordering::SeqCst)
    }

    pub(crate) fn bite(&self) {
        self.bites.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one of the times that are left.
    pub(crate) fn take(&self) -> bool {
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_strikes_so_often_and_no_more() {
        let lost = Trouble::LoseAnswers { which: Answers::OfBytes(1), times: 2 };
        let active = Active::new(Whom::Everybody, lost);
        assert_eq!([active.take(), active.take(), active.take()], [true, true, false]);
        assert_eq!(active.bites(), 0);
    }
}
