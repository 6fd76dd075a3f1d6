//! The compute pool: `--cores` permits for work that keeps a core busy, off the async threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Cloning shares the pool and the meter.
#[derive(Debug, Clone)]
pub(crate) struct ComputePool {
    permits: Arc<Semaphore>,
    meter: Meter,
}

/// How long cores of the pool were held by those who share the meter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    pub(crate) fn held(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn add(&self, held: Duration) {
        self.0.fetch_add(u64::try_from(held.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl ComputePool {
    pub(crate) fn new(cores: u32) -> Self {
        Self { permits: Arc::new(Semaphore::new(cores as usize)), meter: Meter::default() }
    }

    /// The same pool, with a meter of its own.
    pub(crate) fn metered(&self, meter: Meter) -> Self {
        Self { permits: Arc::clone(&self.permits), meter }
    }

    /// Runs `work` on one of the pool's cores. Once begun it runs to its end, even if nobody waits any more.
    ///
    /// Errors: it panicked, and with what.
    pub(crate) async fn catch<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the pool is never closed");
        let meter = self.meter.clone();
        let done = blocking(move || {
            let _permit = permit;
            let begun = Instant::now();
            // What the work owned is dropped with the panic: nobody sees it half done.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            meter.add(begun.elapsed());
            done
        })
        .await;
        done.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without words")
                .to_owned()
        })
    }
}

/// Runs a call that blocks (librdkafka's) on a thread of its own; a panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(call).await {
        Ok(value) => value,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and never began the call: nobody waits for it any more.
            Err(_) => std::future::pending().await,
        },
    }
}
