//! The core's records as keys and JSON texts of the store, and the shell's own keys: the id that was chosen for a
//! pipeline before it was admitted, so that a crash half way does not leave a lake to nobody.

use std::collections::BTreeMap;

use millrace_common::types::PipelineId;
use millrace_master_core::{RECORD_VERSION, Record, Write};
use serde::{Deserialize, Serialize};

use crate::store::{Change, Entries};

const SUBMISSION: &str = "submission/";

/// A pipeline before it is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Submission {
    pub(crate) pipeline: PipelineId,
    pub(crate) submitted_at_ms: u64,
}

/// A stored text that is not what its key says.
#[derive(Debug, thiserror::Error)]
#[error(
    "the state's entry {key} can't be read ({reason}): start the millrace that wrote it, restore the state from a copy, or start with a new --state and an empty --lake"
)]
pub struct UnreadableEntry {
    key: String,
    reason: String,
}

/// What every version of a record has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// All records of the core.
pub(crate) fn records(entries: &Entries) -> Result<Vec<Record>, UnreadableEntry> {
    let of_core = entries.iter().filter(|(key, _)| !key.starts_with(SUBMISSION));
    of_core
        .map(|(key, json)| {
            let Versioned { version } = read(key, json)?;
            if version != RECORD_VERSION {
                let reason = format!("it has version {version}, this master reads {RECORD_VERSION}");
                return Err(UnreadableEntry { key: key.clone(), reason });
            }
            let record: Record = read(key, json)?;
            if record.key().as_str() == key {
                Ok(record)
            } else {
                Err(UnreadableEntry { key: key.clone(), reason: format!("it holds {}", record.key()) })
            }
        })
        .collect()
}

/// Ids that were chosen for pipelines which are not admitted yet, by name.
pub(crate) fn submissions(entries: &Entries) -> Result<BTreeMap<String, Submission>, UnreadableEntry> {
    let reserved = entries.iter().filter_map(|(key, json)| Some((key, key.strip_prefix(SUBMISSION)?, json)));
    reserved.map(|(key, name, json)| Ok((name.to_owned(), read(key, json)?))).collect()
}

pub(crate) fn put_submission(name: &str, submission: &Submission) -> Change {
    Change { key: format!("{SUBMISSION}{name}"), value: Some(json(submission)) }
}

pub(crate) fn remove_submission(name: &str) -> Change {
    Change { key: format!("{SUBMISSION}{name}"), value: None }
}

/// The change that a write of the core makes.
pub(crate) fn change(write: &Write) -> Change {
    match write {
        Write::Put(record) => put(record),
        Write::Delete(key) => Change { key: key.to_string(), value: None },
    }
}

pub(crate) fn put(record: &Record) -> Change {
    Change { key: record.key().to_string(), value: Some(json(record)) }
}

fn read<T: serde::de::DeserializeOwned>(key: &str, json: &str) -> Result<T, UnreadableEntry> {
    serde_json::from_str(json)
        .map_err(|error| UnreadableEntry { key: key.to_owned(), reason: error.to_string() })
}

/// Records are plain fields and maps with plain keys: they always have a JSON form.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| panic!("plain fields: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_master_core::{RecordBody, SlotGroup, SlotRecord};

    fn record() -> Record {
        let group = SlotGroup { pipeline: "p-1".parse().expect("id"), topic: 0, number: 0 };
        let slots = [(3, SlotRecord { opened: true, ..Default::default() })].into();
        Record { version: RECORD_VERSION, body: RecordBody::Slots { group, slots } }
    }

    #[test]
    fn records_read_back_and_a_submission_is_none_of_them() {
        let submission_entry =
            Submission { pipeline: "clickstream-0a1b2c".parse().expect("id"), submitted_at_ms: 7 };
        let entries: Entries = [put(&record()), put_submission("clickstream", &submission_entry)]
            .into_iter()
            .map(|change| (change.key, change.value.expect("put")))
            .collect();
        assert_eq!(records(&entries).expect("readable"), [record()]);
        let found = submissions(&entries).expect("readable");
        assert_eq!(found, BTreeMap::from([("clickstream".to_owned(), submission_entry)]));
    }

    #[test]
    fn an_entry_that_is_no_record_or_another_one_is_named() {
        let older = json(&record()).replacen("\"version\":2", "\"version\":1", 1);
        for json in ["{}".to_owned(), json(&record()), older] {
            let message =
                records(&Entries::from([("slots/x".to_owned(), json)])).expect_err("bad").to_string();
            assert!(message.contains("entry slots/x"), "{message}");
        }
    }
}
