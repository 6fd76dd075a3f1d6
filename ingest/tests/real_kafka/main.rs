//! Collector and generator against a real Kafka, which `MILLRACE_TEST_KAFKA` names.

#[path = "../scene/mod.rs"]
mod scene;

mod collector;
mod generator;
mod topics;
