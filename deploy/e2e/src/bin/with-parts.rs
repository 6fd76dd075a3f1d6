//! Runs a command with a Kafka, two S3 servers and an etcd that exist for its time: `with-parts cargo test …`.
//!
//! The command finds them by `MILLRACE_TEST_KAFKA` (bootstrap servers), `MILLRACE_TEST_S3` and
//! `MILLRACE_TEST_SECOND_S3` (endpoints), `MILLRACE_TEST_ETCD` (three members) and `MILLRACE_TEST_BUCKET`; the login stands in the usual AWS variables.

use std::process::ExitCode;

use anyhow::Context;
use millrace_e2e::Parts;
use millrace_local::s3::LOGIN;
use tokio::process::Command;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("expected a command: with-parts COMMAND [ARGUMENT…]");
        return Ok(ExitCode::from(2));
    };
    let mut parts = Parts::start().await?;
    let status = Command::new(&program)
        .args(arguments)
        .env("MILLRACE_TEST_KAFKA", parts.kafka_servers())
        .env("MILLRACE_TEST_S3", parts.s3_endpoint())
        .env("MILLRACE_TEST_SECOND_S3", parts.second_s3_endpoint())
        .env("MILLRACE_TEST_ETCD", parts.etcd_endpoints())
        .env("MILLRACE_TEST_BUCKET", millrace_e2e::BUCKET)
        .env("AWS_ACCESS_KEY_ID", LOGIN)
        .env("AWS_SECRET_ACCESS_KEY", LOGIN)
        .status()
        .await
        .with_context(|| format!("{} can't be run", program.display()))?;
    parts.stop().await;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
