//! A running `millrace demo` with ports and a data folder of its own, and workers started by hand beside it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use millrace_local::PortBlock;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A wait longer than this is a hang, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// The demo under test. Its files are kept when the test fails.
#[derive(Debug)]
pub struct Demo {
    process: Child,
    pub ports: PortBlock,
    folder: Option<TempDir>,
    client: reqwest::Client,
}

impl Demo {
    /// Starts `millrace demo` with `flags`; waits until its page answers and the pipeline's slots are known.
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_in(flags, &[]).await
    }

    /// The same with variables of the environment, which its processes inherit.
    pub async fn start_in(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let ports = PortBlock::find().expect("free ports");
        let folder = tempfile::tempdir().expect("folder");
        let log = File::create(folder.path().join("demo.out")).expect("log");
        let port = |index| ports.port(index).to_string();
        let process = Command::new(crate::millrace())
            .arg("demo")
            .args(flags)
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .arg("--report")
            .arg(folder.path().join("report.json"))
            .args(["--kafka-port", &port(0), "--kafka-controller-port", &port(1)])
            .args(["--s3-port", &port(2), "--s3-inner-ports", &port(10)])
            .args(["--master-port", &port(3), "--http-port", &port(4), "--collector-port", &port(5)])
            // As a person's terminal: nothing in it helps the workers to the lake.
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("millrace demo starts");
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build();
        let mut demo = Self { process, ports, folder: Some(folder), client: client.expect("client") };
        demo.until("the slots are known", |_, slots| !slots.is_empty()).await;
        demo
    }

    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the drop").path()
    }

    /// `host:port` where workers reach the master.
    pub fn master(&self) -> String {
        format!("127.0.0.1:{}", self.ports.port(3))
    }

    pub fn collect_url(&self) -> String {
        format!("http://127.0.0.1:{}/collect", self.ports.port(5))
    }

    /// What the master says at `path`; `None` while it does not answer.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.ports.port(4));
        let answer = self.client.get(url).send().await.ok()?.error_for_status().ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    pub async fn workers(&self) -> Vec<Value> {
        self.list("/api/v1/workers").await
    }

    pub async fn slots(&self) -> Vec<Value> {
        self.list("/api/v1/slots").await
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        self.get(path).await.and_then(|value| value.as_array().cloned()).unwrap_or_default()
    }

    /// Waits until `reached(workers, slots)`.
    pub async fn until(&mut self, what: &str, reached: impl Fn(&[Value], &[Value]) -> bool) {
        let began = Instant::now();
        loop {
            let (workers, slots) = (self.workers().await, self.slots().await);
            if reached(&workers, &slots) {
                return;
            }
            if let Some(status) = self.process.try_wait().expect("its own child") {
                panic!("the demo ended ({status}) before {what}:\n{}", self.output());
            }
            assert!(
                began.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}\nworkers {workers:#?}\nslots {slots:#?}\n{}",
                self.output()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until every slot runs on a worker that is alive.
    pub async fn until_all_run(&mut self) {
        self.until("every slot runs on an alive worker", |workers, slots| {
            slots.iter().all(|slot| {
                slot["state"] == "running"
                    && workers
                        .iter()
                        .any(|worker| worker["id"] == slot["owner"] && worker["state"] == "ALIVE")
            })
        })
        .await;
    }

    /// Waits until every slot's lake cursor has moved past where it stands now.
    pub async fn until_all_commit(&mut self) {
        let before = self.slots().await;
        self.until("every slot commits", |_, slots| {
            slots.len() == before.len()
                && slots.iter().zip(&before).all(|(now, before)| cursor(now) > cursor(before))
        })
        .await;
    }

    /// A worker that owns slots, as the API tells it.
    pub async fn busy_worker(&self) -> Value {
        let workers = self.workers().await;
        let busy = workers.iter().find(|worker| {
            worker["state"] == "ALIVE" && worker["slots"].as_array().is_some_and(|slots| !slots.is_empty())
        });
        busy.unwrap_or_else(|| panic!("no worker has slots: {workers:#?}")).clone()
    }

    /// The pid of the demo's child that has `argument` on its command line.
    pub fn child(&self, argument: &str) -> u32 {
        let parent = self.process.id().expect("it runs").to_string();
        let mut processes = std::fs::read_dir("/proc").expect("proc");
        let found = processes.find_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let is_child =
                status.lines().any(|line| line.strip_prefix("PPid:").map(str::trim) == Some(&parent));
            (is_child && command_line(pid).iter().any(|found| found == argument)).then_some(pid)
        });
        found.unwrap_or_else(|| panic!("the demo runs no {argument}:\n{}", self.output()))
    }

    /// Puts a record into the raw topic, past the collector.
    pub fn produce_raw(&self, value: &str) {
        let servers = format!("127.0.0.1:{}", self.ports.port(0));
        let producer: BaseProducer =
            millrace_common::kafka::client_config(&servers, "test").create().expect("producer");
        let record = BaseRecord::<(), str>::to("acme.clickstream.raw.events").payload(value);
        assert!(producer.send(record).is_ok(), "queued");
        producer.flush(PATIENCE).expect("delivered");
    }

    /// A worker started by hand, as in a terminal of its own.
    pub fn worker_by_hand(&self, number: usize) -> Hand {
        let master = self.master();
        let program = crate::millrace().display().to_string();
        let line = [&program, "worker", "--master", &master, "--cores", "1", "--memory", "128MiB"];
        self.start_line(&format!("hand-{number}"), &line.map(str::to_owned))
    }

    /// Starts a command line as in a terminal of its own, with its output in the file `name`.log.
    pub fn start_line(&self, name: &str, line: &[String]) -> Hand {
        Hand::start(line, &self.folder().join(format!("{name}.log")))
    }

    /// What `millrace ARGUMENTS` prints, and how it ends.
    pub async fn run(&self, arguments: &[&str]) -> (String, ExitStatus) {
        let output = Command::new(crate::millrace()).args(arguments).output().await.expect("millrace runs");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status)
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder().join("demo.out")).unwrap_or_default()
    }

    /// Asks the demo to end, as Ctrl-C does, and waits for its report.
    pub async fn interrupt(self) -> Value {
        signal(self.process.id().expect("it runs"), libc::SIGINT);
        self.report().await
    }

    /// Waits until the demo has ended by itself; its report, which must be clean.
    pub async fn report(mut self) -> Value {
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        let Ok(status) = status else { panic!("the demo does not end:\n{}", self.output()) };
        let status = status.expect("its own child");
        let path = self.folder().join("report.json");
        let text = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("no report ({error}), {status}:\n{}", self.output()));
        let report: Value = serde_json::from_slice(&text).expect("JSON");
        let summary = format!("{status}\n{report:#}\n{}", self.output());
        assert_eq!((&report["missing"], &report["duplicates"]), (&0.into(), &0.into()), "{summary}");
        assert_eq!(report["clean"], true, "{summary}");
        assert!(status.success(), "{summary}");
        assert!(report["accepted"].as_u64() > Some(0), "nothing was sent, so nothing was shown\n{summary}");
        report
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the demo's files are kept in {}", folder.keep().display());
        }
    }
}

/// A process started by hand; killed with the test.
#[derive(Debug)]
pub struct Hand {
    process: Child,
    log: PathBuf,
}

impl Hand {
    /// Starts a command line, its output appended to the file `log`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(line: &[String], log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("log");
        let process = Command::new(&line[0])
            .args(&line[1..])
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("log"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        Self { process, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.process.id().expect("it was not waited for")
    }

    /// Whether it is gone already.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("its own child").is_some()
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.output())).expect("its own child")
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The lake cursor of a slot; 0 before the first.
pub fn cursor(slot: &Value) -> i64 {
    slot["lake_cursor"].as_i64().unwrap_or(0)
}

/// A process's arguments, its own name first.
pub fn command_line(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// Sends a signal.
pub fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a pid");
    // SAFETY: kill has no memory effects here.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}
