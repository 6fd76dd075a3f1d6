//! Tests of the scheduler: shares by property, and single stories. Whole clusters are simulated in `examples/simulate`.

mod digest;
mod drain;
mod liveness;
mod load;
mod pipelines;
mod rebalance;
mod restoring;
mod slots;
mod support;
mod torn;
