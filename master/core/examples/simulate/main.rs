//! Simulated clusters around the scheduler, by seed: workers, masters, their store, Kafka and a network between them, with
//! faults by a schedule that the seed makes. docs/simulation.md says what is checked and how to read what it prints.

mod act;
mod chance;
mod claims;
mod direct;
mod flaws;
mod kafka;
mod master;
mod network;
mod plan;
mod rest;
mod rules;
mod run;
mod settled;
mod shrink;
mod slot;
mod store;
mod tally;
mod watch;
mod worker;
mod world;

#[cfg(test)]
mod tests;

fn main() -> std::process::ExitCode {
    run::main()
}
