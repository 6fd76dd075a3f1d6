//! A run: the cluster under load, one fault after the other, then the checker.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use millrace_common::shutdown::Shutdown;
use millrace_local::Part;
use serde_json::json;

use crate::api::Pages;
use crate::check;
use crate::cluster::{Cluster, RAW_TOPIC};
use crate::config::Config;
use crate::cursors::Reader;
use crate::error::Error;
use crate::inject::{PATIENCE, Scene, inject};
use crate::recovery::Sink;
use crate::report::{Incident, Report, summarize};
use crate::schedule::{Planned, schedule};
use crate::timeline::{Timeline, millis};
use crate::watch::{Slack, View, Watch};

/// What a slot may be behind beyond its own interval and still be level.
const BEYOND: Duration = Duration::from_secs(1);
/// The same of the lake, which uploads and publishes what it commits.
const BEYOND_LAKE: Duration = Duration::from_secs(5);

/// Makes a run and prints nothing but progress.
///
/// # Errors
/// There is no verdict: the cluster can't be started, or the check can't be made.
pub async fn run(config: &Config, shutdown: &Shutdown) -> Result<Report, Error> {
    let seed = config.seed.unwrap_or_else(rand::random);
    let folder = make_folder(&config.folder, seed)?;
    let program = config.millrace.clone().map_or_else(beside_this_program, Ok)?;
    let began = tokio::select! {
        began = run_in(config, seed, &folder, &program) => began,
        () = shutdown.begun() => Err(Error::Interrupted),
    };
    let keeps = config.keep || !began.as_ref().is_ok_and(|report| report.exact);
    if keeps {
        eprintln!("logs, ledger, timeline and data are in {}", folder.display());
    } else if let Err(error) = fs::remove_dir_all(&folder) {
        eprintln!("{} can't be removed: {error}", folder.display());
    }
    began
}

/// A folder of its own for each run.
fn make_folder(parent: &Path, seed: u64) -> Result<PathBuf, Error> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let folder = parent.join(format!("seed-{seed}-{}", since.as_millis()));
    fs::create_dir_all(folder.join("logs"))
        .and_then(|()| std::path::absolute(&folder))
        .map_err(Error::io(format!("{} can't be made", folder.display())))
}

/// The millrace in the folder of this program, or above: tests lie in a folder below it.
fn beside_this_program() -> Result<PathBuf, Error> {
    let this = env::current_exe().map_err(Error::io("this program's own path can't be told"))?;
    let found = this.ancestors().map(|folder| folder.join("millrace")).find(|candidate| candidate.is_file());
    found.ok_or_else(|| {
        Error::SetUp(format!(
            "no millrace beside {}: `cargo build --release -p millrace` makes it, --millrace FILE names another",
            this.display()
        ))
    })
}

async fn run_in(config: &Config, seed: u64, folder: &Path, program: &Path) -> Result<Report, Error> {
    let began = Instant::now();
    let path = folder.join("timeline.jsonl");
    let timeline =
        Timeline::create(&path).map_err(Error::io(format!("{} can't be written", path.display())))?;
    let mix = config.mix();
    timeline.say("begin", &format!("seed {seed}, up to {} cycles of {mix}", config.cycles));
    let mut cluster = Cluster::start(config, program, folder).await?;
    timeline.say("begin", "the cluster runs");
    let pages = Pages::new(cluster.pages()).map_err(|error| Error::SetUp(error.to_string()))?;
    let watch = watch(config, &cluster, &pages, &timeline).await?;
    cluster.generator.launch().await?;

    let planned = schedule(seed, config.cycles, &mix);
    let (incidents, stuck) = cycles(
        config,
        &mut cluster,
        Eyes { pages: &pages, watch: &watch, timeline: &timeline },
        &planned,
        began,
    )
    .await;
    let mut wrong: Vec<String> = incidents
        .iter()
        .filter(|incident| !incident.bitten)
        .map(|incident| {
            let Planned { cycle, fault, .. } = &incident.planned;
            format!("cycle {cycle}: {fault} did not bite: {}", incident.proof)
        })
        .collect();
    wrong.extend(stuck);
    wrong.extend(cluster.ended());

    timeline.say("end", "the generator stops");
    Part::stop(&mut cluster.generator).await;
    timeline.say("end", "waiting until both sinks hold everything");
    if watch.until(PATIENCE, View::has_everything).await.is_none() {
        wrong.push(format!("the sinks do not hold everything {PATIENCE:?} after the end"));
    }
    watch.stop();
    wrong.extend(watch.now().violations);
    timeline.say("end", "checking every event");
    let verdict = check::check(&cluster).await?;
    wrong.extend(verdict.faults);
    cluster.end().await;
    wrong.extend(panics(&folder.join("logs")));

    for line in &wrong {
        timeline.say("wrong", line);
    }
    let (lake, topic) = (&verdict.report["ledger"], &verdict.report["topic_ledger"]);
    let count = |fault: &str| {
        let of = |ledger: &serde_json::Value| ledger[fault]["count"].as_u64().unwrap_or(0);
        of(lake).max(of(topic))
    };
    let acknowledged = |answer: &str| lake[answer].as_u64().unwrap_or(0);
    let report = Report {
        exact: wrong.is_empty() && verdict.is_exact,
        seed,
        cycles: u32::try_from(incidents.len()).unwrap_or(u32::MAX),
        faults: mix.to_string(),
        workers: config.workers,
        rate: config.rate,
        elapsed_ms: millis(began.elapsed()),
        wrong,
        acknowledged: acknowledged("acknowledged_ok") + acknowledged("acknowledged_invalid"),
        missing: count("missing"),
        duplicates: count("doubled"),
        summary: summarize(&incidents),
        incidents,
        verify: Some(verdict.report),
        lake: Some(verdict.lake_report),
    };
    let json = serde_json::to_vec_pretty(&report).map_err(|error| Error::SetUp(error.to_string()))?;
    let path = folder.join("report.json");
    fs::write(&path, json).map_err(Error::io(format!("{} can't be written", path.display())))?;
    timeline.say("end", if report.exact { "exact" } else { "NOT EXACT: see above" });
    Ok(report)
}

async fn watch(
    config: &Config,
    cluster: &Cluster,
    pages: &Pages,
    timeline: &Timeline,
) -> Result<Watch, Error> {
    let began = Instant::now();
    let pipeline = loop {
        let mut found = None;
        for master in 0..pages.len() {
            found = found.or(pages.pipelines(master).await.and_then(|all| all.into_iter().next()));
        }
        match found {
            Some(pipeline) => break pipeline,
            None if began.elapsed() > PATIENCE => {
                return Err(Error::Stuck {
                    what: "a master tells the pipeline".to_owned(),
                    patience: PATIENCE,
                });
            }
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let group = format!("millrace.{}", pipeline.id);
    let reader = Reader::new(&cluster.kafka_servers(), &group, RAW_TOPIC, config.partitions)
        .map_err(|error| Error::SetUp(format!("Kafka can't be watched: {error}")))?;
    let slack = Slack {
        topic: config.commit_interval + BEYOND,
        lake: config.commit_interval + config.roll_age + BEYOND_LAKE,
    };
    Ok(Watch::start(pages.clone(), reader, slack, timeline))
}

/// What the run is seen by, and told to.
#[derive(Clone, Copy)]
struct Eyes<'a> {
    pages: &'a Pages,
    watch: &'a Watch,
    timeline: &'a Timeline,
}

/// One fault after the other. Beside what was done, why it ended early.
async fn cycles(
    config: &Config,
    cluster: &mut Cluster,
    eyes: Eyes<'_>,
    planned: &[Planned],
    began: Instant,
) -> (Vec<Incident>, Option<String>) {
    let Eyes { pages, watch, timeline } = eyes;
    let mut incidents = Vec::new();
    for planned in planned {
        if config.duration.is_some_and(|duration| began.elapsed() > duration) {
            break;
        }
        if let Err(obstacle) = steady(config, cluster, watch).await {
            return (incidents, Some(format!("before cycle {}: {obstacle}", planned.cycle)));
        }
        tokio::time::sleep(planned.wait()).await;
        let done = inject(&mut Scene { cluster, pages, watch, timeline, planned }).await;
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                return (incidents, Some(format!("cycle {}: {}: {error}", planned.cycle, planned.fault)));
            }
        };
        let (bitten, proof) = match done.proof {
            Ok(proof) => (true, proof),
            Err(missing) => (false, missing),
        };
        timeline.note(
            Instant::now(),
            "done",
            json!({ "planned": planned, "bitten": bitten, "proof": proof, "spans": done.spans }),
        );
        incidents.push(Incident {
            planned: planned.clone(),
            victim: done.victim,
            bitten,
            proof,
            spans: done.spans,
        });
    }
    // The last fault's cluster must come back, too.
    let obstacle = steady(config, cluster, watch).await.err();
    (incidents, obstacle.map(|obstacle| format!("after the last cycle: {obstacle}")))
}

/// Waits until every worker is alive, every slot runs on one of them, and both sinks are level.
async fn steady(config: &Config, cluster: &Cluster, watch: &Watch) -> Result<(), String> {
    let pids: Vec<u32> = cluster.workers.iter().filter_map(Part::pid).collect();
    let is_steady = |view: &View| {
        let running: usize = pids.iter().map(|pid| view.runs(*pid).len()).sum();
        view.leader.is_some()
            && pids.iter().all(|pid| view.is_alive(*pid))
            && Some(running) == usize::try_from(config.partitions).ok()
            && view.is_level(Sink::Topic)
            && view.is_level(Sink::Lake)
    };
    let reached = watch.until(PATIENCE, is_steady).await;
    match (cluster.ended(), reached) {
        (Some(ended), _) => Err(ended),
        (None, Some(_)) => Ok(()),
        (None, None) => {
            let view = watch.now();
            let halts: Vec<&str> =
                view.slots.iter().filter_map(|slot| Some(slot.halt.as_ref()?.detail.as_str())).collect();
            Err(format!("not all is well after {PATIENCE:?}; halted: {halts:?}; slots: {:?}", view.slots))
        }
    }
}

/// No process may panic, whatever is done to the others.
fn panics(logs: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(logs) else { return Vec::new() };
    let files = entries.filter_map(Result::ok).map(|entry| entry.path());
    let panicked = files.filter_map(|path| {
        let text = fs::read(&path).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| line.contains("panicked at"))?;
        Some(format!("{}: {line}", path.display()))
    });
    panicked.collect()
}
