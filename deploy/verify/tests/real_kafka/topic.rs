//! Faults of the enriched topic and of the quarantine, one after the other.

use millrace_common::event::canonical_hash;
use millrace_common::headers;
use millrace_common::ledger::{Answer, Entry};
use millrace_verify::finding::FindingKind as Kind;

use crate::scene::{CLICK, CURSOR, POISON_OFFSET, REPEAT, REPEATED, Scene, Sent, Setup, event};
use crate::{kinds, verify, verify_as};

fn both_sinks() -> Setup {
    Setup { has_topic: true, ..Setup::default() }
}

/// What is found when the enriched topic is not as it should be.
async fn enriched(scene: &mut Scene, change: impl FnOnce(&mut Vec<Sent>)) -> Vec<(Kind, u64)> {
    scene.enrich(change).await;
    let report = verify(scene).await;
    assert!(!report.clean, "{report}");
    kinds(&report)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sinks_and_the_quarantine_account_for_every_offset() {
    let scene = Scene::new(both_sinks()).await;
    for derived in [false, true] {
        let mut config = scene.config();
        config.derived = derived;
        let report = verify_as(&config).await;
        assert!(report.clean, "{report}");
        let total = report.total;
        assert_eq!((total.raw_records, total.in_lake, total.on_topic, total.quarantined), (38, 28, 28, 1));
        assert_eq!((total.client_duplicates, total.filtered, total.in_flight), (1, 0, 8));
        assert_eq!((total.lake_rows, total.topic_records, total.topic_in_flight), (28, 28, 8));
        let json = serde_json::to_value(&report).expect("json");
        for word in
            ["lake_rows", "topic_records", "quarantined", "client_duplicates", "filtered", "in_flight"]
        {
            assert!(json[word].is_u64(), "{word}: {json:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_enriched_topic_is_found() {
    let mut scene = Scene::new(both_sinks()).await;
    let gone = enriched(&mut scene, |records| drop(records.remove(3))).await;
    assert_eq!(gone, [(Kind::MissingOnTopic, 1)], "a record is missing");
    let twice = enriched(&mut scene, |records| records.push(records[3].clone())).await;
    assert_eq!(twice, [(Kind::DoubledOnTopic, 1)], "a record twice");
    let altered = enriched(&mut scene, |records| records[3].replace("/home", "/away")).await;
    assert_eq!(altered, [(Kind::AlteredOnTopic, 1)], "the client's part differs");
    let spaced = enriched(&mut scene, |records| records[3].replace("\"event\":{", "\"event\": {")).await;
    assert_eq!(spaced, [(Kind::AlteredOnTopic, 1)], "the client's bytes differ");
    let plain = enriched(&mut scene, |records| records[3].value = event(3).into_bytes()).await;
    assert_eq!(plain, [(Kind::AlteredOnTopic, 1)], "nothing was added");
    let more = |records: &mut Vec<Sent>| records[3].replace(",\"millrace\":", ",\"more\":1,\"millrace\":");
    assert_eq!(enriched(&mut scene, more).await, [(Kind::AlteredOnTopic, 1)], "two members were added");
    let other_key = enriched(&mut scene, |records| records[3].key = Some(b"other".to_vec())).await;
    assert_eq!(other_key, [(Kind::AlteredOnTopic, 1)], "another key");
    let no_key = enriched(&mut scene, |records| records[3].key = None).await;
    assert_eq!(no_key, [(Kind::AlteredOnTopic, 1)], "no key");
    let moved = enriched(&mut scene, |records| records[3].partition = 1).await;
    assert_eq!(moved, [(Kind::MissingOnTopic, 1), (Kind::Misrouted, 1)], "another partition");
    let moved = enriched(&mut scene, |records| records[3].partition = 2).await;
    let both = [(Kind::MissingOnTopic, 1), (Kind::Misrouted, 1)];
    assert_eq!(moved, both, "a partition that the source does not have");
    let invented = |records: &mut Vec<Sent>| {
        records[3].partition = 2;
        records[3].set_header(headers::SOURCE_PARTITION, "2");
    };
    let both = [(Kind::MissingOnTopic, 1), (Kind::UnexplainedOnTopic, 1)];
    assert_eq!(enriched(&mut scene, invented).await, both, "from a partition that the source does not have");
    for (name, bad) in [
        (headers::SOURCE_OFFSET, "three"),
        (headers::SOURCE_OFFSET, "-3"),
        (headers::SOURCE_PARTITION, ""),
        (headers::SOURCE_TOPIC, "another"),
    ] {
        let stranger = enriched(&mut scene, |records| records[3].set_header(name, bad)).await;
        assert_eq!(stranger, both, "{name}: {bad}");
    }
    let bare = enriched(&mut scene, |records| records[3].headers.clear()).await;
    assert_eq!(bare, both, "no headers");
    let marker = |records: &mut Vec<Sent>| records[3].set_header(headers::SOURCE_OFFSET, "17");
    assert_eq!(enriched(&mut scene, marker).await, both, "from an offset without record");
    let early = |records: &mut Vec<Sent>| {
        let mut record = records[3].clone();
        record.set_header(headers::SOURCE_OFFSET, (CURSOR + 100).to_string());
        records.push(record);
    };
    assert_eq!(enriched(&mut scene, early).await, [(Kind::UncommittedOnTopic, 1)], "before its commit");
    let repeat = |records: &mut Vec<Sent>| {
        let mut record = records.iter().find(|record| record.source() == REPEATED).expect("it").clone();
        record.set_header(headers::SOURCE_OFFSET, REPEAT.to_string());
        records.push(record);
    };
    assert_eq!(enriched(&mut scene, repeat).await, [(Kind::DuplicateKept, 1)], "a client duplicate");

    scene.enrich(|records| records[3].replace("\"page_path\":\"/home\"", "\"page_path\":\"/\"")).await;
    assert!(verify(&scene).await.clean, "what was found out is not compared unless asked for");
    let mut config = scene.config();
    config.derived = true;
    let report = verify_as(&config).await;
    assert_eq!(kinds(&report), [(Kind::DerivedAlteredOnTopic, 1)], "{report}");
    assert_eq!(report.total.derived_altered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_quarantine_is_found() {
    let mut scene = Scene::new(both_sinks()).await;
    let mut found = Vec::new();
    let valid = scene.quarantined(3);
    let repeat = scene.quarantined(REPEAT);
    type Change = Box<dyn FnOnce(&mut Vec<Sent>)>;
    let changes: Vec<Change> = vec![
        Box::new(|records| drop(records.pop())),
        Box::new(|records| records.push(records[1].clone())),
        Box::new(|records| records[1].value.push(b'!')),
        Box::new(|records| records[1].key = None),
        Box::new(|records| records[1].set_header(headers::SOURCE_OFFSET, "x")),
        Box::new(|records| records[1].set_header(headers::SOURCE_TOPIC, "another")),
        Box::new(move |records| records.push(valid)),
        Box::new(move |records| records.push(repeat)),
    ];
    for change in changes {
        scene.set_aside(change).await;
        found.push(kinds(&verify(&scene).await));
    }
    let missing = [(Kind::Missing, 1), (Kind::MissingOnTopic, 1)];
    let unexplained = [missing[0], missing[1], (Kind::Unexplained, 1)];
    let expected: [&[(Kind, u64)]; 8] = [
        &missing,
        &[(Kind::Doubled, 1)],
        &[(Kind::Altered, 1)],
        &[(Kind::Altered, 1)],
        &unexplained,
        &unexplained,
        &[(Kind::Doubled, 1), (Kind::DoubledOnTopic, 1), (Kind::QuarantinedInVain, 1)],
        &[(Kind::DuplicateKept, 1)],
    ];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_lake_and_should_not_is_found() {
    let scene = Scene::new(Setup { options: r#"{"types":["page_view"]}"#, ..both_sinks() }).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    assert_eq!((report.total.in_lake, report.total.on_topic, report.total.filtered), (27, 27, 1));
    let first = scene.files[0].clone();
    let id = scene.definition().id.to_string();
    let more = |offset: i64, json: String| {
        let offsets: Vec<i64> = (0..10).chain([offset]).collect();
        scene.file_with(
            &id,
            1,
            0..10,
            &offsets,
            move |at| if at == offset { json.clone() } else { event(at) },
        )
    };
    scene.put(&first, &more(REPEAT, event(REPEAT)));
    let report = verify(&scene).await;
    assert_eq!(report.findings.count(Kind::DuplicateKept), 1, "{report}");
    // A worker of another definition keeps clicks.
    scene.put(&first, &more(CLICK, event(CLICK).replace("click", "page_view")));
    let report = verify(&scene).await;
    assert_eq!(report.findings.count(Kind::FilteredKept), 1, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_compared_with_each_sink_on_its_own() {
    let mut scene = Scene::new(both_sinks()).await;
    let ok = |offset: i64| Entry {
        package_id: Some(format!("id-{offset}")),
        sha256: canonical_hash(event(offset).as_bytes()).expect("hash"),
        answer: Answer::Ok,
    };
    let mut entries: Vec<Entry> = scene.offsets().map(ok).collect();
    // Sent twice and acknowledged twice: it stands once.
    entries.push(ok(REPEATED));
    let mut config = scene.config();
    config.ledger = Some(scene.ledger(&entries));
    let report = verify_as(&config).await;
    assert!(report.clean, "{report}");
    for ledger in [&report.ledger, &report.topic_ledger] {
        let ledger = ledger.as_ref().expect("a ledger");
        assert_eq!((ledger.acknowledged_ok, ledger.found, ledger.repeated), (29, 28, 1), "{ledger}");
    }
    scene
        .enrich(|records| {
            records.push(records[5].clone());
            records[4].replace("/home", "/away");
            records.remove(3);
        })
        .await;
    let report = verify_as(&config).await;
    assert!(report.ledger.expect("a ledger").is_clean());
    let ledger = report.topic_ledger.expect("a ledger");
    let examples = [&ledger.missing, &ledger.altered, &ledger.doubled].map(|fault| fault.examples.clone());
    assert_eq!(examples, [["id-3"], ["id-4"], ["id-5"]].map(|ids| ids.map(str::to_owned).to_vec()));

    // What is in doubt is once there, never twice.
    entries.retain(|entry| entry.package_id.as_deref() != Some("id-5"));
    entries.push(Entry { answer: Answer::Unknown, ..ok(5) });
    config.ledger = Some(scene.ledger(&entries));
    let ledger = verify_as(&config).await.topic_ledger.expect("a ledger");
    assert_eq!((ledger.doubled.count, ledger.unknown_found), (1, 1), "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_set_aside_is_set_aside_once_whatever_the_sinks_are() {
    let scene = Scene::new(Setup { has_lake: false, ..both_sinks() }).await;
    let poison = scene.quarantined(POISON_OFFSET);
    assert_eq!(poison.source(), POISON_OFFSET);
    let url = crate::scene::serve_definition(scene.definition()).await;
    let mut config = scene.config();
    (config.pipeline, config.page) = (Some(scene.definition().name.clone()), url);
    let report = verify_as(&config).await;
    assert!(report.clean && report.lake.is_none(), "{report}");
    assert_eq!((report.total.on_topic, report.total.quarantined, report.total.in_lake), (28, 1, 0));
}
