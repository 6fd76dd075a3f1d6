//! The end of a run: `millrace verify` judges the topics and the lake by the generator's ledger, and a program that shares
//! nothing with Millrace judges the lake once more. They read everything themselves, and believe nobody.

use std::process::Stdio;
use std::time::Duration;

use millrace_local::s3::LOGIN;
use serde_json::Value;
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::error::Error;

/// A check that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(1_800);

/// What the checker found.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) is_exact: bool,
    /// What is wrong, in lines.
    pub(crate) faults: Vec<String>,
    /// The checker's own report.
    pub(crate) report: Value,
    /// That of the program which shares nothing with Millrace.
    pub(crate) lake_report: Value,
}

/// Reads the lake by Arrow's C++ implementation.
const LAKE_READER: &str = include_str!("lake_reader.py");

/// Lets both judge.
pub(crate) async fn check(cluster: &Cluster) -> Result<Verdict, Error> {
    let (verdict, lake_report) = tokio::try_join!(verify(cluster), read_lake(cluster))?;
    let (mut faults, report) = verdict;
    faults.extend(judge_lake(&lake_report, &report));
    Ok(Verdict { is_exact: faults.is_empty(), faults, report, lake_report })
}

async fn read_lake(cluster: &Cluster) -> Result<Value, Error> {
    let packages = millrace_local::lake_reader().await?;
    let mut command = Command::new("python3");
    command
        .args(["-c", LAKE_READER])
        .arg(cluster.ledger())
        .args([cluster.s3_endpoint().as_str(), cluster.lake().trim_start_matches("s3://")])
        .env("PYTHONPATH", packages)
        .env("AWS_ACCESS_KEY_ID", LOGIN)
        .env("AWS_SECRET_ACCESS_KEY", LOGIN);
    answer("the lake's reader", command).await.map(|(report, _)| report)
}

/// What a checker writes as JSON, and whether it ended well.
async fn answer(name: &str, mut command: Command) -> Result<(Value, bool), Error> {
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .map_err(|_| Error::SetUp(format!("{name} hangs for {DEADLINE:?}")))?
        .map_err(Error::io(format!("{name} can't be run")))?;
    let report = serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::SetUp(format!("{name} ended with {} and gave no report ({error}): {said}", output.status))
    })?;
    Ok((report, output.status.success()))
}

/// What is wrong with the topics and the lake, and the report.
async fn verify(cluster: &Cluster) -> Result<(Vec<String>, Value), Error> {
    let mut command = Command::new(cluster.program());
    command
        .args([
            "verify",
            "--json",
            "--derived",
            "--kafka",
            &cluster.kafka_servers(),
            "--lake",
            cluster.lake(),
        ])
        .args(["--s3-endpoint", &cluster.s3_endpoint(), "--ledger"])
        .arg(cluster.ledger())
        .env("AWS_ACCESS_KEY_ID", LOGIN)
        .env("AWS_SECRET_ACCESS_KEY", LOGIN);
    let (report, is_clean) = answer("millrace verify", command).await?;
    Ok((judge(&report, is_clean), report))
}

/// What is in flight when everything was awaited is missing.
fn judge(report: &Value, is_clean: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if !is_clean || report["clean"] != true {
        faults.push(format!("millrace verify is not clean: {}", report["findings"]));
    }
    for (name, sink) in [("lake", "ledger"), ("enriched topic", "topic_ledger")] {
        let ledger = &report[sink];
        for fault in ["missing", "doubled", "altered"] {
            if ledger[fault]["count"] != 0 {
                faults.push(format!("{name}: {fault} {}", ledger[fault]));
            }
        }
        if ledger["in_flight"] != 0 {
            faults.push(format!(
                "{name}: {} events are in flight, though the sinks are level",
                ledger["in_flight"]
            ));
        }
        if ledger["acknowledged_ok"].as_u64().unwrap_or(0) == 0 {
            faults.push(format!("{name}: nothing was acknowledged, so nothing was shown"));
        }
    }
    faults
}

/// What the other reader found wrong, or counted otherwise.
fn judge_lake(lake: &Value, report: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for fault in ["missing", "doubled", "altered", "invalid_in_lake"] {
        if lake[fault]["count"] != 0 {
            faults.push(format!("lake, by {}: {fault} {}", lake["reader"], lake[fault]));
        }
    }
    for (own, other) in
        [("/acknowledged", "/ledger/acknowledged_ok"), ("/rows", "/lake_rows"), ("/files", "/files")]
    {
        let (own, other) = (lake.pointer(own), report.pointer(other));
        if own.is_none() || own != other {
            faults
                .push(format!("lake, by {}: {own:?}, but millrace verify counts {other:?}", lake["reader"]));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        let none = json!({ "count": 0, "examples": [] });
        let ledger = json!({ "acknowledged_ok": 5, "in_flight": 0, "missing": none, "doubled": none, "altered": none });
        json!({ "clean": true, "findings": {}, "ledger": ledger, "topic_ledger": ledger })
    }

    #[test]
    fn only_a_whole_report_without_fault_is_exact() {
        assert!(judge(&report(), true).is_empty());
        assert!(!judge(&report(), false).is_empty());
        assert!(!judge(&json!({ "clean": true }), true).is_empty());
        for (pointer, value) in [
            ("/clean", json!(false)),
            ("/ledger/missing/count", json!(1)),
            ("/topic_ledger/doubled/count", json!(1)),
            ("/ledger/in_flight", json!(1)),
            ("/ledger/acknowledged_ok", json!(0)),
        ] {
            let mut report = report();
            *report.pointer_mut(pointer).expect("it is there") = value;
            assert_eq!(judge(&report, true).len(), 1, "{pointer}");
        }
    }

    #[test]
    fn the_other_readers_word_counts_and_both_must_have_read_the_same() {
        let none = json!({ "count": 0, "examples": [] });
        let lake = json!({ "reader": "another", "missing": none, "doubled": none, "altered": none, "invalid_in_lake": none,
            "acknowledged": 5, "rows": 7, "files": 2 });
        let report = json!({ "ledger": { "acknowledged_ok": 5 }, "lake_rows": 7, "files": 2 });
        assert!(judge_lake(&lake, &report).is_empty());
        assert_eq!(judge_lake(&json!({}), &report).len(), 7, "nothing said is nothing shown");
        for (pointer, value) in [
            ("/missing/count", 1),
            ("/doubled/count", 1),
            ("/altered/count", 1),
            ("/invalid_in_lake/count", 1),
            ("/acknowledged", 4),
            ("/rows", 8),
            ("/files", 3),
        ] {
            let mut lake = lake.clone();
            *lake.pointer_mut(pointer).expect("it is there") = json!(value);
            assert_eq!(judge_lake(&lake, &report).len(), 1, "{pointer}");
        }
    }
}
