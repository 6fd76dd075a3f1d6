//! The faults that can be asked for: their names, what they do, and how many of each a schedule holds. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A fault that is done to the running cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    WorkerKill,
    WorkerFreeze,
    WorkerThaw,
    WorkerDrain,
    WorkerPartition,
    WorkerClock,
    BrokerKill,
    BrokerFreeze,
    BrokerDiskFull,
    ForeignTransaction,
    KafkaCommitLost,
    KafkaAnswerLost,
    KafkaLateCommit,
    KafkaLateOffsets,
    KafkaCut,
    KafkaCutLong,
    KafkaReset,
    KafkaSlow,
    S3Kill,
    S3SlowDown,
    S3Applied,
    S3Slow,
    S3Conflict,
    S3CopyError,
    S3Cut,
    MasterKill,
    MasterFreeze,
    EtcdKill,
    EtcdKillAll,
    EtcdCut,
    EtcdAnswerLost,
    CollectorKill,
}

impl Fault {
    /// Every fault, in the order in which they are listed.
    pub const ALL: [Self; 32] = [
        Self::WorkerKill,
        Self::WorkerFreeze,
        Self::WorkerThaw,
        Self::WorkerDrain,
        Self::WorkerPartition,
        Self::WorkerClock,
        Self::BrokerKill,
        Self::BrokerFreeze,
        Self::BrokerDiskFull,
        Self::ForeignTransaction,
        Self::KafkaCommitLost,
        Self::KafkaAnswerLost,
        Self::KafkaLateCommit,
        Self::KafkaLateOffsets,
        Self::KafkaCut,
        Self::KafkaCutLong,
        Self::KafkaReset,
        Self::KafkaSlow,
        Self::S3Kill,
        Self::S3SlowDown,
        Self::S3Applied,
        Self::S3Slow,
        Self::S3Conflict,
        Self::S3CopyError,
        Self::S3Cut,
        Self::MasterKill,
        Self::MasterFreeze,
        Self::EtcdKill,
        Self::EtcdKillAll,
        Self::EtcdCut,
        Self::EtcdAnswerLost,
        Self::CollectorKill,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKill => "worker-kill",
            Self::WorkerFreeze => "worker-freeze",
            Self::WorkerThaw => "worker-thaw",
            Self::WorkerDrain => "worker-drain",
            Self::WorkerPartition => "worker-partition",
            Self::WorkerClock => "worker-clock",
            Self::BrokerKill => "broker-kill",
            Self::BrokerFreeze => "broker-freeze",
            Self::BrokerDiskFull => "broker-disk-full",
            Self::ForeignTransaction => "foreign-transaction",
            Self::KafkaCommitLost => "kafka-commit-lost",
            Self::KafkaAnswerLost => "kafka-answer-lost",
            Self::KafkaLateCommit => "kafka-late-commit",
            Self::KafkaLateOffsets => "kafka-late-offsets",
            Self::KafkaCut => "kafka-cut",
            Self::KafkaCutLong => "kafka-cut-long",
            Self::KafkaReset => "kafka-reset",
            Self::KafkaSlow => "kafka-slow",
            Self::S3Kill => "s3-kill",
            Self::S3SlowDown => "s3-slow-down",
            Self::S3Applied => "s3-applied",
            Self::S3Slow => "s3-slow",
            Self::S3Conflict => "s3-conflict",
            Self::S3CopyError => "s3-copy-error",
            Self::S3Cut => "s3-cut",
            Self::MasterKill => "master-kill",
            Self::MasterFreeze => "master-freeze",
            Self::EtcdKill => "etcd-kill",
            Self::EtcdKillAll => "etcd-kill-all",
            Self::EtcdCut => "etcd-cut",
            Self::EtcdAnswerLost => "etcd-answer-lost",
            Self::CollectorKill => "collector-kill",
        }
    }

    /// What is done, in a line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::WorkerKill => "SIGKILL to a worker that runs slots",
            Self::WorkerFreeze => {
                "SIGSTOP to a worker that runs slots, SIGCONT after others have committed them"
            }
            Self::WorkerThaw => {
                "SIGSTOP to a worker that runs slots, SIGCONT in the middle of their move to others"
            }
            Self::WorkerDrain => "SIGTERM to a worker that runs slots: it hands them over and ends",
            Self::WorkerPartition => {
                "a worker and the masters can't reach each other, in one direction or both"
            }
            Self::WorkerClock => "a worker's clock jumps forward by an hour or ten minutes, and later back",
            Self::BrokerKill => "SIGKILL to Kafka's only broker, and a new start",
            Self::BrokerFreeze => "SIGSTOP to Kafka's only broker for a while",
            Self::BrokerDiskFull => {
                "Kafka's files can't grow any more, so that it ends by itself; and a new start"
            }
            Self::ForeignTransaction => {
                "somebody else's transaction on the raw topic stays open, then is aborted or times out"
            }
            Self::KafkaCommitLost => "Kafka's answers to a worker's EndTxn are lost, with their connections",
            Self::KafkaAnswerLost => {
                "the same of another step of a transaction: Produce, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit"
            }
            Self::KafkaLateCommit => {
                "a worker's connection is reset under its EndTxn, which Kafka gets later"
            }
            Self::KafkaLateOffsets => "the same of TxnOffsetCommit",
            Self::KafkaCut => "nothing gets from a worker to Kafka, or from Kafka to it, or neither way",
            Self::KafkaCutLong => "the same for longer than a transaction may last",
            Self::KafkaReset => "all of a worker's connections to Kafka are reset",
            Self::KafkaSlow => "all connections to Kafka are slow: a delay, or little bandwidth",
            Self::S3Kill => "SIGKILL to the S3 server, and a new start",
            Self::S3SlowDown => "S3 answers 503 SlowDown to everything",
            Self::S3Applied => "S3 does what it is told, and answers 500",
            Self::S3Slow => "S3 answers late",
            Self::S3Conflict => "S3 answers 409, or 412, to what puts and copies",
            Self::S3CopyError => "S3 answers 200 with an error in the body to copies",
            Self::S3Cut => "nothing gets from a worker to S3, or from S3 to it, or neither way",
            Self::MasterKill => "SIGKILL to the leading master, and a new start",
            Self::MasterFreeze => "SIGSTOP to the leading master until another one leads, then SIGCONT",
            Self::EtcdKill => "SIGKILL to the member of etcd that leads, and a new start",
            Self::EtcdKillAll => "SIGKILL to all members of etcd until no master leads, and a new start",
            Self::EtcdCut => {
                "nothing gets from the leading master to etcd, or from etcd to it, until another one leads"
            }
            Self::EtcdAnswerLost => {
                "etcd's answers to the leading master are lost, with their connections, while a worker is killed"
            }
            Self::CollectorKill => {
                "SIGKILL to the collector, and a new start; the generator sends again what was not answered"
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no fault: expected some of {names}")
        })
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Which faults a run draws from, and how many of each in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix(Vec<(Fault, u32)>);

impl Mix {
    /// Every fault once.
    pub fn all() -> Self {
        Self(Fault::ALL.into_iter().map(|fault| (fault, 1)).collect())
    }

    /// Whether the fault may be drawn.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.0.iter().any(|(known, _)| *known == fault)
    }

    /// Each fault as often as it comes in a round.
    pub(crate) fn round(&self) -> Vec<Fault> {
        self.0
            .iter()
            .flat_map(|(fault, count)| std::iter::repeat_n(*fault, usize::try_from(*count).unwrap_or(0)))
            .collect()
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().map(|(fault, count)| match count {
            1 => fault.to_string(),
            count => format!("{fault}={count}"),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `worker-kill=10,worker-freeze`: ten kills to each freeze.
    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: u32 = 1_000;
        let mut mix: Vec<(Fault, u32)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, count) = part.split_once('=').unwrap_or((part, "1"));
            let fault = name.parse()?;
            let count = count
                .parse()
                .ok()
                .filter(|count| (1..=MOST).contains(count))
                .ok_or_else(|| format!("{part:?}: expected a number from 1 to {MOST} after ="))?;
            if mix.iter().any(|(known, _)| *known == fault) {
                return Err(format!("{fault} stands there twice: expected each fault once, like {fault}=2"));
            }
            mix.push((fault, count));
        }
        Ok(Self(mix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let all = Fault::ALL.map(Fault::name).join(",");
        assert_eq!(all.parse::<Mix>(), Ok(Mix::all()));
        assert_eq!(Mix::all().to_string(), all);
        let mix: Mix = "worker-kill=3,worker-freeze".parse().expect("a mix");
        assert_eq!(mix.round().len(), 4);
        assert_eq!(mix.to_string(), "worker-kill=3,worker-freeze");
    }

    #[test]
    fn what_is_no_mix_is_refused_with_what_is_expected() {
        for (text, expected) in [
            ("worker-kil", "worker-kill, worker-freeze"),
            ("worker-kill=0", "from 1 to 1000"),
            ("worker-kill,worker-kill", "each fault once"),
            ("", "is no fault"),
        ] {
            let message = text.parse::<Mix>().expect_err(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
