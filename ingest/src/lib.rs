//! The two ends of HTTP: the collector, which checks click events into Kafka, and the generator, which sends them.

pub mod collector;
pub mod generator;
