//! One running child process: its log, its end, and the signals that stop it. Knows nothing of what it runs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, SystemTime};

use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::host::Host;
use crate::spawn::spawn;

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// As it is called in messages: `Kafka`, `worker-2`.
    pub name: String,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// Takes standard output and standard error, appended.
    pub log: PathBuf,
}

impl Program {
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: log.into(),
        }
    }

    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn arguments<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn environment(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The same on `host`: entering another network namespace is a matter for root, or for who made it.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        if let Some(namespace) = &host.namespace {
            let mut net = OsString::from("--net=");
            net.push(namespace);
            self.arguments.splice(0..0, [net, self.path.into_os_string()]);
            self.path = "nsenter".into();
        }
        self
    }

    /// The arguments as one types them in a shell.
    pub fn typed_arguments(&self) -> String {
        self.arguments.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }
}

/// `word` as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub status: ExitStatus,
    /// When this process learned of it: within a few milliseconds of the end.
    pub at: SystemTime,
}

/// A child process. Dropping it kills the child.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    signals: mpsc::Sender<i32>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Starts `program`.
    ///
    /// # Errors
    /// When its log can't be opened or the program can't be started.
    pub async fn start(program: &Program) -> io::Result<Self> {
        if let Some(folder) = program.log.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&program.log)?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.arguments)
            .envs(program.environment.iter().map(|(key, value)| (key, value)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = spawn(command).await?;
        let pid = child.id().ok_or_else(|| io::Error::other("it has no process id"))?;
        let (signals, wanted) = mpsc::channel(8);
        let (ended, exit) = watch::channel(None);
        tokio::spawn(supervise(program.name.clone(), child, wanted, ended));
        Ok(Self { name: program.name.clone(), pid, log: program.log.clone(), signals, exit })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Resolves when it has ended. Cancellation safe.
    pub fn ended(&self) -> impl Future<Output = Exit> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
                Ok(Some(exit)) => exit,
                // The task that supervises the child is gone only when the runtime is.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }

    /// Sends `signal` (a number of `libc`'s). Nothing happens when the process has ended.
    pub async fn signal(&self, signal: i32) {
        // An error: the supervisor has seen the end.
        self.signals.send(signal).await.ok();
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&self) -> Exit {
        self.signal(libc::SIGKILL).await;
        self.ended().await
    }

    /// SIGTERM, and SIGKILL if it has not ended within `grace`. A frozen process is resumed, so that it can obey.
    pub async fn stop(&self, grace: Duration) -> Exit {
        self.signal(libc::SIGTERM).await;
        self.signal(libc::SIGCONT).await;
        if let Ok(exit) = tokio::time::timeout(grace, self.ended()).await {
            return exit;
        }
        warn!(process = self.name, pid = self.pid, ?grace, "did not stop in time, killing it");
        self.kill().await
    }
}

/// Owns the child until its end: signals are sent from here alone, so none can reach a stranger that got the
/// process id after the child was reaped.
async fn supervise(
    name: String,
    mut child: Child,
    mut wanted: mpsc::Receiver<i32>,
    ended: watch::Sender<Option<Exit>>,
) {
    loop {
        tokio::select! {
            biased;
            status = child.wait() => {
                match status {
                    Ok(status) => {
                        ended.send_replace(Some(Exit { status, at: SystemTime::now() }));
                    }
                    Err(error) => warn!(process = name, %error, "its end can't be awaited"),
                }
                return;
            }
            signal = wanted.recv() => match signal {
                Some(signal) => send(&name, &child, signal),
                // Its owner is gone: dropping the child kills it.
                None => return,
            },
        }
    }
}

fn send(name: &str, child: &Child, signal: i32) {
    let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) else { return };
    // SAFETY: no memory is passed; the child has not been reaped, so the process id is its own.
    if unsafe { libc::kill(pid, signal) } != 0 {
        let error = io::Error::last_os_error();
        warn!(process = name, pid, signal, %error, "signal can't be sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn shell(folder: &Path, script: &str) -> Program {
        Program::new("shell", "/bin/sh", folder.join("shell.log")).argument("-c").argument(script)
    }

    #[test]
    fn arguments_are_shown_as_a_shell_takes_them() {
        let program = Program::new("java", "java", "log").arguments(["-cp", "/x/*", "--memory=2GiB", "it's"]);
        assert_eq!(program.typed_arguments(), r"-cp '/x/*' --memory=2GiB 'it'\''s'");
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed() {
        let folder = tempfile::tempdir().expect("folder");
        let stubborn =
            Process::start(&shell(folder.path(), "trap '' TERM; echo up; while :; do sleep 1; done"))
                .await
                .expect("starts");
        while std::fs::read_to_string(stubborn.log()).expect("log").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let exit = stubborn.stop(Duration::from_millis(100)).await;
        assert_eq!(exit.status.signal(), Some(libc::SIGKILL));
    }

    #[tokio::test]
    async fn a_frozen_process_obeys_the_stop() {
        let folder = tempfile::tempdir().expect("folder");
        let frozen = Process::start(&shell(folder.path(), "exec sleep 600")).await.expect("starts");
        frozen.signal(libc::SIGSTOP).await;
        let exit = frozen.stop(Duration::from_secs(60)).await;
        assert_eq!(exit.status.signal(), Some(libc::SIGTERM));
        assert_eq!(frozen.exit(), Some(exit));
    }

    #[tokio::test]
    async fn a_dropped_process_is_killed() {
        let folder = tempfile::tempdir().expect("folder");
        let process = Process::start(&shell(folder.path(), "exec sleep 600")).await.expect("starts");
        let mut exit = process.exit.clone();
        let stat = format!("/proc/{}", process.pid());
        drop(process);
        // The watch closes when the supervisor lets go of the child.
        while exit.changed().await.is_ok() {}
        while std::fs::read_to_string(format!("{stat}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
