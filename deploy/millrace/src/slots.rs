//! `millrace slots`: the partitions of a pipeline, and how a halted one goes on.

use std::time::Duration;

use millrace_common::types::{Halt, SlotId};
use millrace_proto::channel::Access;
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{DescribePipelineRequest, ResumeSlotRequest, SkipLost};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::ask::{Error, Masters};
use crate::table::table;

const DEADLINE: Duration = Duration::from_secs(10);

/// What is asked of a pipeline's partitions.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Slots {
    /// Show where each partition stands, or only those that are halted.
    List(List),
    /// Let halted partitions go on: when their cause is repaired, or without what is lost.
    Resume(Resume),
}

#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  millrace slots list clicks\n  millrace slots list clicks --halted --json"
)]
pub(crate) struct List {
    /// The pipeline's name or id.
    #[arg(value_name = "NAME|ID")]
    pipeline: String,
    /// Those that wait for a person, and no others.
    #[arg(long)]
    halted: bool,
    #[command(flatten)]
    masters: Masters,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace slots resume clicks                                     every halted partition, once its cause is repaired\n  \
    millrace slots resume clicks raw.events/5                        this one\n  \
    millrace slots resume clicks raw.events/5 --skip-lost            without what is lost: it stays lost\n  \
    millrace slots resume clicks raw.events/5 --skip-lost --from 90120  its record is lost: both sinks begin at 90120\n\n\
    What each halt means, and what skipping costs, is explained in docs/delivery.md.")]
pub(crate) struct Resume {
    /// The pipeline's name or id.
    #[arg(value_name = "NAME|ID")]
    pipeline: String,
    /// A partition as `millrace slots list` shows it: TOPIC/PARTITION. All halted ones, if none is given.
    #[arg(value_name = "TOPIC/PARTITION")]
    partition: Option<String>,
    /// Go on without what is lost. It needs the partition, so that nothing is skipped by the way.
    #[arg(long, requires = "partition")]
    skip_lost: bool,
    /// The source offset at which both sinks begin again, where the record is lost or damaged.
    #[arg(long, value_name = "OFFSET", requires = "skip_lost", value_parser = clap::value_parser!(i64).range(0..))]
    from: Option<i64>,
    #[command(flatten)]
    masters: Masters,
}

/// A partition, of what `/api/v1/pipelines/ID` tells.
#[derive(Debug, Deserialize)]
struct Partition {
    #[serde(deserialize_with = "slot_id")]
    slot: SlotId,
    topic: String,
    partition: i32,
    state: String,
    owner: Option<String>,
    topic_cursor: Option<i64>,
    lake_cursor: Option<i64>,
    halt: Option<Halt>,
}

impl Partition {
    fn name(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }
}

/// Does what is asked.
pub(crate) async fn run(slots: Slots) -> Result<(), Error> {
    match slots {
        Slots::List(list) => self::list(list).await,
        Slots::Resume(resume) => self::resume(resume).await,
    }
}

async fn list(List { pipeline, halted, masters, json }: List) -> Result<(), Error> {
    let all = partitions(&masters, &pipeline).await?;
    let shown = all.into_iter().filter(|slot| !halted || !slot["halt"].is_null());
    if json {
        println!("{:#}", Value::Array(shown.collect()));
        return Ok(());
    }
    let shown: Vec<Partition> = shown.map(read).collect::<Result<_, _>>()?;
    let number = |cursor: Option<i64>| cursor.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string());
    let row = |slot: &Partition| {
        [
            slot.name(),
            slot.state.clone(),
            slot.owner.clone().unwrap_or_else(|| "nobody".into()),
            number(slot.topic_cursor),
            number(slot.lake_cursor),
            slot.halt.as_ref().map(|halt| format!("{}: {}", halt.kind, halt.detail)).unwrap_or_default(),
        ]
    };
    let header = ["PARTITION", "STATE", "OWNER", "TOPIC CURSOR", "LAKE CURSOR", "HALTED BY"];
    print!("{}", table(header, shown.iter().map(row)));
    if shown.is_empty() {
        println!("{}", if halted { "no partition is halted" } else { "no partition" });
    }
    Ok(())
}

async fn resume(Resume { pipeline, partition, skip_lost, from, masters }: Resume) -> Result<(), Error> {
    let all: Vec<Partition> =
        partitions(&masters, &pipeline).await?.into_iter().map(read).collect::<Result<_, _>>()?;
    for Resumed { slot, name, halt } in chosen(all, &pipeline, partition.as_deref())? {
        let skipped = skip_lost.then(|| SkipLost { halt: halt.kind.name().to_owned(), from });
        let request = ResumeSlotRequest { slot: Some((&slot).into()), skip_lost: skipped };
        let question = async |mut master: MasterClient<Access>| master.resume_slot(request.clone()).await;
        masters.ask(DEADLINE, question).await?;
        let how = if skip_lost { ", without what is lost" } else { "" };
        println!("{name} goes on{how}; it was halted by {}: {}", halt.kind, halt.detail);
    }
    println!("see it with: millrace slots list {pipeline}");
    Ok(())
}

struct Resumed {
    slot: SlotId,
    name: String,
    halt: Halt,
}

/// The halted partitions that are meant.
fn chosen(all: Vec<Partition>, pipeline: &str, wanted: Option<&str>) -> Result<Vec<Resumed>, Error> {
    if let Some(wanted) = wanted
        && !all.iter().any(|slot| slot.name() == wanted)
    {
        let known: Vec<String> = all.iter().take(20).map(Partition::name).collect();
        return Err(Error::Refused(format!(
            "pipeline {pipeline} has no partition {wanted:?}: expected TOPIC/PARTITION, like {}",
            known.join(", ")
        )));
    }
    let halted: Vec<Resumed> = all
        .into_iter()
        .filter(|slot| wanted.is_none_or(|wanted| slot.name() == wanted))
        .filter_map(|slot| Some(Resumed { name: slot.name(), slot: slot.slot, halt: slot.halt? }))
        .collect();
    match (halted.is_empty(), wanted) {
        (false, _) => Ok(halted),
        (true, Some(wanted)) => {
            Err(Error::Refused(format!("{wanted} is not halted: there is nothing to resume")))
        }
        (true, None) => Err(Error::Refused(format!("no partition of {pipeline} is halted"))),
    }
}

/// All of the pipeline, as the master tells them.
async fn partitions(masters: &Masters, pipeline: &str) -> Result<Vec<Value>, Error> {
    let request = DescribePipelineRequest { pipeline: pipeline.to_owned() };
    let question = async |mut master: MasterClient<Access>| master.describe_pipeline(request.clone()).await;
    let json = masters.ask(DEADLINE, question).await?.pipeline_json;
    let mut detail: Value = serde_json::from_str(&json).map_err(Error::unreadable)?;
    match detail["partitions"].take() {
        Value::Array(partitions) => Ok(partitions),
        other => Err(Error::unreadable(format!("no partitions in the answer, but {other}"))),
    }
}

/// As the API writes it: one text.
fn slot_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SlotId, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn read(slot: Value) -> Result<Partition, Error> {
    serde_json::from_value(slot).map_err(Error::unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn partition(number: i32, halt: &Value) -> Partition {
        let slot = json!({ "slot": format!("p-1/0-{number}"), "topic": "raw", "partition": number, "state": "x", "halt": halt });
        read(slot).expect("a partition")
    }

    #[test]
    fn only_halted_partitions_go_on_and_others_are_named() {
        let all = || {
            let halt = json!({ "kind": "offsets_lost", "detail": "5 to 9 are gone" });
            vec![partition(0, &Value::Null), partition(1, &halt)]
        };
        let names = |wanted| {
            chosen(all(), "p", wanted).map(|chosen| chosen.into_iter().map(|slot| slot.name).collect())
        };
        assert_eq!(names(None).expect("one"), ["raw/1".to_owned()]);
        assert_eq!(names(Some("raw/1")).expect("one"), ["raw/1".to_owned()]);
        for (wanted, expected) in [("raw/0", "is not halted"), ("raw/7", "like raw/0, raw/1")] {
            let refused: Result<Vec<String>, Error> = names(Some(wanted));
            let words = refused.expect_err(wanted).to_string();
            assert!(words.contains(expected), "{words}");
        }
    }
}
