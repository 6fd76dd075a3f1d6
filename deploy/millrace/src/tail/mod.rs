//! `millrace tail`: the latest rows of the running partitions, from the workers that run them. The master says who
//! they are; a partition that moves is followed to its new worker.

mod row;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightClient, Ticket};
use futures::TryStreamExt;
use millrace_common::address::join_host_port;
use millrace_common::shutdown::Shutdown;
use millrace_common::tls::ClientFlags;
use millrace_proto::channel::{self, Access};
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{ListWorkersRequest, SlotPhase, WorkerStatus};

use crate::ask::{Error, Masters};
use row::{Labels, Row, rows};

const MASTER_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Of one look at one partition.
const WORKER_DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks at what is new.
const PAUSE: Duration = Duration::from_millis(500);
/// The most rows of a partition in one look; a worker keeps fewer.
const MOST_ROWS: u64 = 10_000;
const LARGEST_MESSAGE: usize = 64 << 20;

/// Whose rows are shown, and how.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace tail\n  \
    millrace tail --pipeline clickstream --partition 3 -n 20\n  \
    millrace tail --follow --json\n\n\
    Rows marked `uncommitted` are in no lake file yet; after a crash they are read again, and may differ then.\n\
    Ctrl-C ends it.")]
pub(crate) struct Config {
    #[command(flatten)]
    masters: Masters,
    /// Only partitions of this pipeline, by name or id.
    #[arg(long)]
    pipeline: Option<String>,
    /// Only this partition of each source topic.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,
    /// How many of each partition's latest rows are shown first.
    #[arg(short = 'n', long = "rows", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=MOST_ROWS))]
    rows: u64,
    /// Go on with the rows that come in, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
}

type Flight = FlightClient<Access>;

/// A partition of a pipeline, and the address of the worker that runs it.
type Owners = BTreeMap<String, String>;

/// How far a partition was shown.
#[derive(Debug, Default)]
struct Shown {
    looked: bool,
    /// The offset behind the last row that came; `None` before the first one.
    next: Option<i64>,
}

/// Shows the latest rows, and with `--follow` those that come, until `shutdown` begins.
pub(crate) async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let mut tail =
        Tail { config, workers: BTreeMap::new(), shown: BTreeMap::new(), said: None, is_alone: false };
    tokio::select! {
        ended = tail.run() => ended,
        () = shutdown.begun() => Ok(()),
    }
}

struct Tail {
    config: Config,
    /// Connections by address.
    workers: BTreeMap<String, Flight>,
    shown: BTreeMap<String, Shown>,
    /// What it waits for, as said last.
    said: Option<String>,
    /// No master answers, and that was said.
    is_alone: bool,
}

/// Why a partition could not be looked at now.
enum Missed {
    /// It may run elsewhere by now.
    Owner(String),
    /// Nobody reads what is printed any more.
    Output,
}

impl Tail {
    async fn run(&mut self) -> Result<(), Error> {
        let mut owners = self.owners().await?;
        if owners.is_empty() && !self.config.follow {
            return Err(Error::Refused(format!("{}; --follow waits for one", self.nothing())));
        }
        loop {
            let mut missed = None;
            for (slot, address) in &owners {
                match self.look(slot, address).await {
                    Ok(()) => {}
                    Err(Missed::Output) => return Ok(()),
                    Err(Missed::Owner(reason)) => {
                        self.workers.remove(address);
                        missed = Some(format!("{slot} on {address}: {reason}"));
                    }
                }
            }
            if !self.config.follow {
                return missed.map_or(Ok(()), |missed| Err(Error::Refused(missed)));
            }
            // Said once for as long as it lasts.
            let waits = missed.or_else(|| owners.is_empty().then(|| self.nothing()));
            if let Some(waits) = waits.as_ref().filter(|_| waits != self.said) {
                eprintln!("millrace: waiting: {waits}");
            }
            self.said = waits;
            tokio::time::sleep(PAUSE).await;
            match self.owners().await {
                Ok(now) => (owners, self.is_alone) = (now, false),
                // The workers go on without a master, and so does this.
                Err(error @ (Error::Unreachable(_) | Error::NotNow(_))) => {
                    if !self.is_alone {
                        eprintln!("millrace: going on with the workers known: {error}");
                    }
                    self.is_alone = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn nothing(&self) -> String {
        let pipeline = self.config.pipeline.as_ref().map(|name| format!(" of pipeline {name:?}"));
        let partition = self
            .config
            .partition
            .map_or("no partition".to_owned(), |number| format!("no partition {number}"));
        format!("{partition}{} runs on any worker", pipeline.unwrap_or_default())
    }

    async fn owners(&self) -> Result<Owners, Error> {
        let question =
            async |mut master: MasterClient<Access>| master.list_workers(ListWorkersRequest {}).await;
        let workers = self.config.masters.ask(MASTER_DEADLINE, question).await?.workers;
        Ok(owners(&workers, self.config.pipeline.as_deref(), self.config.partition))
    }

    /// Shows what is new of one partition.
    async fn look(&mut self, slot: &str, address: &str) -> Result<(), Missed> {
        let shown = self.shown.entry(slot.to_owned()).or_default();
        let most = if shown.looked { MOST_ROWS } else { self.config.rows.max(1) };
        let mut ticket = serde_json::json!({ "slot": slot, "latest": most });
        if let Some(next) = shown.next {
            ticket["from"] = next.into();
        }
        if !self.workers.contains_key(address) {
            let client = connect(address, &self.config.masters.access).await.map_err(Missed::Owner)?;
            self.workers.insert(address.to_owned(), client);
        }
        let Some(client) = self.workers.get_mut(address) else { return Ok(()) };
        let answer =
            tokio::time::timeout(WORKER_DEADLINE, get(client, Ticket::new(ticket.to_string()))).await;
        let (labels, batches) = answer
            .map_err(|_| Missed::Owner(format!("no answer within {} s", WORKER_DEADLINE.as_secs())))?
            .map_err(|error| Missed::Owner(words(&error)))?;
        let is_wanted = shown.looked || self.config.rows > 0;
        shown.looked = true;
        for row in batches.iter().flat_map(|batch| rows(batch, &labels)) {
            if let Some(next) = shown.next.filter(|next| row.offset > *next) {
                let last = row.offset - 1;
                eprintln!(
                    "millrace: {slot}: offsets {next} to {last} hold no row, or went by between two looks"
                );
            }
            shown.next = Some(row.offset + 1);
            if is_wanted {
                print(&row, &labels, self.config.json).map_err(|_| Missed::Output)?;
            }
        }
        Ok(())
    }
}

/// The partitions that run, of `pipeline` (name or id) and with the number `partition` where these are given.
fn owners(workers: &[WorkerStatus], pipeline: Option<&str>, partition: Option<i32>) -> Owners {
    let mut owners = Owners::new();
    for status in workers {
        let worker = status.worker.clone().unwrap_or_default();
        let address = join_host_port(&worker.host, u16::try_from(worker.port).unwrap_or_default());
        for report in status.slots.iter().filter(|report| report.phase() == SlotPhase::Running) {
            let slot = report.slot.clone().unwrap_or_default();
            // An id is its pipeline's name and a short random part.
            let name = slot.pipeline.rsplit_once('-').map_or("", |(name, _)| name);
            if pipeline.is_some_and(|wanted| wanted != slot.pipeline && wanted != name)
                || partition.is_some_and(|wanted| wanted != slot.partition)
            {
                continue;
            }
            let slot = format!("{}/{}-{}", slot.pipeline, slot.topic, slot.partition);
            owners.insert(slot, address.clone());
        }
    }
    owners
}

async fn connect(address: &str, access: &ClientFlags) -> Result<Flight, String> {
    let connected = channel::connect(address, access, CONNECT_DEADLINE, |endpoint| endpoint).await;
    let channel = connected.map_err(|error| error.to_string())?;
    let inner = FlightServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    Ok(FlightClient::new_from_inner(inner))
}

async fn get(client: &mut Flight, ticket: Ticket) -> Result<(Labels, Vec<RecordBatch>), FlightError> {
    let mut stream = client.do_get(ticket).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await? {
        batches.push(batch);
    }
    let schema = stream.schema();
    let label = |key: &str| schema.and_then(|schema| schema.metadata().get(key).cloned());
    let labels = Labels {
        slot: label("millrace.slot").unwrap_or_default(),
        committed_to: label("millrace.committed_to").and_then(|cursor| cursor.parse().ok()),
    };
    Ok((labels, batches))
}

fn words(error: &FlightError) -> String {
    match error {
        FlightError::Tonic(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

fn print(row: &Row, labels: &Labels, json: bool) -> io::Result<()> {
    let mut output = io::stdout().lock();
    if json { writeln!(output, "{}", row.json(labels)) } else { writeln!(output, "{}", row.text()) }
}

#[cfg(test)]
mod tests {
    use millrace_proto::v1::{SlotId, SlotReport, WorkerSpec};

    use super::*;

    fn worker(host: &str, slots: &[(&str, i32, SlotPhase)]) -> WorkerStatus {
        let report = |(pipeline, partition, phase): &(&str, i32, SlotPhase)| SlotReport {
            slot: Some(SlotId { pipeline: (*pipeline).into(), topic: 0, partition: *partition }),
            phase: (*phase).into(),
            ..Default::default()
        };
        WorkerStatus {
            worker: Some(WorkerSpec { host: host.into(), port: 9, ..Default::default() }),
            slots: slots.iter().map(report).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn partitions_are_found_by_name_or_id_where_they_run() {
        let workers = [
            worker(
                "10.0.0.1",
                &[("clicks-a1b2c3", 0, SlotPhase::Running), ("raw-9f", 0, SlotPhase::Running)],
            ),
            worker(
                "::1",
                &[("clicks-a1b2c3", 1, SlotPhase::Running), ("clicks-a1b2c3", 2, SlotPhase::Opening)],
            ),
        ];
        let found = |pipeline, partition| {
            let owners = owners(&workers, pipeline, partition).into_iter();
            owners.map(|(slot, address)| format!("{slot} {address}")).collect::<Vec<_>>()
        };
        let both = ["clicks-a1b2c3/0-0 10.0.0.1:9", "clicks-a1b2c3/0-1 [::1]:9"];
        assert_eq!(found(Some("clicks"), None), both);
        assert_eq!(found(Some("clicks-a1b2c3"), None), both);
        assert_eq!(found(None, Some(0)), ["clicks-a1b2c3/0-0 10.0.0.1:9", "raw-9f/0-0 10.0.0.1:9"]);
        assert!(found(Some("click"), None).is_empty());
    }
}
