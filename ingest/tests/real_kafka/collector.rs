//! What the collector answers, and what lies in Kafka then.

use std::collections::BTreeSet;

use millrace_common::shutdown::Shutdown;
use millrace_ingest::collector::{self, Answer, Verdict};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
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
        collector.client.post(&url).header("Content-Type", "text/html").body(good.clone()),
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

async fn post(
    collector: &scene::Collector,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> (u16, Value) {
    let request = collector.client.post(format!("{}/collect", collector.base)).body(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    json(request.send().await.expect("answer")).await
}

fn values(records: Vec<crate::topics::Record>) -> Vec<String> {
    let mut values: Vec<String> = records.into_iter().map(|record| record.value).collect();
    values.sort();
    values
}

#[tokio::test]
async fn lines_and_compressed_and_plain_bodies_are_taken() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let lines = format!("{}\r\n\n{{\"type\":\n{}\n", event("line-1"), event("line-2"));
    let (status, answer) = post(&collector, &[("Content-Type", "application/x-ndjson")], lines).await;
    assert_eq!((status, &answer["ok"], &answer["invalid"]), (200, &json!(2), &json!(1)), "{answer}");
    assert_eq!(answer["verdicts"][1]["code"], "not_json");

    let gzip = |plain: &[u8]| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzEncoder::new(plain, Default::default()), &mut bytes)
            .expect("from memory");
        bytes
    };
    let deflate = |plain: &[u8]| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(
            &mut flate2::read::ZlibEncoder::new(plain, Default::default()),
            &mut bytes,
        )
        .expect("from memory");
        bytes
    };
    let many = format!(
        "[{}]",
        (0..200).map(|number| event(&format!("many-{number}"))).collect::<Vec<_>>().join(",")
    );
    for (encoding, body, events) in [
        ("gzip", gzip(event("gzip").as_bytes()), 1),
        ("gzip", gzip(many.as_bytes()), 200),
        ("deflate", deflate(event("deflate").as_bytes()), 1),
        ("zstd", zstd::encode_all(event("zstd").as_bytes(), 3).expect("from memory"), 1),
    ] {
        let headers = [("Content-Type", "application/json"), ("Content-Encoding", encoding)];
        let (status, answer) = post(&collector, &headers, body).await;
        assert_eq!((status, &answer["ok"]), (200, &json!(events)), "{encoding} {answer}");
    }
    // What sendBeacon makes of a string.
    let (status, answer) =
        post(&collector, &[("Content-Type", "text/plain;charset=UTF-8")], event("beacon")).await;
    assert_eq!((status, &answer["ok"]), (200, &json!(1)), "{answer}");

    let keys: BTreeSet<String> =
        topics.read(&topics.raw).await.into_iter().filter_map(|record| record.key).collect();
    assert_eq!(keys.len(), 2 + 1 + 200 + 1 + 1 + 1);
    assert!(
        ["line-1", "line-2", "gzip", "deflate", "zstd", "beacon", "many-199"]
            .iter()
            .all(|key| keys.contains(*key))
    );
    assert_eq!(values(topics.read(&topics.invalid).await), ["{\"type\":"]);
    collector.stop().await;
}

#[tokio::test]
async fn addresses_are_zeroed_before_anything_lies_in_a_topic() {
    let topics = Topics::new();
    let collector = topics.collector(&["--anonymize-ip"]).await;
    let good = event("a").replace("\"page\"", "\"ip\" : \"198.51.100.77\",\"page\"");
    let bad = r#"{"type":"click","context":{"client_ip":"2001:db8:1:2:3:4:5:6"}}"#;
    let none = "198.51.100.77 {";
    let body = format!("{good}\n{bad}\n{none}\n");
    let (status, answer) = post(&collector, &[("Content-Type", "application/jsonl")], body).await;
    assert_eq!((status, &answer["ok"], &answer["invalid"]), (200, &json!(1), &json!(2)), "{answer}");
    assert_eq!(values(topics.read(&topics.raw).await), [good.replace("100.77", "100.0")]);
    let invalid = values(topics.read(&topics.invalid).await);
    assert_eq!(invalid, ["198.51.100.0 {", r#"{"type":"click","context":{"client_ip":"2001:db8:1::"}}"#]);
    assert!(collector.get("/metrics").await.1.contains("millrace_collector_anonymized_events_total 3"));
    collector.stop().await;
}

#[tokio::test]
async fn who_wishes_not_to_be_tracked_leaves_nothing() {
    let topics = Topics::new();
    let collector = topics.collector(&["--respect-dnt"]).await;
    let body = format!("[{},7]", event("a"));
    for header in [("DNT", "1"), ("Sec-GPC", "1")] {
        let (status, answer) =
            post(&collector, &[("Content-Type", "application/json"), header], body.clone()).await;
        let thrown_away = json!({"verdict": "not_stored"});
        assert_eq!((status, &answer["not_stored"]), (200, &json!(2)), "{answer}");
        assert_eq!(answer["verdicts"], json!([thrown_away, thrown_away]));
    }
    let json_type = ("Content-Type", "application/json");
    let (status, _) = post(&collector, &[json_type, ("DNT", "1")], "{").await;
    assert_eq!(status, 400);
    let (_, answer) = post(&collector, &[json_type, ("DNT", "0")], body).await;
    assert_eq!((&answer["ok"], &answer["invalid"]), (&json!(1), &json!(1)), "{answer}");
    assert_eq!((topics.read(&topics.raw).await.len(), topics.read(&topics.invalid).await.len()), (1, 1));
    let (_, metrics) = collector.get("/metrics").await;
    assert!(metrics.contains("millrace_collector_events_total{verdict=\"not_stored\"} 4"), "{metrics}");
    collector.stop().await;
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    const NAMES: [&str; 6] = ["type", "package_id", "event", "timestamp", "millrace", "ip"];
    let name = prop_oneof![proptest::sample::select(&NAMES[..]).prop_map(str::to_owned), any::<String>()];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[tokio::test]
async fn any_json_value_gets_a_verdict_and_loses_nothing() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let mut runner = proptest::test_runner::TestRunner::default();
    let mut sent = Vec::new();
    for round in 0..60 {
        let some = prop::collection::vec(any_json(), 1..8).new_tree(&mut runner).expect("values").current();
        let mut texts: Vec<String> = some.iter().map(ToString::to_string).collect();
        texts.push(event(&format!("good-{round}")));
        let (media_type, body) = match round % 3 {
            0 => ("application/json", format!("[{}]", texts.join(" , "))),
            1 => ("application/x-ndjson", texts.join("\n")),
            // An array that stands alone is taken for the events in it.
            _ => {
                texts.truncate(1);
                texts.retain(|text| !text.starts_with('['));
                ("text/plain", texts.first().cloned().unwrap_or_else(|| "[]".to_owned()))
            }
        };
        let (status, answer) = post(&collector, &[("Content-Type", media_type)], body.clone()).await;
        assert_eq!(status, 200, "{body}");
        let verdicts = answer["verdicts"].as_array().expect("verdicts");
        assert_eq!(verdicts.len(), texts.len(), "{body}");
        for (text, verdict) in texts.into_iter().zip(verdicts) {
            let is_good = millrace_common::event::check(text.as_bytes()).is_ok();
            assert_eq!(verdict["verdict"], if is_good { "ok" } else { "invalid" }, "{text}");
            sent.push((is_good, text));
        }
    }
    let of = |good: bool| {
        let mut texts: Vec<String> =
            sent.iter().filter(|(is_good, _)| *is_good == good).map(|(_, text)| text.clone()).collect();
        texts.sort();
        texts
    };
    assert!(of(true).len() >= 40 && of(false).len() > 100);
    assert!(values(topics.read(&topics.raw).await) == of(true));
    assert!(values(topics.read(&topics.invalid).await) == of(false));
    collector.stop().await;
}
