//! What a heartbeat holds: the reports that changed since the one before, and a digest of all that runs. A slot without
//! news costs nothing; when the digest is not what the master expects, it asks for everything.

use std::collections::BTreeMap;

use millrace_common::types::{Digest, SlotId, SlotReport};

/// What this session's master was told of each slot.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<SlotId, SlotReport>);

impl Told {
    /// Of all `reports` those that are news, and the digest of all.
    pub(crate) fn news(&mut self, reports: Vec<SlotReport>) -> (Vec<SlotReport>, Digest) {
        let digest = reports.iter().map(|report| (&report.slot, report.epoch)).collect();
        let mut told = BTreeMap::new();
        let mut news = Vec::new();
        for report in reports {
            if self.0.get(&report.slot) != Some(&report) {
                news.push(report.clone());
            }
            told.insert(report.slot.clone(), report);
        }
        // Slots that ended are not missed by anybody: they stopped with a word of their own, or the digest tells.
        self.0 = told;
        (news, digest)
    }

    /// The next heartbeat holds everything.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::types::{Epoch, SlotMetrics, SlotPhase};

    use super::*;

    fn report(partition: i32, epoch: u64, rows: u64) -> SlotReport {
        SlotReport {
            slot: format!("p-1/0-{partition}").parse().expect("slot"),
            epoch: Epoch(epoch),
            phase: SlotPhase::Running,
            metrics: SlotMetrics { buffered_rows: rows, ..SlotMetrics::default() },
        }
    }

    #[test]
    fn only_news_is_told_until_everything_is_asked_for() {
        let mut told = Told::default();
        let all = vec![report(1, 1, 0), report(2, 1, 0)];
        let (news, digest) = told.news(all.clone());
        assert_eq!(news, all);
        assert_eq!(told.news(all), (vec![], digest));
        let changed = vec![report(1, 1, 0), report(2, 1, 5)];
        assert_eq!(told.news(changed.clone()), (vec![report(2, 1, 5)], digest));
        told.forget();
        assert_eq!(told.news(changed.clone()), (changed, digest));
        // Another epoch is another slot's run.
        let (news, other) = told.news(vec![report(2, 2, 5)]);
        assert_eq!(news, [report(2, 2, 5)]);
        assert_ne!(other, digest);
        // It ran here before, and comes back.
        assert_eq!(told.news(vec![report(1, 1, 0), report(2, 2, 5)]).0, [report(1, 1, 0)]);
    }
}
