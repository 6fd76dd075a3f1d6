//! The last lines of a worker's log, from the worker itself over Arrow Flight.

use std::time::Duration;

use arrow_flight::Action;
use futures::TryStreamExt;
use millrace_common::telemetry::tail;
use millrace_common::types::WorkerSpec;

use super::Browse;
use super::rows::{client, words};
use crate::pipelines::Refusal;

const DEADLINE: Duration = Duration::from_secs(5);

/// The oldest first.
pub(crate) async fn of_worker(browse: &Browse, worker: &WorkerSpec) -> Result<Vec<String>, Refusal> {
    let _turn = browse.turn().await?;
    let asked = async {
        let mut client = client(browse, worker).await?;
        let lines = client.do_action(Action::new("log", "")).await.map_err(words)?;
        let lines: Vec<_> = lines.try_collect().await.map_err(words)?;
        Ok(lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).take(tail::LINES).collect())
    };
    let missed =
        |why: String| Refusal::Unavailable(format!("worker {} does not give its log: {why}", worker.id));
    match tokio::time::timeout(DEADLINE, asked).await {
        Ok(lines) => lines.map_err(missed),
        Err(_) => Err(missed(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}
