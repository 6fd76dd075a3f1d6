//! Verify now: runs `millrace verify` of this very program as a process of its own, and tells how far it is. A process,
//! since it takes memory by the million events and all cores, which must not be the master's.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_common::secret;
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{LakeTarget, PipelineDefinition};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::pipelines::Refusal;
use crate::snapshot::unix_now_ms;

/// Runs that are remembered.
const REMEMBERED: usize = 20;
/// Of a report, in bytes.
const LONGEST: u64 = 64 << 20;

/// A verification, running or over.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Run {
    /// Counts from 1 since the master began.
    pub(crate) number: usize,
    pub(crate) pipeline: String,
    pub(crate) begun_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    /// What it does now.
    pub(crate) stage: String,
    /// Records and rows looked at, of about so many.
    pub(crate) done: u64,
    pub(crate) of: u64,
    /// Every offset is accounted for, exactly once; `None` until it is over, or when it could not be told.
    pub(crate) clean: Option<bool>,
    /// The report of `millrace verify --json`.
    pub(crate) report: Option<Value>,
    /// Why there is no report.
    pub(crate) failure: Option<String>,
}

/// All runs, the latest last. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Verifications {
    runs: Arc<Mutex<Vec<Run>>>,
    /// The master's own page, for pipelines without a lake.
    page: String,
    /// Whether the page asks for logins.
    asks_logins: bool,
}

impl Verifications {
    pub(crate) fn new(page: String, asks_logins: bool) -> Self {
        Self { runs: Arc::default(), page, asks_logins }
    }

    /// The latest first.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.lock().iter().rev().cloned().collect()
    }

    /// When the latest run that found the pipeline clean began.
    pub(crate) fn clean_since(&self, pipeline: &str) -> Option<u64> {
        let runs = self.lock();
        let clean = runs.iter().rev().find(|run| run.pipeline == pipeline && run.clean == Some(true));
        clean.map(|run| run.begun_at_ms)
    }

    /// Starts a run, unless one runs.
    pub(crate) fn begin(&self, pipeline: &PipelineDefinition, shutdown: &Shutdown) -> Result<Run, Refusal> {
        let command = self.command(pipeline)?;
        let mut runs = self.lock();
        if let Some(running) = runs.iter().find(|run| run.ended_at_ms.is_none()) {
            return Err(Refusal::Now(format!(
                "pipeline {} is being verified: wait for its end",
                running.pipeline
            )));
        }
        let run = Run {
            number: runs.last().map_or(1, |last| last.number + 1),
            pipeline: pipeline.id.to_string(),
            begun_at_ms: unix_now_ms(),
            ended_at_ms: None,
            stage: "starting".into(),
            done: 0,
            of: 0,
            clean: None,
            report: None,
            failure: None,
        };
        if runs.len() == REMEMBERED {
            runs.remove(0);
        }
        runs.push(run.clone());
        drop(runs);
        let (all, number, end) = (self.clone(), run.number, shutdown.clone());
        shutdown.spawn("verification", async move {
            let outcome = tokio::select! {
                outcome = all.execute(command, number) => outcome,
                () = end.begun() => Err("the master ended".to_owned()),
            };
            all.change(number, |run| {
                run.ended_at_ms = Some(unix_now_ms());
                match outcome {
                    Ok(report) => {
                        run.clean = report["clean"].as_bool();
                        run.report = Some(report);
                    }
                    Err(failure) => run.failure = Some(failure),
                }
            });
        });
        Ok(run)
    }

    /// The child's login is what the pipeline's references name; its page is asked only for what no lake tells.
    fn command(&self, pipeline: &PipelineDefinition) -> Result<Command, Refusal> {
        let program: PathBuf = std::env::current_exe().map_err(|error| {
            Refusal::Unavailable(format!("this program can't be found to start it: {error}"))
        })?;
        let mut command = Command::new(program);
        command.args(["verify", "--json", "--kafka", &pipeline.bootstrap_servers]);
        match &pipeline.lake {
            Some(lake) => with_lake(&mut command, lake)?,
            None if self.asks_logins => {
                return Err(Refusal::Now(
                    "a pipeline without lake is verified by asking this page, which asks for a login: run `millrace verify` \
                     where no login is asked for"
                        .into(),
                ));
            }
            None => {
                command.args(["--page", &self.page, "--pipeline", pipeline.id.as_str()]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// The report, or the child's last words.
    async fn execute(&self, mut command: Command, number: usize) -> Result<Value, String> {
        let mut child = command.spawn().map_err(|error| format!("it can't be started: {error}"))?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("its output can't be read".into());
        };
        let mut report = Vec::new();
        let mut last = String::new();
        let mut lines = BufReader::new(errors).lines();
        let read = async {
            let mut output = output.take(LONGEST);
            output.read_to_end(&mut report).await
        };
        let follow = async {
            while let Ok(Some(line)) = lines.next_line().await {
                match progress(&line) {
                    Some((stage, done, of)) => self.change(number, |run| {
                        stage.clone_into(&mut run.stage);
                        (run.done, run.of) = (done, of);
                    }),
                    None => last = line,
                }
            }
        };
        let (read, ()) = tokio::join!(read, follow);
        read.map_err(|error| format!("its report can't be read: {error}"))?;
        let status = child.wait().await.map_err(|error| format!("its end can't be told: {error}"))?;
        serde_json::from_slice(&report).map_err(|_| {
            let words = last.strip_prefix("millrace: ").unwrap_or(&last);
            format!("it ended with {status}: {words}")
        })
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.lock().iter_mut().find(|run| run.number == number) {
            change(run);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_lake(command: &mut Command, lake: &LakeTarget) -> Result<(), Refusal> {
    command.args(["--lake", &lake.url]);
    if let Some(endpoint) = &lake.endpoint {
        command.args(["--s3-endpoint", endpoint]);
    }
    if let Some(region) = &lake.region {
        command.args(["--s3-region", region]);
    }
    if lake.url.starts_with("s3:") {
        for (name, reference) in
            [("AWS_ACCESS_KEY_ID", &lake.access_key_id), ("AWS_SECRET_ACCESS_KEY", &lake.secret_access_key)]
        {
            let secret = secret::read(reference).map_err(|error| Refusal::Unavailable(error.to_string()))?;
            command.env(name, secret);
        }
    }
    Ok(())
}

/// `verify: STAGE (DONE of about TOTAL)`, as verify tells it where no terminal is.
fn progress(line: &str) -> Option<(&str, u64, u64)> {
    let (stage, counts) = line.strip_prefix("verify: ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let (done, of) = counts.split_once(" of about ")?;
    Some((stage, done.parse().ok()?, of.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_verifys_lines_and_nothing_else() {
        assert_eq!(progress("verify: events/3 (1200 of about 5000)"), Some(("events/3", 1200, 5000)));
        for other in ["verify: x", "verify: (a of about b)", "millrace: x (1 of about 2)", ""] {
            assert_eq!(progress(other), None, "{other}");
        }
    }
}
