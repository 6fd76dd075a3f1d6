//! Work off the async threads, and how much of it goes on at once.

use std::num::NonZero;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::{Semaphore, mpsc};

use crate::Error;
use crate::kafka::Read;

/// Batches of records between Kafka's reader and the hashing.
pub(crate) const BATCHES_AHEAD: usize = 4;
/// Bytes of files in memory at once, in KiB. A larger file is read alone.
pub(crate) const BUDGET_KIB: u32 = 256 << 10;

pub(crate) fn read_budget() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BUDGET_KIB as usize))
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs `work` on the blocking pool. A panic goes on here.
pub(crate) async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// The same for a decoder of foreign bytes, whose panic is a fault of those bytes.
pub(crate) async fn compute_or_panicked<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => Err(format!("it makes the Parquet reader fail: {failed}")),
    }
}

/// The reader's batches as a stream.
pub(crate) fn batches(records: mpsc::Receiver<Read>) -> impl Stream<Item = Read> {
    futures::stream::unfold(records, |mut records| async move {
        let read = records.recv().await?;
        Some((read, records))
    })
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    compute(work).await
}
