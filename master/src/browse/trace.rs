//! Where a message went: from its partition and offset to the worker, and to the file in the lake.

use chrono::DateTime;
use millrace_common::lake_key::UNPLACED;
use millrace_common::types::{PipelineDefinition, SlotId};
use millrace_master_core::ClusterView;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::messages::{From, Message, Wanted};
use super::{Browse, Known, messages};
use crate::pipelines::Refusal;

/// A message, and what became of it in each pipeline that reads its topic.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Traced {
    pub(crate) topic: String,
    pub(crate) kafka: String,
    pub(crate) message: Message,
    pub(crate) went: Vec<Went>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Went {
    pub(crate) pipeline: String,
    pub(crate) slot: String,
    /// Who works on the partition now.
    pub(crate) worker: Option<String>,
    /// The topic sink has passed it: it is on the enriched topic, unless it was set aside, repeated or filtered.
    pub(crate) is_past_topic: Option<bool>,
    /// The same of the lake.
    pub(crate) is_past_lake: Option<bool>,
    /// The file of its flush on its day; `None` while it is not in the lake, or has no row there.
    pub(crate) file: Option<String>,
    /// In words.
    pub(crate) told: String,
}

/// The message at one offset.
pub(crate) async fn message(
    browse: &Browse,
    known: &Known,
    view: &ClusterView,
    wanted: Wanted,
) -> Result<Traced, Refusal> {
    let From::Offset(offset) = wanted.from else {
        return Err(Refusal::Usage("one message is named by its offset".into()));
    };
    let read = messages::read(browse, known, Wanted { limit: 1, ..wanted }).await?;
    let found = read.messages.into_iter().next().filter(|message| message.offset == offset).ok_or_else(|| {
        Refusal::Unknown(format!(
            "{}/{} has no message at offset {offset}: it holds {} to {}; a transaction's marker or an aborted record may lie there",
            read.topic, read.partition, read.first, read.end
        ))
    })?;
    let mut went = Vec::new();
    for (number, pipeline) in known.readers(&read.kafka, &read.topic) {
        went.push(whereabouts(browse, view, pipeline, number, &found).await?);
    }
    Ok(Traced { topic: read.topic, kafka: read.kafka, message: found, went })
}

async fn whereabouts(
    browse: &Browse,
    view: &ClusterView,
    pipeline: &PipelineDefinition,
    number: usize,
    message: &Message,
) -> Result<Went, Refusal> {
    let topic = u16::try_from(number).unwrap_or(u16::MAX);
    let slot = SlotId { pipeline: pipeline.id.clone(), topic, partition: message.partition };
    let known = view.slots.iter().find(|known| known.slot == slot);
    let report = known.and_then(|known| known.report.as_ref().or(known.last_report.as_ref()));
    let is_past =
        |cursor: Option<millrace_common::types::NextOffset>| cursor.map(|next| message.offset < next.0);
    let is_past_topic = report.and_then(|report| is_past(report.metrics.topic_cursor));
    let is_past_lake = report.and_then(|report| is_past(report.metrics.lake_cursor));
    let mut file = None;
    if pipeline.lake.is_some() && is_past_lake != Some(false) {
        let partition = u64::try_from(message.partition).unwrap_or(0);
        for folder in folders(message) {
            file = browse.holder(pipeline, &folder, (number as u64, partition), message.offset).await?;
            if file.is_some() {
                break;
            }
        }
    }
    let worker = known.and_then(|known| known.owner.as_ref()).map(ToString::to_string);
    let told = match (&file, is_past_lake, &worker) {
        (Some(_), ..) => {
            "its flush is in the lake; without a row there it was set aside, repeated or filtered".to_owned()
        }
        (None, Some(true), _) => {
            "the lake has passed it, and no file of its day covers it: it was set aside, repeated or filtered"
                .to_owned()
        }
        (None, Some(false), Some(worker)) => format!("{worker} has it still before it, or in an open file"),
        (None, Some(false), None) => "nobody works on its partition: it waits".to_owned(),
        (None, None, _) => "it is not known how far the lake is".to_owned(),
    };
    Ok(Went {
        pipeline: pipeline.id.to_string(),
        slot: slot.to_string(),
        worker,
        is_past_topic,
        is_past_lake,
        file,
        told,
    })
}

/// The day folders in which its row may be: that of the event's own time, that of its receipt, and the one for times
/// that can't be trusted.
fn folders(message: &Message) -> Vec<String> {
    let event = message.value.as_ref().and_then(|value| serde_json::from_str::<Value>(&value.text).ok());
    let told = event.as_ref().and_then(|event| event.pointer("/event/timestamp")?.as_str());
    let own = told.and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|at| at.to_utc());
    let received = message.at_ms.and_then(DateTime::from_timestamp_millis);
    let mut folders: Vec<String> =
        own.into_iter().chain(received).map(|at| at.format("year=%Y/month=%m/day=%d").to_string()).collect();
    folders.push(format!("year={UNPLACED}/month={UNPLACED}/day={UNPLACED}"));
    folders.dedup();
    folders
}
