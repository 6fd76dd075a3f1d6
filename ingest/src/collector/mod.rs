//! The collector: takes click events over HTTP, checks each, and answers for it only after Kafka has acknowledged
//! its record. Valid events go to the raw topic, keyed by `package_id`; the others to the invalid topic, with the
//! reason. Keeps nothing of its own: what it acknowledged is in Kafka, what it did not is the client's.
//!
//! From the socket to Kafka: `serve` and `patient` (connections), `routes` with `rate`, `origin` and `keys` (who may
//! send), `media`, `read`, `decode` and `room` (bodies), `body` and `anonymize` (events), `producer`, `health` and
//! `link` (Kafka).

mod anonymize;
mod answer;
mod body;
mod config;
mod decode;
mod descriptors;
mod drain;
mod health;
mod held;
mod keys;
mod link;
mod media;
mod metrics;
mod origin;
mod patient;
mod producer;
mod rate;
mod read;
mod refusal;
mod reload;
mod room;
mod routes;
mod serve;

use std::sync::Arc;

use millrace_common::http::{self, BindError, Readiness};
use millrace_common::shutdown::Shutdown;
use tracing::info;

pub use answer::{Answer, ErrorBody, ErrorDetail, Verdict};
pub use body::{Judged, Refusal, Rules, Unreadable, judge, split};
pub use config::{Compression, Config, ConfigError};
pub use keys::KeysError;
pub use media::Format;
pub use millrace_common::tls::TlsError;

use config::LARGEST_KEPT_EVENT;
use keys::WriteKeys;
use link::Link;
use millrace_common::tls::{self, Tls};
use rate::RateLimit;
use reload::Files;

/// The largest record, with its key and headers: a broker takes 1 MiB by default.
const LARGEST_RECORD: usize = 1_000_000;
/// Clients whose rate is known at a time.
const MOST_CLIENTS: usize = 100_000;

/// Why a collector can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Runs a collector until `shutdown` begins; then answers the requests that run, sends out what the queue to Kafka
/// holds, and returns.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    config.check()?;
    let files = Files {
        tls: match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::read(tls::Files {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: None,
                protocol: b"http/1.1",
            })?),
            _ => None,
        },
        keys: config.write_keys_file.as_deref().map(WriteKeys::read).transpose()?,
    };
    descriptors::make_room_for(config.max_connections);
    let listener = http::bind("the collector", config.bind, "--bind").await?;
    let readiness = Readiness::waiting(format!("Kafka at {}", config.kafka));
    let link = Link::new(readiness.clone());
    let (metrics, registry) = metrics::Metrics::new(link.clone());
    let rate = config.client_rate.map(|rate| Arc::new(RateLimit::new(rate, config.burst(), MOST_CLIENTS)));
    let server = serve::Server {
        names_peers: rate.is_some(),
        routes: routes::routes(&config, &link, &metrics, files.keys.clone(), rate)
            .merge(http::status_routes(readiness, Arc::new(registry))),
        limits: serve::Limits {
            connections: config.max_connections,
            head: config.header_timeout,
            idle: config.idle_timeout,
            // The longest that a request takes.
            drain: config.body_timeout + config.delivery_timeout + routes::MARGIN,
        },
        tls: files.tls.clone(),
        metrics,
    };
    info!(bind = %config.bind, kafka = config.kafka.as_str(), tls = files.tls.is_some(), "collector starts");

    if files.any() {
        shutdown.spawn("reload on SIGHUP", files.keep(shutdown.clone()));
    }
    shutdown.spawn("kafka link", link.clone().keep(config, shutdown.clone()));
    server.serve(listener, &shutdown).await;
    link.close().await;
    info!("collector stopped");
    Ok(())
}
