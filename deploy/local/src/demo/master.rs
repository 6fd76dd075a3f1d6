//! What the demo asks the master: its REST interface, as plain values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

const DEADLINE: Duration = Duration::from_secs(3);

/// The master at one address.
#[derive(Debug, Clone)]
pub(crate) struct Master {
    client: reqwest::Client,
    /// `http://host:port`.
    url: String,
}

/// A worker, as `/api/v1/workers` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Worker {
    pub(crate) pid: u32,
    /// ALIVE, SUSPECT or DEAD.
    pub(crate) state: String,
}

/// A partition, as `/api/v1/slots` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Slot {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) topic_cursor: Option<i64>,
    pub(crate) lake_cursor: Option<i64>,
    pub(crate) lag: Option<u64>,
    pub(crate) records_per_second: f64,
    pub(crate) rows_committed: u64,
    pub(crate) waiting_for: Option<String>,
    pub(crate) halt: Option<Halt>,
}

/// Why a slot halted.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Halt {
    pub(crate) detail: String,
}

/// A lost worker, as `/api/v1/failovers` tells it. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Failover {
    pub(crate) worker: String,
    pub(crate) pid: u32,
    pub(crate) lost_at_ms: u64,
    pub(crate) detected_at_ms: u64,
    pub(crate) reassigned_at_ms: Option<u64>,
    pub(crate) first_commit_at_ms: Option<u64>,
}

impl Master {
    pub(crate) fn new(url: String) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build()?;
        Ok(Self { client, url })
    }

    pub(crate) async fn workers(&self) -> Result<Vec<Worker>, String> {
        self.get("workers").await
    }

    pub(crate) async fn slots(&self) -> Result<Vec<Slot>, String> {
        self.get("slots").await
    }

    pub(crate) async fn failovers(&self) -> Result<Vec<Failover>, String> {
        self.get("failovers").await
    }

    async fn get<T: DeserializeOwned>(&self, what: &str) -> Result<T, String> {
        let url = format!("{}/api/v1/{what}", self.url);
        let asked = async {
            let answer = self.client.get(&url).send().await?.error_for_status()?;
            answer.bytes().await
        };
        let body = asked.await.map_err(|error| format!("the master does not tell its {what}: {error}"))?;
        serde_json::from_slice(&body).map_err(|error| format!("{url} answers something else: {error}"))
    }
}

/// The sums over the partitions and the workers that one line shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) workers: BTreeMap<String, usize>,
    /// Rows that the present owners have put into the lake.
    pub(crate) rows: u64,
    /// Records that the lake does not hold yet.
    pub(crate) lag: u64,
    pub(crate) records_per_second: f64,
    /// What partitions wait for, each reason once.
    pub(crate) waiting_for: Vec<String>,
}

impl Snapshot {
    pub(crate) fn new(workers: &[Worker], slots: &[Slot]) -> Self {
        let mut snapshot = Self::default();
        for worker in workers {
            *snapshot.workers.entry(worker.state.to_lowercase()).or_default() += 1;
        }
        for slot in slots {
            snapshot.rows += slot.rows_committed;
            snapshot.lag += slot.lag.unwrap_or(0);
            snapshot.records_per_second += slot.records_per_second;
            let reason = slot.halt.as_ref().map(|halt| &halt.detail).or(slot.waiting_for.as_ref());
            if let Some(reason) = reason.filter(|reason| !snapshot.waiting_for.contains(reason)) {
                snapshot.waiting_for.push(reason.clone());
            }
        }
        snapshot
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let workers: Vec<String> =
            self.workers.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let workers = if workers.is_empty() { "none".to_owned() } else { workers.join(", ") };
        write!(
            f,
            "workers {workers} · {:.0} records/s · {} rows in the lake · {} to come",
            self.records_per_second,
            grouped(self.rows),
            grouped(self.lag)
        )?;
        if !self.waiting_for.is_empty() {
            write!(f, " · waiting: {}", self.waiting_for.join("; "))?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_is_there_how_far_they_are_and_what_they_wait_for() {
        let workers: Vec<Worker> = serde_json::from_str(
            r#"[{"pid":1,"state":"ALIVE"},{"pid":2,"state":"ALIVE"},{"pid":3,"state":"DEAD"}]"#,
        )
        .expect("workers");
        let slot = r#"{"topic":"raw","partition":0,"lake_cursor":7,"lag":1000,"records_per_second":12.5,
            "rows_committed":617283,"waiting_for":"S3 answers 503","halt":null}"#;
        let slots: Vec<Slot> = serde_json::from_str(&format!("[{slot},{slot}]")).expect("slots");
        assert_eq!(
            Snapshot::new(&workers, &slots).to_string(),
            "workers 2 alive, 1 dead · 25 records/s · 1,234,566 rows in the lake · 2,000 to come \
             · waiting: S3 answers 503"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
