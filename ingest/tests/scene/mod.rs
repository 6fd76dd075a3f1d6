//! A collector that runs inside the test, and a client of it.

use std::net::TcpListener;
use std::time::Duration;

use clap::Parser;
use millrace_common::shutdown::Shutdown;
use millrace_ingest::collector;
use reqwest::StatusCode;
use tokio::task::JoinHandle;

/// A wait longer than this is a hang, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    config: collector::Config,
}

pub(crate) struct Collector {
    pub(crate) base: String,
    pub(crate) client: reqwest::Client,
    pub(crate) shutdown: Shutdown,
    task: JoinHandle<Result<(), collector::Error>>,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("listener").local_addr().expect("address").port()
}

pub(crate) fn config(flags: &[&str]) -> collector::Config {
    CommandLine::parse_from(["ingest"].iter().chain(flags)).config
}

impl Collector {
    /// A collector that answers; whether Kafka is there or not.
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let collector = Self::start_at(&format!("127.0.0.1:{}", free_port()), flags);
        collector
            .until("it listens", async |collector| {
                collector.client.get(format!("{}/ping", collector.base)).send().await.is_ok()
            })
            .await;
        collector
    }

    /// A collector that is starting at `bind`.
    pub(crate) fn start_at(bind: &str, flags: &[&str]) -> Self {
        let shutdown = Shutdown::new();
        let config = config(&[&["--bind", bind], flags].concat());
        let task = tokio::spawn(collector::run(config, shutdown.clone()));
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("client");
        Self { base: format!("http://{bind}"), client, shutdown, task }
    }

    pub(crate) async fn until(&self, what: &str, reached: impl AsyncFn(&Self) -> bool) {
        let wait = async {
            while !reached(self).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
    }

    pub(crate) async fn until_ready(&self) {
        self.until("it is ready", async |collector| collector.get("/readyz").await.0 == StatusCode::OK).await;
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.expect("answer");
        (response.status(), response.text().await.expect("text"))
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.client.post(format!("{}/collect", self.base));
        request.header("Content-Type", "application/json").body(body).send().await.expect("answer")
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.task.await.expect("no panic").expect("no error");
        assert!(self.shutdown.drained(PATIENCE).await, "tasks still run");
    }
}

pub(crate) fn event(package_id: &str) -> String {
    format!(
        r#"{{"id": 1,"type":"click", "package_id":"{package_id}","event":{{"timestamp":"2024-01-15T10:30:00Z","page":"/home"}}}}"#
    )
}
