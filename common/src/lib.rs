//! What every Millrace process shares: the event model, Kafka and lake set-up, telemetry, orderly shutdown.

pub mod address;
pub mod backoff;
pub mod cells;
pub mod event;
pub mod headers;
pub mod http;
pub mod kafka;
pub mod lake;
pub mod lake_key;
pub mod ledger;
pub mod port_holder;
pub mod record;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod units;
pub mod window;

pub use millrace_types as types;
