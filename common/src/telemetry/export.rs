//! Sending traces by OTLP: a bounded queue, a runtime of its own, so that a receiver that is slow or away never holds
//! the process' work. What does not fit into the queue is dropped and said in the log.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use tokio::runtime::Runtime;
use tracing::warn;
use url::Url;

use super::InvalidConfig;

/// Spans that wait to be sent; a span takes about 1 KB.
const QUEUE: usize = 4096;
const BATCH: usize = 512;
const SEND_EVERY: Duration = Duration::from_secs(1);
/// Of one call to the receiver.
const SEND_DEADLINE: Duration = Duration::from_secs(3);
/// Of the last spans, when the process stops.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Exporter {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl Exporter {
    /// Makes no connection yet.
    pub(super) fn new(endpoint: &str, ratio: f64, service: &'static str) -> Result<Self, InvalidConfig> {
        let invalid = |reason: String| InvalidConfig::Endpoint { value: endpoint.to_owned(), reason };
        let url = Url::parse(endpoint).map_err(|error| invalid(error.to_string()))?;
        if url.scheme() != "http" {
            let reason = "only http is spoken here: for TLS let a local receiver forward them";
            return Err(invalid(reason.to_owned()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .map_err(|error| invalid(format!("no thread for it: {error}")))?;
        // The connection's task is started where it is made.
        let exporter = runtime
            .block_on(async {
                SpanExporter::builder()
                    .with_tonic()
                    .with_endpoint(endpoint)
                    .with_timeout(SEND_DEADLINE)
                    .build()
            })
            .map_err(|error| invalid(error.to_string()))?;
        let limits = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(limits).build())
            .build();
        Ok(Self { provider, runtime })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("millrace")
    }

    pub(super) fn finish(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH_DEADLINE) {
            warn!(%error, "the last traces were not sent");
        }
        self.runtime.shutdown_background();
    }
}
