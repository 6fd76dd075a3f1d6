//! The delivery protocol of `docs/delivery.md` as an explicit-state model that is explored exhaustively within bounds.
//!
//! One slot, its workers, Kafka, the store and the master, and what may go wrong between them. Each step names the function
//! of `worker/src/slot` that it stands for. It shares no code with the worker: it says what the code should do, and whether
//! that is enough. It says nothing about bytes, sizes or time.

mod bounds;
mod canonical;
mod explore;
mod kafka;
mod master;
mod mutant;
mod opening;
mod publishing;
mod reached;
mod rules;
mod show;
mod state;
mod step;
mod transaction;
mod work;

pub use bounds::{BOUNDS, Bound, bound};
pub use explore::{Counterexample, Found, explore};
pub use mutant::{About, Mutant};
pub use reached::{Reached, SOMETIMES};
pub use rules::Rule;
pub use show::show;
pub use step::Protocol;
