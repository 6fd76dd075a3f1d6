//! Master, workers and collector as processes of their own, on the Kafka that the tests share.

use std::path::Path;
use std::time::Instant;

use millrace_local::PortBlock;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::demo::{Hand, PATIENCE, POLL};

/// A cluster under test. Its logs are kept when the test fails.
#[derive(Debug)]
pub struct Cluster {
    program: String,
    ports: PortBlock,
    folder: Option<TempDir>,
    client: reqwest::Client,
    pub kafka: String,
    _master: Hand,
}

impl Cluster {
    /// Starts a master of `program`, without the pipeline that it makes by itself, and waits until it answers.
    pub async fn start(program: &Path) -> Self {
        let kafka = std::env::var("MILLRACE_TEST_KAFKA")
            .expect("MILLRACE_TEST_KAFKA must name a Kafka for this test; `make test` starts it");
        let ports = PortBlock::find().expect("free ports");
        let folder = tempfile::tempdir().expect("folder");
        let program = program.display().to_string();
        let (master, page) = (format!("127.0.0.1:{}", ports.port(0)), format!("127.0.0.1:{}", ports.port(1)));
        let state = format!("file:{}", folder.path().join("state").display());
        let line =
            [&program, "master", "--no-pipeline", "--bind", &master, "--http-bind", &page, "--state", &state];
        let line = line.map(str::to_owned);
        let client = reqwest::Client::builder().timeout(POLL * 100).no_proxy().build().expect("client");
        let cluster = Self {
            _master: Hand::start(&line, &folder.path().join("master.log")),
            program,
            ports,
            folder: Some(folder),
            client,
            kafka,
        };
        cluster
            .until("the master answers", || async { cluster.get("/api/v1/workers").await.is_some() })
            .await;
        cluster
    }

    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the drop").path()
    }

    pub fn worker(&self, number: usize) -> Hand {
        let master = format!("127.0.0.1:{}", self.ports.port(0));
        self.start_line(
            &format!("worker-{number}"),
            &["worker", "--master", &master, "--cores", "1", "--memory", "256MiB"],
        )
    }

    /// A collector for these topics; its `/collect` URL beside it.
    pub fn collector(&self, raw: &str, invalid: &str) -> (Hand, String) {
        let bind = format!("127.0.0.1:{}", self.ports.port(2));
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
        let output = Command::new(&self.program)
            .args(arguments)
            .env("MILLRACE_MASTER", format!("127.0.0.1:{}", self.ports.port(0)))
            .output()
            .await
            .expect("it starts");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} ended with {}:\n{text}", output.status);
        text
    }

    /// Submits the pipeline that `file` describes.
    pub async fn submit(&self, name: &str, file: &str) {
        let path = self.folder().join(format!("{name}.toml"));
        std::fs::write(&path, file).expect("written");
        self.run(&["submit", &path.display().to_string()]).await;
    }

    /// What the master says at `path`; `None` while it does not answer.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.ports.port(1));
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
