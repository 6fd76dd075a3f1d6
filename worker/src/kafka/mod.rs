//! The worker's own layer over librdkafka, for what rust-rdkafka does not offer: batches from the partition
//! queues of one consumer, and a transactional producer that tells when it must not be trusted any more.
//!
//! All `unsafe` of the worker is in this folder. It refuses to decide anything: no offset is chosen and no
//! retry made here.

mod batch;
mod consumer;
mod doubt;
mod error;
mod producer;
mod transaction;

pub(crate) use batch::Batch;
pub(crate) use consumer::{ConsumerLimits, Fetched, PartitionReader, SourceConsumer};
pub(crate) use error::KafkaFailure;
pub(crate) use producer::{SlotProducer, TransactionError};
pub(crate) use transaction::{EnrichedRecords, InvalidRecord, Transaction};
