//! What clients take, for `/metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Clones share their values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    streams: Gauge,
    served: Counter,
    turned_away: Counter,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("flight_streams", "Arrow Flight streams under way", self.streams.clone());
        registry.register("flight_requests", "Arrow Flight requests that got a place", self.served.clone());
        let help = "Arrow Flight requests that found every place taken";
        registry.register("flight_turned_away", help, self.turned_away.clone());
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.inc();
    }

    /// Counts a request as long as the answer lives.
    pub(super) fn begin(&self) -> Running {
        self.served.inc();
        self.streams.inc();
        Running(self.streams.clone())
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
