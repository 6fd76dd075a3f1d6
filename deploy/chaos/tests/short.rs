//! A short run with a fixed seed, and one with a fresh seed, which is printed: every fault must bite, and every
//! acknowledged event must be where it should be.

use clap::Parser;
use millrace_chaos::{Config, run};
use millrace_common::shutdown::Shutdown;

/// The faults of the first minutes: each once in a round. Those that take longest are left to longer runs.
const FAULTS: &str = "worker-kill=2,worker-freeze,worker-partition,broker-kill,kafka-commit-lost,kafka-late-commit,\
                      s3-slow-down,s3-applied,master-kill";
const CYCLES: &str = "10";
const FIXED_SEED: u64 = 20_260_101;

async fn is_exact(seed: u64) {
    println!(
        "seed {seed}: `make chaos ARGS=\"--seed {seed} --cycles {CYCLES} --faults {FAULTS}\"` repeats it"
    );
    let folder = tempfile::tempdir().expect("folder");
    let config = Config::parse_from([
        "millrace-chaos",
        "--seed",
        &seed.to_string(),
        "--cycles",
        CYCLES,
        "--faults",
        FAULTS,
        "--rate",
        "500",
        "--folder",
        &folder.path().display().to_string(),
    ]);
    let report = run(&config, &Shutdown::new()).await;
    let is_exact = report.as_ref().is_ok_and(|report| report.exact);
    if !is_exact {
        println!("logs, ledger and timeline are kept in {}", folder.keep().display());
    }
    let report = report.expect("a verdict");
    assert!(report.exact, "seed {seed}: {:#?}", report.wrong);
    assert_eq!(report.cycles.to_string(), CYCLES, "every cycle was made");
    assert!(report.acknowledged > 0 && report.missing == 0 && report.duplicates == 0);
    println!("{}", report.table());
}

// One after the other: they would only take the machine from each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_event_is_exactly_once_where_it_should_be_whatever_is_done_to_the_cluster() {
    is_exact(FIXED_SEED).await;
    is_exact(rand::random()).await;
}
