//! What is sent again: collectors that lose answers, refuse, or die.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use millrace_common::event::canonical_hash;
use millrace_common::ledger::Answer;
use millrace_common::shutdown::Shutdown;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::truth::{Places, codes, of_raw};
use super::{assert_same, counted, read};
use crate::scene::Collector;
use crate::topics::Topics;

/// Serves `routes` on a port of its own until the task is ended.
async fn serve(routes: Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let base = format!("http://{}", listener.local_addr().expect("address"));
    let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("served") });
    (base, server)
}

fn events(headers: &HeaderMap, body: &[u8]) -> Vec<Vec<u8>> {
    if headers[header::CONTENT_TYPE] == "application/x-ndjson" {
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        return lines.map(<[u8]>::to_vec).collect();
    }
    let events: Vec<&RawValue> = match body[0] {
        b'[' => serde_json::from_slice(body).expect("an array"),
        _ => vec![serde_json::from_slice(body).expect("an event")],
    };
    events.iter().map(|event| event.get().as_bytes().to_vec()).collect()
}

/// Stands before a collector and spoils what passes.
#[derive(Clone)]
struct Lossy {
    collector: String,
    client: reqwest::Client,
    requests: Arc<AtomicU64>,
    /// From this request on it passes them on and says nothing more.
    silent_from: u64,
    silenced: Arc<AtomicU64>,
}

impl Lossy {
    fn new(collector: &Collector, silent_from: u64) -> Self {
        Self {
            collector: format!("{}/collect", collector.base),
            client: collector.client.clone(),
            requests: Arc::default(),
            silent_from,
            silenced: Arc::default(),
        }
    }
}

async fn pass(State(lossy): State<Lossy>, headers: HeaderMap, body: Bytes) -> Response {
    let number = lossy.requests.fetch_add(1, Ordering::Relaxed);
    if number % 5 == 1 {
        let error = r#"{"error":{"code":"busy","message":"not now"}}"#;
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")], error).into_response();
    }
    let request = lossy
        .client
        .post(&lossy.collector)
        .header(header::CONTENT_TYPE, &headers[header::CONTENT_TYPE])
        .body(body);
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let answer = response.bytes().await.expect("a body");
    if number >= lossy.silent_from {
        lossy.silenced.fetch_add(1, Ordering::Relaxed);
        return std::future::pending().await;
    }
    // It is there, and its sender does not hear of it.
    if number % 5 == 3 { StatusCode::BAD_GATEWAY.into_response() } else { (status, answer).into_response() }
}

#[tokio::test]
async fn what_is_refused_or_not_answered_is_sent_again_and_stands_in_the_ledger_once() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let lossy = Lossy::new(&collector, u64::MAX);
    let (base, server) = serve(Router::new().route("/collect", post(pass)).with_state(lossy)).await;
    let places = Places::new();
    let flags = ["--rate", "0", "--count", "3000", "--batch", "50", "--invalid", "0.05"];
    let report = places.run(&base, &flags, Shutdown::new()).await;
    server.abort();
    collector.stop().await;
    assert_eq!((report.ok + report.invalid, report.unknown, report.refused), (3000, 0, 0), "{report:?}");
    assert!(report.resent > 500, "{report:?}");

    let truth = places.ground_truth();
    let raw = topics.read(&topics.raw).await;
    assert_eq!(of_raw(&raw, &truth), truth);
    assert_eq!(truth.resent, report.resent);
    assert!(raw.len() as u64 > truth.acknowledged, "no resend made a client duplicate");
    // Each event has one line, but for the invalid ones' sends that were not answered.
    let mut entries = read(&places.ledger);
    let invalid = topics.read(&topics.invalid).await;
    let doubts = entries.iter().filter(|entry| entry.answer == Answer::Unknown).count();
    assert_eq!(doubts as u64, truth.invalid_in_doubt);
    assert_eq!(invalid.len() as u64, report.invalid + truth.invalid_in_doubt);
    assert_eq!(codes(&invalid).values().sum::<u64>() - truth.invalid_in_doubt, report.invalid);
    entries.retain(|entry| entry.answer != Answer::Unknown);
    assert_eq!(entries.len(), 3000);
    let mut once = BTreeSet::new();
    let first: Vec<_> = raw.into_iter().filter(|record| once.insert(record.key.clone())).collect();
    assert_same(&entries, Answer::Ok, &first, |bytes| canonical_hash(bytes).expect("JSON"));
}

type Bodies = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;

/// Says `retry` of every third event at first, then that it is stored nowhere.
async fn moody(State(bodies): State<Bodies>, headers: HeaderMap, body: Bytes) -> Response {
    let events = events(&headers, &body);
    let verdict = |(index, _): (usize, &Vec<u8>)| match index % 3 {
        _ if events.len() < 9 => r#"{"verdict":"not_stored"}"#,
        1 => r#"{"verdict":"retry","message":"later"}"#,
        _ => r#"{"verdict":"ok"}"#,
    };
    let verdicts: Vec<&str> = events.iter().enumerate().map(verdict).collect();
    let answer = format!(r#"{{"verdicts":[{}]}}"#, verdicts.join(","));
    bodies.lock().expect("no panic").push(events);
    answer.into_response()
}

#[tokio::test]
async fn only_the_events_with_verdict_retry_are_sent_again() {
    let bodies = Bodies::default();
    let (base, server) = serve(Router::new().route("/collect", post(moody)).with_state(bodies.clone())).await;
    let places = Places::new();
    let flags = ["--rate", "0", "--count", "9", "--batch", "9"];
    let report = places.run(&base, &flags, Shutdown::new()).await;
    server.abort();
    let bodies = bodies.lock().expect("no panic").clone();
    let expected: Vec<Vec<u8>> = [1, 4, 7].map(|index: usize| bodies[0][index].clone()).to_vec();
    assert_eq!(bodies[1..], [expected]);
    assert_eq!((report.ok, report.not_stored, report.resent, report.unknown), (6, 3, 3, 0), "{report:?}");
    let truth = places.ground_truth();
    assert_eq!((truth.acknowledged, truth.not_stored, truth.unknown), (6, 3, 0));
    assert_eq!(read(&places.ledger).len(), 6);
}

#[tokio::test]
async fn after_the_last_try_what_was_never_answered_is_unknown() {
    let bodies = Bodies::default();
    let silent = async |State(bodies): State<Bodies>, headers: HeaderMap, body: Bytes| {
        bodies.lock().expect("no panic").push(events(&headers, &body));
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let (base, server) =
        serve(Router::new().route("/collect", post(silent)).with_state(bodies.clone())).await;
    let places = Places::new();
    let flags = [
        "--rate",
        "0",
        "--count",
        "20",
        "--batch",
        "10",
        "--connections",
        "1",
        "--invalid",
        "0.3",
        "--retries",
        "2",
    ];
    let report = places.run(&base, &flags, Shutdown::new()).await;
    server.abort();
    assert_eq!((report.sent, report.unknown, report.resent), (20, 20, 40), "{report:?}");
    let bodies = bodies.lock().expect("no panic").clone();
    let sends = counted(bodies);
    assert!(sends.values().all(|times| *times == 3), "{sends:?}");
    assert_eq!(sends.keys().map(Vec::len).sum::<usize>(), 20);
    let truth = places.ground_truth();
    assert_eq!((truth.acknowledged, truth.unknown), (0, 20));
    // One line an event; of an invalid one as many as there may be copies.
    let hashes = counted(sends.keys().flatten().flat_map(|bytes| {
        let as_sent: [u8; 32] = Sha256::digest(bytes).into();
        match millrace_common::event::check(bytes) {
            Ok(_) => vec![canonical_hash(bytes).expect("JSON")],
            Err(_) => vec![as_sent; 3],
        }
    }));
    let entries = read(&places.ledger);
    assert!(entries.iter().all(|entry| entry.answer == Answer::Unknown));
    assert_eq!(counted(entries.iter().map(|entry| entry.sha256)), hashes);
}

#[tokio::test]
async fn a_collector_that_dies_leaves_ledger_and_ground_truth_true() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let lossy = Lossy::new(&collector, 40);
    let silenced = Arc::clone(&lossy.silenced);
    // When a runtime ends, its connections end with the requests on them.
    let process = tokio::runtime::Runtime::new().expect("runtime");
    let routes = Router::new().route("/collect", post(pass)).with_state(lossy);
    let (base, _) = process.spawn(serve(routes)).await.expect("no panic");
    let places = Places::new();
    let shutdown = Shutdown::new();
    let running = places.run(&base, &["--rate", "3000", "--retries", "2"], shutdown.clone());
    let dying = async {
        collector.until("it is silent", async |_| silenced.load(Ordering::Relaxed) > 0).await;
        process.shutdown_background();
        shutdown.begin();
    };
    let (report, ()) = tokio::join!(running, dying);
    collector.stop().await;
    let truth = places.ground_truth();
    assert_eq!((truth.acknowledged, truth.unknown), (report.ok, report.unknown), "{report:?}");
    assert!(report.unknown > 0, "{report:?}");
    let entries = read(&places.ledger);
    assert_eq!(entries.len() as u64, report.ok + report.unknown);
    // Everything acknowledged is there, and what else is there is in doubt.
    let acknowledged: BTreeSet<_> =
        entries.iter().filter(|entry| entry.answer == Answer::Ok).map(|entry| entry.sha256).collect();
    let noted: BTreeSet<_> = entries.iter().map(|entry| entry.sha256).collect();
    let raw = topics.read(&topics.raw).await;
    let there: BTreeSet<_> =
        raw.iter().map(|record| canonical_hash(record.value.as_bytes()).expect("JSON")).collect();
    assert!(acknowledged.len() > 500 && acknowledged.is_subset(&there));
    assert!(there.len() > acknowledged.len(), "nothing in doubt was there");
    assert!(there.is_subset(&noted), "{} there that no line tells of", there.difference(&noted).count());
}
