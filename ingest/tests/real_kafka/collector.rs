//! What the collector answers, and what lies in Kafka then.

use std::collections::BTreeSet;

use millrace_common::shutdown::Shutdown;
use millrace_ingest::collector::{self, Answer, Verdict};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{self, event};
use crate::topics::Topics;

/// The reference document's own event.
const REFERENCE: &str = r#"{"id": 1, "type": "click", "package_id": "test-123", "event": {"user_agent": "Mozilla/5.0", "ip": "192.168.1.1", "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/home"}}"#;

async fn json(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.bytes().await.expect("body");
    (status, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")))
}

#[tokio::test]
async fn one_event_and_an_array_are_answered_in_order_and_lie_in_kafka_as_they_were_sent() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    assert_eq!(collector.get("/ping").await, (StatusCode::OK, "pong\n".to_owned()));
    let (status, answer) = json(collector.post(REFERENCE).await).await;
    assert_eq!(status, 200);
    assert_eq!(answer, json!({"verdicts": [{"verdict": "ok"}], "ok": 1, "invalid": 0, "retry": 0}));

    let odd = "{ \"event\":{\"timestamp\":\"2024-01-15T10:30:00.123456+02:00\",\"n\":1.0E+2},\t\"package_id\":\"foob\\u0061r\",\"type\":\"ä\"}";
    let no_timestamp = r#"{"type":"click","package_id":"c", "event":{}}"#;
    let (status, answer) =
        json(collector.post(format!("[{odd}, {no_timestamp} ,\n7,{}]", event("d"))).await).await;
    assert_eq!(status, 200);
    assert_eq!((&answer["ok"], &answer["invalid"], &answer["retry"]), (&json!(2), &json!(2), &json!(0)));
    let verdicts = answer["verdicts"].as_array().expect("verdicts");
    assert_eq!(verdicts[0], json!({"verdict": "ok"}));
    assert_eq!(verdicts[1]["code"], "missing_field");
    assert_eq!(verdicts[1]["pointer"], "/event/timestamp");
    assert!(verdicts[1]["message"].as_str().expect("text").contains("RFC 3339"));
    assert_eq!(verdicts[2]["code"], "not_an_object");
    assert_eq!(verdicts[3], json!({"verdict": "ok"}));

    let raw = topics.read(&topics.raw).await;
    let sent = |key: &str| raw.iter().find(|record| record.key.as_deref() == Some(key)).expect(key);
    assert_eq!(raw.len(), 3);
    assert_eq!(sent("test-123").value, REFERENCE);
    assert_eq!(sent("foobar").value, odd);
    // murmur2("foobar") as Kafka's own tests have it.
    assert_eq!(sent("foobar").partition, (-790_332_482 & 0x7fff_ffff) % 6);
    assert!(raw.iter().all(|record| record.headers.is_empty()));

    let mut invalid = topics.read(&topics.invalid).await;
    invalid.sort_by_key(|record| record.value.len());
    assert_eq!(invalid.iter().map(|record| record.value.as_str()).collect::<Vec<_>>(), ["7", no_timestamp]);
    let headers: Vec<(&str, &str)> =
        invalid[1].headers.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(headers[0], ("millrace-reason", "missing_field"));
    assert_eq!(headers[1], ("millrace-pointer", "/event/timestamp"));
    assert_eq!(headers[2], ("millrace-message", verdicts[1]["message"].as_str().expect("text")));
    assert_eq!(headers[3], ("millrace-origin", "collector"));
    collector.stop().await;
}

#[tokio::test]
async fn the_same_key_lies_in_the_same_partition_whichever_collector_writes_it() {
    let topics = Topics::new();
    let ids: Vec<String> = (0..50).map(|number| format!("id-{number}")).collect();
    let body = format!("[{}]", ids.iter().map(|id| event(id)).collect::<Vec<_>>().join(","));
    for _ in 0..2 {
        let collector = topics.collector(&[]).await;
        let answer: Answer =
            serde_json::from_value(json(collector.post(body.clone()).await).await.1).expect("answer");
        assert_eq!(answer.ok, 50);
        collector.stop().await;
    }
    let raw = topics.read(&topics.raw).await;
    assert_eq!(raw.len(), 100);
    let places: BTreeSet<_> = raw.iter().map(|record| (record.key.clone(), record.partition)).collect();
    assert_eq!(places.len(), 50);
    assert_eq!(raw.iter().map(|record| record.partition).collect::<BTreeSet<_>>().len(), 6);
}

#[tokio::test]
async fn a_request_of_which_nothing_can_be_taken_leaves_nothing_in_kafka() {
    let topics = Topics::new();
    let collector = topics.collector(&["--max-body", "4MiB"]).await;
    let refused = async |body: String| {
        let (status, answer) = json(collector.post(body).await).await;
        (status, answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned())
    };
    let good = event("a");
    assert_eq!(refused(String::new()).await, (400, "not_json".into()));
    assert_eq!(refused(format!("[{good},{{\"type\":}}]")).await, (400, "not_json".into()));
    assert_eq!(refused(format!("[{good}")).await, (400, "not_json".into()));
    assert_eq!(refused(good.replace("/home", "\u{1}")).await, (400, "not_json".into()));
    let huge = good.replace("/home", &"x".repeat(2 << 20));
    assert_eq!(refused(format!("[{good},{huge}]")).await, (413, "event_too_large".into()));
    let five_mib = format!("[{}]", vec![good.replace("/home", &"x".repeat(20 << 10)); 256].join(","));
    assert_eq!(refused(five_mib.clone()).await, (413, "body_too_large".into()));

    // Without a length that says so beforehand.
    let chunks = five_mib.as_bytes().chunks(64 << 10).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
    let stream = reqwest::Body::wrap_stream(futures::stream::iter(chunks.collect::<Vec<_>>()));
    let (status, answer) = json(collector.post(stream).await).await;
    assert_eq!((status, &answer["error"]["code"]), (413, &json!("body_too_large")));

    let url = format!("{}/collect", collector.base);
    for request in [
        collector.client.post(&url).body(good.clone()),
        collector.client.post(&url).header("Content-Type", "text/plain").body(good.clone()),
    ] {
        let (status, answer) = json(request.send().await.expect("answer")).await;
        assert_eq!((status, &answer["error"]["code"]), (415, &json!("unsupported_media_type")));
    }
    assert_eq!(collector.get("/collect").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, answer) = json(collector.post("[]").await).await;
    assert_eq!((status, answer), (200, json!({"verdicts": [], "ok": 0, "invalid": 0, "retry": 0})));
    assert_eq!(topics.read(&topics.raw).await, []);
    assert_eq!(topics.read(&topics.invalid).await, []);
    collector.stop().await;
}

#[tokio::test]
async fn events_that_are_too_large_or_too_deep_are_set_aside_whole() {
    let topics = Topics::new();
    let collector = topics.collector(&["--max-body", "2MiB"]).await;
    let deep = event("a").replace("\"/home\"", &format!("{}{}", "[".repeat(200_000), "]".repeat(200_000)));
    // As large as a record may be that the broker takes with its defaults.
    let large = event("b").replace("/home", &"x".repeat((960 << 10) - event("b").len() + 5));
    assert_eq!(large.len(), 960 << 10);
    let (status, answer) = json(collector.post(format!("[{deep},{large}]")).await).await;
    assert_eq!((status, &answer["invalid"]), (200, &json!(2)), "{answer}");
    assert_eq!(answer["verdicts"][0]["code"], "too_large");
    let (_, answer) = json(collector.post(deep[..30].replace("\"id\": 1", &"[".repeat(2000))).await).await;
    assert_eq!(answer["error"]["code"], "not_json", "{answer}");
    let small_and_deep = event("c").replace("\"/home\"", &format!("{}{}", "[".repeat(500), "]".repeat(500)));
    let (_, answer) = json(collector.post(small_and_deep.clone()).await).await;
    assert_eq!(answer["verdicts"][0]["code"], "too_deep", "{answer}");

    let values: BTreeSet<String> =
        topics.read(&topics.invalid).await.into_iter().map(|record| record.value).collect();
    assert!(values == BTreeSet::from([deep, large, small_and_deep]), "{} records", values.len());
    collector.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_runs_and_loses_nothing_that_was_acknowledged() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let url = format!("{}/collect", collector.base);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (http, url) = (collector.client.clone(), url.clone());
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let id = format!("{client}-{number}");
                    let request = http.post(&url).header("Content-Type", "application/json").body(event(&id));
                    // Once the collector is gone connections are refused, and a request that meets its end has no
                    // answer.
                    let Ok(response) = request.send().await else { break };
                    assert_eq!(response.status(), StatusCode::OK);
                    let Ok(body) = response.bytes().await else { break };
                    let answer: Answer = serde_json::from_slice(&body).expect("answer");
                    assert_eq!(answer.verdicts, [Verdict::Ok]);
                    acknowledged.push(id);
                }
                acknowledged
            })
        })
        .collect();
    let enough = |text: &str| {
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("millrace_collector_events_total{verdict=\"ok\"} "));
        count.is_some_and(|count| count.parse::<u64>().expect("a number") > 200)
    };
    collector.until("events flow", async |collector| enough(&collector.get("/metrics").await.1)).await;
    collector.stop().await;
    let acknowledged: BTreeSet<String> =
        futures::future::join_all(clients).await.into_iter().flat_map(|ids| ids.expect("no panic")).collect();
    let keys: Vec<String> =
        topics.read(&topics.raw).await.into_iter().filter_map(|record| record.key).collect();
    let there: BTreeSet<String> = keys.iter().cloned().collect();
    assert!(acknowledged.len() > 200);
    assert_eq!(acknowledged.difference(&there).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(there.len(), keys.len(), "an event is there twice");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_its_holder() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let address = holder.local_addr().expect("address").to_string();
    let error =
        collector::run(scene::config(&["--bind", &address]), Shutdown::new()).await.expect_err("taken");
    let expected = format!("(pid {}) holds the port; --bind moves it", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
}
