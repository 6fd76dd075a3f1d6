//! The one transaction that decides: enriched and invalid records, and the slot's record with its new cursors.

use millrace_common::headers;
use millrace_common::record::CommittedRecord;
use millrace_common::types::{HaltKind, StopReason};

use super::intake::Products;
use super::{Claimed, Exit, Slot};
use crate::compute::blocking;
use crate::kafka::{KafkaFailure, Transaction, TransactionError};

/// Commits `products` and `record` together: all of it is visible from then on, or nothing.
pub(super) async fn commit(
    slot: &Slot,
    claimed: Claimed,
    record: CommittedRecord,
    products: Products,
) -> Result<Claimed, Exit> {
    let (topic, partition) = (slot.topic.clone(), slot.id.partition);
    let enriched_topic = slot.definition.enriched_topic.clone();
    let (invalid_topic, invalid_partition) = (slot.definition.invalid_topic.clone(), slot.invalid_partition);
    let producer = claimed.producer;
    // Once begun it runs to its end, even if nobody waits any more: a transaction is never left half way.
    blocking(move || {
        let invalid = products.invalid.as_slice();
        let transaction = Transaction {
            source: (&topic, partition),
            offset: record.offset(),
            metadata: &record.metadata(),
            enriched: enriched_topic.as_deref().map(|topic| (topic, &products.enriched)),
            invalid: (!invalid.is_empty()).then_some((invalid_topic.as_str(), invalid_partition, invalid)),
        };
        match producer.commit(&transaction) {
            Ok(()) => Ok(Claimed { producer, record }),
            Err(TransactionError::Fenced(_)) => Err(Exit::Stop(StopReason::Fenced)),
            Err(TransactionError::Doubt(detail)) => Err(Exit::Doubt(detail)),
            Err(TransactionError::Refused(failure)) => Err(refused(&transaction, &failure)),
        }
    })
    .await
}

/// The halt that a record leads to which a sink's topic refuses.
fn refused(transaction: &Transaction<'_>, failure: &KafkaFailure) -> Exit {
    let enriched = transaction.enriched.and_then(|(topic, records)| {
        let (offset, bytes) = records.largest()?;
        Some(format!("topic {topic:?}: the largest record, of source offset {offset}, has {bytes} bytes"))
    });
    let invalid = transaction.invalid.and_then(|(topic, _, records)| {
        let largest = records.iter().max_by_key(|record| record.bytes())?;
        let (offset, bytes) = (largest.header(headers::SOURCE_OFFSET)?, largest.bytes());
        Some(format!("topic {topic:?}: the largest record, of source offset {offset}, has {bytes} bytes"))
    });
    let sinks: Vec<String> = enriched.into_iter().chain(invalid).collect();
    Exit::halt(
        HaltKind::RecordRefused,
        format!(
            "Kafka refuses a record that must go to a sink ({failure}); of what was to be committed, to {}; give the \
             topic a larger max.message.bytes (at least 1048588), or whichever other setting it was refused by, then \
             resume the pipeline: nothing is lost meanwhile",
            sinks.join("; to ")
        ),
    )
}

/// Commits the record unchanged: only its owner can. A deposed owner stops silently here, for its successor may
/// rightly have deleted what it looks for.
pub(super) async fn prove_ownership(slot: &Slot, claimed: Claimed) -> Result<Claimed, Exit> {
    let record = claimed.record.clone();
    commit(slot, claimed, record, Products::default()).await
}
