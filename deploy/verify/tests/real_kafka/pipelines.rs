//! Pipelines of other shapes: one sink, another transform, a later start, a changed definition, and those that are asked
//! for at the master's page.

use millrace_common::shutdown::Shutdown;
use millrace_common::types::TransformDefinition;
use millrace_transform::Registry;
use millrace_verify::finding::FindingKind as Kind;
use millrace_verify::{Progress, check};

use crate::scene::{REPEAT, Scene, Setup, event, serve_definition};
use crate::{kinds, verify, verify_as};

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_without_lake_is_found_at_the_masters_page() {
    let mut scene = Scene::new(Setup { has_lake: false, has_topic: true, ..Setup::default() }).await;
    let mut config = scene.config();
    config.pipeline = Some(scene.definition().name.clone());
    config.page = serve_definition(scene.definition()).await;
    let report = verify_as(&config).await;
    assert!(report.clean, "{report}");
    assert_eq!((report.total.raw_records, report.total.on_topic, report.total.in_flight), (38, 28, 8));
    assert_eq!((report.total.quarantined, report.total.client_duplicates, report.lake), (1, 1, None));

    scene.enrich(|records| drop(records.remove(3))).await;
    config.page = serve_definition(scene.definition()).await;
    let report = verify_as(&config).await;
    assert_eq!(kinds(&report), [(Kind::MissingOnTopic, 1)], "{report}");
    assert_eq!(report.total.missing, 1);

    config.pipeline = Some("another".to_owned());
    let asked = check(&config, &Registry::default(), &Progress::hidden(), &Shutdown::new()).await;
    let error = asked.expect_err("no such pipeline").to_string();
    assert!(error.contains("another") && error.contains("404"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_records_are_compared_byte_for_byte() {
    let raw = Setup { transform: "raw", has_topic: true, window: 0, ..Setup::default() };
    let mut scene = Scene::new(raw).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    let total = report.total;
    assert_eq!((total.in_lake, total.on_topic, total.quarantined, total.client_duplicates), (30, 30, 0, 0));

    let first = scene.files[0].clone();
    let spaced = |offset| if offset == 4 { format!("{} ", event(4)) } else { event(offset) };
    scene.put(&first, &scene.file(1, 0..10, spaced));
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(Kind::Altered, 1)], "a byte more: {report}");
    scene.put(&first, &scene.file(1, 0..10, event));
    scene.enrich(|records| records[4].value.push(b' ')).await;
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(Kind::AlteredOnTopic, 1)], "a byte more: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_dropped_and_with_renamed_members_are_what_the_transform_makes() {
    let options = r#"{"drop":["customer_id"],"rename":{"price":"amount"}}"#;
    let mut scene = Scene::new(Setup { options, has_topic: true, ..Setup::default() }).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    assert_eq!((report.total.in_lake, report.total.on_topic), (28, 28));
    let first = scene.files[0].clone();
    let altered = |offset| if offset == 4 { event(4).replace("1.50", "2.50") } else { event(offset) };
    scene.put(&first, &scene.file(1, 0..10, altered));
    assert_eq!(kinds(&verify(&scene).await), [(Kind::Altered, 1)], "a renamed column");
    scene.put(&first, &scene.file(1, 0..10, event));
    scene.enrich(|records| records[4].replace("\"amount\":1.50", "\"amount\":2.50")).await;
    assert_eq!(kinds(&verify(&scene).await), [(Kind::AlteredOnTopic, 1)], "a renamed member");
}

#[tokio::test(flavor = "multi_thread")]
async fn derived_columns_are_recomputed_when_asked_for() {
    let scene = Scene::new(Setup::default()).await;
    let mut config = scene.config();
    config.derived = true;
    assert!(verify_as(&config).await.clean);
    // A worker that finds out nothing about the page.
    let blind = Scene::new(Setup { options: r#"{"enrichers":[]}"#, ..Setup::default() }).await;
    let id = scene.definition().id.to_string();
    let offsets: Vec<i64> = (0..10).collect();
    let bytes = blind.file_with(&id, 1, 0..10, &offsets, event);
    scene.put(&scene.files[0], &bytes);
    let report = verify_as(&config).await;
    assert_eq!(report.findings.count(Kind::DerivedAltered), 10, "{report}");
    assert_eq!((report.total.derived_altered, report.total.altered), (10, 0));
    config.derived = false;
    assert_eq!(verify_as(&config).await.findings.count(Kind::DerivedAltered), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_pipelines_start_is_none_of_its_business() {
    let scene = Scene::new(Setup { start: 5, has_topic: true, ..Setup::default() }).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    // Partition 1 was never opened, so nothing says where it will begin.
    assert_eq!((report.total.before_start, report.total.in_lake, report.total.raw_records), (5, 23, 33));
    scene.take(&scene.files[0]);
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(Kind::Missing, 5)], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_changed_transform_either_verdict_is_right_and_no_third() {
    let mut scene = Scene::new(Setup { has_topic: true, ..Setup::default() }).await;
    let earlier = scene.definition().transform.clone();
    // Clicks were kept, and are filtered from now on; a column is gone.
    scene.redefine(|definition| {
        definition.earlier_transforms.push(earlier);
        let options = serde_json::json!({ "types": ["page_view"], "drop": ["price"] });
        definition.transform = TransformDefinition {
            kind: "clicks".into(),
            options: options.as_object().expect("options").clone(),
        };
    });
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    assert_eq!((report.total.in_lake, report.total.on_topic, report.total.filtered), (28, 28, 0));
    let first = scene.files[0].clone();
    let bytes = scene.take(&first);
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(Kind::Missing, 10)], "{report}");
    scene.put(&first, &bytes);
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_no_fault_and_hides_none() {
    let mut scene = Scene::new(Setup { has_topic: true, ..Setup::default() }).await;
    // What the repeat repeats is gone; that it was there, the lake still tells, and the enriched topic as well.
    scene.forget(scene.raw(), REPEAT).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    let total = report.total;
    assert_eq!((total.client_duplicates, total.in_lake, total.on_topic), (1, 9, 9));
    // Nineteen rows, and what was quarantined.
    assert_eq!(total.proven_by_ranges_only, 20);

    let enriched = scene.definition().enriched_topic.clone().expect("a topic");
    scene.forget(&enriched, 22).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    assert!(report.notes.iter().any(|note| note.contains(&enriched)), "{report}");
    assert_eq!((report.total.topic_gone, report.total.on_topic), (3, 6));
    scene.enrich(|records| drop(records.remove(24))).await;
    let enriched = scene.definition().enriched_topic.clone().expect("a topic");
    scene.forget(&enriched, 22).await;
    assert_eq!(kinds(&verify(&scene).await), [(Kind::MissingOnTopic, 1)], "behind what retention took");

    scene.take(&scene.files[0]);
    let report = verify(&scene).await;
    assert_eq!(report.total.proven_by_ranges_only, 10, "nothing tells of the first file: {report}");
}
