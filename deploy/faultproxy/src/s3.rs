//! A proxy in front of an S3 server that knows its requests: it answers some by itself, or otherwise than the server
//! did. What it passes on keeps its head, so signatures stay valid.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self as client, SendRequest};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What an S3 server does at its worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Trouble {
    /// Every request is answered 503 SlowDown, and not done.
    SlowDown,
    /// Every request comes later by this.
    Slow(Duration),
    /// What changes something is done, and answered 500.
    AppliedButFailed,
    /// What puts or copies is answered 409, and not done.
    Conflict,
    /// What puts or copies is answered 412, and not done.
    PreconditionFailed,
    /// Copies are answered 200 with an error in the body, and not done.
    OkWithError,
}

/// A trouble that has begun. It ends with [`S3Proxy::end`].
#[derive(Debug)]
pub struct ActiveS3 {
    trouble: S3Trouble,
    bites: AtomicU64,
}

impl ActiveS3 {
    /// How many requests it hit.
    pub fn bites(&self) -> u64 {
        self.bites.load(Ordering::SeqCst)
    }

    fn bite(&self) {
        self.bites.fetch_add(1, Ordering::SeqCst);
    }
}

/// At most one trouble at a time.
type Now = Arc<Mutex<Option<Arc<ActiveS3>>>>;

/// A proxy for one S3 server that speaks HTTP/1.1 without TLS. Dropping it closes what it carries.
#[derive(Debug)]
pub struct S3Proxy {
    address: SocketAddr,
    now: Now,
    accepting: JoinHandle<()>,
}

impl S3Proxy {
    /// Listens on `listen` (port 0 takes a free one) and passes every request on to `target`.
    ///
    /// # Errors
    /// When it can't listen there.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let now = Now::default();
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&now)));
        Ok(Self { address, now, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a trouble, in the place of the one that is on.
    pub fn begin(&self, trouble: S3Trouble) -> Arc<ActiveS3> {
        let active = Arc::new(ActiveS3 { trouble, bites: AtomicU64::new(0) });
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&active));
        active
    }

    /// Ends the trouble that is on.
    pub fn end(&self) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for S3Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, now: Now) {
    let mut carrying = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = carrying.join_next() => continue,
        };
        let Ok((socket, _)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        let now = Arc::clone(&now);
        carrying.spawn(async move {
            let upstream = tokio::sync::Mutex::new(None);
            let service = service_fn(|request| answer(request, target, &upstream, &now));
            // An error: the client has gone.
            let _ = server::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

type Body = BoxBody<Bytes, hyper::Error>;
type Upstream = tokio::sync::Mutex<Option<SendRequest<Incoming>>>;

async fn answer(
    request: Request<Incoming>,
    target: SocketAddr,
    upstream: &Upstream,
    now: &Now,
) -> Result<Response<Body>, Infallible> {
    let active = now.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let is_head = request.method() == Method::HEAD;
    let is_copy = request.headers().contains_key("x-amz-copy-source");
    let puts = request.method() == Method::PUT;
    let changes = puts || request.method() == Method::POST || request.method() == Method::DELETE;
    if let Some(active) = &active {
        let refusal = match active.trouble {
            S3Trouble::SlowDown => Some((StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            S3Trouble::Conflict if puts => Some((StatusCode::CONFLICT, "OperationAborted")),
            S3Trouble::PreconditionFailed if puts => {
                Some((StatusCode::PRECONDITION_FAILED, "PreconditionFailed"))
            }
            S3Trouble::OkWithError if is_copy => Some((StatusCode::OK, "InternalError")),
            S3Trouble::Slow(by) => {
                active.bite();
                tokio::time::sleep(by).await;
                None
            }
            _ => None,
        };
        if let Some((status, code)) = refusal {
            active.bite();
            // The body is read, so that the client is not cut off in the middle of it.
            let _ = request.into_body().collect().await;
            return Ok(error(status, code, is_head));
        }
    }
    let response = match pass(request, target, upstream).await {
        Ok(response) => response,
        Err(_) => return Ok(error(StatusCode::BAD_GATEWAY, "BadGateway", is_head)),
    };
    if let Some(active) = active
        && active.trouble == S3Trouble::AppliedButFailed
        && changes
        && response.status().is_success()
    {
        // A copy is done only when its whole answer is there.
        if response.into_body().collect().await.is_ok() {
            active.bite();
        }
        return Ok(error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", is_head));
    }
    Ok(response.map(BodyExt::boxed))
}

async fn pass(
    request: Request<Incoming>,
    target: SocketAddr,
    upstream: &Upstream,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let mut upstream = upstream.lock().await;
    let mut sender = match upstream.take() {
        Some(sender) if !sender.is_closed() => sender,
        _ => {
            let socket = TcpStream::connect(target).await?;
            // Both ends set it; a proxy must not be slower than the wire.
            let _ = socket.set_nodelay(true);
            let (sender, connection) = client::handshake(TokioIo::new(socket)).await?;
            // It ends with the sender.
            tokio::spawn(connection);
            sender
        }
    };
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    *upstream = Some(sender);
    Ok(response)
}

fn error(status: StatusCode, code: &str, is_head: bool) -> Response<Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>a fault that was asked for</Message></Error>"
    );
    let body = Full::new(if is_head { Bytes::new() } else { Bytes::from(text) });
    let mut response = Response::new(body.map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// A server that counts the requests that it gets; its address beside the count.
    async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                let service = service_fn(move |request: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                    }
                });
                tokio::spawn(async move {
                    drop(server::Builder::new().serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        (address, count)
    }

    async fn ask(proxy: &S3Proxy, method: Method, copy: bool) -> (StatusCode, Bytes) {
        let socket = TcpStream::connect(proxy.address()).await.expect("connected");
        let (mut sender, connection) = client::handshake(TokioIo::new(socket)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri("/bucket/key").header("host", "some:1");
        if copy {
            request = request.header("x-amz-copy-source", "/bucket/other");
        }
        let request = request.body(Full::new(Bytes::from_static(b"content"))).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.status();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    }

    #[tokio::test]
    async fn each_trouble_hits_what_it_should_and_is_counted() {
        let (target, count) = counting().await;
        let proxy = S3Proxy::start("127.0.0.1:0".parse().expect("address"), target).await.expect("proxy");
        assert_eq!(ask(&proxy, Method::PUT, false).await, (StatusCode::OK, Bytes::from_static(b"content")));
        let gets = (Method::GET, false);
        let (puts, copies) = ((Method::PUT, false), (Method::PUT, true));
        // Trouble, request, status, code, whether the server got it.
        for (trouble, (method, copy), status, code, passed) in [
            (S3Trouble::SlowDown, gets.clone(), 503, "SlowDown", false),
            (S3Trouble::AppliedButFailed, puts.clone(), 500, "InternalError", true),
            (S3Trouble::Conflict, puts.clone(), 409, "OperationAborted", false),
            (S3Trouble::PreconditionFailed, copies.clone(), 412, "PreconditionFailed", false),
            (S3Trouble::OkWithError, copies, 200, "InternalError", false),
            (S3Trouble::Slow(Duration::from_millis(1)), puts.clone(), 200, "content", true),
        ] {
            let before = count.load(Ordering::SeqCst);
            let active = proxy.begin(trouble);
            let (found, body) = ask(&proxy, method, copy).await;
            let body = String::from_utf8_lossy(&body).into_owned();
            assert_eq!(found.as_u16(), status, "{trouble:?}");
            assert!(body.contains(code), "{trouble:?}: {body}");
            assert_eq!(count.load(Ordering::SeqCst) - before, usize::from(passed), "{trouble:?}");
            assert_eq!(active.bites(), 1, "{trouble:?}");
        }
        let active = proxy.begin(S3Trouble::OkWithError);
        assert_eq!(ask(&proxy, puts.0, puts.1).await.1, "content", "it is no copy");
        assert_eq!(active.bites(), 0);
        proxy.end();
        assert_eq!(ask(&proxy, gets.0, gets.1).await.0, StatusCode::OK);
    }
}
