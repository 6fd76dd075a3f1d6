//! Reads what is left of a request's body when the answer came before its end: a client that still writes while the
//! connection closes sees a broken connection instead of the answer, and its events would be unknown to it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Frame;

/// How much is read and thrown away; a client that has more must see the connection break.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// Middleware: answers once the body has come to its end or `patience` has.
pub(super) async fn drain(State(patience): State<Patience>, request: Request, next: Next) -> Response {
    // Such a client sends its body only if it is asked for.
    let waits_to_be_asked = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(body)));
    let mut rest = body.clone();
    let response = next.run(Request::from_parts(parts, Body::new(body))).await;
    // Whoever is answered because it is slow is not waited for again.
    let is_slow = response.status() == StatusCode::REQUEST_TIMEOUT;
    if !waits_to_be_asked && !is_slow {
        let reading = async {
            let mut bytes = 0;
            while bytes < patience.bytes
                && let Some(Ok(frame)) = rest.frame().await
            {
                bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
        };
        // Too slow: the answer goes out all the same.
        let _ = tokio::time::timeout(patience.time, reading).await;
    }
    response
}

/// A body that one reader goes on with where the other stopped.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }
}
