//! Tests of the scheduler: shares by property, single stories, and a seeded simulation of a whole cluster.

mod digest;
mod drain;
mod liveness;
mod load;
mod pipelines;
mod rebalance;
mod restoring;
mod simulation;
mod slots;
mod support;
mod torn;
