//! The sums of the accounting, of a slot or of all.

use serde::{Deserialize, Serialize};

/// Where the records are. `raw_records` is the sum of `in_lake`, `quarantined`, `client_duplicates`, `filtered`,
/// `in_flight` and `missing`; for a pipeline without lake `on_topic` stands for `in_lake`. Where there is a topic beside
/// the lake, it is also the sum of `on_topic`, `quarantined`, `client_duplicates`, `filtered`, `topic_in_flight`,
/// `topic_missing` and `topic_gone`, if what both sinks share is at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// Records that the raw topic holds, from the pipeline's start up to the end that was taken at the check's start.
    pub raw_records: u64,
    /// Zero for a pipeline without lake.
    pub in_lake: u64,
    /// Zero for a pipeline without topic sink.
    pub on_topic: u64,
    pub quarantined: u64,
    pub client_duplicates: u64,
    pub filtered: u64,
    /// At or beyond the cursor and nowhere yet.
    pub in_flight: u64,
    pub missing: u64,
    /// Copies beyond the first, in lake and quarantine.
    pub duplicates: u64,
    pub altered: u64,
    pub unexplained: u64,
    /// Rows at or beyond the lake cursor, and quarantined records at or beyond the cursor that they were committed with.
    pub uncommitted: u64,
    /// All rows that were read, also those of records that are gone or came after the end.
    pub lake_rows: u64,
    /// The same of the enriched topic.
    pub topic_records: u64,
    /// The enriched topic's own, where there is a lake beside it.
    pub topic_in_flight: u64,
    pub topic_missing: u64,
    pub topic_duplicates: u64,
    pub topic_altered: u64,
    pub topic_unexplained: u64,
    pub topic_uncommitted: u64,
    /// Records that the enriched topic's retention took.
    pub topic_gone: u64,
    /// Rows and enriched records of which the client's part is right, and what was found out is not what this version
    /// finds. Looked for only when that was asked.
    pub derived_altered: u64,
    /// Of the rows, in hive's default partition.
    pub unplaced: u64,
    /// Raw records from before the pipeline's start: part of no class.
    pub before_start: u64,
    /// Rows and quarantined records whose raw record is gone by retention: proven by the files' ranges only.
    pub proven_by_ranges_only: u64,
    /// Offsets that are gone from the raw topic and lie between the files' ranges: nothing proves them.
    pub unproven: u64,
}

impl Account {
    /// Adds the account of the enriched topic; where it is the only sink, the whole account is its.
    pub fn add_topic(&mut self, topic: &Self, is_only_sink: bool) {
        if is_only_sink {
            self.add(topic);
            return;
        }
        self.on_topic += topic.on_topic;
        self.topic_records += topic.topic_records;
        self.topic_in_flight += topic.in_flight;
        self.topic_missing += topic.missing;
        self.topic_duplicates += topic.duplicates;
        self.topic_altered += topic.altered;
        self.topic_unexplained += topic.unexplained;
        self.topic_uncommitted += topic.uncommitted;
        self.topic_gone += topic.topic_gone;
        self.derived_altered += topic.derived_altered;
    }

    pub fn add(&mut self, other: &Self) {
        self.raw_records += other.raw_records;
        self.in_lake += other.in_lake;
        self.on_topic += other.on_topic;
        self.quarantined += other.quarantined;
        self.client_duplicates += other.client_duplicates;
        self.filtered += other.filtered;
        self.in_flight += other.in_flight;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.altered += other.altered;
        self.unexplained += other.unexplained;
        self.uncommitted += other.uncommitted;
        self.lake_rows += other.lake_rows;
        self.topic_records += other.topic_records;
        self.topic_in_flight += other.topic_in_flight;
        self.topic_missing += other.topic_missing;
        self.topic_duplicates += other.topic_duplicates;
        self.topic_altered += other.topic_altered;
        self.topic_unexplained += other.topic_unexplained;
        self.topic_uncommitted += other.topic_uncommitted;
        self.topic_gone += other.topic_gone;
        self.derived_altered += other.derived_altered;
        self.unplaced += other.unplaced;
        self.before_start += other.before_start;
        self.proven_by_ranges_only += other.proven_by_ranges_only;
        self.unproven += other.unproven;
    }
}
