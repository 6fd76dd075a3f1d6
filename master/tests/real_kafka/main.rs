//! Pipelines submitted to a master that runs inside the test, on a real Kafka that `MILLRACE_TEST_KAFKA` names. No
//! worker is there: what is admitted waits.

mod scene;

use millrace_master::Draft;
use serde_json::json;
use tonic::Code;

use scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_admitted_refused_under_its_name_and_resumed_with_other_limits() {
    let mut scene = Scene::start("submit", 3).await;
    let draft = scene.draft("clicks");
    let answer = scene.submit(&draft, false).await.expect("admitted");
    assert!(answer.pipeline.starts_with("clicks-"), "{answer:?}");
    assert!(answer.notes.iter().any(|note| note.contains("made with 3 partitions")), "{answer:?}");
    assert_eq!(scene.partitions(&scene.enriched).await, Some(3), "as its source");
    let shown = scene.describe("clicks").await;
    assert_eq!((&shown["state"], &shown["slots"]), (&json!("WAITING"), &json!(3)));
    assert_eq!(shown["waiting_for"], "no worker is alive");
    assert_eq!(shown["definition"]["source"]["initial_partitions"], json!([3]));
    assert_eq!(scene.claim()["id"], answer.pipeline.as_str());

    let taken = scene.submit(&draft, false).await.expect_err("the name is taken");
    assert_eq!(taken.code(), Code::FailedPrecondition);
    assert!(taken.message().contains("millrace submit p.toml --resume"), "{taken}");

    let changed = Draft { max_rate: Some(500), ..draft.clone() };
    let resumed = scene.submit(&changed, true).await.expect("may change");
    assert_eq!(resumed.pipeline, answer.pipeline, "the same id goes on");
    assert_eq!(scene.describe("clicks").await["definition"]["max_rate"], 500);
    assert_eq!(scene.claim()["max_rate"], 500, "whoever checks the lake finds the definition of now");
    let another = Draft { enriched_topic: None, ..draft };
    let refused = scene.submit(&another, true).await.expect_err("another pipeline");
    assert!(refused.message().contains("sinks.enriched_topic"), "{refused}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_tell_all_and_change_nothing() {
    let mut scene = Scene::start("refuse", 2).await;
    let good = scene.draft("clicks");

    let malformed = Draft { max_rate: Some(0), kafka: "nowhere".into(), ..good.clone() };
    let refused = scene.submit(&malformed, false).await.expect_err("malformed");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("max_rate") && refused.message().contains("kafka = "), "{refused}");

    let mut absent = good.clone();
    absent.topics = vec![format!("{}.absent", scene.raw), scene.raw.clone()];
    std::fs::create_dir_all(scene.lake_folder().join("_millrace")).expect("folder");
    std::fs::write(scene.lake_folder().join("_millrace/pipeline.json"), "{}").expect("damage");
    let refused = scene.submit(&absent, false).await.expect_err("absent topic, damaged claim");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains(".absent does not exist") && refused.message().contains("can't be read"),
        "{refused}"
    );
    std::fs::remove_dir_all(scene.lake_folder()).expect("emptied");

    let away = Draft { kafka: "127.0.0.1:1".into(), ..good.clone() };
    let refused = scene.submit(&away, false).await.expect_err("no Kafka there");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");

    let dry = scene.dry_run(&good).await.expect("it could be admitted");
    assert_eq!(dry.pipeline, "");
    assert_eq!(scene.partitions(&scene.enriched).await, None);
    assert!(!scene.lake_folder().join("_millrace").exists());
    assert_eq!(scene.list().await, json!([]), "nothing of all that was admitted");

    scene.submit(&good, false).await.expect("admitted at last");
    let same_lake = Draft { name: "views".into(), ..good };
    let refused = scene.submit(&same_lake, false).await.expect_err("the lake is taken");
    assert!(refused.message().contains("belongs to pipeline clicks-"), "{refused}");
    assert!(refused.message().contains("-views\""), "it gives a line to type: {refused}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_would_lose_or_jam_are_refused_all_at_once_and_nothing_is_made() {
    let mut scene = Scene::start("unfit", 2).await;
    let draft = scene.draft("clicks");
    let (raw, enriched) = (scene.raw.clone(), scene.enriched.clone());
    scene.set(&raw, "retention.ms", "60000").await;
    scene.set(&enriched, "min.insync.replicas", "3").await;
    let refused = scene.submit(&draft, false).await.expect_err("unfit");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for words in [
        format!("topic {raw}: retention.ms = 60000"),
        format!("topic {enriched}: partition 0 has 1 replicas in sync and min.insync.replicas = 3"),
    ] {
        assert!(refused.message().contains(&words), "{refused}");
    }
    assert_eq!(scene.partitions(&draft.invalid_topic).await, None);
    assert!(!scene.lake_folder().join("_millrace").exists());
    scene.set(&raw, "retention.ms", "7200000").await;
    scene.set(&enriched, "min.insync.replicas", "1").await;
    let admitted = scene.submit(&draft, false).await.expect("admitted");
    let short = format!("topic {raw} keeps its records for 120 minutes only");
    assert!(admitted.notes.iter().any(|note| note.contains(&short)), "{admitted:?}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_partitions_are_picked_up_and_a_deleted_topic_is_said() {
    let mut scene = Scene::start("grow", 2).await;
    scene.submit(&scene.draft("clicks"), false).await.expect("admitted");
    scene.extend_source(5).await;
    scene.until("five partitions are known", |shown| shown["slots"] == 5).await;
    assert_eq!(scene.partitions(&scene.enriched).await, Some(5), "the enriched topic came first");
    assert_eq!(scene.describe("clicks").await["definition"]["source"]["initial_partitions"], json!([2]));

    scene.delete_source().await;
    scene
        .until("the deleted topic is said", |shown| {
            shown["waiting_for"].as_str().is_some_and(|words| words.contains("does not exist"))
        })
        .await;
    assert_eq!(scene.describe("clicks").await["slots"], 5, "and never acted upon");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_pipeline_outlives_the_master_and_goes_on_by_its_file() {
    let mut scene = Scene::start("kill", 2).await;
    let draft = scene.draft("clicks");
    let id = scene.submit(&draft, false).await.expect("admitted").pipeline;
    assert_eq!(scene.kill(&id).await.expect("killed").state, "KILLED");
    let twice = scene.kill("clicks").await.expect_err("it is over");
    assert!(twice.message().contains("--resume"), "{twice}");
    scene.restart().await;
    let listed = scene.list().await;
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&json!(id), &json!("KILLED")));
    assert!(scene.submit(&draft, false).await.expect_err("kept").message().contains("KILLED"));
    assert_eq!(scene.submit(&draft, true).await.expect("goes on").pipeline, id);
    assert_eq!(scene.describe("clicks").await["state"], "WAITING");
    scene.stop().await;
}
