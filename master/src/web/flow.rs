//! The way of the records, from what was received to the sinks, and the ledger that says where each of them is. Made of
//! the slots' own reports: nobody is asked, and nothing is estimated that is called a ledger.

use schemars::JsonSchema;
use serde::Serialize;

use super::model::{Cluster, Slot};

/// How much of a new rate goes into the shown one at each look.
const SHARE: f64 = 0.25;

/// All pipelines together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Flow {
    /// Valid records, and those that were refused at the door: those of the invalid topics that no worker set aside.
    /// `None` until the invalid topics were looked at twice.
    pub(crate) received_per_second: Option<f64>,
    /// Offsets that the invalid topics have had since they began, with the markers of workers' transactions.
    pub(crate) invalid_offsets: Option<u64>,
    pub(crate) invalid_per_second: Option<f64>,
    /// The raw topics, the enriched topics, the lakes.
    pub(crate) stages: Vec<Stage>,
    pub(crate) ledger: Ledger,
}

/// One stage of the way from the raw topic to a sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Stage {
    /// raw, enriched or lake.
    pub(crate) stage: &'static str,
    /// Offsets that it has passed since the topics began.
    pub(crate) passed: u64,
    pub(crate) records_per_second: f64,
    /// Records of the raw topics that it does not hold yet.
    pub(crate) behind: u64,
    /// How long ago the slowest slot that has something to do last committed.
    pub(crate) oldest_commit_age_ms: Option<u64>,
    /// How old, by Kafka's timestamps, 99 of 100 records at most were when the stage held them: of the slowest
    /// partition, in the minute before its last commit. None of the raw topics.
    pub(crate) freshness_p99_ms: Option<u64>,
}

/// What the present owners of the running slots committed, each since it opened its slot: `passed` is the sum of what
/// stands below it. Slots without an enriched topic are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Ledger {
    /// Offsets of the raw topics that the topic sinks passed.
    pub(crate) passed: u64,
    pub(crate) enriched: u64,
    pub(crate) quarantined: u64,
    pub(crate) client_duplicates: u64,
    pub(crate) filtered: u64,
    /// Offsets that are no records: markers of the transactions of whoever wrote the raw topic, or holes in it. Negative:
    /// something was counted twice.
    pub(crate) no_records: i64,
    /// Offsets of the raw topics that the topic sinks have not passed yet.
    pub(crate) in_flight: u64,
    /// Rows that the same owners committed to the lakes; their lakes may have begun before their topics.
    pub(crate) lake_rows: u64,
    /// Rows in open files.
    pub(crate) buffered_rows: u64,
}

/// How far the raw partition, the topic sink and the lake are.
pub(super) fn marks(slot: &Slot) -> [Option<i64>; 3] {
    [slot.end, slot.topic_cursor, slot.lake_cursor]
}

/// A rate that is shown, when `now` was measured.
pub(super) fn mix(shown: f64, now: f64) -> f64 {
    shown.mul_add(1.0 - SHARE, now * SHARE)
}

/// The stages with these rates.
pub(super) fn stages(cluster: &Cluster, rates: &[f64]) -> Vec<Stage> {
    let mut stages = ["raw", "enriched", "lake"].map(|stage| Stage { stage, ..Stage::default() });
    for slot in &cluster.slots {
        let [end, ..] = marks(slot);
        for (stage, mark) in stages.iter_mut().zip(marks(slot)) {
            stage.passed += mark.and_then(|mark| u64::try_from(mark).ok()).unwrap_or(0);
            let behind = end.zip(mark).map_or(0, |(end, mark)| u64::try_from(end - mark).unwrap_or(0));
            stage.behind += behind;
            if behind > 0 {
                let age = slot.last_commit_at_ms.map(|at| cluster.at_ms.saturating_sub(at));
                stage.oldest_commit_age_ms = stage.oldest_commit_age_ms.max(age);
            }
        }
        let freshness = [None, slot.topic_freshness_ms, slot.lake_freshness_ms];
        for (stage, freshness) in stages.iter_mut().zip(freshness) {
            stage.freshness_p99_ms = stage.freshness_p99_ms.max(freshness);
        }
    }
    for (stage, rate) in stages.iter_mut().zip(rates) {
        stage.records_per_second = *rate;
    }
    stages.into()
}

/// Each slot's figures are of one moment, so the sum is exact however the slots' moments differ.
pub(super) fn ledger(cluster: &Cluster) -> Ledger {
    let mut ledger = Ledger::default();
    for slot in &cluster.slots {
        let (Some(from), Some(to)) = (slot.topic_from, slot.topic_cursor) else { continue };
        let passed = u64::try_from(to - from).unwrap_or(0);
        let found =
            slot.records_enriched + slot.records_quarantined + slot.client_duplicates + slot.records_filtered;
        ledger.passed += passed;
        ledger.enriched += slot.records_enriched;
        ledger.quarantined += slot.records_quarantined;
        ledger.client_duplicates += slot.client_duplicates;
        ledger.filtered += slot.records_filtered;
        ledger.no_records +=
            i64::try_from(passed).unwrap_or(i64::MAX) - i64::try_from(found).unwrap_or(i64::MAX);
        ledger.in_flight += slot.end.map_or(0, |end| u64::try_from(end - to).unwrap_or(0));
        ledger.lake_rows += slot.rows_committed;
        ledger.buffered_rows += slot.buffered_rows;
    }
    ledger
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::example;

    #[test]
    fn every_offset_that_was_passed_is_found_again() {
        let mut cluster = example::cluster();
        cluster.slots.truncate(1);
        let slot = &mut cluster.slots[0];
        (slot.topic_from, slot.topic_cursor, slot.end) = (Some(100), Some(150), Some(160));
        (slot.records_enriched, slot.records_quarantined) = (40, 3);
        (slot.client_duplicates, slot.records_filtered) = (5, 2);
        let told = ledger(&cluster);
        assert_eq!((told.passed, told.no_records, told.in_flight), (50, 0, 10));
        cluster.slots[0].records_enriched = 42;
        assert_eq!(ledger(&cluster).no_records, -2, "two were counted twice");
        cluster.slots[0].topic_from = None;
        assert_eq!(ledger(&cluster), Ledger::default(), "its owner has said nothing");
    }

    #[test]
    fn a_stage_is_as_fresh_as_its_slowest_partition() {
        let mut cluster = example::cluster();
        (cluster.slots[0].topic_freshness_ms, cluster.slots[1].topic_freshness_ms) = (Some(120), Some(40));
        cluster.slots[1].lake_freshness_ms = Some(9_000);
        let fresh: Vec<_> = stages(&cluster, &[]).iter().map(|stage| stage.freshness_p99_ms).collect();
        assert_eq!(fresh, [None, Some(120), Some(9_000)]);
    }
}
