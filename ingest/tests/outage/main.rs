//! The collector while Kafka is away, slow, or half there: on librdkafka's mock cluster, whose brokers can be taken
//! down one by one.

#[path = "../scene/mod.rs"]
mod scene;

use millrace_ingest::collector::{Answer, ErrorBody, Verdict};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use reqwest::StatusCode;
use scene::{Collector, event, free_port};

const RAW: &str = "raw";
const INVALID: &str = "invalid";

type Kafka = MockCluster<'static, DefaultProducerContext>;

/// Broker 1 leads the raw topic, broker 2 the invalid one.
fn kafka() -> Kafka {
    let kafka = MockCluster::new(2).expect("mock cluster");
    for (topic, leader) in [(RAW, 1), (INVALID, 2)] {
        kafka.create_topic(topic, 1, 1).expect("topic");
        kafka.partition_leader(topic, 0, Some(leader)).expect("leader");
    }
    kafka
}

async fn collector(kafka: &Kafka, flags: &[&str]) -> Collector {
    let servers = kafka.bootstrap_servers();
    let common = ["--kafka", &servers, "--raw-topic", RAW, "--invalid-topic", INVALID];
    let collector = Collector::start(&[&common[..], flags].concat()).await;
    collector.until_ready().await;
    collector
}

#[tokio::test]
async fn without_kafka_it_listens_and_says_what_it_waits_for() {
    let servers = format!("127.0.0.1:{}", free_port());
    let collector = Collector::start(&["--kafka", &servers]).await;
    let response = collector.post(event("a")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    let ErrorBody { error } = response.json_body().await;
    assert_eq!(error.code, "kafka_away");
    assert!(error.message.contains(&servers), "{}", error.message);
    let (status, text) = collector.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains(&servers), "{text}");
    assert_eq!(collector.get("/healthz").await.0, StatusCode::OK);
    collector.stop().await;
}

#[tokio::test]
async fn events_that_kafka_does_not_acknowledge_are_to_be_retried_and_their_neighbours_are_not() {
    let kafka = kafka();
    let collector = collector(&kafka, &["--delivery-timeout", "3s"]).await;
    let mixed = format!("[{},{{}},{}]", event("a"), event("b"));
    let kinds = |answer: &Answer| -> String {
        let letter = |verdict: &Verdict| match verdict {
            Verdict::Ok => 'o',
            Verdict::Invalid { .. } => 'i',
            Verdict::Retry { .. } => 'r',
            Verdict::NotStored => 'n',
        };
        answer.verdicts.iter().map(letter).collect()
    };
    // The first acknowledgement may take longer than later ones: the producer asks for its id before.
    collector
        .until("kafka acknowledges", async |collector| {
            kinds(&collector.post(mixed.clone()).await.json_body::<Answer>().await) == "oio"
        })
        .await;

    kafka.broker_down(2).expect("down");
    let response = collector.post(mixed.clone()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer: Answer = response.json_body().await;
    assert_eq!((kinds(&answer).as_str(), answer.ok, answer.invalid, answer.retry), ("oro", 2, 0, 1));

    kafka.broker_down(1).expect("down");
    // Whoever sends now waits for Kafka's whole time. Once Kafka is known to be away nobody does.
    collector
        .until("kafka is known to be away", async |collector| {
            let response = collector.post(mixed.clone()).await;
            let status = response.status();
            let retry_after = response.headers().get("retry-after").cloned();
            let body = response.bytes().await.expect("body");
            let Ok(ErrorBody { error }) = serde_json::from_slice(&body) else {
                let Answer { verdicts, .. } = serde_json::from_slice(&body).expect("an answer");
                let Verdict::Retry { message } = &verdicts[0] else { return false };
                assert!(message.contains("kafka did not acknowledge it"), "{message}");
                return false;
            };
            assert_eq!(
                (status, retry_after.expect("a header").as_bytes()),
                (StatusCode::SERVICE_UNAVAILABLE, &b"1"[..])
            );
            assert_eq!(error.code, "kafka_away");
            true
        })
        .await;
    assert_eq!(collector.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);

    for broker in [1, 2] {
        kafka.broker_up(broker).expect("up");
    }
    collector
        .until("kafka acknowledges again", async |collector| {
            let body = collector.post(mixed.clone()).await.bytes().await.expect("body");
            serde_json::from_slice::<Answer>(&body).is_ok_and(|answer| answer.retry == 0)
        })
        .await;
    collector.until_ready().await;
    let (_, metrics) = collector.get("/metrics").await;
    let retries = metrics
        .lines()
        .find_map(|line| line.strip_prefix("millrace_collector_events_total{verdict=\"retry\"} "));
    assert!(retries.expect("the counter").parse::<u64>().expect("a number") >= 4, "{metrics}");
    collector.stop().await;
}

#[tokio::test]
async fn while_kafka_is_away_memory_stays_within_its_budget() {
    let kafka = kafka();
    let flags = ["--delivery-timeout", "2s", "--memory", "16MiB", "--max-requests", "256"];
    let collector = collector(&kafka, &flags).await;
    for broker in [1, 2] {
        kafka.broker_down(broker).expect("down");
    }
    // 20 KiB each, 40 a request: what is sent is 25 times the budget.
    let large = event("a").replace("/home", &"x".repeat(20_000));
    let body = bytes::Bytes::from(format!("[{}]", vec![large; 40].join(",")));
    let before = resident_bytes();
    let requests = (0..500).map(|_| async {
        let response = collector.post(body.clone()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        response.bytes().await.expect("body")
    });
    let answers = futures::future::join_all(requests).await;
    let busy = answers.iter().filter(|body| serde_json::from_slice::<ErrorBody>(body).is_ok()).count();
    assert!(busy > 0 && busy < 500, "{busy} of 500 turned away");
    // The clients' own ends of 500 connections are in here too.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB more than before", grown >> 20);
    collector.stop().await;
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes << 10
}

trait JsonBody {
    async fn json_body<T: serde::de::DeserializeOwned>(self) -> T;
}

impl JsonBody for reqwest::Response {
    async fn json_body<T: serde::de::DeserializeOwned>(self) -> T {
        let body = self.bytes().await.expect("body");
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
    }
}
