//! Where the real parts are: runs the script that gets them once into the user's cache. Starts nothing.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs};

use tokio::process::Command;

use crate::part::PartError;

/// The script and what it reads; `make` runs the same files while cargo builds.
const FILES: [(&str, &str); 7] = [
    ("get", include_str!("../parts/get")),
    ("pom.xml", include_str!("../parts/pom.xml")),
    ("kafka.sha256", include_str!("../parts/kafka.sha256")),
    ("log4j2.properties", LOG4J),
    ("seaweedfs.txt", include_str!("../parts/seaweedfs.txt")),
    ("clock.c", include_str!("../parts/clock.c")),
    ("lake-reader.txt", include_str!("../parts/lake-reader.txt")),
];
/// The broker's log set-up.
pub(crate) const LOG4J: &str = include_str!("../parts/log4j2.properties");

/// Apache Kafka as it stands on this machine.
#[derive(Debug, Clone)]
pub(crate) struct KafkaFiles {
    pub(crate) classpath: String,
    /// Kept classes for the Java that is installed.
    pub(crate) archive: Option<String>,
}

/// Apache Kafka: `$KAFKA_HOME`, or the jars from Maven.
pub(crate) async fn kafka() -> Result<KafkaFiles, PartError> {
    let answer = run("kafka").await?;
    Ok(KafkaFiles { classpath: value(&answer, "classpath")?, archive: value(&answer, "archive").ok() })
}

/// SeaweedFS's `weed`.
pub(crate) async fn weed() -> Result<PathBuf, PartError> {
    value(&run("s3").await?, "weed").map(PathBuf::from)
}

/// etcd's server.
pub(crate) async fn etcd() -> Result<PathBuf, PartError> {
    value(&run("etcd").await?, "etcd").map(PathBuf::from)
}

/// The libraries that give a process a clock of its own: the value of `LD_PRELOAD`.
///
/// # Errors
/// When they can't be had.
pub async fn fake_clock() -> Result<String, PartError> {
    value(&run("clock").await?, "libraries")
}

/// The folder with the Python packages that read a lake without Millrace: for `PYTHONPATH`.
///
/// # Errors
/// When they can't be had.
pub async fn lake_reader() -> Result<PathBuf, PartError> {
    value(&run("reader").await?, "packages").map(PathBuf::from)
}

fn value(answer: &str, key: &str) -> Result<String, PartError> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(str::to_owned)
        .ok_or_else(|| PartError::Get { reason: format!("getting the parts gave no {key}: {answer:?}") })
}

async fn run(part: &str) -> Result<String, PartError> {
    // People see what takes time: "fetching Apache Kafka".
    let output = script(part, Stdio::inherit()).await?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(PartError::Get { reason: format!("{part} can't be had: the reason stands above") })
    }
}

async fn script(part: &str, stderr: Stdio) -> Result<Output, PartError> {
    // A copy for each run: two processes may be of different versions, and who is done first removes its own.
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let folder = cache()?.join(format!("get-{}-{run}", std::process::id()));
    write(&folder).map_err(PartError::io(format!("{} can't be written", folder.display())))?;
    let output = Command::new("bash")
        .arg(folder.join("get"))
        .arg(part)
        .stdin(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true)
        .output()
        .await;
    // Only a copy; the next run writes its own.
    drop(fs::remove_dir_all(&folder));
    output.map_err(PartError::io("bash can't be run"))
}

fn write(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    FILES.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
}

fn cache() -> Result<PathBuf, PartError> {
    let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("XDG_CACHE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("millrace"))
        .ok_or_else(|| PartError::Get {
            reason: "neither XDG_CACHE_HOME nor HOME is set: there is no cache for the parts".to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_at_the_same_time_do_not_take_each_others_script_away() {
        // An unknown part: the script must be found, read and answer by itself, each time. It ends at once and gets nothing.
        let runs: Vec<_> = (0..32).map(|_| tokio::spawn(script("nothing", Stdio::piped()))).collect();
        for run in runs {
            let output = run.await.expect("ran").expect("bash");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("get nothing: expected"), "{said}");
        }
    }
}
