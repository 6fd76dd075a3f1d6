//! The worker's `/metrics`: read from the slots' own reports when somebody asks.

use std::sync::Arc;

use millrace_common::types::WorkerSpec;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::budget::Budget;
use crate::flight;
use crate::manager::RunningSlots;

#[derive(Debug)]
struct WorkerCollector {
    cores: u32,
    memory_bytes: u64,
    running: RunningSlots,
    budget: Arc<Budget>,
}

/// The registry behind the worker's `/metrics`.
pub(crate) fn registry(
    spec: &WorkerSpec,
    running: &RunningSlots,
    budget: &Arc<Budget>,
    flight: &flight::Metrics,
) -> Registry {
    let mut registry = Registry::with_prefix("millrace_worker");
    flight.register(&mut registry);
    registry.register_collector(Box::new(WorkerCollector {
        cores: spec.cores,
        memory_bytes: spec.memory_mib << 20,
        running: running.clone(),
        budget: Arc::clone(budget),
    }));
    registry
}

impl Collector for WorkerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: u64| {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        gauge("cores", "Cores offered", self.cores.into())?;
        gauge("memory_bytes", "Memory offered", self.memory_bytes)?;
        gauge("memory_used_bytes", "Memory reserved by open files and flushes", self.budget.used())?;
        let reports = self.running.reports();
        gauge("slots", "Slots running here", reports.len() as u64)?;
        let labels: Vec<_> =
            reports.iter().map(|report| ([("slot", report.slot.to_string())], &report.metrics)).collect();
        let mut family = |name: &str, help: &str, value: fn(&millrace_common::types::SlotMetrics) -> u64| {
            let metric = ConstGauge::new(0_i64);
            let mut family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            for (labels, metrics) in &labels {
                let gauge = ConstGauge::new(i64::try_from(value(metrics)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(labels)?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        family("slot_lag_records", "Records that the slower sink does not hold yet", |m| m.lag.unwrap_or(0))?;
        family("slot_buffered_bytes", "Bytes in open files and flushes", |m| m.buffered_bytes)?;
        let mut counter = |name: &str, help: &str, value: fn(&millrace_common::types::SlotMetrics) -> u64| {
            let metric = ConstCounter::new(0_u64);
            let mut family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            for (labels, metrics) in &labels {
                ConstCounter::new(value(metrics)).encode(family.encode_family(labels)?)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        counter("slot_rows_committed", "Rows committed to the lake by this owner", |m| m.rows_committed)?;
        counter("slot_records_enriched", "Records committed to the enriched topic by this owner", |m| {
            m.records_enriched
        })?;
        counter("slot_records_quarantined", "Records quarantined by this owner", |m| m.records_quarantined)?;
        counter("slot_client_duplicates", "Records dropped because a client sent them twice", |m| {
            m.client_duplicates
        })?;
        counter("slot_records_filtered", "Records that the transform leaves out", |m| m.records_filtered)
    }
}
