//! Rows on their way to a client: a task for each stream, a few messages ahead of the client, with a deadline.

use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use millrace_common::shutdown::Shutdown;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::debug;

use super::metrics::Running;

/// Rows of one batch: small, so that a stream holds little and yields often.
pub(super) const BATCH_ROWS: usize = 4096;
/// Messages that wait for a client that reads slowly.
const AHEAD: usize = 2;

pub(super) type Batches = BoxStream<'static, Result<RecordBatch, Status>>;

/// Rows as Flight's messages, of about `message_bytes` at most.
pub(super) fn encoded(
    schema: SchemaRef,
    batches: Batches,
    message_bytes: usize,
) -> BoxStream<'static, Result<FlightData, Status>> {
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(message_bytes)
        .build(batches.map_err(|status| FlightError::Tonic(Box::new(status))))
        .map_err(Status::from)
        .boxed()
}

/// One of the few places for streams.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _running: Running,
}

/// Hands `messages` to a client. A task pulls them, so that `place` comes back and what the stream holds is dropped
/// at the deadline, also when the client has stopped reading; and when the process stops. A stream that was cut ends
/// with an error, never as if it were whole.
pub(super) fn deliver<T: Send + 'static>(
    messages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    deadline: Duration,
    place: Place,
    shutdown: &Shutdown,
) -> BoxStream<'static, Result<T, Status>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (verdict, end) = oneshot::channel();
    let stopping = shutdown.clone();
    shutdown.spawn("flight stream", async move {
        let _place = place;
        let sent = async {
            let mut messages = std::pin::pin!(messages);
            while let Some(message) = messages.next().await {
                if sender.send(message).await.is_err() {
                    debug!("flight client left");
                    break;
                }
            }
        };
        let ended = tokio::select! {
            () = sent => Ok(()),
            () = stopping.begun() => Err(Status::unavailable("the worker stops: ask the slot's next owner")),
            () = tokio::time::sleep(deadline) => {
                Err(Status::deadline_exceeded(format!("the stream took longer than {} s", deadline.as_secs())))
            }
        };
        // The client may have left.
        let _ = verdict.send(ended);
    });
    let end =
        end.map(|verdict| verdict.unwrap_or_else(|_| Err(Status::internal("the stream broke off"))).err());
    let last_word = futures::stream::once(end).filter_map(|status| std::future::ready(status.map(Err)));
    ReceiverStream::new(receiver).chain(last_word).boxed()
}
