//! The end of a run: wait until both sinks hold everything, then let `millrace verify` judge by the generator's ledger.
//! It reads the topics and the lake itself, and believes nobody.

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
}

/// Lets the checker judge.
pub(crate) async fn verify(cluster: &Cluster) -> Result<Verdict, Error> {
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
        .env("AWS_SECRET_ACCESS_KEY", LOGIN)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .map_err(|_| Error::SetUp(format!("millrace verify hangs for {DEADLINE:?}")))?
        .map_err(Error::io("millrace verify can't be run"))?;
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Error::SetUp(format!(
            "millrace verify ended with {} and gave no report ({error}): {said}",
            output.status
        ))
    })?;
    Ok(judge(report, output.status.success()))
}

/// What is in flight when everything was awaited is missing.
fn judge(report: Value, is_clean: bool) -> Verdict {
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
    Verdict { is_exact: faults.is_empty(), faults, report }
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
        assert!(judge(report(), true).is_exact);
        assert!(!judge(report(), false).is_exact);
        assert!(!judge(json!({ "clean": true }), true).is_exact);
        for (pointer, value) in [
            ("/clean", json!(false)),
            ("/ledger/missing/count", json!(1)),
            ("/topic_ledger/doubled/count", json!(1)),
            ("/ledger/in_flight", json!(1)),
            ("/ledger/acknowledged_ok", json!(0)),
        ] {
            let mut report = report();
            *report.pointer_mut(pointer).expect("it is there") = value;
            let verdict = judge(report, true);
            assert!(!verdict.is_exact && verdict.faults.len() == 1, "{pointer}: {verdict:?}");
        }
    }
}
