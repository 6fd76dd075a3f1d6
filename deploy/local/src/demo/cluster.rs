//! The processes of the demo: which there are, with which flags, and the order in which they start and stop.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use millrace_types::LakeTarget;

use crate::demo::config::Config;
use crate::demo::folder::Folder;
use crate::demo::master::Master;
use crate::host::Host;
use crate::part::{Part, PartError};
use crate::probe::Probe;
use crate::process::Program;
use crate::{kafka, s3};

/// How long workers may take until the master knows them.
const REGISTERED_WITHIN: Duration = Duration::from_secs(60);

/// What all processes are told.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// This very program.
    pub(crate) program: PathBuf,
    pub(crate) kafka: String,
    pub(crate) lake: LakeTarget,
    /// The login, for children that take it from the environment.
    pub(crate) login: Option<(String, String)>,
    /// `host:port` of the master, for workers and the command line.
    pub(crate) master: String,
    pub(crate) page: String,
    pub(crate) collect: String,
    pub(crate) ledger: PathBuf,
}

/// The demo's processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) kafka: Option<Part>,
    pub(crate) s3: Option<Part>,
    pub(crate) master: Part,
    pub(crate) workers: Vec<Part>,
    pub(crate) collector: Part,
    pub(crate) generator: Part,
}

impl Cluster {
    /// The processes as `config` wants them; Kafka and S3 come with [`Cluster::start_parts`].
    pub(crate) fn new(config: &Config, folder: &Folder, places: &Places) -> Self {
        let program =
            |name: &str, role: &str| Program::new(name, &places.program, folder.log(name)).argument(role);
        let state = match &config.parts.state {
            Some(state) => state.clone(),
            None => format!("file:{}", folder.join("state").display()),
        };
        let mut master = program("master", "master")
            .arguments(["--bind", &places.master])
            .argument("--http-bind")
            .argument(format!("127.0.0.1:{}", config.ports.http_port))
            .arguments(["--state", &state, "--kafka", &places.kafka])
            .arguments(["--partitions", &config.partitions.to_string()])
            .arguments(["--lake", &places.lake.url])
            .arguments(["--roll-age", &format!("{}ms", config.roll_age.as_millis())]);
        if let Some(endpoint) = &places.lake.endpoint {
            master = master
                .arguments(["--s3-endpoint", endpoint])
                .arguments(["--s3-access-key-id", &places.lake.access_key_id.to_string()])
                .arguments(["--s3-secret-access-key", &places.lake.secret_access_key.to_string()]);
        }
        let worker = |number| {
            let program =
                program(&format!("worker-{number}"), "worker").arguments(worker_flags(config, places));
            // It takes a free port and says so to the master, where it shows up when it is ready.
            Part::new(program, Vec::new(), Probe::None)
        };
        let collector = program("collector", "ingest")
            .arguments(["--bind", &format!("127.0.0.1:{}", config.ports.collector_port)])
            .arguments(["--kafka", &places.kafka])
            .arguments(["--partitions", &config.partitions.to_string()]);
        let mut generator = program("generator", "generate")
            .arguments(["--url", &places.collect, "--rate", &config.rate.to_string()])
            .arguments(["--invalid", &config.invalid.to_string()])
            // Some clients send an event again although it was taken: the pipeline drops it.
            .arguments(["--duplicates", "0.001"])
            .argument("--ledger")
            .argument(&places.ledger);
        if let Some(duration) = config.duration {
            generator = generator.arguments(["--duration", &format!("{}ms", duration.as_millis())]);
        }
        let collector_ready = format!("http://127.0.0.1:{}/readyz", config.ports.collector_port);
        Self {
            kafka: None,
            s3: None,
            master: Part::new(
                master,
                config.ports.master(),
                Probe::Http { url: format!("{}/readyz", places.page) },
            ),
            workers: (1..=config.workers).map(worker).collect(),
            collector: Part::new(
                collector,
                vec![config.ports.collector()],
                Probe::Http { url: collector_ready },
            ),
            generator: Part::new(generator, Vec::new(), Probe::None),
        }
    }

    /// Starts Kafka and the S3 server, as far as they don't run already.
    pub(crate) async fn start_parts(
        &mut self,
        config: &Config,
        folder: &Folder,
        places: &Places,
    ) -> Result<(), PartError> {
        let (kafka, s3) = (&mut self.kafka, &mut self.s3);
        let kafka = async {
            if config.parts.kafka.is_some() {
                return Ok(());
            }
            let settings = kafka::Settings {
                folder: folder.join("kafka"),
                log: folder.log("kafka"),
                host: Host::default(),
                port: config.ports.kafka(),
                controller_port: config.ports.kafka_controller(),
                detour: None,
            };
            kafka.insert(kafka::prepare(&settings).await?).start().await
        };
        let s3 = async {
            let Some(bucket) = config.bucket().filter(|_| config.starts_s3()) else { return Ok(()) };
            let settings = s3::Settings {
                folder: folder.join("s3"),
                log: folder.log("s3"),
                host: Host::default(),
                port: config.ports.s3(),
                inner_ports: config.ports.s3_inner(),
                bucket: bucket.to_owned(),
            };
            s3.insert(s3::prepare(&settings, places.lake.clone()).await?).start().await
        };
        futures::future::try_join(kafka, s3).await.map(drop)
    }

    /// Starts master, workers and collector, and waits until the master knows every worker.
    pub(crate) async fn start_roles(&mut self, master: &Master) -> Result<(), PartError> {
        self.master.start().await?;
        // Both wait for what they need by themselves.
        let workers = try_join_all(self.workers.iter_mut().map(Part::launch));
        futures::future::try_join(workers, self.collector.start()).await?;
        let pids: Vec<u32> = self.workers.iter().filter_map(Part::pid).collect();
        let dies = futures::future::select_all(
            self.workers
                .iter()
                .map(|worker| Box::pin(worker.fails()))
                .chain(std::iter::once(Box::pin(self.master.fails()))),
        );
        tokio::select! {
            registered = tokio::time::timeout(REGISTERED_WITHIN, registered(master, &pids)) => {
                registered.map_err(|_| PartError::NotReady {
                    name: "the set of workers".to_owned(),
                    waited: REGISTERED_WITHIN,
                    reason: format!("the master does not know all of the processes {pids:?}"),
                    log: self.master.program().log.clone(),
                })
            }
            (error, _, _) = dies => Err(error),
        }
    }

    /// Every process, in the order in which it starts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        let stores = self.kafka.iter().chain(&self.s3).chain(std::iter::once(&self.master));
        stores.chain(&self.workers).chain([&self.collector, &self.generator])
    }

    /// Stops whatever runs, the last in the flow of data first to be told, the stores last.
    pub(crate) async fn stop(&mut self) {
        self.generator.stop().await;
        self.collector.stop().await;
        join_all(self.workers.iter_mut().map(Part::stop)).await;
        self.master.stop().await;
        let stores: Vec<&mut Part> = self.s3.iter_mut().chain(&mut self.kafka).collect();
        join_all(stores.into_iter().map(Part::stop)).await;
    }
}

async fn registered(master: &Master, pids: &[u32]) {
    loop {
        if let Ok(known) = master.workers().await
            && pids.iter().all(|pid| known.iter().any(|worker| worker.pid == *pid))
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn worker_flags(config: &Config, places: &Places) -> Vec<String> {
    let flags =
        ["--master", &places.master, "--cores", &config.cores.to_string(), "--memory", &size(config.memory)];
    flags.map(str::to_owned).to_vec()
}

/// The line that starts another worker.
pub(crate) fn worker_line(config: &Config, places: &Places) -> String {
    format!("{} worker {}", shown(&places.program), worker_flags(config, places).join(" "))
}

/// The line that starts `part` anew.
pub(crate) fn start_line(part: &Part) -> String {
    let program = part.program();
    let environment = program.environment.iter();
    let environment =
        environment.map(|(key, value)| format!("{}={} ", key.to_string_lossy(), value.to_string_lossy()));
    let environment = environment.collect::<String>();
    format!("{environment}{} {}", shown(&program.path), program.typed_arguments())
}

/// As one types it from here.
fn shown(program: &Path) -> String {
    let here = env::current_dir().ok();
    let short = here.as_deref().and_then(|here| program.strip_prefix(here).ok());
    short.unwrap_or(program).display().to_string()
}

/// In the largest unit that says it exactly.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let exact = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    exact.map_or_else(|| format!("{bytes}B"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::units::parse_bytes;

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for (bytes, text) in [(2 << 30, "2GiB"), (512 << 20, "512MiB"), ((1 << 30) + 1, "1073741825B")] {
            assert_eq!(size(bytes), text);
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
    }
}
