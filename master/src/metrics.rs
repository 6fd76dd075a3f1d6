//! The master's `/metrics`: counters that the driver bumps, and gauges read from the latest look at the cluster.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::web::model::{Cluster, Slot, SlotState, WorkerState};

/// Counters of the driver. Clones share their values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// 1 while this master leads.
    pub(crate) leader: Gauge,
    pub(crate) registrations: Counter,
    pub(crate) heartbeats: Counter,
    pub(crate) grants: Counter,
    pub(crate) commits: Counter,
    pub(crate) store_failures: Counter,
}

/// The cluster as it was when somebody last looked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latest(Arc<Mutex<Option<Arc<Cluster>>>>);

impl Latest {
    /// `None` when the cluster can't be seen now.
    pub(crate) fn set(&self, cluster: Option<Arc<Cluster>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
    }

    fn get(&self) -> Option<Arc<Cluster>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The registry behind `/metrics`.
pub(crate) fn registry(counters: &Counters, latest: Latest) -> Registry {
    let mut registry = Registry::with_prefix("millrace_master");
    registry.register("leader", "1 while this master leads, 0 while it stands by", counters.leader.clone());
    registry.register("registrations", "Workers' registrations accepted", counters.registrations.clone());
    registry.register("heartbeats", "Workers' heartbeats taken in", counters.heartbeats.clone());
    registry.register("grants", "Grants sent, repeated ones too", counters.grants.clone());
    registry.register("store_commits", "Changes of the state store", counters.commits.clone());
    registry.register(
        "store_failures",
        "Changes of unknown outcome, after each of which the state was read anew",
        counters.store_failures.clone(),
    );
    registry.register_collector(Box::new(ClusterCollector(latest)));
    registry
}

#[derive(Debug)]
struct ClusterCollector(Latest);

impl Collector for ClusterCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(cluster) = self.0.get() else { return Ok(()) };
        let totals = cluster.totals();
        gauge(&mut encoder, "cores", "Cores of live workers", totals.cores.into())?;
        gauge(&mut encoder, "cores_used", "Cores of live workers that run slots", totals.cores_used.into())?;
        gauge(&mut encoder, "memory_bytes", "Memory of live workers", totals.memory_mib << 20)?;
        gauge(
            &mut encoder,
            "memory_used_bytes",
            "Memory that live workers have reserved",
            totals.memory_used_bytes,
        )?;
        let lag = cluster.slots.iter().filter_map(|slot| slot.lag).sum();
        gauge(
            &mut encoder,
            "lag_records",
            "Records that a slot's slower sink does not hold yet, of all slots",
            lag,
        )?;
        let workers = WorkerState::ALL.map(|state| {
            let count = cluster.workers.iter().filter(|worker| worker.state == state).count();
            (state.word().to_lowercase(), count)
        });
        by_state(&mut encoder, "workers", "Workers by state", &workers)?;
        let slots = SlotState::ALL.map(|state| {
            (state.word().to_owned(), cluster.slots.iter().filter(|slot| slot.state == state).count())
        });
        by_state(&mut encoder, "slots", "Slots by state", &slots)?;
        let pipelines = ["WAITING", "RUNNING", "PAUSED", "KILLING", "KILLED"].map(|state| {
            let all = cluster.pipelines.iter().chain(&cluster.completed);
            (state.to_lowercase(), all.filter(|pipeline| pipeline.state == state).count())
        });
        by_state(&mut encoder, "pipelines", "Pipelines by state", &pipelines)?;
        by_pipeline(&mut encoder, &cluster)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let metric = const_gauge(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn by_state(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &[(String, usize)],
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, const_gauge(0).metric_type())?;
    for (state, count) in counts {
        let labels = [("state", state.as_str())];
        const_gauge(*count as u64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What its present owners have done, and what it lags behind, of each pipeline that has slots: few, since a person
/// submits each.
fn by_pipeline(encoder: &mut DescriptorEncoder<'_>, cluster: &Cluster) -> Result<(), std::fmt::Error> {
    type Figure = (&'static str, &'static str, fn(&Slot) -> u64);
    let figures: [Figure; 6] = [
        ("pipeline_lag_records", "Records that the slower sink does not hold yet", |slot| {
            slot.lag.unwrap_or(0)
        }),
        ("pipeline_rows_committed", "Rows in the lake, of the present owners", |slot| slot.rows_committed),
        ("pipeline_records_enriched", "Records on the enriched topic, of the present owners", |slot| {
            slot.records_enriched
        }),
        ("pipeline_records_quarantined", "Records set aside, of the present owners", |slot| {
            slot.records_quarantined
        }),
        ("pipeline_client_duplicates", "Records that clients sent twice, of the present owners", |slot| {
            slot.client_duplicates
        }),
        ("pipeline_records_filtered", "Records left out by the transform, of the present owners", |slot| {
            slot.records_filtered
        }),
    ];
    for (name, help, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, None, const_gauge(0).metric_type())?;
        for pipeline in &cluster.pipelines {
            let own = cluster.slots.iter().filter(|slot| slot.pipeline == pipeline.id);
            let labels = [("pipeline", pipeline.id.as_str())];
            const_gauge(own.map(figure).sum()).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn const_gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
