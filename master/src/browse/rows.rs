//! Rows of a file or of a running slot, from a worker over Arrow Flight: what a lake's client sees, not what this
//! master thinks.

use std::time::Duration;

use arrow_array::{Array, RecordBatch};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightClient, Ticket};
use futures::StreamExt;
use millrace_common::address::join_host_port;
use millrace_common::cells::value;
use millrace_common::types::{PipelineDefinition, WorkerSpec};
use millrace_master_core::{ClusterView, SlotState};
use millrace_proto::channel::{self, Access};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::Browse;
use super::lake::own_key;
use crate::pipelines::Refusal;

/// The most rows of a preview.
pub(crate) const MOST: usize = 200;
const CONNECT: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(12);
const LARGEST_MESSAGE: usize = 64 << 20;
/// Workers that are tried, one after the other.
const TRIES: usize = 3;

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Rows {
    /// Who gave them.
    pub(crate) worker: String,
    pub(crate) columns: Vec<String>,
    /// A value for each column; times as RFC 3339, bytes that are no text as `{"hex":"…"}`.
    pub(crate) rows: Vec<Vec<Value>>,
}

/// The first `limit` rows of a file, from a worker that runs a slot of its pipeline.
pub(crate) async fn of_file(
    browse: &Browse,
    view: &ClusterView,
    pipeline: &PipelineDefinition,
    key: &str,
    limit: usize,
) -> Result<Rows, Refusal> {
    let key = own_key(pipeline, key)?;
    let mut owners: Vec<_> = view
        .slots
        .iter()
        .filter(|slot| {
            slot.slot.pipeline == pipeline.id && slot.state == SlotState::Granted && slot.report.is_some()
        })
        .filter_map(|slot| slot.owner.as_ref())
        .collect();
    owners.sort_unstable();
    owners.dedup();
    let specs = owners.iter().filter_map(|id| view.workers.iter().find(|worker| worker.spec.id == **id));
    let ticket = serde_json::json!({ "file": key.as_str() }).to_string();
    let mut missed = format!(
        "no worker runs a partition of pipeline {}: start one, or resume the pipeline",
        pipeline.name
    );
    let _turn = browse.turn().await?;
    for worker in specs.take(TRIES) {
        let spec = &worker.spec;
        let asked = get(browse, spec, &ticket, limit.clamp(1, MOST));
        match tokio::time::timeout(DEADLINE, asked).await {
            Ok(Ok((columns, rows))) => return Ok(Rows { worker: spec.id.to_string(), columns, rows }),
            Ok(Err(words)) => missed = format!("worker {} does not give the rows: {words}", spec.id),
            Err(_) => missed = format!("worker {} did not answer within {} s", spec.id, DEADLINE.as_secs()),
        }
    }
    Err(Refusal::Unavailable(missed))
}

type Table = (Vec<String>, Vec<Vec<Value>>);

/// A connection to the worker's Arrow Flight.
pub(super) async fn client(browse: &Browse, worker: &WorkerSpec) -> Result<FlightClient<Access>, String> {
    let address = join_host_port(&worker.host, worker.port);
    let connected = channel::connect(&address, &browse.access, CONNECT, |endpoint| endpoint).await;
    let channel = connected.map_err(|error| error.to_string())?;
    let inner = FlightServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    Ok(FlightClient::new_from_inner(inner))
}

pub(super) fn words(error: FlightError) -> String {
    match error {
        FlightError::Tonic(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

/// The stream is dropped when there are enough.
async fn get(browse: &Browse, worker: &WorkerSpec, ticket: &str, limit: usize) -> Result<Table, String> {
    let mut client = client(browse, worker).await?;
    let mut stream = client.do_get(Ticket::new(ticket.to_owned())).await.map_err(words)?;
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    while rows.len() < limit {
        let Some(batch) = stream.next().await.transpose().map_err(words)? else { break };
        columns = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        rows.extend(taken(&batch, limit - rows.len()));
    }
    Ok((columns, rows))
}

fn taken(batch: &RecordBatch, most: usize) -> impl Iterator<Item = Vec<Value>> + '_ {
    (0..batch.num_rows().min(most)).map(|index| {
        let cell = |column: &arrow_array::ArrayRef| {
            if column.is_null(index) { Value::Null } else { value(column, index) }
        };
        batch.columns().iter().map(cell).collect()
    })
}
