//! A real server and Arrow's own client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_flight::error::FlightError;
use arrow_flight::{Action, FlightClient, FlightDescriptor, FlightInfo, Ticket};
use futures::TryStreamExt;
use millrace_common::lake;
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{Epoch, LakeTarget, NextOffset, PipelineDefinition, SlotId};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::Metrics;
use super::service::{Doors, Limits, View, serve_within};
use crate::manager::Shown;
use crate::slot::{LatestRequests, LatestRows, SlotStatus};

const KEY: &str = "year=2024/month=01/day=15/clicks-1-0-3-0-0.parquet";
const OTHERS_KEY: &str = "year=2024/month=01/day=15/secret-9-0-3-0-0.parquet";
const ROWS: i64 = 50_000;

fn rows(offsets: std::ops::Range<i64>) -> RecordBatch {
    let texts: ArrayRef =
        Arc::new(StringArray::from_iter_values(offsets.clone().map(|n| format!("event {n:>100}"))));
    let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(offsets));
    RecordBatch::try_from_iter([("kafka_offset", offsets), ("text", texts)]).expect("batch")
}

/// A worker's Flight, with one slot, `clicks-1/0-3`, that holds offsets 90 to 99 and has committed to 95.
struct Scene {
    address: SocketAddr,
    shutdown: Shutdown,
    folder: TempDir,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Scene {
    async fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let lake_folder = folder.path().join("lake");
        for key in [KEY, OTHERS_KEY, "_staging/clicks-1/0-3/ab.parquet", "../outside.parquet"] {
            let path = lake_folder.join(key);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            write(&path, &rows(0..ROWS));
        }
        let target = LakeTarget::new(format!("file://{}", lake_folder.display()));
        let slot: SlotId = "clicks-1/0-3".parse().expect("slot");
        let mut definition = PipelineDefinition::new(
            slot.pipeline.clone(),
            "clicks",
            "127.0.0.1:1",
            vec!["events".into()],
            "invalid",
        );
        definition.lake = Some(target.clone());
        let shutdown = Shutdown::new();
        let latest = Arc::new(LatestRequests::default());
        let requests = Arc::clone(&latest);
        shutdown.spawn("slot", {
            let stopping = shutdown.clone();
            async move {
                let held = LatestRows {
                    rows: Some(rows(90..100)),
                    lake_cursor: NextOffset(95),
                    topic_cursor: NextOffset(98),
                };
                loop {
                    tokio::select! {
                        () = requests.asked() => requests.answer(&held),
                        () = stopping.begun() => return,
                    }
                }
            }
        });
        let shown = Shown {
            status: SlotStatus::new(slot.clone(), Epoch(7), Arc::new(Notify::new())),
            latest,
            definition: Arc::new(definition),
            lake: Some(lake::open(&target).expect("lake")),
        };
        let view: View = Arc::new(move || BTreeMap::from([(slot.clone(), shown.clone())]));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let server = tokio::spawn(serve_within(
            limits,
            Doors { listener, tls: None, token: None },
            view,
            Metrics::default(),
            shutdown.clone(),
        ));
        Self { address, shutdown, folder, server }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("endpoint");
        endpoint.connect().await.expect("connection")
    }

    async fn client(&self) -> FlightClient {
        FlightClient::new(self.channel().await)
    }
}

fn write(path: &PathBuf, rows: &RecordBatch) {
    let file = std::fs::File::create(path).expect("file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).expect("writer");
    writer.write(rows).expect("rows");
    writer.close().expect("close");
}

fn file_ticket(key: &str) -> Ticket {
    Ticket::new(serde_json::json!({ "file": key }).to_string())
}

fn code(error: &FlightError) -> Code {
    match error {
        FlightError::Tonic(status) => status.code(),
        other => panic!("{other}"),
    }
}

async fn get(client: &mut FlightClient, ticket: Ticket) -> Result<Vec<RecordBatch>, FlightError> {
    client.do_get(ticket).await?.try_collect().await
}

fn offsets(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| batch["kafka_offset"].as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(column).collect()
}

#[tokio::test]
async fn a_committed_file_is_streamed_whole_in_small_batches() {
    let scene = Scene::new(Limits { message_bytes: 64 << 10, ..Limits::default() }).await;
    let mut client = scene.client().await;
    let info =
        client.get_flight_info(FlightDescriptor::new_cmd(file_ticket(KEY).ticket)).await.expect("info");
    assert_eq!(info.total_records, ROWS);
    let size = std::fs::metadata(scene.folder.path().join("lake").join(KEY)).expect("file").len();
    assert_eq!(info.total_bytes, i64::try_from(size).expect("small"));
    let ticket = info.endpoint[0].ticket.clone().expect("ticket");
    let batches = get(&mut client, ticket).await.expect("rows");
    assert_eq!(offsets(&batches), (0..ROWS).collect::<Vec<_>>());
    assert!(batches.len() > 20, "{} messages of 64 KiB for 5 MB", batches.len());
    let schema = batches[0].schema();
    assert_eq!(schema.metadata().get("millrace.file").map(String::as_str), Some(KEY));
    assert_eq!(
        client.get_schema(FlightDescriptor::new_cmd(file_ticket(KEY).ticket)).await.expect("schema"),
        *schema
    );
}

#[tokio::test]
async fn nothing_but_committed_files_of_pipelines_that_run_here_can_be_reached() {
    let scene = Scene::new(Limits::default()).await;
    let mut client = scene.client().await;
    for (key, expected) in [
        (OTHERS_KEY, Code::NotFound),
        ("year=2024/month=01/day=15/clicks-1-0-3-7-0.parquet", Code::NotFound),
        ("_staging/clicks-1/0-3/ab.parquet", Code::InvalidArgument),
        ("../outside.parquet", Code::InvalidArgument),
        ("year=2024/month=01/day=15/../../../../outside.parquet", Code::InvalidArgument),
        ("year=2024/month=01/day=15/%2e%2e/clicks-1-0-3-0-0.parquet", Code::InvalidArgument),
        ("/etc/passwd", Code::InvalidArgument),
        ("file:///etc/passwd", Code::InvalidArgument),
    ] {
        let refused = get(&mut client, file_ticket(key)).await.expect_err(key);
        assert_eq!(code(&refused), expected, "{key}: {refused}");
        let mut path = vec!["file".to_owned()];
        path.extend(key.split('/').map(str::to_owned));
        let refused = client.get_flight_info(FlightDescriptor::new_path(path)).await.expect_err(key);
        assert_eq!(code(&refused), expected, "{key}: {refused}");
    }
    for ticket in ["", "{}", r#"{"slot":"clicks-1/0-4"}"#, r#"{"slot":"clicks-1/0-3","latest":100000000}"#] {
        let refused = get(&mut client, Ticket::new(ticket)).await.expect_err(ticket);
        assert!(matches!(code(&refused), Code::NotFound | Code::InvalidArgument), "{ticket}: {refused}");
    }
    let refused = get(&mut client, Ticket::new(vec![b'a'; 1 << 20])).await.expect_err("a ticket of 1 MiB");
    assert!(
        matches!(code(&refused), Code::OutOfRange | Code::ResourceExhausted | Code::Internal),
        "{refused}"
    );
    let refused = client.do_action(Action::new("shutdown", "")).await.err().expect("an action");
    assert_eq!(code(&refused), Code::Unimplemented);
    let log = client.do_action(Action::new("log", "")).await.expect("the log");
    // This process keeps none.
    assert!(log.try_collect::<Vec<_>>().await.expect("lines").is_empty());
}

#[tokio::test]
async fn a_slots_latest_rows_say_what_is_committed() {
    let scene = Scene::new(Limits::default()).await;
    let mut client = scene.client().await;
    let ticket = |text: &str| Ticket::new(text.to_owned());
    let batches = get(&mut client, ticket(r#"{"slot":"clicks-1/0-3","latest":3}"#)).await.expect("rows");
    assert_eq!(offsets(&batches), [97, 98, 99]);
    let schema = batches[0].schema();
    let label = |key: &str| schema.metadata().get(key).cloned().unwrap_or_default();
    assert_eq!(label("millrace.committed_to"), "95");
    assert_eq!(label("millrace.slot"), "clicks-1/0-3");
    assert_eq!(label("millrace.topic"), "events");
    assert_eq!(label("millrace.epoch"), "7");
    let from = get(&mut client, ticket(r#"{"slot":"clicks-1/0-3","from":99}"#)).await.expect("rows");
    assert_eq!(offsets(&from), [99]);
    // Nothing new: the schema comes all the same.
    let nothing = client.do_get(ticket(r#"{"slot":"clicks-1/0-3","from":100}"#)).await.expect("stream");
    let mut nothing = nothing;
    assert!(nothing.try_next().await.expect("end").is_none());
    assert!(nothing.schema().is_some());
}

#[tokio::test]
async fn slots_and_files_are_listed_with_their_tickets() {
    let scene = Scene::new(Limits::default()).await;
    let mut client = scene.client().await;
    let path = |info: &FlightInfo| info.flight_descriptor.clone().expect("descriptor").path.join("/");
    let slots: Vec<_> = client.list_flights("").await.expect("list").try_collect().await.expect("slots");
    assert_eq!(slots.iter().map(path).collect::<Vec<_>>(), ["slot/clicks-1/0-3"]);
    for (criteria, expected) in [
        (r#"{"files":"year=2024"}"#, vec![format!("file/{KEY}")]),
        (r#"{"files":"year=2024/month=01/day=15","pipeline":"clicks-1"}"#, vec![format!("file/{KEY}")]),
        (r#"{"files":"year=2025"}"#, vec![]),
    ] {
        let files: Vec<_> =
            client.list_flights(criteria).await.expect("list").try_collect().await.expect("files");
        assert_eq!(files.iter().map(path).collect::<Vec<_>>(), expected, "{criteria}");
        for file in files {
            let ticket = file.endpoint[0].ticket.clone().expect("ticket");
            assert_eq!(offsets(&get(&mut client, ticket).await.expect("rows")).len() as i64, ROWS);
        }
    }
    for bad in [
        r#"{"files":"_staging"}"#,
        r#"{"files":"year=2024/.."}"#,
        r#"{"files":"year=2024","pipeline":"secret-9"}"#,
    ] {
        let refused = match client.list_flights(bad).await {
            Ok(stream) => stream.try_collect::<Vec<_>>().await.expect_err(bad),
            Err(error) => error,
        };
        assert!(matches!(code(&refused), Code::NotFound | Code::InvalidArgument), "{bad}: {refused}");
    }
}

#[tokio::test]
async fn streams_are_few_and_a_client_that_stops_reading_loses_its_own() {
    let limits = Limits { streams: 1, message_bytes: 16 << 10, deadline: Duration::from_millis(300) };
    let scene = Scene::new(limits).await;
    let mut stalled = scene.client().await;
    let mut unread = stalled.do_get(file_ticket(KEY)).await.expect("stream");
    let mut client = scene.client().await;
    let refused = get(&mut client, file_ticket(KEY)).await.expect_err("one stream at a time");
    assert_eq!(code(&refused), Code::ResourceExhausted);
    assert!(refused.to_string().contains("ask again later"), "{refused}");
    // The stalled one still holds its connection, and nothing else.
    loop {
        match get(&mut client, Ticket::new(r#"{"slot":"clicks-1/0-3"}"#)).await {
            Ok(batches) => break assert_eq!(offsets(&batches).len(), 10),
            Err(error) => assert_eq!(code(&error), Code::ResourceExhausted),
        }
        tokio::task::yield_now().await;
    }
    let cut = loop {
        match unread.try_next().await {
            Ok(batch) => assert!(batch.is_some(), "what was cut must not look whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&cut), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_stop_ends_streams_with_a_word() {
    let scene = Scene::new(Limits { message_bytes: 4 << 10, ..Limits::default() }).await;
    let mut client = scene.client().await;
    let mut stream = client.do_get(file_ticket(KEY)).await.expect("stream");
    stream.try_next().await.expect("first rows");
    scene.shutdown.begin();
    let cut = loop {
        match stream.try_next().await {
            Ok(batch) => assert!(batch.is_some(), "what was cut must not look whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&cut), Code::Unavailable);
    // The port stays as long as the process is one of the master's workers.
    scene.server.abort();
    assert!(scene.shutdown.drained(Duration::from_secs(60)).await, "no stream keeps the process");
}
