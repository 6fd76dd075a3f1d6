//! A program that is none of ours writes to the raw topic within a transaction, and leaves it open: no `read_committed`
//! reader gets beyond its first record until the transaction has ended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_common::kafka::client_config;
use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::{Done, Scene};
use crate::cluster::RAW_TOPIC;
use crate::error::Error;
use crate::recovery::Sink;
use crate::watch::View;

const DEADLINE: Duration = Duration::from_secs(30);
/// The broker ends what nobody ends after this, and looks every ten seconds.
const TIME_OUT: Duration = Duration::from_secs(10);

/// Notes where its records came to lie.
#[derive(Default)]
struct Offsets(std::sync::Mutex<BTreeMap<i32, i64>>);

impl ClientContext for Offsets {}

impl ProducerContext for Offsets {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        use rdkafka::Message;
        if let (Ok(message), Ok(mut offsets)) = (delivered, self.0.lock()) {
            offsets.insert(message.partition(), message.offset());
        }
    }
}

/// A transaction that is open, and the offsets of its records.
struct Foreign {
    producer: BaseProducer<Offsets>,
    offsets: BTreeMap<i32, i64>,
}

/// Blocks.
fn begin(servers: &str, transactional_id: &str, partitions: i32) -> Result<Foreign, KafkaError> {
    let producer: BaseProducer<Offsets> = client_config(servers, "foreign")
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", TIME_OUT.as_millis().to_string())
        .create_with_context(Offsets::default())?;
    producer.init_transactions(DEADLINE)?;
    producer.begin_transaction()?;
    for partition in 0..partitions {
        // An event like any other, if it were ever committed.
        let event = format!(
            r#"{{"type":"click","package_id":"{transactional_id}-{partition}","event":{{"timestamp":"2026-01-01T00:00:00Z"}}}}"#
        );
        let record = BaseRecord::<str, str>::to(RAW_TOPIC).partition(partition).payload(&event);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(DEADLINE)?;
    let offsets = producer.context().0.lock().map(|offsets| offsets.clone()).unwrap_or_default();
    Ok(Foreign { producer, offsets })
}

/// It is open for a while; then it is aborted, or its program is gone and the broker ends it.
pub(super) async fn transaction(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let planned = scene.planned;
    let aborts = planned.variant.is_multiple_of(2);
    let (servers, partitions) = (scene.cluster.kafka_servers(), scene.cluster.partitions());
    let id = format!("somebody-{}", planned.cycle);
    let failed = |error: KafkaError| Error::SetUp(format!("the foreign transaction: {error}"));
    let begun = tokio::task::spawn_blocking(move || begin(&servers, &id, partitions)).await;
    let Foreign { producer, offsets } =
        begun.map_err(|error| Error::SetUp(error.to_string()))?.map_err(failed)?;
    scene.say(&format!("a foreign transaction is open in {} partitions", offsets.len()));
    scene.hold().await;
    // What came behind its records is there, and nobody may have it yet.
    let more_has_come =
        |view: &View| offsets.iter().all(|(partition, at)| view.partitions[partition].end > at + 1);
    scene.until("events come behind the foreign records", more_has_come).await?;
    let view = scene.watch.now();
    let passed: Vec<i32> = offsets
        .iter()
        .filter(|(partition, at)| view.cursors(**partition).is_some_and(|cursors| cursors.topic > **at))
        .map(|(partition, _)| *partition)
        .collect();
    let before = scene.all_slots();
    let ended = tokio::task::spawn_blocking(move || match aborts {
        true => producer.abort_transaction(DEADLINE),
        // As if it were killed: nothing is said to the broker.
        false => {
            drop(producer);
            Ok(())
        }
    });
    ended.await.map_err(|error| Error::SetUp(error.to_string()))?.map_err(failed)?;
    scene.say(if aborts { "it is aborted" } else { "its program is gone" });
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = match (offsets.len(), passed.as_slice()) {
        (0, _) => Err("it wrote nothing".to_owned()),
        (count, []) => {
            Ok(format!("no slot of {count} passed its records while it was open, and all did afterwards"))
        }
        (_, passed) => {
            Err(format!("the slots of the partitions {passed:?} read beyond its records while it was open"))
        }
    };
    Ok(Done { victim: "raw topic".to_owned(), proof, spans })
}
