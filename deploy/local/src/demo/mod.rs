//! The whole job on one machine, every process a real one, and a verdict at the end. It starts, watches, tells and
//! stops; it restarts nothing, so that whoever kills something sees what the job does about it.

mod cluster;
mod config;
mod finish;
mod folder;
mod losses;
mod master;
mod report;
mod screen;

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use millrace_common::ledger::{self, Answer};
use millrace_common::shutdown::Shutdown;
use millrace_types::{LakeTarget, SecretReference};
use tokio::signal::unix::{SignalKind, signal};

use crate::part::{Part, PartError};
use crate::process::{Exit, Process};
use crate::s3;
use cluster::{Cluster, Places, start_line, worker_line};
pub use config::{Config, Parts, Ports};
use folder::{Folder, FolderError, Origin};
use losses::Losses;
use master::{Master, Snapshot, grouped};
use report::{Report, rate, resident_mib};
use screen::Screen;

const TICK: Duration = Duration::from_millis(500);

/// How the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Verified, and nothing is wrong.
    Clean,
    /// Verified, and something is wrong.
    Wrong,
    /// Ended before it was verified.
    NotVerified,
}

/// The demo could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the flags don't go together:\n  {0}")]
    Flags(String),
    #[error("{0}")]
    Folder(String),
    #[error(transparent)]
    Part(#[from] PartError),
    #[error(
        "--s3-endpoint {endpoint} needs its login: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (missing: {missing})"
    )]
    Login { endpoint: String, missing: String },
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("no HTTP client can be made: {0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}; the demo's data and logs are in {1}")]
    Verify(String, String),
}

impl From<FolderError> for Error {
    fn from(error: FolderError) -> Self {
        Self::Folder(error.to_string())
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// Runs the demo until its duration has passed or `shutdown` begins, then lets the lake catch up and verifies. A
/// signal during that ends it without a verdict.
///
/// # Errors
/// When the flags contradict each other, or a part can't be had, started, or asked. Everything is stopped before.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<Outcome, Error> {
    config.check().map_err(Error::Flags)?;
    if let Some(path) = &config.report {
        let opened = File::options().create(true).append(true).open(path);
        opened.map_err(io_error(format!("--report {} can't be written", path.display())))?;
    }
    let origin = Origin {
        kafka: config.parts.kafka.clone().unwrap_or_else(|| format!("127.0.0.1:{}", config.ports.kafka_port)),
        s3_endpoint: (!config.lake_in_folder()).then(|| s3_endpoint(&config)),
        lake: config.parts.lake.clone(),
    };
    let folder = Folder::take(&config.data_dir, &origin, config.fresh)?;
    let places = places(&config, &folder, origin)?;
    let mut demo = Demo {
        cluster: Cluster::new(&config, &folder, &places),
        master: Master::new(places.page.clone())?,
        screen: Screen::new(),
        started: SystemTime::now(),
        first_lake_file: None,
        losses: Losses::default(),
        peak_resident_mib: BTreeMap::new(),
        config,
        folder,
        places,
    };
    let outcome = demo.conduct(&shutdown).await;
    demo.screen.clear();
    demo.cluster.stop().await;
    outcome
}

fn s3_endpoint(config: &Config) -> String {
    config.parts.s3_endpoint.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", config.ports.s3_port))
}

fn places(config: &Config, folder: &Folder, origin: Origin) -> Result<Places, Error> {
    let login = match (&config.parts.s3_endpoint, &origin.s3_endpoint) {
        (Some(endpoint), _) => Some(login_of(endpoint)?),
        (None, Some(_)) => Some((s3::LOGIN.to_owned(), s3::LOGIN.to_owned())),
        (None, None) => None,
    };
    let unused = || SecretReference::Environment("AWS_ACCESS_KEY_ID".to_owned());
    let (access_key_id, secret_access_key) = match &login {
        Some((id, secret)) => s3::keep_login(&folder.join("login"), id, secret)
            .map_err(io_error("the S3 login can't be kept in the data folder"))?,
        None => (unused(), unused()),
    };
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Ok(Places {
        program: env::current_exe().map_err(io_error("this program's own path can't be told"))?,
        kafka: origin.kafka,
        lake: LakeTarget {
            url: origin.lake,
            endpoint: origin.s3_endpoint,
            region: None,
            access_key_id,
            secret_access_key,
        },
        login,
        master: format!("127.0.0.1:{}", config.ports.master_port),
        page: format!("http://127.0.0.1:{}", config.ports.http_port),
        collect: format!("http://127.0.0.1:{}/collect", config.ports.collector_port),
        ledger: folder.join(&format!("ledger-{millis}.jsonl")),
    })
}

fn login_of(endpoint: &str) -> Result<(String, String), Error> {
    let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    match names.map(env::var) {
        [Ok(id), Ok(secret)] => Ok((id, secret)),
        values => {
            let missing =
                names.iter().zip(&values).filter(|(_, value)| value.is_err()).map(|(name, _)| *name);
            Err(Error::Login {
                endpoint: endpoint.to_owned(),
                missing: missing.collect::<Vec<_>>().join(", "),
            })
        }
    }
}

#[derive(Debug)]
struct Demo {
    config: Config,
    folder: Folder,
    places: Places,
    cluster: Cluster,
    master: Master,
    screen: Screen,
    started: SystemTime,
    first_lake_file: Option<Duration>,
    losses: Losses,
    peak_resident_mib: BTreeMap<String, u64>,
}

impl Demo {
    async fn conduct(&mut self, shutdown: &Shutdown) -> Result<Outcome, Error> {
        tokio::select! {
            started = self.start() => started?,
            () = shutdown.begun() => {
                self.screen.say("Stopped before everything was up.");
                return Ok(Outcome::NotVerified);
            }
        }
        let sending = Instant::now();
        self.watch(shutdown).await?;
        let no_signals = "signals can't be received";
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io_error(no_signals))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(io_error(no_signals))?;
        let outcome = tokio::select! {
            outcome = self.finish(sending) => outcome?,
            _ = interrupt.recv() => Outcome::NotVerified,
            _ = terminate.recv() => Outcome::NotVerified,
        };
        if outcome == Outcome::NotVerified {
            self.screen.say("Ended without verification.");
        }
        Ok(outcome)
    }

    async fn start(&mut self) -> Result<(), Error> {
        self.screen.progress("starting Kafka and the S3 server");
        self.cluster.start_parts(&self.config, &self.folder, &self.places).await?;
        self.screen.progress("starting master, workers and collector");
        self.cluster.start_roles(&self.master).await?;
        self.cluster.generator.launch().await?;
        self.introduce();
        Ok(())
    }

    fn introduce(&self) {
        let Self { cluster, places, screen, config, .. } = self;
        let pid = |part: Option<&Part>| {
            part.and_then(Part::pid).map_or_else(|| "ran already".to_owned(), |pid| format!("pid {pid}"))
        };
        let line =
            |name: &str, place: &str, part| screen.say(format!("{name:<10} {place:<44} {}", pid(part)));
        screen.say("");
        line("Kafka", &places.kafka, cluster.kafka.as_ref());
        match (&places.lake.endpoint, &cluster.s3) {
            (Some(endpoint), Some(part)) => {
                let login = format!("{endpoint}  (login {0}/{0})", s3::LOGIN);
                line("S3", &login, Some(part));
            }
            (Some(endpoint), None) => line("S3", endpoint, None),
            (None, _) => screen.say(format!("{:<10} {}", "lake", places.lake.url)),
        }
        line("master", &places.master, Some(&cluster.master));
        line("collector", &places.collect, Some(&cluster.collector));
        let rate = match config.rate {
            0 => "as many events as are taken".to_owned(),
            rate => format!("{} events a second", grouped(rate)),
        };
        line("generator", &rate, Some(&cluster.generator));
        for worker in &cluster.workers {
            line(worker.name(), "", Some(worker));
        }
        screen.say(format!("{:<10} {}", "logs", self.folder.join("logs").display()));
        screen.say(format!("{:<10} {}", "page", places.page));
        screen.say("");
        if cluster.workers.is_empty() {
            let line = worker_line(config, places);
            screen.say(format!(
                "No workers yet. This line starts one; run it in as many terminals as you like:\n    {line}"
            ));
        } else {
            screen.say("Kill a worker (kill -9 PID) and see on the page who takes its partitions.");
        }
        let end = config.duration.map_or_else(
            || "Ctrl-C ends".to_owned(),
            |duration| format!("After {} s, or at Ctrl-C, it ends", duration.as_secs()),
        );
        screen.say(format!("{end}: the lake catches up and is verified.\n"));
    }

    /// Shows how things stand until the generator has done its work or `shutdown` begins; the error tells of a
    /// generator that failed.
    async fn watch(&mut self, shutdown: &Shutdown) -> Result<(), PartError> {
        let others = self.cluster.parts().filter(|part| part.name() != self.cluster.generator.name());
        let mut deaths = deaths(others);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                fault = self.cluster.generator.fails() => {
                    let exit = self.cluster.generator.process().and_then(Process::exit);
                    return if exit.is_some_and(|exit| exit.status.success()) { Ok(()) } else { Err(fault) };
                }
                Some(death) = deaths.next() => self.screen.say(death),
                _ = tick.tick() => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        self.measure();
        let (workers, slots) = match (self.master.workers().await, self.master.slots().await) {
            (Ok(workers), Ok(slots)) => (workers, slots),
            (Err(reason), _) | (_, Err(reason)) => return self.screen.progress(&reason),
        };
        let snapshot = Snapshot::new(&workers, &slots);
        if self.first_lake_file.is_none() && snapshot.rows > 0 {
            let since = self.started.elapsed().unwrap_or_default();
            self.first_lake_file = Some(since);
            self.screen.say(format!("First file in the lake {:.1} s after the start.", since.as_secs_f64()));
        }
        self.note_losses().await;
        self.screen.progress(&snapshot.to_string());
    }

    fn measure(&mut self) {
        let resident =
            self.cluster.parts().filter_map(|part| Some((part.name(), resident_mib(part.pid()?)?)));
        let mut resident: Vec<(String, u64)> = resident.map(|(name, mib)| (name.to_owned(), mib)).collect();
        resident.push(("demo".to_owned(), resident_mib(std::process::id()).unwrap_or(0)));
        let all = resident.iter().map(|(_, mib)| mib).sum();
        resident.push(("all together".to_owned(), all));
        for (name, mib) in resident {
            let peak = self.peak_resident_mib.entry(name).or_default();
            *peak = mib.max(*peak);
        }
    }

    /// Notes the workers that were lost since this demo started, and tells of each when a new owner has committed.
    async fn note_losses(&mut self) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        // None while the master does not answer.
        let failovers = self.master.failovers().await.unwrap_or_default();
        for failover in failovers.iter().filter(|failover| u128::from(failover.detected_at_ms) >= started) {
            let workers = self.cluster.workers.iter().filter_map(Part::process);
            let died = workers.filter(|process| process.pid() == failover.pid).find_map(Process::exit);
            if let Some(loss) = self.losses.note(failover, died.map(|exit| exit.at)) {
                self.screen.say(loss.to_string());
            }
        }
    }

    async fn finish(&mut self, sending: Instant) -> Result<Outcome, Error> {
        self.screen.progress("stopping generator and collector");
        self.cluster.generator.stop().await;
        let sent_for = sending.elapsed();
        self.cluster.collector.stop().await;
        let mut deaths = deaths(self.cluster.parts());
        let judged = async {
            finish::catch_up(&self.config, &self.places, &self.cluster, &self.master, &self.screen).await;
            self.screen.clear();
            self.screen.say("The lake has caught up; verifying.");
            let verified = finish::verify(&self.places).await;
            verified.map_err(|reason| Error::Verify(reason, self.folder.join("").display().to_string()))
        };
        let verify = {
            tokio::pin!(judged);
            loop {
                tokio::select! {
                    verify = &mut judged => break verify?,
                    Some(death) = deaths.next() => self.screen.say(death),
                }
            }
        };
        let report = self.report(verify, sent_for).await?;
        self.show(&report);
        if let Some(path) = &self.config.report {
            let json = serde_json::to_string_pretty(&report)
                .unwrap_or_else(|error| panic!("a report is plain data: {error}"));
            std::fs::write(path, json)
                .map_err(io_error(format!("--report {} can't be written", path.display())))?;
        }
        Ok(if report.clean { Outcome::Clean } else { Outcome::Wrong })
    }

    async fn report(&mut self, verify: millrace_verify::Report, sent_for: Duration) -> Result<Report, Error> {
        self.measure();
        self.note_losses().await;
        let path = self.places.ledger.clone();
        let counted = tokio::task::spawn_blocking(move || count(&path)).await;
        let sent = counted
            .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
            .map_err(|error| Error::Verify(error.to_string(), self.places.ledger.display().to_string()))?;
        let (missing, doubled) =
            verify.ledger.as_ref().map_or((0, 0), |ledger| (ledger.missing.count, ledger.doubled.count));
        Ok(Report {
            clean: verify.clean,
            sent: sent.ok + sent.invalid + sent.unknown,
            accepted: sent.ok,
            rejected: sent.invalid,
            unknown: sent.unknown,
            raw_records: verify.total.raw_records,
            lake_rows: verify.total.lake_rows,
            topic_records: verify.total.topic_records,
            invalid_records: verify.invalid_records,
            quarantined: verify.total.quarantined,
            client_duplicates: verify.total.client_duplicates,
            missing: verify.total.missing.max(missing),
            duplicates: verify.total.duplicates.max(doubled),
            events_per_second: rate(sent.ok, sent_for),
            first_lake_file_ms: self
                .first_lake_file
                .map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            worker_losses: self.losses.all(),
            peak_resident_mib: self.peak_resident_mib.clone(),
            verify,
        })
    }

    fn show(&self, report: &Report) {
        let say = |text: String| self.screen.say(text);
        say(format!("\n{}", report.verify));
        say(format!(
            "sent {} · accepted {} · rejected {} · without an answer {}",
            grouped(report.sent),
            grouped(report.accepted),
            grouped(report.rejected),
            grouped(report.unknown)
        ));
        say(format!(
            "raw records {} · rows in the lake {} · on the enriched topic {} · invalid {} (quarantined {}) · client \
             duplicates {}",
            grouped(report.raw_records),
            grouped(report.lake_rows),
            grouped(report.topic_records),
            grouped(report.invalid_records),
            grouped(report.quarantined),
            grouped(report.client_duplicates),
        ));
        say(format!(
            "missing {} · duplicates {} · {:.0} events/s",
            report.missing, report.duplicates, report.events_per_second
        ));
        report.worker_losses.iter().for_each(|loss| say(loss.to_string()));
        let resident = report.peak_resident_mib.iter().map(|(name, mib)| format!("{name} {mib}"));
        say(format!("most resident memory, in MiB: {}", resident.collect::<Vec<_>>().join(" · ")));
    }
}

/// What each of `parts` that ends from now on has to be said about.
fn deaths<'a>(parts: impl Iterator<Item = &'a Part>) -> FuturesUnordered<BoxFuture<'static, String>> {
    let running = parts.filter_map(|part| Some((part, part.process()?)));
    let running = running.filter(|(_, process)| process.exit().is_none());
    running
        .map(|(part, process)| {
            let (name, pid, log) = (part.name().to_owned(), process.pid(), process.log().to_owned());
            let (ended, line) = (process.ended(), start_line(part));
            async move {
                let Exit { status, .. } = ended.await;
                let how = match status.signal() {
                    Some(signal) => format!("was ended by signal {signal}"),
                    None => format!("ended with {status} (its log is {})", log.display()),
                };
                format!("{name} (pid {pid}) {how}. Nothing restarts it; this line does:\n    {line}")
            }
            .boxed()
        })
        .collect()
}

/// The ledger's entries by answer.
#[derive(Debug, Default)]
struct Sent {
    ok: u64,
    invalid: u64,
    unknown: u64,
}

fn count(ledger: &Path) -> Result<Sent, ledger::ReadError> {
    let mut sent = Sent::default();
    ledger::each_entry(ledger, |entry| match entry.answer {
        Answer::Ok => sent.ok += 1,
        Answer::Invalid => sent.invalid += 1,
        Answer::Unknown => sent.unknown += 1,
    })?;
    Ok(sent)
}
