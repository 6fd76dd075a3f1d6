//! Master, workers and collector as processes of their own, on the Kafka that the tests share.

use std::path::Path;
use std::time::Instant;

use millrace_local::PortBlock;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::demo::{Hand, PATIENCE, POLL};

/// The port of a block that the collector takes; the masters have those before it, two each.
const COLLECTOR: u16 = 20;

/// A master's own `--lease`.
pub const DEFAULT_LEASE: &str = "3s";

/// A cluster under test. Its logs are kept when the test fails.
#[derive(Debug)]
pub struct Cluster {
    program: String,
    ports: PortBlock,
    folder: Option<TempDir>,
    client: reqwest::Client,
    pub kafka: String,
    /// Values of `--state` and `--lease`.
    state: String,
    lease: String,
    /// Each may be ended and started again.
    pub masters: Vec<Hand>,
}

impl Cluster {
    /// Starts a master of `program`, without the pipeline that it makes by itself, and waits until it answers.
    pub async fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let state = format!("file:{}", folder.path().join("state").display());
        Self::on_state(program, folder, state, 1, DEFAULT_LEASE).await
    }

    /// Starts several masters on an etcd, with workers' leases of `lease`, and waits until one of them leads.
    pub async fn with_masters(program: &Path, etcd: &str, count: u16, lease: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self::on_state(program, folder, format!("etcd://{etcd}"), count, lease).await
    }

    async fn on_state(program: &Path, folder: TempDir, state: String, masters: u16, lease: &str) -> Self {
        let kafka = std::env::var("MILLRACE_TEST_KAFKA")
            .expect("MILLRACE_TEST_KAFKA must name a Kafka for this test; `make test` starts it");
        let client = reqwest::Client::builder().timeout(POLL * 100).no_proxy().build().expect("client");
        let mut cluster = Self {
            program: program.display().to_string(),
            ports: PortBlock::find().expect("free ports"),
            folder: Some(folder),
            client,
            kafka,
            state,
            lease: lease.to_owned(),
            masters: Vec::new(),
        };
        for number in 0..masters {
            cluster.masters.push(cluster.master(number));
        }
        cluster.until("a master answers", || async { cluster.get("/api/v1/workers").await.is_some() }).await;
        cluster
    }

    /// Starts the master of this number.
    pub fn master(&self, number: u16) -> Hand {
        let (address, page) = (self.address(number), format!("127.0.0.1:{}", self.page_port(number)));
        let line = [
            "master",
            "--no-pipeline",
            "--bind",
            &address,
            "--http-bind",
            &page,
            "--state",
            &self.state,
            "--lease",
            &self.lease,
        ];
        self.start_line(&format!("master-{number}"), &line)
    }

    fn address(&self, number: u16) -> String {
        format!("127.0.0.1:{}", self.ports.port(2 * number))
    }

    fn page_port(&self, number: u16) -> u16 {
        self.ports.port(2 * number + 1)
    }

    fn numbers(&self) -> std::ops::Range<u16> {
        // None has more masters than a block has ports.
        0..u16::try_from(self.masters.len()).unwrap_or(u16::MAX)
    }

    /// All masters, as `--master` takes them.
    fn addresses(&self) -> String {
        self.numbers().map(|number| self.address(number)).collect::<Vec<_>>().join(",")
    }

    /// What the page of master `number` says of it: ALIVE, RECOVERING or STANDBY; `None` while it does not answer.
    pub async fn status(&self, number: u16) -> Option<String> {
        let state = self.get_from(number, "/json/").await?;
        state["status"].as_str().map(str::to_owned)
    }

    /// The master that leads.
    pub async fn leader(&self) -> Option<u16> {
        for number in self.numbers() {
            if matches!(self.status(number).await.as_deref(), Some("ALIVE" | "RECOVERING")) {
                return Some(number);
            }
        }
        None
    }

    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the drop").path()
    }

    pub fn worker(&self, number: usize) -> Hand {
        self.start_line(
            &format!("worker-{number}"),
            &["worker", "--master", &self.addresses(), "--cores", "1", "--memory", "256MiB"],
        )
    }

    /// A collector for these topics; its `/collect` URL beside it.
    pub fn collector(&self, raw: &str, invalid: &str) -> (Hand, String) {
        let bind = format!("127.0.0.1:{}", self.ports.port(COLLECTOR));
        let line = [
            "ingest",
            "--bind",
            &bind,
            "--kafka",
            &self.kafka,
            "--raw-topic",
            raw,
            "--invalid-topic",
            invalid,
        ];
        (self.start_line("collector", &line), format!("http://{bind}/collect"))
    }

    /// Starts the program with `arguments`, as in a terminal of its own.
    pub fn start_line(&self, name: &str, arguments: &[&str]) -> Hand {
        let mut line = vec![self.program.clone()];
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Hand::start(&line, &self.folder().join(format!("{name}.log")))
    }

    /// What the program prints when it is run with `arguments` against this master.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let (code, text) = self.ended(arguments).await;
        assert!(code == 0, "{arguments:?} ended with {code}:\n{text}");
        text
    }

    /// How the program ends when it is run with `arguments` against this master, and what it prints.
    pub async fn ended(&self, arguments: &[&str]) -> (i32, String) {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("MILLRACE_MASTER", self.addresses())
            .output()
            .await
            .expect("it starts");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("no signal"), text)
    }

    /// Submits the pipeline that `file` describes.
    pub async fn submit(&self, name: &str, file: &str) {
        let path = self.folder().join(format!("{name}.toml"));
        std::fs::write(&path, file).expect("written");
        self.run(&["submit", &path.display().to_string()]).await;
    }

    /// What the leader says at `path`; `None` while none answers.
    pub async fn get(&self, path: &str) -> Option<Value> {
        for number in self.numbers() {
            if let Some(answer) = self.get_from(number, path).await {
                return Some(answer);
            }
        }
        None
    }

    /// A standby sends on to the leader what it can't answer.
    async fn get_from(&self, number: u16, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.page_port(number));
        let answer = self.client.get(url).send().await.ok()?.error_for_status().ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    pub async fn slots(&self) -> Vec<Value> {
        let slots = self.get("/api/v1/slots").await;
        slots.and_then(|slots| slots.as_array().cloned()).unwrap_or_default()
    }

    /// Waits until `reached` says so.
    ///
    /// # Panics
    /// When that takes longer than a hang would.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, reached: impl Fn() -> F) {
        let began = Instant::now();
        while !reached().await {
            assert!(
                began.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}\n{:#?}\nlogs in {}",
                self.slots().await,
                self.folder().display()
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the cluster's files are kept in {}", folder.keep().display());
        }
    }
}
