//! Pipelines as a person submits them, on real processes: several at once with a killed worker, and records that kill.

use std::collections::BTreeMap;
use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use millrace_common::headers;
use millrace_e2e::{Cluster, Hand, fragile, make_topics, millrace, produce, read_committed, signal};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// Whether both sinks of all slots have passed everything that Kafka holds.
async fn has_caught_up(cluster: &Cluster, slots: usize) -> bool {
    let all = cluster.slots().await;
    all.len() == slots
        && all.iter().all(|slot| {
            let behind = |cursor: &str| {
                slot[cursor].as_i64().is_some_and(|cursor| Some(cursor) < slot["end"].as_i64())
            };
            slot["state"] == "running"
                && !slot["end"].is_null()
                && !behind("topic_cursor")
                && !behind("lake_cursor")
        })
}

fn name(of: &str) -> String {
    format!("e2e-{of}-{}", std::process::id())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_kill_are_set_aside_and_nothing_else() {
    let cluster = Cluster::start(&fragile()).await;
    let (raw, enriched, invalid) = (name("kill-raw"), name("kill-enriched"), name("kill-invalid"));
    make_topics(&cluster.kafka, &[&raw], 1).await;
    let mut values: Vec<String> = (0..200).map(|number| format!("record {number}")).collect();
    values[30] = "reject".into();
    values[40] = "abort".into();
    values[90] = "panic".into();
    produce(&cluster.kafka, &raw, values.clone());
    let kafka = &cluster.kafka;
    cluster
        .submit(
            "fragile",
            &format!(
                "name = \"fragile\"\nkafka = \"{kafka}\"\n[source]\ntopics = [\"{raw}\"]\n[transform]\nkind = \"fragile\"\n\
                 [sinks]\nenriched_topic = \"{enriched}\"\ninvalid_topic = \"{invalid}\"\ncommit_interval = \"100ms\"\n\
                 [sinks.lake]\nurl = \"file://{}/lake\"\nroll_age = \"1h\"\nroll_idle = \"1h\"\n",
                cluster.folder().display()
            ),
        )
        .await;
    let mut workers: Vec<Hand> = Vec::new();
    for number in 0..3 {
        workers.push(cluster.worker(number));
    }
    cluster
        .until("the slot has passed the records that kill", || async {
            cluster.slots().await.first().is_some_and(|slot| slot["topic_cursor"] == 200)
        })
        .await;
    let mut dead = 0;
    for worker in &mut workers {
        dead += usize::from(worker.has_ended());
    }
    assert_eq!(dead, 2, "the third owner tries records before it takes them in");

    let kept = read_committed(kafka, &enriched).await;
    let found: Vec<_> = kept.iter().map(|record| record.value.clone().expect("a value")).collect();
    let expected: Vec<_> = values
        .iter()
        .filter(|value| value.starts_with("record"))
        .map(|value| value.clone().into_bytes())
        .collect();
    assert_eq!(found, expected);
    let set_aside: Vec<_> = read_committed(kafka, &invalid)
        .await
        .into_iter()
        .map(|record| {
            let header = |name: &str| record.headers[name].clone();
            (header(headers::SOURCE_OFFSET), header(headers::REASON), record.value.expect("as it was"))
        })
        .collect();
    let failed =
        |offset: &str, value: &[u8]| (offset.to_owned(), "transform_failed".to_owned(), value.to_vec());
    let rejected = ("30".to_owned(), "wrong_kind".to_owned(), b"reject".to_vec());
    assert_eq!(set_aside, [rejected, failed("40", b"abort"), failed("90", b"panic")]);

    // The lake is behind all of them. The next owner, killed or not, obeys what was decided.
    let survivor = workers.iter_mut().find_map(|worker| (!worker.has_ended()).then(|| worker.pid()));
    signal(survivor.expect("the third owner"), libc::SIGKILL);
    let _heir = cluster.worker(3);
    cluster
        .until("the heir has read on", || async {
            cluster.slots().await.first().is_some_and(|slot| slot["epoch"] == 4 && slot["position"] == 200)
        })
        .await;
    assert_eq!(cluster.slots().await[0]["lake_cursor"], 0);
    cluster.run(&["pause", "fragile"]).await;
    cluster
        .until("the last commit moves the lake", || async {
            cluster.slots().await.first().is_some_and(|slot| slot["lake_cursor"] == 200)
        })
        .await;
}

/// What a lake of clicks holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    rows: u64,
    by_type: BTreeMap<String, u64>,
    by_day: BTreeMap<String, u64>,
    by_page: BTreeMap<String, u64>,
    by_session: BTreeMap<String, u64>,
    quantity: i64,
    revenue_cents: i64,
}

/// Counts the rows of the Parquet files below `lake`, each by its folder's day.
fn count_lake(lake: &Path) -> Counted {
    let mut counted = Counted::default();
    let mut folders = vec![lake.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() && !path.ends_with("_staging") && !path.ends_with("_millrace") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                count_file(&path, &mut counted);
            }
        }
    }
    counted
}

fn count_file(path: &Path, counted: &mut Counted) {
    let file = std::fs::File::open(path).expect("file");
    let text = path.display().to_string();
    let part = |key: &str| {
        let value = text.split(&format!("{key}=")).nth(1).expect("a hive partition");
        value.split('/').next().expect("a value").to_owned()
    };
    let day = format!("{}-{}-{}", part("year"), part("month"), part("day"));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("reader");
    for batch in reader {
        let batch = batch.expect("batch");
        let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        let text = |name: &str, row: usize| {
            let texts = column(name).as_string::<i32>();
            texts.is_valid(row).then(|| texts.value(row).to_owned())
        };
        let (quantities, prices) =
            (column("quantity").as_primitive::<Int64Type>(), column("price").as_primitive::<Float64Type>());
        for row in 0..batch.num_rows() {
            counted.rows += 1;
            let kind = text("type", row).expect("a type");
            let quantity = quantities.is_valid(row).then(|| quantities.value(row));
            counted.quantity += quantity.unwrap_or(0);
            if kind == "purchase" && prices.is_valid(row) {
                #[expect(clippy::cast_possible_truncation, reason = "cents of a shop")]
                let cents = (prices.value(row) * quantity.unwrap_or(1) as f64 * 100.0).round() as i64;
                counted.revenue_cents += cents;
            }
            *counted.by_type.entry(kind).or_default() += 1;
            *counted.by_day.entry(day.clone()).or_default() += 1;
            if let Some(page) = text("page_path", row) {
                *counted.by_page.entry(page).or_default() += 1;
            }
            if let Some(session) = text("session_id", row) {
                *counted.by_session.entry(session).or_default() += 1;
            }
        }
    }
}

fn counts(value: &Value) -> BTreeMap<String, u64> {
    let counts = value.as_object().expect("counts");
    counts.iter().map(|(key, count)| (key.clone(), count.as_u64().expect("a count"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pipelines_with_a_killed_worker_hold_exactly_the_ground_truth() {
    let cluster = Cluster::start(&millrace()).await;
    let (raw, enriched, invalid) = (name("two-raw"), name("two-enriched"), name("two-invalid"));
    make_topics(&cluster.kafka, &[&raw], 3).await;
    let kafka = &cluster.kafka;
    let folder = cluster.folder().display();
    let source = format!("kafka = \"{kafka}\"\n[source]\ntopics = [\"{raw}\"]\n");
    let lake = |name: &str| format!("[sinks.lake]\nurl = \"file://{folder}/{name}\"\nroll_age = \"1s\"\n");
    let all = format!(
        "name = \"all\"\n{source}[sinks]\nenriched_topic = \"{enriched}\"\ninvalid_topic = \"{invalid}\"\n\
         commit_interval = \"200ms\"\n{}",
        lake("all")
    );
    let purchases = format!(
        "name = \"purchases\"\n{source}[transform]\nkind = \"clicks\"\ntypes = [\"purchase\"]\ndrop = [\"ip\"]\n\
         [sinks]\ninvalid_topic = \"{invalid}\"\n{}",
        lake("purchases")
    );
    cluster.submit("all", &all).await;
    cluster.submit("purchases", &purchases).await;
    let mut workers: Vec<Hand> = (0..3).map(|number| cluster.worker(number)).collect();
    let (_collector, url) = cluster.collector(&raw, &invalid);
    let (truth, ledger) = (cluster.folder().join("truth.json"), cluster.folder().join("ledger.jsonl"));
    let (truth_flag, ledger_flag) = (truth.display().to_string(), ledger.display().to_string());
    let mut generator = cluster.start_line(
        "generator",
        &[
            "generate",
            "--url",
            &url,
            "--rate",
            "1500",
            "--duration",
            "10s",
            "--invalid",
            "0.01",
            "--duplicates",
            "0.02",
            "--late",
            "0.01",
            "--ground-truth",
            &truth_flag,
            "--ledger",
            &ledger_flag,
        ],
    );
    cluster
        .until("all slots have committed", || async {
            let slots = cluster.slots().await;
            slots.len() == 6 && slots.iter().all(|slot| slot["lake_cursor"].as_i64() > Some(0))
        })
        .await;
    let victim = workers.remove(0);
    signal(victim.pid(), libc::SIGKILL);
    assert!(generator.ended().await.success(), "{}", generator.output());
    cluster.until("both pipelines have caught up", || has_caught_up(&cluster, 6)).await;
    for worker in &mut workers {
        signal(worker.pid(), libc::SIGTERM);
        assert!(worker.ended().await.success(), "{}", worker.output());
    }

    let truth: Value = serde_json::from_slice(&std::fs::read(truth).expect("truth")).expect("JSON");
    assert_eq!(truth["unknown"], 0, "{truth:#}");
    assert!(truth["duplicates"]["acknowledged"].as_u64() > Some(50), "{truth:#}");
    let counted = count_lake(&cluster.folder().join("all"));
    let expected = Counted {
        rows: truth["acknowledged"].as_u64().expect("a count"),
        by_type: counts(&truth["by_type"]),
        by_day: counts(&truth["by_day"]),
        by_page: counts(&truth["by_page"]),
        by_session: counts(&truth["sessions"]["events"]),
        quantity: truth["quantity"].as_i64().expect("a sum"),
        revenue_cents: truth["revenue_cents"].as_i64().expect("a sum"),
    };
    assert_eq!(counted, expected);

    // The enriched topic holds each acknowledged event once, the filtered pipeline its purchases without addresses.
    let mut topic_types: BTreeMap<String, u64> = BTreeMap::new();
    let mut ids = std::collections::BTreeSet::new();
    for record in read_committed(kafka, &enriched).await {
        let event: Value = serde_json::from_slice(&record.value.expect("a value")).expect("JSON");
        *topic_types.entry(event["type"].as_str().expect("a type").to_owned()).or_default() += 1;
        assert!(event["millrace"]["event_time"].is_string(), "{event:#}");
        assert!(ids.insert(event["package_id"].as_str().expect("an id").to_owned()), "twice: {event:#}");
    }
    assert_eq!(topic_types, expected.by_type);
    let purchases = count_lake(&cluster.folder().join("purchases"));
    assert_eq!(purchases.rows, expected.by_type["purchase"]);
    assert_eq!(purchases.revenue_cents, expected.revenue_cents);
    for (pipeline, with_ledger) in [("all", true), ("purchases", false)] {
        let lake = format!("file://{folder}/{pipeline}");
        let mut line = vec!["verify", "--kafka", kafka, "--lake", &lake];
        if with_ledger {
            line.extend(["--ledger", &ledger_flag]);
        }
        cluster.run(&line).await;
    }
}
