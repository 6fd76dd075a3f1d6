//! `/healthz`, `/readyz` and `/metrics`, the same on every process, and binding with a clear word when it fails.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

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
/// `/metrics` (OpenMetrics text).
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
    match encode(&mut text, &metrics) {
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

/// A port that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{what} can't listen on {address}: {reason}; {flag} moves it")]
pub struct BindError {
    what: &'static str,
    address: SocketAddr,
    flag: &'static str,
    #[source]
    reason: io::Error,
}

/// Listens on `address` for `what`; a failure names the `flag` that chooses another address.
pub async fn bind(
    what: &'static str,
    address: SocketAddr,
    flag: &'static str,
) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|reason| BindError { what, address, flag, reason })
}
