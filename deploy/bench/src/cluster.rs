//! A master of its own with its workers, for one measurement, and what the master says of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_local::{Part, PortUse, Probe, Process, Program};
use serde::Deserialize;

use crate::Scene;

/// How often the master is asked.
const POLL: Duration = Duration::from_millis(50);
/// A measurement that has not ended by then hangs.
const PATIENCE: Duration = Duration::from_secs(900);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A partition, as `/api/v1/slots` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Slot {
    pub(crate) state: String,
    pub(crate) topic_cursor: Option<i64>,
    pub(crate) lake_cursor: Option<i64>,
    pub(crate) end: Option<i64>,
    pub(crate) rows_committed: u64,
    pub(crate) records_enriched: u64,
    pub(crate) last_commit_at_ms: Option<u64>,
    pub(crate) halt: Option<serde_json::Value>,
}

impl Slot {
    /// The cursors of all its sinks stand at the partition's end. A sink that the pipeline has not has no cursor.
    fn is_done(&self) -> bool {
        let Some(end) = self.end else { return false };
        let cursors = [self.topic_cursor, self.lake_cursor];
        self.state == "running"
            && cursors.iter().any(Option::is_some)
            && cursors.iter().flatten().all(|cursor| *cursor == end)
    }
}

/// The processes. Dropping it kills them.
pub(crate) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    address: String,
    page: String,
    client: reqwest::Client,
    master: Part,
    workers: Vec<Process>,
}

impl Cluster {
    /// Starts a master that knows no pipeline. `name` tells this measurement from all others.
    pub(crate) async fn start(scene: &Scene<'_>, name: &str) -> anyhow::Result<Self> {
        let folder = scene.parts.folder().join(name);
        let ports = [scene.parts.free_port(0), scene.parts.free_port(1)];
        let [address, page] = ports.map(|port| format!("127.0.0.1:{port}"));
        let program = Program::new("master", scene.program, folder.join("master.log"))
            .arguments(["master", "--no-pipeline", "--bind", &address, "--http-bind", &page])
            .argument("--state")
            .argument(format!("file:{}", folder.join("state").display()));
        let page = format!("http://{page}");
        let uses = ports.map(|port| PortUse { port, flag: "the bench" });
        let mut master = Part::new(program, uses.into(), Probe::Http { url: format!("{page}/readyz") });
        master.start().await?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build()?;
        Ok(Self {
            program: scene.program.to_owned(),
            folder,
            address,
            page,
            client,
            master,
            workers: Vec::new(),
        })
    }

    /// Submits the pipeline that `file` describes.
    pub(crate) async fn submit(&self, file: &str) -> anyhow::Result<()> {
        let path = self.folder.join("pipeline.toml");
        std::fs::write(&path, file).with_context(|| format!("{} can't be written", path.display()))?;
        let program = Program::new("submit", &self.program, self.folder.join("submit.log"))
            .arguments(["submit", "--master", &self.address])
            .argument(&path);
        run(&program).await
    }

    /// Starts one more worker.
    pub(crate) async fn add_worker(&mut self, flags: &[String]) -> anyhow::Result<()> {
        let name = format!("worker-{}", self.workers.len());
        let program = Program::new(&name, &self.program, self.folder.join(format!("{name}.log")))
            .arguments(["worker", "--master", &self.address])
            .arguments(flags);
        self.workers.push(Process::start(&program).await?);
        Ok(())
    }

    /// Process ids of the workers, in the order in which they were started.
    pub(crate) fn workers(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(Process::pid)
    }

    pub(crate) async fn slots(&self) -> anyhow::Result<Vec<Slot>> {
        let url = format!("{}/api/v1/slots", self.page);
        let answer = self.client.get(&url).send().await?.error_for_status()?;
        serde_json::from_slice(&answer.bytes().await?).with_context(|| url)
    }

    /// Waits until all of `partitions` slots have committed everything to their sinks, `records` in all, and gives them.
    pub(crate) async fn drained(&self, partitions: usize, records: u64) -> anyhow::Result<Vec<Slot>> {
        let began = Instant::now();
        loop {
            let slots = self.slots().await?;
            if let Some(halt) = slots.iter().find_map(|slot| slot.halt.as_ref()) {
                bail!("a slot halted: {halt}");
            }
            for worker in &self.workers {
                ensure!(worker.exit().is_none(), "{} ended; its log: {}", worker.name(), log(worker));
            }
            // Before its first fetch a slot takes the place where it begins for the end.
            let ends = slots.iter().filter_map(|slot| slot.end).sum::<i64>();
            let knows_all = slots.len() == partitions && u64::try_from(ends) == Ok(records);
            if knows_all && slots.iter().all(Slot::is_done) {
                return Ok(slots);
            }
            ensure!(began.elapsed() < PATIENCE, "not drained after {} s: {slots:#?}", PATIENCE.as_secs());
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) async fn stop(&mut self) {
        for worker in self.workers.drain(..) {
            worker.stop(STOP_WITHIN).await;
        }
        self.master.kill().await;
    }
}

/// Runs `program` to its end.
///
/// # Errors
/// When it can't be started or fails.
pub(crate) async fn run(program: &Program) -> anyhow::Result<()> {
    let process = Process::start(program).await.with_context(|| program.name.clone())?;
    let exit = process.ended().await;
    ensure!(exit.status.success(), "{} ended with {}: {}", program.name, exit.status, log(&process));
    Ok(())
}

fn log(process: &Process) -> String {
    std::fs::read_to_string(process.log()).unwrap_or_else(|error| error.to_string())
}
