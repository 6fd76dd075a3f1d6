//! The check against real topics and a lake of real files, first without a fault and then with one after the
//! other. Needs a Kafka at `MILLRACE_TEST_KAFKA`.

mod lake;
mod pipelines;
mod scene;
mod topic;

use millrace_common::shutdown::Shutdown;
use millrace_transform::Registry;
use millrace_verify::finding::FindingKind;
use millrace_verify::{Config, Progress, Report, check};
use scene::Scene;

async fn verify(scene: &Scene) -> Report {
    verify_as(&scene.config()).await
}

async fn verify_as(config: &Config) -> Report {
    check(config, &Registry::default(), &Progress::hidden(), &Shutdown::new()).await.expect("a check")
}

fn kinds(report: &Report) -> Vec<(FindingKind, u64)> {
    report.findings.iter().map(|(kind, finding)| (kind, finding.count)).collect()
}
