//! The order of the check. It lets nobody cry wolf while the pipeline runs:
//!
//! ledger → cursors → ends of the topics → quarantine → list of the lake → per slot: rows, enriched records, raw records,
//! and the cursors again.
//!
//! Whatever lies below the first cursor is committed, so it is quarantined before the ends, or in a file that is
//! published or about to be. Whatever is visible was committed before, so it lies below the second cursor.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use millrace_common::kafka::partition_counts;
use millrace_common::lake::Lake;
use millrace_common::shutdown::Shutdown;
use millrace_common::types::PipelineDefinition;
use millrace_transform::Registry;
use tokio::sync::mpsc;

use crate::account::{Account, Sink};
use crate::chain::Key;
use crate::finding::{FindingKind, Findings};
use crate::judge::Judges;
use crate::kafka::{self, End, Part, Read};
use crate::lake::{self, LakeObject, OpenFile};
use crate::ledger::{LedgerReport, Tally};
use crate::pipeline;
use crate::pool::{BATCHES_AHEAD, batches, blocking, compute, compute_or_panicked, cores, read_budget};
use crate::quarantine::{self, Quarantine};
use crate::report::{PartitionAccount, Report};
use crate::slot::{self, Scope, SlotTask};
use crate::{Config, Error, Progress};

/// Checks, and prints the report on stdout: JSON or a table.
///
/// # Errors
/// The check could not be made. Faults that it found are in the report.
pub async fn run(config: Config, transforms: &Registry, shutdown: Shutdown) -> Result<Report, Error> {
    let report = check(&config, transforms, &Progress::on_stderr(), &shutdown).await?;
    if config.json {
        let json = serde_json::to_string_pretty(&report)
            .unwrap_or_else(|error| panic!("a report is plain data: {error}"));
        println!("{json}");
    } else {
        print!("{report}");
    }
    Ok(report)
}

/// Checks and prints nothing but `progress`.
///
/// # Errors
/// As [`run`].
pub async fn check(
    config: &Config,
    transforms: &Registry,
    progress: &Progress,
    shutdown: &Shutdown,
) -> Result<Report, Error> {
    let report = tokio::select! {
        report = check_all(config, transforms, progress) => report,
        () = shutdown.begun() => Err(Error::Interrupted),
    };
    progress.end();
    report
}

async fn check_all(config: &Config, transforms: &Registry, progress: &Progress) -> Result<Report, Error> {
    let started = Instant::now();
    progress.stage("reading the pipeline's definition");
    let (definition, lake) = pipeline::find(config).await?;
    let judges = Judges::new(&definition, transforms, config.derived)
        .map_err(|error| Error::Transform { reason: error.to_string() })?;
    let servers = config.kafka.clone().unwrap_or_else(|| definition.bootstrap_servers.clone());
    let mut tally = None;
    if let Some(path) = config.ledger.clone() {
        if !judges.keeps_all() {
            return Err(Error::LedgerUnfit { pipeline: definition.id.to_string() });
        }
        progress.stage("reading the ledger");
        let drops_repeats = definition.duplicate_window > 0;
        tally = Some(blocking(move || Tally::read(&path, drops_repeats)).await?);
    }

    progress.stage("asking Kafka for cursors and ends");
    let slots = slots(&definition, &servers).await?;
    let invalid = invalid_partitions(&definition, &servers).await?;
    let places: Vec<(String, i32)> = slots.iter().map(|slot| (slot.topic.clone(), slot.partition)).collect();
    let group = definition.group_id();
    let (committed, raw_ranges, invalid_ranges) = {
        let (servers, group, places, invalid) =
            (servers.clone(), group.clone(), places.clone(), invalid.clone());
        blocking(move || {
            let committed = kafka::committed(&servers, &group, &places)?;
            let raw = kafka::ranges(&servers, &places, End::Stable)?;
            Ok((committed, raw, kafka::ranges(&servers, &invalid, End::Open)?))
        })
        .await?
    };
    let offsets: i64 = raw_ranges.iter().map(|(low, end)| end - low).sum();
    // A raw record, its row and its enriched record are a step each.
    let steps = 1 + u64::from(lake.is_some()) + u64::from(definition.enriched_topic.is_some());
    progress.expect(u64::try_from(offsets).unwrap_or(0) * steps);

    progress.stage("reading the quarantine");
    let scope = Scope {
        lake: lake.as_ref(),
        enriched_topic: definition.enriched_topic.as_deref(),
        definition: &definition,
        judges: &judges,
        servers: &servers,
        group: &group,
        settle: config.settle,
        for_ledger: config.ledger.is_some(),
        progress,
        budget: read_budget(),
    };
    let keys_of = places.iter().zip(&committed).zip(&raw_ranges);
    let keys_of = keys_of
        .map(|((place, committed), (low, _))| (place.clone(), slot::keys_of(committed.as_ref(), *low)));
    let wanted = quarantine::Wanted {
        pipeline: definition.id.to_string(),
        for_ledger: config.ledger.is_some(),
        keys_of: keys_of.collect(),
    };
    let mut quarantine = Quarantine::default();
    let mut notes = Vec::new();
    for ((topic, partition), (start, end)) in invalid.iter().cloned().zip(invalid_ranges) {
        if start > 0 {
            notes.push(format!(
                "{topic}/{partition} holds nothing below {start} any more: what was quarantined there may show as missing"
            ));
        }
        let part = Part { topic, partition, start, end, with_headers: true };
        read_quarantine(&scope, &wanted, part, &mut quarantine).await?;
    }
    for fact in quarantine.for_ledger.drain(..) {
        if let Some(tally) = &mut tally {
            tally.invalid(&fact);
        }
    }

    let mut findings = std::mem::take(&mut quarantine.findings);
    let (mut files, mut bytes, mut by_slot) = (0, 0, ObjectsBySlot::new());
    if let Some(lake) = &lake {
        progress.stage("listing the lake");
        let objects = lake::list(lake).await?;
        (files, bytes) = (objects.len() as u64, objects.values().map(|object| object.bytes).sum());
        by_slot = sort_out(lake, &definition, objects, &mut findings).await?;
    }

    let mut partitions = Vec::with_capacity(slots.len());
    for ((place, committed), (low, end)) in slots.into_iter().zip(committed).zip(raw_ranges) {
        let source = (place.topic.clone(), place.partition);
        let task = SlotTask {
            objects: by_slot.remove(&(place.number, place.partition)).unwrap_or_default(),
            quarantined: quarantine.by_source.remove(&source).unwrap_or_default(),
            quarantined_keys: quarantine.keys.remove(&source).unwrap_or_default(),
            pipeline: definition.id.to_string(),
            number: place.number,
            topic: place.topic,
            partition: place.partition,
            committed,
            low,
            end,
        };
        let (account, found) = slot::account(&scope, task, &mut tally, &mut notes).await?;
        findings.merge(found);
        partitions.push(account);
    }
    for ((number, partition), objects) in by_slot {
        findings.add_many(FindingKind::UnknownSlot, objects.len() as u64, || {
            let first = objects.first().map_or("", |object| object.key.as_str());
            format!("topic number {number}, partition {partition}: {} files, such as {first}", objects.len())
        });
    }
    for ((topic, partition), records) in quarantine.by_source {
        findings.add_many(FindingKind::Unexplained, records.len() as u64, || {
            format!("{} records quarantined from {topic}/{partition}, which is no source", records.len())
        });
    }

    if let Some(topic) = &definition.enriched_topic {
        progress.stage("looking for strays on the enriched topic");
        read_strays(&scope, topic, &places, &mut findings).await?;
    }

    let (mut ledger, mut topic_ledger) = (None, None);
    if let (Some(path), Some(tally)) = (config.ledger.clone(), tally) {
        progress.stage("comparing with the ledger");
        let (of_lake, of_topic) = (lake.is_some(), definition.enriched_topic.is_some());
        (ledger, topic_ledger) = blocking(move || {
            let report = |sink| tally.report(&path, sink);
            let lake = of_lake.then(|| report(Sink::Lake)).transpose()?;
            Ok((lake, of_topic.then(|| report(Sink::Topic)).transpose()?))
        })
        .await?;
    }
    let mut total = Account::default();
    partitions.iter().for_each(|part: &PartitionAccount| total.add(&part.account));
    Ok(Report {
        clean: findings.is_empty() && ledger.iter().chain(&topic_ledger).all(LedgerReport::is_clean),
        pipeline: definition.id.to_string(),
        lake: lake.as_ref().map(|lake| lake.url.clone()),
        enriched_topic: definition.enriched_topic.clone(),
        kafka: servers,
        total,
        invalid_records: quarantine.records,
        files,
        bytes,
        partitions,
        findings,
        ledger,
        topic_ledger,
        notes,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

struct Place {
    number: u16,
    topic: String,
    partition: i32,
}

async fn slots(definition: &PipelineDefinition, servers: &str) -> Result<Vec<Place>, Error> {
    let topics: Vec<&str> = definition.source.topics.iter().map(String::as_str).collect();
    let counts = partition_counts(servers, &topics).await?;
    let mut slots = Vec::new();
    for (number, topic) in (0u16..).zip(&definition.source.topics) {
        let count = *counts.get(topic).ok_or_else(|| no_topic(definition, servers, topic))?;
        slots.extend((0..count).map(|partition| Place { number, topic: topic.clone(), partition }));
    }
    Ok(slots)
}

async fn invalid_partitions(
    definition: &PipelineDefinition,
    servers: &str,
) -> Result<Vec<(String, i32)>, Error> {
    let topic = &definition.invalid_topic;
    let counts = partition_counts(servers, &[topic]).await?;
    let count = *counts.get(topic).ok_or_else(|| no_topic(definition, servers, topic))?;
    Ok((0..count).map(|partition| (topic.clone(), partition)).collect())
}

fn no_topic(definition: &PipelineDefinition, servers: &str, topic: &str) -> Error {
    Error::NoTopic {
        topic: topic.to_owned(),
        pipeline: definition.id.to_string(),
        servers: servers.to_owned(),
    }
}

async fn read_quarantine(
    scope: &Scope<'_>,
    wanted: &quarantine::Wanted,
    part: Part,
    into: &mut Quarantine,
) -> Result<(), Error> {
    let (partition, end) = (part.partition, part.end);
    let (out, records) = mpsc::channel(BATCHES_AHEAD);
    let servers = scope.servers.to_owned();
    let reader = blocking(move || kafka::read(&servers, &part, &out));
    let digest = async {
        let batches = batches(records)
            .map(|read| async move {
                let Read::Records(mut records) = read else { return Quarantine::default() };
                records.retain(|record| record.offset < end);
                let wanted = wanted.clone();
                compute(move || quarantine::digest(&wanted, partition, &records)).await
            })
            .buffered(cores());
        let mut batches = std::pin::pin!(batches);
        while let Some(found) = batches.next().await {
            into.merge(found);
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(reader, digest)?;
    Ok(())
}

/// The enriched topic may have partitions that a source does not have: no slot reads them.
async fn read_strays(
    scope: &Scope<'_>,
    enriched_topic: &str,
    places: &[(String, i32)],
    findings: &mut Findings,
) -> Result<(), Error> {
    let counts = partition_counts(scope.servers, &[enriched_topic]).await?;
    let count = *counts
        .get(enriched_topic)
        .ok_or_else(|| no_topic(scope.definition, scope.servers, enriched_topic))?;
    for topic in &scope.definition.source.topics {
        let known = places.iter().filter(|(source, _)| source == topic).count();
        for partition in i32::try_from(known).unwrap_or(i32::MAX)..count {
            slot::read_strays(scope, enriched_topic, topic, partition, findings).await?;
        }
    }
    Ok(())
}

type ObjectsBySlot = BTreeMap<(u16, i32), Vec<LakeObject>>;

/// Groups the objects by their keys' slots. What has no such key is opened, and named; where its footer says that
/// it is the pipeline's own, its rows count, since readers see them.
async fn sort_out(
    lake: &Lake,
    definition: &PipelineDefinition,
    objects: BTreeMap<String, LakeObject>,
    findings: &mut Findings,
) -> Result<ObjectsBySlot, Error> {
    let mut by_slot = ObjectsBySlot::new();
    let mut strays = Vec::new();
    for object in objects.into_values() {
        match Key::parse(&object.key) {
            Some(key) if key.pipeline == definition.id.as_str() => {
                by_slot.entry((key.topic, key.partition)).or_default().push(object);
            }
            _ => strays.push(object),
        }
    }
    let mut opened = futures::stream::iter(strays)
        .map(|object| async move {
            let Some(bytes) = lake::get(lake, &object.location).await? else { return Ok((object, None)) };
            let footer = compute_or_panicked(move || {
                let file = OpenFile::open(bytes).map_err(|error| error.to_string())?;
                Ok((file.row_count(), file.footer()))
            })
            .await;
            Ok::<_, Error>((object, Some(footer)))
        })
        .buffered(cores());
    while let Some((object, opened)) = opened.try_next().await? {
        let key = object.key.clone();
        match opened {
            None => {}
            Some(Err(reason)) => findings.add(FindingKind::Unreadable, || format!("{key}: {reason}")),
            Some(Ok((_, Ok(footer)))) if footer.pipeline == definition.id.as_str() => {
                findings.add(FindingKind::FooterDisagrees, || {
                    format!(
                        "{key} is no key of slot {}-{}, as its footer says",
                        footer.topic, footer.partition
                    )
                });
                by_slot.entry((footer.topic, footer.partition)).or_default().push(object);
            }
            Some(Ok((rows, footer))) => findings.add(FindingKind::Foreign, || {
                let owner =
                    footer.map_or("no pipeline".to_owned(), |footer| format!("pipeline {}", footer.pipeline));
                format!("{key} of {owner}: {rows} rows")
            }),
        }
    }
    Ok(by_slot)
}
