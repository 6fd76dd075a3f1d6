//! A part of a local cluster: a program with its ports, and the request by which it is known to be ready. Its data
//! outlives it: a part that was stopped or killed starts again on the same ports and data.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ports::{self, PortError, PortUse};
use crate::probe::Probe;
use crate::process::{Exit, Process, Program};

/// How long a part may take until it is ready; a cold disk and two busy cores included.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long a part may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a taken port is waited for.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether a part is ready.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// A part that does not run as it should.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// The message is the getting script's own line.
    #[error("{reason}")]
    Get { reason: String },
    #[error("{name} ended with {outcome}{}; its log is {}", said(.last_words), .log.display())]
    Ended { name: String, outcome: String, last_words: Option<String>, log: PathBuf },
    #[error("{name} is not ready after {} s: {reason}; its log is {}", .waited.as_secs(), .log.display())]
    NotReady { name: String, waited: Duration, reason: String, log: PathBuf },
}

impl PartError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

fn said(last_words: &Option<String>) -> String {
    last_words.as_ref().map(|words| format!(", saying {words:?}")).unwrap_or_default()
}

/// A program, its ports and its readiness; running or not.
#[derive(Debug)]
pub struct Part {
    program: Program,
    ports: Vec<PortUse>,
    probe: Probe,
    process: Option<Process>,
}

impl Part {
    pub fn new(program: Program, ports: Vec<PortUse>, probe: Probe) -> Self {
        Self { program, ports, probe, process: None }
    }

    pub fn name(&self) -> &str {
        &self.program.name
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The running process; `None` before the first start and after a stop.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| process.exit().is_none()).map(Process::pid)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When a port is taken, the program can't be started, ends before it is ready, or is not ready in two minutes
    /// (then it is stopped again).
    pub async fn start(&mut self) -> Result<(), PartError> {
        self.launch().await?;
        let ready = self.ready().await;
        if ready.is_err() {
            self.kill().await;
        }
        ready
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When a port is taken or the program can't be started.
    pub async fn launch(&mut self) -> Result<(), PartError> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.await_ports().await?;
        let path = self.program.path.display();
        let started = Process::start(&self.program).await;
        let process =
            started.map_err(PartError::io(format!("{} can't be started as {path}", self.program.name)))?;
        self.process = Some(process);
        Ok(())
    }

    /// A port in the ephemeral range may be some client's for a moment, and a killed predecessor's for another.
    async fn await_ports(&self) -> Result<(), PortError> {
        let began = Instant::now();
        loop {
            match ports::check(&self.program.name, &self.ports) {
                Err(_) if began.elapsed() < PORT_PATIENCE => tokio::time::sleep(PROBE_PAUSE).await,
                checked => return checked,
            }
        }
    }

    /// Waits until it answers its probe.
    ///
    /// # Errors
    /// When it ends first, or is not ready in two minutes.
    pub async fn ready(&self) -> Result<(), PartError> {
        let Some(process) = &self.process else {
            return Err(PartError::Io {
                what: format!("{} was never started", self.program.name),
                source: io::ErrorKind::NotFound.into(),
            });
        };
        tokio::select! {
            exit = process.ended() => Err(ended(process, exit)),
            ready = self.answers(process.log()) => ready,
        }
    }

    async fn answers(&self, log: &Path) -> Result<(), PartError> {
        let mut reason = "it was not asked yet".to_owned();
        let asked = tokio::time::timeout(READY_WITHIN, async {
            while let Err(refusal) = self.probe.ask().await {
                reason = refusal;
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        });
        asked.await.map_err(|_| PartError::NotReady {
            name: self.program.name.clone(),
            waited: READY_WITHIN,
            reason,
            log: log.to_owned(),
        })
    }

    /// SIGTERM, SIGKILL after 30 s; `None` when it did not run.
    pub async fn stop(&mut self) -> Option<Exit> {
        match self.process.take() {
            Some(process) => Some(process.stop(STOP_WITHIN).await),
            None => None,
        }
    }

    /// SIGKILL; `None` when it did not run.
    pub async fn kill(&mut self) -> Option<Exit> {
        match self.process.take() {
            Some(process) => Some(process.kill().await),
            None => None,
        }
    }

    /// Sends `signal` (a number of `libc`'s), if it runs.
    pub async fn signal(&self, signal: i32) {
        if let Some(process) = &self.process {
            process.signal(signal).await;
        }
    }

    /// Resolves with the error that tells of its end; never while it does not run. Cancellation safe.
    pub async fn fails(&self) -> PartError {
        match &self.process {
            Some(process) => ended(process, process.ended().await),
            None => std::future::pending().await,
        }
    }
}

/// The error that tells of `process`' end, with the line of its log that most likely says why.
pub(crate) fn ended(process: &Process, exit: Exit) -> PartError {
    PartError::Ended {
        name: process.name().to_owned(),
        outcome: exit.status.to_string(),
        last_words: std::fs::read(process.log())
            .ok()
            .and_then(|log| last_words(&String::from_utf8_lossy(&log))),
        log: process.log().to_owned(),
    }
}

/// The first of the last complaints in `log`, or its last line: what a person would look for.
fn last_words(log: &str) -> Option<String> {
    const COMPLAINTS: [&str; 5] = ["No space left", "FATAL", "ERROR", "Exception", "rror: "];
    const RECENT: usize = 80;
    const LONGEST: usize = 300;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let recent = &lines[lines.len().saturating_sub(RECENT)..];
    let complaint =
        COMPLAINTS.iter().find_map(|complaint| recent.iter().find(|line| line.contains(complaint)));
    let words = complaint.or(recent.last())?;
    Some(words.trim().chars().take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(folder: &Path, script: &str) -> Part {
        let program =
            Program::new("shell", "/bin/sh", folder.join("shell.log")).argument("-c").argument(script);
        Part::new(program, Vec::new(), Probe::Tcp { port: 1 })
    }

    #[tokio::test]
    async fn a_part_that_dies_says_why_and_where_its_log_is() {
        let folder = tempfile::tempdir().expect("folder");
        let mut dying = part(folder.path(), "echo 'INFO up'; echo 'ERROR No space left on device'; exit 3");
        let message = dying.start().await.expect_err("it dies").to_string();
        assert!(message.contains("shell ended with exit status: 3"), "{message}");
        assert!(message.contains("No space left on device"), "{message}");
        assert!(message.contains("shell.log"), "{message}");
        assert_eq!(dying.pid(), None);
    }

    #[tokio::test]
    async fn a_part_starts_again_after_it_was_killed() {
        let folder = tempfile::tempdir().expect("folder");
        let mut part = part(folder.path(), "exec sleep 600");
        part.launch().await.expect("starts");
        let first = part.pid();
        part.kill().await;
        assert_eq!(part.pid(), None);
        part.launch().await.expect("starts again");
        assert!(part.pid().is_some() && part.pid() != first);
    }

    #[test]
    fn the_cause_is_preferred_to_the_last_line() {
        assert_eq!(last_words("a\nERROR disk\nbye\n").as_deref(), Some("ERROR disk"));
        assert_eq!(last_words("a\nb\n\n").as_deref(), Some("b"));
        assert_eq!(last_words(""), None);
    }
}
