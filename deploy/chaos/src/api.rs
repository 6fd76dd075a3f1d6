//! What the masters' pages say, as plain values. Only the leader knows.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A frozen master takes connections and answers nothing: the next one is asked after this.
const DEADLINE: Duration = Duration::from_millis(700);

/// A worker, as `/api/v1/workers` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) pid: u32,
    /// ALIVE, SUSPECT, UNKNOWN, DRAINING, DRAINED or DEAD.
    pub(crate) state: String,
}

impl Worker {
    pub(crate) fn is_alive(&self) -> bool {
        self.state == "ALIVE"
    }
}

/// A partition, as `/api/v1/slots` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Slot {
    pub(crate) partition: i32,
    pub(crate) owner: Option<String>,
    pub(crate) epoch: u64,
    /// free, granted, opening, running, revoking or halted.
    pub(crate) state: String,
    pub(crate) halt: Option<Halt>,
    /// By the worker's clock.
    pub(crate) last_commit_at_ms: Option<i64>,
}

/// Why a slot halted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Halt {
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// A pipeline, as `/api/v1/pipelines` tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Pipeline {
    pub(crate) id: String,
}

/// The masters' pages.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    client: reqwest::Client,
    /// `http://host:port` of each master.
    urls: Vec<String>,
}

impl Pages {
    pub(crate) fn new(urls: Vec<String>) -> Result<Self, reqwest::Error> {
        // A standby answers by sending elsewhere: that is how it is told from the leader.
        let client = reqwest::Client::builder()
            .timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { client, urls })
    }

    pub(crate) fn len(&self) -> usize {
        self.urls.len()
    }

    /// Workers and slots, if this master leads.
    pub(crate) async fn cluster(&self, master: usize) -> Option<(Vec<Worker>, Vec<Slot>)> {
        // In this order, so that no slot is seen with another owner before its worker is seen as lost.
        let slots = self.get(master, "slots").await?;
        Some((self.get(master, "workers").await?, slots))
    }

    /// What this master says of itself: ALIVE, RECOVERING or STANDBY; `None` while it does not answer.
    pub(crate) async fn status(&self, master: usize) -> Option<String> {
        let url = format!("{}/json/", self.urls.get(master)?);
        let answer = self.client.get(url).send().await.ok()?;
        let state: serde_json::Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        state["status"].as_str().map(str::to_owned)
    }

    /// The pipelines, if this master leads.
    pub(crate) async fn pipelines(&self, master: usize) -> Option<Vec<Pipeline>> {
        self.get(master, "pipelines").await
    }

    async fn get<T: DeserializeOwned>(&self, master: usize, what: &str) -> Option<T> {
        let url = format!("{}/api/v1/{what}", self.urls.get(master)?);
        let answer = self.client.get(url).send().await.ok()?;
        if answer.status() != reqwest::StatusCode::OK {
            return None;
        }
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }
}
