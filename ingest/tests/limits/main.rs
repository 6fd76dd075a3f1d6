//! Each limit of the collector, with a client that breaks it: what it is told, and that it is counted. On librdkafka's
//! mock cluster, since nothing here is about Kafka.

#[path = "../scene/mod.rs"]
mod scene;

mod bodies;
mod connections;
mod raw;
mod who;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use scene::Collector;

/// A collector that is ready, and its Kafka.
struct Scene {
    collector: Collector,
    _kafka: MockCluster<'static, DefaultProducerContext>,
}

impl Scene {
    async fn new(flags: &[&str]) -> Self {
        let kafka = MockCluster::new(1).expect("mock cluster");
        for topic in ["raw", "invalid"] {
            kafka.create_topic(topic, 1, 1).expect("topic");
        }
        let servers = kafka.bootstrap_servers();
        let common = ["--kafka", &servers, "--raw-topic", "raw", "--invalid-topic", "invalid"];
        let collector = Collector::start(&[&common[..], flags].concat()).await;
        collector.until_ready().await;
        Self { collector, _kafka: kafka }
    }

    fn address(&self) -> &str {
        self.collector.base.strip_prefix("http://").expect("an address")
    }

    /// Waits until a metric, named with its labels, has the value.
    async fn until_counted(&self, metric: &str, value: u64) {
        let line = format!("millrace_collector_{metric} {value}");
        self.collector
            .until(&line, async |collector| {
                collector.get("/metrics").await.1.lines().any(|found| found == line)
            })
            .await;
    }

    async fn stop(self) {
        self.collector.stop().await;
    }
}
