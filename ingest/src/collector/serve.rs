//! The connections: how many, how long a client may take over its headers, and the end in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use millrace_common::backoff::Backoff;
use millrace_common::shutdown::Shutdown;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// How long a client may take to send a request's headers; an idle connection is closed after it.
const HEADER_DEADLINE: Duration = Duration::from_secs(60);
/// The most bytes of a request's headers, and of what is read ahead.
const READ_BUFFER: usize = 64 << 10;

pub(super) struct Limits {
    pub(super) connections: u32,
    /// How long the requests that run may take once the stop has begun.
    pub(super) drain: Duration,
}

/// Serves `routes` until `shutdown` begins, and then until the requests that run are answered.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    open: Gauge,
    shutdown: &Shutdown,
) {
    let connections = Arc::new(Semaphore::new(limits.connections as usize));
    let graceful = GracefulShutdown::new();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or the client left again: others may still come.
                let wait = backoff.next_wait();
                warn!(%error, ?wait, "a connection can't be accepted");
                tokio::select! {
                    () = shutdown.begun() => break,
                    () = tokio::time::sleep(wait) => continue,
                }
            }
        };
        backoff.reset();
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE)
            .max_buf_size(READ_BUFFER)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
        let connection = graceful.watch(connection);
        let open = Open::new(&open);
        shutdown.spawn("connection", async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection ended");
            }
            drop((permit, open));
        });
    }
    // From here on a client is refused at once instead of waiting in the backlog.
    drop(listener);
    if tokio::time::timeout(limits.drain, graceful.shutdown()).await.is_err() {
        warn!("requests still run after their deadlines, leaving them");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

/// Counts a connection as long as it lives.
struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
