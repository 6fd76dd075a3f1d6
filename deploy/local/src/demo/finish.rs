//! The end of the demo: wait until both sinks have caught up, then let `millrace verify` judge.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use millrace_common::kafka::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::process::Command;

use crate::demo::cluster::{Cluster, Places, start_line, worker_line};
use crate::demo::config::Config;
use crate::demo::master::{Master, Slot, Snapshot};
use crate::demo::screen::Screen;
use crate::spawn::spawn;

const PAUSE: Duration = Duration::from_millis(200);
const KAFKA_DEADLINE: Duration = Duration::from_secs(10);

/// Next offsets of the raw topics' partitions.
type Ends = BTreeMap<(String, i32), i64>;

/// The end of every partition of `slots`, by Kafka itself.
async fn ends(kafka: &str, slots: &[Slot]) -> Result<Ends, String> {
    let places: Vec<(String, i32)> = slots.iter().map(|slot| (slot.topic.clone(), slot.partition)).collect();
    let config = client_config(kafka, "demo");
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create()?;
        let ends = places.into_iter().map(|(topic, partition)| {
            let (_, end) = consumer.fetch_watermarks(&topic, partition, KAFKA_DEADLINE)?;
            Ok(((topic, partition), end))
        });
        ends.collect::<Result<Ends, rdkafka::error::KafkaError>>()
    });
    match asked.await {
        Ok(ends) => ends.map_err(|error| format!("Kafka does not tell the ends of the raw topic: {error}")),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Whether both sinks hold all that Kafka holds.
fn has_caught_up(slots: &[Slot], ends: &Ends) -> bool {
    slots.iter().all(|slot| {
        let end = ends.get(&(slot.topic.clone(), slot.partition)).copied().unwrap_or(0);
        slot.lake_cursor.unwrap_or(0) >= end && slot.topic_cursor.unwrap_or(0) >= end
    })
}

/// Waits until both sinks hold every raw record, or a partition has halted (verify tells what is missing then). What
/// keeps it from that is said, with the line that helps. Nothing may be added to the raw topic meanwhile.
pub(crate) async fn catch_up(
    config: &Config,
    places: &Places,
    cluster: &Cluster,
    master: &Master,
    screen: &Screen,
) {
    let mut known_ends: Option<Ends> = None;
    let mut told = String::new();
    loop {
        let obstacle = match (master.slots().await, master.workers().await) {
            (Err(_), _) | (_, Err(_)) => Some(format!(
                "The master does not answer. This line starts it:\n    {}",
                start_line(&cluster.master)
            )),
            (Ok(slots), Ok(workers)) => {
                if known_ends.is_none() && !slots.is_empty() {
                    match ends(&places.kafka, &slots).await {
                        Ok(ends) => known_ends = Some(ends),
                        Err(reason) => screen.progress(&reason),
                    }
                }
                if let Some(ends) = &known_ends {
                    let halted = slots.iter().find_map(|slot| slot.halt.as_ref());
                    if let Some(halt) = halted {
                        screen.say(format!("A partition has halted: {}", halt.detail));
                        return;
                    }
                    if has_caught_up(&slots, ends) {
                        return;
                    }
                }
                screen.progress(&format!("catching up · {}", Snapshot::new(&workers, &slots)));
                workers.iter().all(|worker| worker.state == "DEAD").then(|| {
                    format!(
                        "No worker is alive, and the sinks lack records. This line starts one:\n    {}",
                        worker_line(config, places)
                    )
                })
            }
        };
        if let Some(obstacle) = obstacle
            && obstacle != told
        {
            screen.say(&obstacle);
            told = obstacle;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs `millrace verify` with the ledger.
///
/// # Errors
/// Why there is no report.
pub(crate) async fn verify(places: &Places) -> Result<millrace_verify::Report, String> {
    let mut command = Command::new(&places.program);
    command
        .args(["verify", "--json", "--kafka", &places.kafka, "--lake", &places.lake.url, "--ledger"])
        .arg(&places.ledger)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    if let Some(endpoint) = &places.lake.endpoint {
        command.args(["--s3-endpoint", endpoint]);
    }
    if let Some((access_key_id, secret_access_key)) = &places.login {
        command.env("AWS_ACCESS_KEY_ID", access_key_id).env("AWS_SECRET_ACCESS_KEY", secret_access_key);
    }
    let child = spawn(command).await.map_err(|error| format!("verify can't be started: {error}"))?;
    let output =
        child.wait_with_output().await.map_err(|error| format!("verify's answer can't be read: {error}"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("verify ended with {} and gave no report: {error}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(partition: i32, lake_cursor: Option<i64>, topic_cursor: Option<i64>) -> Slot {
        Slot {
            topic: "raw".to_owned(),
            partition,
            topic_cursor,
            lake_cursor,
            lag: Some(0),
            records_per_second: 0.0,
            rows_committed: 0,
            waiting_for: None,
            halt: None,
        }
    }

    #[test]
    fn kafkas_own_ends_decide_and_not_what_workers_last_heard() {
        let ends = Ends::from([(("raw".to_owned(), 0), 10), (("raw".to_owned(), 1), 0)]);
        let ten = Some(10);
        assert!(!has_caught_up(&[slot(0, Some(9), ten), slot(1, None, None)], &ends));
        assert!(!has_caught_up(&[slot(0, ten, Some(9)), slot(1, None, None)], &ends));
        assert!(has_caught_up(&[slot(0, ten, ten), slot(1, None, None)], &ends));
        assert!(!has_caught_up(&[slot(0, None, None)], &ends));
    }
}
