//! Wire to domain and back.

use millrace_types::{
    Digest, Epoch, Halt, HaltKind, NextOffset, PipelineDefinition, PipelineId, SkipLost, SlotId, SlotMetrics,
    SlotPhase, SlotReport, StopReason, WorkerId, WorkerSpec,
};

use crate::v1;
use crate::v1::{master_message, slot_stopped, worker_message};

/// A message that does not say what it must.
#[derive(Debug, thiserror::Error)]
#[error("{field} = {value}: expected {expected}")]
pub struct ConversionError {
    field: &'static str,
    value: String,
    expected: String,
}

impl ConversionError {
    fn new(field: &'static str, value: impl std::fmt::Debug, expected: impl std::fmt::Display) -> Self {
        Self { field, value: format!("{value:?}"), expected: expected.to_string() }
    }

    fn missing(field: &'static str) -> Self {
        Self { field, value: "nothing".into(), expected: "a value".into() }
    }
}

/// A worker's first message.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    pub worker: WorkerSpec,
    /// Slots that this process runs already.
    pub running: Vec<SlotReport>,
}

/// A worker's regular message.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    pub memory_used_bytes: u64,
    /// Those that changed since the last heartbeat, or all.
    pub slots: Vec<SlotReport>,
    /// Of all pairs that the worker runs.
    pub digest: Digest,
    /// The process wants to leave.
    pub draining: bool,
    /// Of the whole process, in RAM; 0 when that is not known.
    pub resident_bytes: u64,
}

/// A slot stopped on its worker.
#[derive(Debug, Clone, PartialEq)]
pub struct SlotStopped {
    pub slot: SlotId,
    pub epoch: Epoch,
    pub reason: StopReason,
}

/// The master gives a slot to a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    pub slot: SlotId,
    pub epoch: Epoch,
    /// The slot was opened before: Kafka must hold a record of it.
    pub opened: bool,
    pub definition: PipelineDefinition,
    /// How many owners in a row died since the slot's cursors last moved.
    pub deaths: u32,
    /// A person's word that it may open without what is lost.
    pub skip_lost: Option<SkipLost>,
}

/// The master takes a slot back.
#[derive(Debug, Clone, PartialEq)]
pub struct Revoke {
    pub slot: SlotId,
    pub epoch: Epoch,
}

impl v1::WorkerMessage {
    pub fn register(worker: &WorkerSpec, running: &[SlotReport]) -> Self {
        Self {
            message: Some(worker_message::Message::Register(v1::Register {
                worker: Some(worker.into()),
                running: running.iter().map(Into::into).collect(),
            })),
        }
    }

    pub fn heartbeat(heartbeat: &Heartbeat) -> Self {
        let Heartbeat { memory_used_bytes, slots, digest, draining, resident_bytes } = heartbeat;
        Self {
            message: Some(worker_message::Message::Heartbeat(v1::Heartbeat {
                memory_used_bytes: *memory_used_bytes,
                slots: slots.iter().map(Into::into).collect(),
                digest: digest.0,
                draining: *draining,
                resident_bytes: *resident_bytes,
            })),
        }
    }

    pub fn slot_stopped(slot: &SlotId, epoch: Epoch, reason: &StopReason) -> Self {
        Self {
            message: Some(worker_message::Message::SlotStopped(v1::SlotStopped {
                slot: Some(slot.into()),
                epoch: epoch.0,
                reason: Some(reason.into()),
            })),
        }
    }
}

impl v1::MasterMessage {
    pub fn registered(heartbeat_ms: u64, master_id: String) -> Self {
        Self {
            message: Some(master_message::Message::Registered(v1::Registered { heartbeat_ms, master_id })),
        }
    }

    /// A definition always has a JSON form.
    pub fn grant(
        slot: &SlotId,
        epoch: Epoch,
        opened: bool,
        definition: &PipelineDefinition,
        deaths: u32,
        skip_lost: Option<SkipLost>,
    ) -> Self {
        let definition_json =
            serde_json::to_string(definition).unwrap_or_else(|error| panic!("plain fields: {error}"));
        Self {
            message: Some(master_message::Message::Grant(v1::Grant {
                slot: Some(slot.into()),
                epoch: epoch.0,
                opened,
                definition_json,
                deaths,
                skip_lost: skip_lost.map(Into::into),
            })),
        }
    }

    pub fn report_all() -> Self {
        Self { message: Some(master_message::Message::ReportAll(v1::ReportAll {})) }
    }

    pub fn leave() -> Self {
        Self { message: Some(master_message::Message::Leave(v1::Leave {})) }
    }

    pub fn revoke(slot: &SlotId, epoch: Epoch) -> Self {
        Self {
            message: Some(master_message::Message::Revoke(v1::Revoke {
                slot: Some(slot.into()),
                epoch: epoch.0,
            })),
        }
    }
}

impl TryFrom<v1::Register> for Register {
    type Error = ConversionError;
    fn try_from(message: v1::Register) -> Result<Self, ConversionError> {
        Ok(Self {
            worker: message.worker.ok_or(ConversionError::missing("register.worker"))?.try_into()?,
            running: reports(message.running)?,
        })
    }
}

impl TryFrom<v1::Heartbeat> for Heartbeat {
    type Error = ConversionError;
    fn try_from(message: v1::Heartbeat) -> Result<Self, ConversionError> {
        Ok(Self {
            memory_used_bytes: message.memory_used_bytes,
            slots: reports(message.slots)?,
            digest: Digest(message.digest),
            draining: message.draining,
            resident_bytes: message.resident_bytes,
        })
    }
}

impl TryFrom<v1::SlotStopped> for SlotStopped {
    type Error = ConversionError;
    fn try_from(message: v1::SlotStopped) -> Result<Self, ConversionError> {
        let reason = match message.reason.ok_or(ConversionError::missing("slot_stopped.reason"))? {
            slot_stopped::Reason::Revoked(_) => StopReason::Revoked,
            slot_stopped::Reason::Fenced(_) => StopReason::Fenced,
            slot_stopped::Reason::EpochBehind(behind) => {
                StopReason::EpochBehind { recorded: Epoch(behind.recorded) }
            }
            slot_stopped::Reason::Halted(halted) => {
                StopReason::Halted(Halt { kind: halt("halted.kind", halted.kind)?, detail: halted.detail })
            }
            slot_stopped::Reason::Failed(failed) => StopReason::Failed { detail: failed.detail },
        };
        Ok(Self { slot: slot_id("slot_stopped.slot", message.slot)?, epoch: Epoch(message.epoch), reason })
    }
}

impl TryFrom<v1::Grant> for Grant {
    type Error = ConversionError;
    fn try_from(message: v1::Grant) -> Result<Self, ConversionError> {
        let definition = serde_json::from_str(&message.definition_json)
            .map_err(|error| ConversionError::new("grant.definition_json", message.definition_json, error))?;
        Ok(Self {
            slot: slot_id("grant.slot", message.slot)?,
            epoch: Epoch(message.epoch),
            opened: message.opened,
            definition,
            deaths: message.deaths,
            skip_lost: message.skip_lost.map(SkipLost::try_from).transpose()?,
        })
    }
}

impl TryFrom<v1::SkipLost> for SkipLost {
    type Error = ConversionError;
    fn try_from(message: v1::SkipLost) -> Result<Self, ConversionError> {
        Ok(Self { halt: halt("skip_lost.halt", message.halt)?, from: message.from.map(NextOffset) })
    }
}

impl From<SkipLost> for v1::SkipLost {
    fn from(skip_lost: SkipLost) -> Self {
        Self { halt: skip_lost.halt.name().to_owned(), from: skip_lost.from.map(|from| from.0) }
    }
}

impl TryFrom<v1::Revoke> for Revoke {
    type Error = ConversionError;
    fn try_from(message: v1::Revoke) -> Result<Self, ConversionError> {
        Ok(Self { slot: slot_id("revoke.slot", message.slot)?, epoch: Epoch(message.epoch) })
    }
}

impl From<&WorkerSpec> for v1::WorkerSpec {
    fn from(worker: &WorkerSpec) -> Self {
        Self {
            id: worker.id.to_string(),
            pid: worker.pid,
            host: worker.host.clone(),
            port: worker.port.into(),
            http_port: worker.http_port.into(),
            cores: worker.cores,
            memory_mib: worker.memory_mib,
            max_slots: worker.max_slots,
            zone: worker.zone.clone().unwrap_or_default(),
            version: worker.version.clone(),
        }
    }
}

impl TryFrom<v1::WorkerSpec> for WorkerSpec {
    type Error = ConversionError;
    fn try_from(worker: v1::WorkerSpec) -> Result<Self, ConversionError> {
        let port = |field, value: u32| {
            u16::try_from(value).map_err(|_| ConversionError::new(field, value, "0 to 65535"))
        };
        Ok(Self {
            id: WorkerId::new(worker.id.clone())
                .map_err(|error| ConversionError::new("worker.id", worker.id, error))?,
            pid: worker.pid,
            port: port("worker.port", worker.port)?,
            http_port: port("worker.http_port", worker.http_port)?,
            host: worker.host,
            cores: worker.cores,
            memory_mib: worker.memory_mib,
            max_slots: worker.max_slots,
            zone: Some(worker.zone).filter(|zone| !zone.is_empty()),
            version: worker.version,
        })
    }
}

impl From<&SlotId> for v1::SlotId {
    fn from(slot: &SlotId) -> Self {
        Self { pipeline: slot.pipeline.to_string(), topic: slot.topic.into(), partition: slot.partition }
    }
}

/// The slot that a message names in `field`.
pub fn slot_id(field: &'static str, slot: Option<v1::SlotId>) -> Result<SlotId, ConversionError> {
    let slot = slot.ok_or(ConversionError::missing(field))?;
    if slot.partition < 0 {
        return Err(ConversionError::new(field, slot, "a partition of 0 or more"));
    }
    Ok(SlotId {
        topic: u16::try_from(slot.topic)
            .map_err(|_| ConversionError::new(field, &slot, "a topic number of 0 to 65535"))?,
        partition: slot.partition,
        pipeline: PipelineId::new(slot.pipeline.clone())
            .map_err(|error| ConversionError::new(field, slot.pipeline, error))?,
    })
}

fn reports(reports: Vec<v1::SlotReport>) -> Result<Vec<SlotReport>, ConversionError> {
    reports.into_iter().map(TryInto::try_into).collect()
}

impl From<&SlotReport> for v1::SlotReport {
    fn from(report: &SlotReport) -> Self {
        let phase = match report.phase {
            SlotPhase::Opening => v1::SlotPhase::Opening,
            SlotPhase::Running => v1::SlotPhase::Running,
            SlotPhase::Revoking => v1::SlotPhase::Revoking,
        };
        Self {
            slot: Some((&report.slot).into()),
            epoch: report.epoch.0,
            phase: phase.into(),
            metrics: Some((&report.metrics).into()),
        }
    }
}

impl TryFrom<v1::SlotReport> for SlotReport {
    type Error = ConversionError;
    fn try_from(report: v1::SlotReport) -> Result<Self, ConversionError> {
        let phase = match report.phase() {
            v1::SlotPhase::Opening => SlotPhase::Opening,
            v1::SlotPhase::Running => SlotPhase::Running,
            v1::SlotPhase::Revoking => SlotPhase::Revoking,
            v1::SlotPhase::Unspecified => {
                return Err(ConversionError::new("slot_report.phase", report.phase, "1, 2 or 3"));
            }
        };
        Ok(Self {
            slot: slot_id("slot_report.slot", report.slot)?,
            epoch: Epoch(report.epoch),
            phase,
            metrics: report.metrics.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<&SlotMetrics> for v1::SlotMetrics {
    fn from(metrics: &SlotMetrics) -> Self {
        Self {
            topic_cursor: metrics.topic_cursor.map(|next| next.0),
            lake_cursor: metrics.lake_cursor.map(|next| next.0),
            position: metrics.position.map(|next| next.0),
            end: metrics.end.map(|next| next.0),
            lag: metrics.lag,
            records_per_second: metrics.records_per_second,
            bytes_per_second: metrics.bytes_per_second,
            cpu: metrics.cpu,
            buffered_rows: metrics.buffered_rows,
            buffered_bytes: metrics.buffered_bytes,
            rows_committed: metrics.rows_committed,
            records_enriched: metrics.records_enriched,
            records_quarantined: metrics.records_quarantined,
            client_duplicates: metrics.client_duplicates,
            records_filtered: metrics.records_filtered,
            rows_unplaced: metrics.rows_unplaced,
            topic_from: metrics.topic_from.map(|next| next.0),
            commit_ms: metrics.commit_ms,
            batch_ms: metrics.batch_ms,
            flush_ms: metrics.flush_ms,
            topic_freshness_ms: metrics.topic_freshness_ms,
            lake_freshness_ms: metrics.lake_freshness_ms,
            last_commit_at_ms: metrics.last_commit_at_ms,
            last_object: metrics.last_object.clone(),
            waiting_for: metrics.waiting_for.clone(),
        }
    }
}

impl From<v1::SlotMetrics> for SlotMetrics {
    fn from(metrics: v1::SlotMetrics) -> Self {
        Self {
            topic_cursor: metrics.topic_cursor.map(NextOffset),
            lake_cursor: metrics.lake_cursor.map(NextOffset),
            position: metrics.position.map(NextOffset),
            end: metrics.end.map(NextOffset),
            lag: metrics.lag,
            records_per_second: metrics.records_per_second,
            bytes_per_second: metrics.bytes_per_second,
            cpu: metrics.cpu,
            buffered_rows: metrics.buffered_rows,
            buffered_bytes: metrics.buffered_bytes,
            rows_committed: metrics.rows_committed,
            records_enriched: metrics.records_enriched,
            records_quarantined: metrics.records_quarantined,
            client_duplicates: metrics.client_duplicates,
            records_filtered: metrics.records_filtered,
            rows_unplaced: metrics.rows_unplaced,
            topic_from: metrics.topic_from.map(NextOffset),
            commit_ms: metrics.commit_ms,
            batch_ms: metrics.batch_ms,
            flush_ms: metrics.flush_ms,
            topic_freshness_ms: metrics.topic_freshness_ms,
            lake_freshness_ms: metrics.lake_freshness_ms,
            last_commit_at_ms: metrics.last_commit_at_ms,
            last_object: metrics.last_object,
            waiting_for: metrics.waiting_for,
        }
    }
}

impl From<&StopReason> for slot_stopped::Reason {
    fn from(reason: &StopReason) -> Self {
        match reason {
            StopReason::Revoked => Self::Revoked(v1::Revoked {}),
            StopReason::Fenced => Self::Fenced(v1::Fenced {}),
            StopReason::EpochBehind { recorded } => {
                Self::EpochBehind(v1::EpochBehind { recorded: recorded.0 })
            }
            StopReason::Halted(halt) => {
                Self::Halted(v1::Halted { kind: halt.kind.name().to_owned(), detail: halt.detail.clone() })
            }
            StopReason::Failed { detail } => Self::Failed(v1::Failed { detail: detail.clone() }),
        }
    }
}

/// A kind of halt by its snake_case name.
fn halt(field: &'static str, name: String) -> Result<HaltKind, ConversionError> {
    serde_json::from_value(serde_json::Value::String(name.clone()))
        .map_err(|error| ConversionError::new(field, name, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason() -> impl Strategy<Value = StopReason> {
        let kind = prop_oneof![
            Just(HaltKind::RecordLost),
            Just(HaltKind::RecordDamaged),
            Just(HaltKind::OffsetsLost),
            Just(HaltKind::ManifestMismatch),
            Just(HaltKind::TransformChanged),
            Just(HaltKind::RecordRefused)
        ];
        prop_oneof![
            Just(StopReason::Revoked),
            Just(StopReason::Fenced),
            any::<u64>().prop_map(|epoch| StopReason::EpochBehind { recorded: Epoch(epoch) }),
            (kind, ".*").prop_map(|(kind, detail)| StopReason::Halted(Halt { kind, detail })),
            ".*".prop_map(|detail| StopReason::Failed { detail }),
        ]
    }

    proptest! {
        #[test]
        fn a_stopped_slot_reads_back(reason in reason(), partition in 0..i32::MAX, epoch: u64) {
            let slot: SlotId = format!("clickstream-3f9a2c/0-{partition}").parse().expect("slot");
            let message = v1::WorkerMessage::slot_stopped(&slot, Epoch(epoch), &reason);
            let Some(worker_message::Message::SlotStopped(stopped)) = message.message else { panic!("kind") };
            let back = SlotStopped::try_from(stopped).expect("readable");
            prop_assert_eq!(back, SlotStopped { slot, epoch: Epoch(epoch), reason });
        }

        #[test]
        fn a_report_reads_back(cursor: Option<i64>, lag: Option<u64>, rows: u64, waiting_for: Option<String>) {
            let report = SlotReport {
                slot: "p-1/2-3".parse().expect("slot"),
                epoch: Epoch(7),
                phase: SlotPhase::Running,
                metrics: SlotMetrics { lake_cursor: cursor.map(NextOffset), lag, buffered_rows: rows, waiting_for, ..Default::default() },
            };
            let wire: v1::SlotReport = (&report).into();
            prop_assert_eq!(SlotReport::try_from(wire).expect("readable"), report);
        }
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named() {
        let missing = Register::try_from(v1::Register::default()).expect_err("no worker").to_string();
        assert!(missing.contains("register.worker"), "{missing}");
        let negative = v1::Revoke {
            slot: Some(v1::SlotId { pipeline: "p-1".into(), topic: 0, partition: -1 }),
            epoch: 1,
        };
        assert!(Revoke::try_from(negative).is_err());
        let hostile = v1::Revoke {
            slot: Some(v1::SlotId { pipeline: "../../x".into(), topic: 0, partition: 1 }),
            epoch: 1,
        };
        assert!(Revoke::try_from(hostile).expect_err("id").to_string().contains("../../x"));
        let port = v1::WorkerSpec { id: "worker-1".into(), port: 70_000, ..Default::default() };
        assert!(WorkerSpec::try_from(port).expect_err("port").to_string().contains("70000"));
    }
}
