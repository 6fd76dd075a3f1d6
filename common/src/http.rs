//! `/healthz`, `/readyz` and `/metrics`, the same on every process, and binding with a clear word when it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::port_holder::port_holder;
use crate::telemetry::process;

/// Whether the process can do its work, and if not, what it waits for.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<RwLock<Option<String>>>);

impl Readiness {
    /// Not ready, because of `waiting_for`.
    pub fn waiting(waiting_for: impl Into<String>) -> Self {
        Self(Arc::new(RwLock::new(Some(waiting_for.into()))))
    }

    pub fn set_ready(&self) {
        self.set(None);
    }

    pub fn set_waiting(&self, waiting_for: impl Into<String>) {
        self.set(Some(waiting_for.into()));
    }

    /// What is waited for; `None` when ready.
    pub fn waiting_for(&self) -> Option<String> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, state: Option<String>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = state;
    }
}

/// The three routes: `/healthz` (the process runs), `/readyz` (503 and the reason while it can't work),
/// `/metrics` (OpenMetrics text: the process' own, then `metrics`).
pub fn status_routes(readiness: Readiness, metrics: Arc<Registry>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(show_metrics).with_state(metrics))
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    match readiness.waiting_for() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(waiting_for) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {waiting_for}\n")),
    }
}

async fn show_metrics(State(metrics): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    let written = encode_registry(&mut text, &process::registry())
        .and_then(|()| encode_registry(&mut text, &metrics))
        .and_then(|()| encode_eof(&mut text));
    match written {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            format!("metrics can't be written: {error}\n"),
        ),
    }
}

/// How long a port that is taken is waited for: it may be a client's for a moment (ports from 32768 on are what
/// Linux gives to clients), or that of a predecessor that is just leaving.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// A port that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{what} can't listen on {address}: {reason}; {flag} moves it")]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    flag: &'static str,
    reason: String,
}

/// Listens on `address` for `what`. A port that is taken is tried for two seconds; after that the failure names
/// the process that holds it and the `flag` that chooses another address.
pub async fn bind(
    what: &'static str,
    address: SocketAddr,
    flag: &'static str,
) -> Result<TcpListener, BindError> {
    let give_up = Instant::now() + PORT_PATIENCE;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(250));
    let error = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => break error,
        }
    };
    let reason = match (error.kind(), port_holder(address.port())) {
        (io::ErrorKind::AddrInUse, Some(holder)) => format!("{holder} holds the port"),
        _ => error.to_string(),
    };
    Err(BindError { what, address, flag, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_a_client_holds_for_a_moment_is_had_in_the_end() {
        let client = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = client.local_addr().expect("address");
        let waiting = tokio::spawn(bind("the test", address, "--bind"));
        tokio::task::yield_now().await;
        drop(client);
        let listener = waiting.await.expect("task").expect("the port");
        assert_eq!(listener.local_addr().expect("address"), address);
    }

    #[tokio::test]
    async fn a_port_that_stays_taken_names_its_holder_and_the_flag() {
        let holder = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = holder.local_addr().expect("address");
        let message = bind("the test", address, "--bind").await.expect_err("taken").to_string();
        let expected = format!("(pid {}) holds the port; --bind moves it", std::process::id());
        assert!(message.contains(&expected), "{message}");
    }
}
