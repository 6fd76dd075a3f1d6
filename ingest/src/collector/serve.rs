//! The connections: how many, how long each may take, with TLS or without, and the end in order.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use millrace_common::backoff::Backoff;
use millrace_common::shutdown::Shutdown;
use millrace_common::tls::Tls;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceBuilder;
use tracing::{debug, warn};

use super::metrics::Metrics;
use super::patient::{Activity, Patience, Patient};
use super::rate::Peer;

/// The most bytes of a request's headers, and of what is read ahead; hyper takes a hundred headers at most.
const READ_BUFFER: usize = 64 << 10;
/// Connections beyond the cap that are told so at a time; more are closed without a word.
const TURNED_AWAY: usize = 256;
/// How long such a client may take to hear it.
const TURNED_AWAY_TIME: Duration = Duration::from_secs(1);
const TURNED_AWAY_ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 86\r\n\r\n\
    {\"error\":{\"code\":\"busy\",\"message\":\"too many connections at a time, come again later\"}}";

pub(super) struct Limits {
    pub(super) connections: u32,
    /// For a request's head, and for the TLS handshake before the first.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// How long the requests that run may take once the stop has begun.
    pub(super) drain: Duration,
}

/// What serves each connection.
pub(super) struct Server {
    pub(super) routes: Router,
    pub(super) limits: Limits,
    pub(super) tls: Option<Tls>,
    pub(super) metrics: Metrics,
    /// Requests carry their [`Peer`].
    pub(super) names_peers: bool,
}

impl Server {
    /// Serves until `shutdown` begins, and then until the requests that run are answered.
    pub(super) async fn serve(self, listener: TcpListener, shutdown: &Shutdown) {
        let most = self.limits.connections as usize;
        let free = Arc::new(Semaphore::new(most));
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        let patience =
            Patience { head: self.limits.head, idle: self.limits.idle, free: Arc::clone(&free), most };
        let graceful = GracefulShutdown::new();
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            let accepted = tokio::select! {
                () = shutdown.begun() => break,
                accepted = accept(&listener) => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, or the client left again: others may still come.
                    self.metrics.count_ended("not_accepted");
                    let wait = backoff.next_wait();
                    warn!(%error, ?wait, "a connection can't be accepted");
                    tokio::select! {
                        () = shutdown.begun() => break,
                        () = tokio::time::sleep(wait) => continue,
                    }
                }
            };
            backoff.reset();
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
                self.metrics.count_ended("too_many");
                // A client that speaks TLS would not understand.
                if self.tls.is_none()
                    && let Ok(permit) = Arc::clone(&turned_away).try_acquire_owned()
                {
                    shutdown.spawn("connection turned away", turn_away(stream, permit));
                }
                continue;
            };
            let connection = Connection {
                routes: self.routes.clone(),
                metrics: self.metrics.clone(),
                peer: self.names_peers.then_some(Peer(peer)),
                watcher: graceful.watcher(),
                _permit: permit,
                _open: Open::new(&self.metrics.connections),
            };
            let stream = Patient::new(stream, patience.clone());
            let acceptor = self.tls.as_ref().map(Tls::acceptor);
            let stop = shutdown.clone();
            shutdown.spawn("connection", async move {
                let activity = stream.activity();
                let Some(acceptor) = acceptor else { return connection.serve(stream, activity).await };
                let shaken = tokio::select! {
                    () = stop.begun() => return,
                    shaken = acceptor.accept(stream) => shaken,
                };
                match shaken {
                    Ok(stream) => connection.serve(stream, activity).await,
                    Err(error) => {
                        debug!(%error, "tls handshake failed");
                        connection.metrics.count_ended(activity.ended().unwrap_or("tls_handshake"));
                    }
                }
            });
        }
        // From here on a client is refused at once instead of waiting in the backlog.
        drop(listener);
        if tokio::time::timeout(self.limits.drain, graceful.shutdown()).await.is_err() {
            warn!("requests still run after their deadlines, leaving them");
        }
    }
}

/// A connection that was accepted, and what it holds as long as it is open.
struct Connection {
    routes: Router,
    metrics: Metrics,
    peer: Option<Peer>,
    watcher: Watcher,
    _permit: OwnedSemaphorePermit,
    _open: Open,
}

impl Connection {
    async fn serve<S>(self, stream: S, activity: Activity)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, answered, noted) = (self.peer, activity.clone(), activity.clone());
        let service = ServiceBuilder::new()
            .map_request(move |mut request: Request<hyper::body::Incoming>| {
                activity.request();
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                }
                request
            })
            .map_response(move |response: Response| {
                answered.answer();
                response
            })
            .service(self.routes);
        let connection = http1::Builder::new()
            // `Patient` keeps the time, of heads and of pauses apart.
            .header_read_timeout(None)
            .max_buf_size(READ_BUFFER)
            // Who has sent a request and closes that side of the connection still waits for its answer.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let ended = self.watcher.watch(connection).await;
        // What is too late between two requests is no error to hyper.
        let reason = noted.ended().or_else(|| ended.as_ref().err().and_then(reason));
        if let Some(reason) = reason {
            self.metrics.count_ended(reason);
        }
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
    }
}

/// Why the collector ended the connection; `None` if its client did.
fn reason(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        return Some("large_head");
    }
    error.is_parse().then_some("bad_head")
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer.ip()))
}

/// Says that there are too many connections, so that the client hears it: were the socket closed while something of
/// the request is unread, the answer might be lost.
async fn turn_away(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let _ = tokio::time::timeout(TURNED_AWAY_TIME, async {
        stream.write_all(TURNED_AWAY_ANSWER).await?;
        stream.shutdown().await?;
        let mut unread = [0; 4 << 10];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
    drop(permit);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_gets_a_whole_answer() {
        let text = std::str::from_utf8(TURNED_AWAY_ANSWER).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len()))
                || head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<crate::collector::ErrorBody>(body).is_ok());
    }
}
