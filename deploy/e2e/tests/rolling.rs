//! Every worker is replaced under load, one after the other, as an upgrade does it.

use millrace_e2e::{Cluster, Hand, make_topics, millrace, signal};
use serde_json::Value;

const WORKERS: usize = 3;
const SLOTS: usize = 6;

async fn alive(cluster: &Cluster) -> usize {
    let workers = cluster.get("/api/v1/workers").await.unwrap_or_default();
    workers.as_array().map_or(0, |all| all.iter().filter(|worker| worker["state"] == "ALIVE").count())
}

async fn all_run(cluster: &Cluster) -> bool {
    let slots = cluster.slots().await;
    slots.len() == SLOTS && slots.iter().all(|slot| slot["state"] == "running")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_replaced_under_load_without_a_loss() {
    let cluster = Cluster::start(&millrace()).await;
    let name = |of: &str| format!("rolling-{of}-{}", std::process::id());
    let (raw, enriched, invalid) = (name("raw"), name("enriched"), name("invalid"));
    make_topics(&cluster.kafka, &[&raw], i32::try_from(SLOTS).expect("few")).await;
    let (kafka, folder) = (&cluster.kafka, cluster.folder().display());
    let file = format!(
        "name = \"rolling\"\nkafka = \"{kafka}\"\n[source]\ntopics = [\"{raw}\"]\n[sinks]\nenriched_topic = \"{enriched}\"\n\
         invalid_topic = \"{invalid}\"\ncommit_interval = \"200ms\"\n[sinks.lake]\nurl = \"file://{folder}/lake\"\nroll_age = \"2s\"\n"
    );
    cluster.submit("rolling", &file).await;
    let mut workers: Vec<Hand> = (0..WORKERS).map(|number| cluster.worker(number)).collect();
    let (_collector, url) = cluster.collector(&raw, &invalid);
    let ledger = cluster.folder().join("ledger.jsonl").display().to_string();
    let mut generator =
        cluster.start_line("generator", &["generate", "--url", &url, "--rate", "2000", "--ledger", &ledger]);
    cluster
        .until("all slots have committed", || async {
            let slots = cluster.slots().await;
            slots.len() == SLOTS && slots.iter().all(|slot| slot["lake_cursor"].as_i64() > Some(0))
        })
        .await;
    let before = cluster.get("/api/v1/moves").await.expect("moves").as_array().expect("a list").len();

    for (number, worker) in workers.iter_mut().enumerate() {
        let successor = cluster.worker(WORKERS + number);
        cluster.until("the new worker is there", || async { alive(&cluster).await == WORKERS + 1 }).await;
        let mut old = std::mem::replace(worker, successor);
        signal(old.pid(), libc::SIGTERM);
        assert!(old.ended().await.success(), "{}", old.output());
        let output = old.output();
        assert!(!output.contains("not all slots were moved in time"), "{output}");
        cluster
            .until("the others run everything", || async {
                alive(&cluster).await == WORKERS && all_run(&cluster).await
            })
            .await;
    }
    signal(generator.pid(), libc::SIGTERM);
    assert!(generator.ended().await.success(), "{}", generator.output());

    let moves = cluster.get("/api/v1/moves").await.expect("moves");
    let moves = moves.as_array().expect("a list");
    // The latest come first.
    let moved = &moves[..moves.len() - before];
    let mut pauses: Vec<u64> = moved.iter().filter_map(|moved| moved["pause_ms"].as_u64()).collect();
    pauses.sort_unstable();
    println!(
        "{} moves of {SLOTS} slots on {WORKERS} workers replaced; pauses in ms: {pauses:?}",
        moved.len()
    );
    // Away from the old one, and at most once more to a fair share.
    assert!(moved.len() >= SLOTS && moved.len() <= 4 * SLOTS, "{moved:#?}");
    let failovers = cluster.get("/api/v1/failovers").await.expect("failovers");
    let failovers = failovers.as_array().expect("a list");
    assert_eq!(failovers.len(), WORKERS);
    assert!(
        failovers.iter().all(|left| left["slots"].as_array().is_some_and(Vec::is_empty)),
        "{failovers:#?}"
    );

    cluster
        .until("both sinks have caught up", || async {
            let slots = cluster.slots().await;
            let level = |slot: &Value, cursor: &str| slot[cursor].as_i64() >= slot["end"].as_i64();
            slots.iter().all(|slot| level(slot, "topic_cursor") && level(slot, "lake_cursor"))
        })
        .await;
    let lake = format!("file://{folder}/lake");
    cluster.run(&["verify", "--kafka", kafka, "--lake", &lake, "--ledger", &ledger]).await;
}
