//! Halted partitions as a person meets them: what the command line says, and how they go on without what is lost.

use std::collections::BTreeSet;

use millrace_common::headers;
use millrace_common::kafka::client_config;
use millrace_e2e::{Cluster, make_topics, millrace, produce, read_committed};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};

async fn has_reached(cluster: &Cluster, cursor: i64) -> bool {
    cluster.slots().await.first().is_some_and(|slot| {
        slot["state"] == "running" && slot["topic_cursor"] == cursor && slot["lake_cursor"] == cursor
    })
}

/// Waits until the slot is halted by this.
async fn halted(cluster: &Cluster, kind: &str) -> String {
    let halt = || async { cluster.slots().await.first().map(|slot| slot["halt"].clone()) };
    cluster.until(kind, || async { halt().await.is_some_and(|halt| halt["kind"] == kind) }).await;
    halt().await.expect("halted")["detail"].as_str().expect("words").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_is_skipped_only_when_a_person_says_so() {
    let cluster = Cluster::start(&millrace()).await;
    let name = |of: &str| format!("e2e-lost-{of}-{}", std::process::id());
    let (raw, enriched, invalid) = (name("raw"), name("enriched"), name("invalid"));
    let kafka = &cluster.kafka;
    make_topics(kafka, &[&raw], 1).await;
    let records = |numbers: std::ops::Range<i64>| numbers.map(|number| format!("record {number}"));
    produce(kafka, &raw, records(0..100));
    let file = format!(
        "name = \"lost\"\nkafka = \"{kafka}\"\n[source]\ntopics = [\"{raw}\"]\n[transform]\nkind = \"raw\"\n[sinks]\n\
         enriched_topic = \"{enriched}\"\ninvalid_topic = \"{invalid}\"\ncommit_interval = \"100ms\"\n[sinks.lake]\n\
         url = \"file://{}/lake\"\nroll_age = \"200ms\"\n",
        cluster.folder().display()
    );
    cluster.submit("lost", &file).await;
    let _worker = cluster.worker(0);
    cluster.until("both sinks hold everything", || has_reached(&cluster, 100)).await;

    // Retention passes the slot while it is paused.
    let kafka_admin: AdminClient<DefaultClientContext> =
        client_config(kafka, "test").create().expect("admin client");
    cluster.run(&["pause", "lost"]).await;
    cluster
        .until("it is paused", || async {
            cluster.slots().await.first().is_some_and(|slot| slot["owner"].is_null())
        })
        .await;
    produce(kafka, &raw, records(100..200));
    let mut below = TopicPartitionList::new();
    below.add_partition_offset(&raw, 0, Offset::Offset(150)).expect("an offset");
    kafka_admin.delete_records(&below, &AdminOptions::new()).await.expect("deleted");
    cluster.run(&["resume", "lost"]).await;
    let detail = halted(&cluster, "offsets_lost").await;
    assert!(detail.contains("holds 150 to 200"), "{detail}");

    let partition = format!("{raw}/0");
    let listed = cluster.run(&["slots", "list", "lost", "--halted"]).await;
    assert!(listed.contains(&partition) && listed.contains("offsets_lost: "), "{listed}");
    for (arguments, code, words) in [
        (vec!["--skip-lost"], 2, "<TOPIC/PARTITION>"),
        (vec![partition.as_str(), "--from", "150"], 2, "--skip-lost"),
        (vec![partition.as_str(), "--skip-lost", "--from", "150"], 1, "its cursors are known"),
        (vec!["other/7", "--skip-lost"], 1, partition.as_str()),
    ] {
        let line = [vec!["slots", "resume", "lost"], arguments].concat();
        let (ended, said) = cluster.ended(&line).await;
        assert!(ended == code && said.contains(words), "{line:?}: {ended}, {said}");
    }
    // Without the word it halts again.
    let before = cluster.slots().await[0]["epoch"].as_u64();
    cluster.run(&["slots", "resume", "lost", &partition]).await;
    cluster
        .until("it was granted again", || async { cluster.slots().await[0]["epoch"].as_u64() > before })
        .await;
    halted(&cluster, "offsets_lost").await;
    let said = cluster.run(&["slots", "resume", "lost", &partition, "--skip-lost"]).await;
    assert!(said.contains("without what is lost"), "{said}");
    cluster.until("it goes on behind what is lost", || has_reached(&cluster, 200)).await;

    // Kafka forgets the slot's record.
    cluster.run(&["pause", "lost"]).await;
    cluster
        .until("it is paused", || async {
            cluster.slots().await.first().is_some_and(|slot| slot["owner"].is_null())
        })
        .await;
    let pipelines = cluster.get("/api/v1/pipelines").await.expect("pipelines");
    let group = format!("millrace.{}", pipelines[0]["id"].as_str().expect("an id"));
    let forgotten = kafka_admin.delete_groups(&[&group], &AdminOptions::new()).await.expect("answered");
    assert_eq!(forgotten, [Ok(group)]);
    produce(kafka, &raw, records(200..250));
    cluster.run(&["resume", "lost"]).await;
    let detail = halted(&cluster, "record_lost").await;
    assert!(detail.contains("rows up to offset 200 (not included)"), "{detail}");
    let (ended, said) = cluster.ended(&["slots", "resume", "lost", &partition, "--skip-lost"]).await;
    assert!(ended == 1 && said.contains("--from OFFSET"), "{ended}, {said}");
    cluster.run(&["slots", "resume", "lost", &partition, "--skip-lost", "--from", "200"]).await;
    cluster.until("it goes on where a person said", || has_reached(&cluster, 250)).await;

    let found: Vec<i64> = read_committed(kafka, &enriched)
        .await
        .iter()
        .map(|record| record.headers[headers::SOURCE_OFFSET].parse().expect("an offset"))
        .collect();
    assert_eq!(found.len(), 200, "none twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (0..100).chain(150..250).collect());
    let listed = cluster.run(&["slots", "list", "lost", "--halted"]).await;
    assert!(listed.contains("no partition is halted"), "{listed}");
}
