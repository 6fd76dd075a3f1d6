//! The demo as a person runs it, with what they kill on the way.

use std::cell::RefCell;

use millrace_e2e::{Demo, Hand, command_line, cursor, signal};

const FLAGS: [&str; 6] = ["--rate", "1000", "--roll-age", "1s", "--cores", "1"];

fn flags(more: &[&'static str]) -> Vec<&'static str> {
    [&FLAGS, more].concat()
}

#[tokio::test]
async fn a_killed_worker_and_a_restarted_master_lose_and_double_nothing() {
    let mut demo = Demo::start(&flags(&["--workers", "3"])).await;
    demo.until_all_run().await;
    demo.until_all_commit().await;

    // kill -9 on a worker: its slots go to the two others.
    let victim = demo.busy_worker().await;
    signal(u32::try_from(victim["pid"].as_u64().expect("pid")).expect("pid"), libc::SIGKILL);
    demo.until("the killed worker is DEAD", |workers, _| {
        workers.iter().any(|worker| worker["id"] == victim["id"] && worker["state"] == "DEAD")
    })
    .await;
    demo.until_all_run().await;
    demo.until_all_commit().await;

    // kill -9 on the master: the slots go on without it, and the next master takes them back as they are.
    let before = demo.slots().await;
    let master = demo.child("master");
    let again = command_line(master);
    signal(master, libc::SIGKILL);
    while demo.get("/healthz").await.is_some() {}
    let mut restarted = demo.start_line("master-again", &again);
    demo.until_all_run().await;
    let after = demo.slots().await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["owner"], after["owner"], "a master's restart moves nothing");
        assert_eq!(before["epoch"], after["epoch"], "a master's restart grants nothing anew");
    }
    demo.until_all_commit().await;

    let report = demo.interrupt().await;
    let losses = report["worker_losses"].as_array().expect("losses");
    assert_eq!(losses.len(), 1, "the demo remembers what the restarted master has forgotten: {report:#}");
    signal(restarted.pid(), libc::SIGTERM);
    assert!(restarted.ended().await.success(), "{}", restarted.output());
}

#[tokio::test]
async fn the_report_of_a_killed_worker_tells_how_long_the_takeover_took() {
    let mut demo = Demo::start(&flags(&["--workers", "2", "--duration", "12s"])).await;
    demo.until_all_run().await;
    demo.until_all_commit().await;
    let victim = demo.busy_worker().await;
    signal(u32::try_from(victim["pid"].as_u64().expect("pid")).expect("pid"), libc::SIGKILL);
    let report = demo.report().await;
    let loss = &report["worker_losses"][0];
    assert_eq!(loss["pid"], victim["pid"], "{report:#}");
    let span = |name: &str| loss[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {report:#}"));
    assert!(span("detected_ms") <= span("reassigned_ms"), "{loss}");
    assert!(span("reassigned_ms") <= span("first_commit_ms"), "{loss}");
}

#[tokio::test]
async fn workers_by_hand_join_idle_freeze_and_come_back() {
    let mut demo = Demo::start(&flags(&["--workers", "0"])).await;
    let workers: Vec<Hand> = (0..7).map(|number| demo.worker_by_hand(number)).collect();
    demo.until(
        "seven workers are ALIVE, six have one slot each and one tells why it is idle",
        |workers, _| {
            let alive: Vec<_> = workers.iter().filter(|worker| worker["state"] == "ALIVE").collect();
            let slots = |worker: &serde_json::Value| worker["slots"].as_array().map_or(0, Vec::len);
            alive.len() == 7
                && alive.iter().filter(|worker| slots(worker) == 1).count() == 6
                && alive.iter().any(|worker| slots(worker) == 0 && worker["idle_reason"].is_string())
        },
    )
    .await;
    demo.until_all_run().await;

    // The reference document's own event, by HTTP as one types it.
    let event = r#"{"id": 1, "type": "click", "package_id": "test-123", "event": {"user_agent": "Mozilla/5.0",
        "ip": "192.168.1.1", "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/home"}}"#;
    let answer = reqwest::Client::new()
        .post(demo.collect_url())
        .header("Content-Type", "application/json")
        .body(event)
        .send()
        .await
        .expect("answer");
    assert_eq!(answer.status(), 200);
    demo.until_all_commit().await;
    demo.until_all_commit().await;

    // SIGSTOP: heartbeats stop, the slots move. SIGCONT: the worker is fenced, and joins again.
    let frozen = demo.busy_worker().await;
    let pid = u32::try_from(frozen["pid"].as_u64().expect("pid")).expect("pid");
    signal(pid, libc::SIGSTOP);
    demo.until("the frozen worker is DEAD", |workers, _| {
        workers.iter().any(|worker| worker["id"] == frozen["id"] && worker["state"] == "DEAD")
    })
    .await;
    demo.until_all_run().await;
    demo.until_all_commit().await;
    signal(pid, libc::SIGCONT);
    demo.until("the thawed worker is ALIVE again", |workers, _| {
        workers.iter().any(|worker| worker["id"] == frozen["id"] && worker["state"] == "ALIVE")
    })
    .await;
    demo.until_all_run().await;
    demo.until_all_commit().await;

    let (listed, status) = demo.run(&["workers", "--master", &demo.master()]).await;
    assert!(status.success(), "{listed}");
    for worker in &workers {
        assert!(listed.contains(&worker.pid().to_string()), "{} is not listed:\n{listed}", worker.pid());
    }
    let (json, status) = demo.run(&["workers", "--master", &demo.master(), "--json"]).await;
    assert!(status.success(), "{json}");
    let array: serde_json::Value = serde_json::from_str(&json).expect("JSON alone on stdout");
    assert_eq!(array.as_array().map(Vec::len), Some(workers.len()), "{json}");
    demo.interrupt().await;
    drop(workers);
}

#[tokio::test]
async fn kafka_and_s3_may_be_away_for_a_while() {
    let mut demo = Demo::start(&flags(&["--workers", "2"])).await;
    demo.until_all_run().await;
    demo.until_all_commit().await;

    // The S3 server frozen and thawed: requests hang, then go on.
    let s3 = demo.child("mini");
    signal(s3, libc::SIGSTOP);
    // What was committed just before may be told a moment later: from then on nothing moves, and records wait.
    let stuck = RefCell::new(Vec::new());
    demo.until("more and more records wait for S3, and no cursor moves", |_, slots| {
        let mut stuck = stuck.borrow_mut();
        let cursors = |slots: &[serde_json::Value]| slots.iter().map(cursor).collect::<Vec<_>>();
        if cursors(slots) != cursors(&stuck) {
            *stuck = slots.to_vec();
        }
        let lag = |slot: &serde_json::Value| slot["lag"].as_u64().unwrap_or(0);
        slots.iter().zip(stuck.iter()).all(|(now, before)| lag(now) > lag(before) + 500)
    })
    .await;
    signal(s3, libc::SIGCONT);
    demo.until_all_commit().await;

    // A record that is no JSON, straight into the raw topic, and the broker killed and started anew.
    let kafka = demo.child("kafka.Kafka");
    let again = command_line(kafka);
    demo.produce_raw("no json at all");
    signal(kafka, libc::SIGKILL);
    let _broker = demo.start_line("kafka-again", &again);
    demo.until_all_run().await;
    demo.until_all_commit().await;
    let report = demo.interrupt().await;
    assert_eq!(report["verify"]["quarantined"], 1, "{report:#}");
}
