//! What becomes of the events of a request, and which of them are sent again. Pure.
//!
//! An event is sent again, with the same `package_id`, when the collector said `retry`, refused the request for now,
//! or gave no answer. After a `retry` and after no answer it may be there already: it is in doubt, and a further
//! send may make a client duplicate.

use super::answer::{Heard, Verdict};
use super::source::Batch;

/// The last word on an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// In the raw topic.
    Ok,
    /// In the invalid topic.
    Invalid { code: String },
    /// Nowhere, as its sender wished.
    NotStored,
    /// Nowhere: the collector did not take it.
    Refused,
    /// Nowhere: it was never sent.
    NotSent,
    /// Nobody said: it may be there or not.
    Unknown,
}

/// The fates of the events of `batch` after `heard`, `None` for those that are to be sent again, of which there are
/// none unless `may_send_again`. Notes in `batch` which events are in doubt.
pub(super) fn judge(batch: &mut Batch, heard: &Heard, may_send_again: bool) -> Vec<Option<Fate>> {
    match heard {
        Heard::Verdicts { verdicts, .. } => {
            let events = batch.events.iter_mut().zip(verdicts);
            events
                .map(|(sent, verdict)| match verdict {
                    Verdict::Ok => Some(Fate::Ok),
                    Verdict::Invalid { code } => Some(Fate::Invalid { code: code.clone() }),
                    Verdict::NotStored => Some(Fate::NotStored),
                    Verdict::Retry => {
                        sent.doubts += 1;
                        (!may_send_again).then_some(Fate::Unknown)
                    }
                })
                .collect()
        }
        Heard::Nothing(_) => {
            for sent in &mut batch.events {
                sent.doubts += 1;
            }
            all(batch, may_send_again, &Fate::Unknown)
        }
        Heard::Refused { wait, .. } => all(batch, may_send_again && wait.is_some(), &Fate::Refused),
        Heard::NotSent(_) => all(batch, may_send_again, &Fate::NotSent),
    }
}

/// The same fate for all events that are not in doubt from before.
fn all(batch: &Batch, may_send_again: bool, fate: &Fate) -> Vec<Option<Fate>> {
    let of = |doubts: u32| if doubts > 0 { Fate::Unknown } else { fate.clone() };
    batch.events.iter().map(|sent| (!may_send_again).then(|| of(sent.doubts))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::source::Sent;
    use std::time::Duration;

    fn batch(doubts: &[u32]) -> Batch {
        let sent = |doubts: &u32| Sent { doubts: *doubts, ..Sent::default() };
        Batch { events: doubts.iter().map(sent).collect(), ..Batch::default() }
    }

    fn refused(wait: Option<Duration>) -> Heard {
        Heard::Refused { reason: String::new(), wait }
    }

    #[test]
    fn only_what_is_not_settled_is_sent_again() {
        let invalid = Verdict::Invalid { code: "empty".into() };
        let verdicts = vec![Verdict::Ok, invalid, Verdict::Retry, Verdict::NotStored];
        let heard = Heard::Verdicts { verdicts, wait: None };
        let settled = [Some(Fate::Ok), Some(Fate::Invalid { code: "empty".into() })];
        let mut first = batch(&[0; 4]);
        let fates = judge(&mut first, &heard, true);
        assert_eq!(fates, [&settled[..], &[None, Some(Fate::NotStored)]].concat());
        assert_eq!(first.events[2].doubts, 1);
        let fates = judge(&mut batch(&[0; 4]), &heard, false);
        assert_eq!(fates, [&settled[..], &[Some(Fate::Unknown), Some(Fate::NotStored)]].concat());
    }

    #[test]
    fn what_may_be_there_is_never_called_absent() {
        let gone = || Heard::NotSent(String::new());
        for (heard, expected) in [
            (Heard::Nothing(String::new()), [Fate::Unknown, Fate::Unknown]),
            (refused(None), [Fate::Refused, Fate::Unknown]),
            (refused(Some(Duration::ZERO)), [Fate::Refused, Fate::Unknown]),
            (gone(), [Fate::NotSent, Fate::Unknown]),
        ] {
            assert_eq!(judge(&mut batch(&[0, 2]), &heard, false), expected.map(Some), "{heard:?}");
        }
        assert_eq!(judge(&mut batch(&[0, 2]), &gone(), true), [None, None]);
        assert_eq!(judge(&mut batch(&[0]), &refused(Some(Duration::ZERO)), true), [None]);
        assert_eq!(judge(&mut batch(&[0]), &refused(None), true), [Some(Fate::Refused)]);
    }
}
