//! Where slots stand that no worker reports: their committed cursor and their topic's end, asked of Kafka now and then,
//! so that the page shows what waits while nobody works. For people only; nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::kafka::client_config;
use millrace_common::record::CommittedRecord;
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{NextOffset, PipelineDefinition, SlotId};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, warn};

use crate::handle::Handle;

const EVERY: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Deadline of one question to Kafka.
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offsets {
    /// Of the slot's record; `None` if it has none, or without such a sink.
    pub(crate) topic_cursor: Option<NextOffset>,
    pub(crate) lake_cursor: Option<NextOffset>,
    pub(crate) end: NextOffset,
    /// Records between the slower cursor (or the topic's beginning) and the end.
    pub(crate) lag: u64,
}

/// The answers of the last poll. Cheap to clone; all clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnownedOffsets(Arc<Mutex<BTreeMap<SlotId, Offsets>>>);

impl UnownedOffsets {
    pub(crate) fn get(&self, slot: &SlotId) -> Option<Offsets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(slot).copied()
    }

    fn replace(&self, offsets: BTreeMap<SlotId, Offsets>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = offsets;
    }
}

/// Polls until the shutdown begins.
pub(crate) async fn poll(handle: Handle, offsets: UnownedOffsets, shutdown: Shutdown) {
    let mut backoff = Backoff::new(EVERY, LONGEST_WAIT);
    let mut wait = EVERY;
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let Ok(look) = handle.look().await else { continue };
        let mut found = BTreeMap::new();
        let mut failed = None;
        for view in look.view.pipelines {
            let pipeline = view.definition;
            let slots: Vec<(SlotId, String)> = look
                .view
                .slots
                .iter()
                .filter(|slot| slot.report.is_none() && slot.slot.pipeline == pipeline.id)
                .map(|slot| (slot.slot.clone(), slot.topic.clone()))
                .collect();
            if slots.is_empty() {
                continue;
            }
            let asked = tokio::task::spawn_blocking(move || ask(&pipeline, &slots)).await;
            match asked.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic())) {
                Ok(answers) => found.extend(answers),
                Err(error) => failed = Some(error),
            }
        }
        offsets.replace(found);
        wait = match failed {
            None => {
                backoff.reset();
                EVERY
            }
            Some(error) => {
                let wait = backoff.next_wait();
                if backoff.tries() == 1 {
                    warn!(%error, "Kafka does not tell where slots without owner stand, asking again");
                } else {
                    debug!(%error, tries = backoff.tries(), "Kafka still does not tell");
                }
                wait
            }
        };
    }
}

/// Blocking.
fn ask(
    pipeline: &PipelineDefinition,
    slots: &[(SlotId, String)],
) -> Result<BTreeMap<SlotId, Offsets>, KafkaError> {
    let consumer: BaseConsumer = client_config(&pipeline.bootstrap_servers, "master")
        .set("group.id", pipeline.group_id())
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut wanted = TopicPartitionList::with_capacity(slots.len());
    for (slot, topic) in slots {
        wanted.add_partition(topic, slot.partition);
    }
    let committed = consumer.committed_offsets(wanted, DEADLINE)?;
    let mut answers = BTreeMap::new();
    for (slot, topic) in slots {
        let found = committed.find_partition(topic, slot.partition);
        let record = found.and_then(|found| match found.offset() {
            Offset::Offset(offset) => CommittedRecord::parse(offset, found.metadata().as_bytes()).ok(),
            _ => None,
        });
        let topic_cursor = record.as_ref().map(|record| record.topic_cursor);
        let lake_cursor = record.as_ref().map(|record| record.lake_cursor);
        let (first, end) = consumer.fetch_watermarks(topic, slot.partition, DEADLINE)?;
        let behind = end - lake_cursor.map_or(first, |next| next.0);
        let offsets = Offsets {
            topic_cursor: topic_cursor.filter(|_| pipeline.enriched_topic.is_some()),
            lake_cursor: lake_cursor.filter(|_| pipeline.lake.is_some()),
            end: NextOffset(end),
            lag: u64::try_from(behind).unwrap_or(0),
        };
        answers.insert(slot.clone(), offsets);
    }
    Ok(answers)
}
