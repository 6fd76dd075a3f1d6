//! What can be had, in Flight's words: descriptors and their tickets.

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, Ticket};
use arrow_schema::Schema;
use millrace_common::types::SlotId;
use tonic::Status;

use super::ticket::Wanted;

/// First element of a descriptor's path.
const SLOT: &str = "slot";
const FILE: &str = "file";

/// What a descriptor asks for: a ticket's JSON as its command, or a path `slot/<pipeline id>/<topic>-<partition>` or
/// `file/<key>`.
pub(super) fn wanted(descriptor: &FlightDescriptor) -> Result<Wanted, Status> {
    let refuse = |error: super::ticket::Unreadable| Status::invalid_argument(error.to_string());
    if descriptor.r#type() == DescriptorType::Cmd {
        return Wanted::parse(&descriptor.cmd).map_err(refuse);
    }
    match descriptor.path.as_slice() {
        [kind, pipeline, local] if kind == SLOT => {
            let slot: Result<SlotId, _> = format!("{pipeline}/{local}").parse();
            slot.map(Wanted::latest).map_err(|error| Status::invalid_argument(error.to_string()))
        }
        [kind, key @ ..] if kind == FILE => {
            super::ticket::file_key(&key.join("/")).map(Wanted::File).map_err(refuse)
        }
        path => Err(Status::invalid_argument(format!(
            "the descriptor's path {path:?} names nothing here: expected slot/<pipeline id>/<topic number>-<partition> or file/<key>"
        ))),
    }
}

/// How `wanted` is shown in a list. `rows` and `bytes` are -1 where they are not known.
pub(super) fn info(
    wanted: &Wanted,
    schema: Option<&Schema>,
    rows: i64,
    bytes: i64,
) -> Result<FlightInfo, Status> {
    let path = match wanted {
        Wanted::File(key) => {
            std::iter::once(FILE).chain(key.as_str().split('/')).map(str::to_owned).collect()
        }
        Wanted::Latest { slot, .. } => vec![SLOT.to_owned(), slot.pipeline.to_string(), slot.local()],
    };
    // Without a location: the ticket is for whoever gave it.
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(wanted.ticket()));
    let info = FlightInfo::new()
        .with_descriptor(FlightDescriptor::new_path(path))
        .with_endpoint(endpoint)
        .with_total_records(rows)
        .with_total_bytes(bytes)
        .with_ordered(true);
    match schema {
        Some(schema) => info
            .try_with_schema(schema)
            .map_err(|error| Status::internal(format!("the schema can't be told: {error}"))),
        None => Ok(info),
    }
}
