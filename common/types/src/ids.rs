//! Identifiers and counters, each its own type so that none can stand in for another.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A text that is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidId {
    what: &'static str,
    value: String,
    expected: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no {}: expected {}", self.value, self.what, self.expected)
    }
}

impl std::error::Error for InvalidId {}

/// Identifiers become parts of Kafka ids and object keys, so their alphabet is small: `a-z A-Z 0-9 . _ -`.
fn is_plain(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

// Clones share the text: a scheduler's indexes name each slot and worker several times.
macro_rules! plain_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier, checked against its alphabet and length.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let value = text.into();
                if is_plain(&value, $longest) {
                    Ok(Self(value.into()))
                } else {
                    Err(InvalidId { what: $what, value, expected: $expected })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// By text. Ids that share theirs are equal without a look at it.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
    };
}

plain_id!(
    /// A pipeline's name and a short random part, unique for ever: `clickstream-3f9a2c`.
    PipelineId,
    "pipeline id",
    48,
    "1 to 48 of a-z A-Z 0-9 . _ -, not starting with . or -"
);

plain_id!(
    /// A worker process: `worker-<start time>-<host>-<port>`, as Spark names its workers.
    WorkerId,
    "worker id",
    128,
    "1 to 128 of a-z A-Z 0-9 . _ -, not starting with . or -"
);

/// The unit of assignment: one partition of one source topic of a pipeline.
///
/// Written `<pipeline id>/<topic number>-<partition>`; [`SlotId::local`] is the part after the slash, which
/// stands in keys and transactional ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId {
    pub pipeline: PipelineId,
    /// Index of the topic in the pipeline's source topics.
    pub topic: u16,
    /// Kafka's partition number; never negative.
    pub partition: i32,
}

impl SlotId {
    /// `<topic number>-<partition>`: unique within the pipeline.
    pub fn local(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.pipeline, self.topic, self.partition)
    }
}

impl FromStr for SlotId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId {
            what: "slot",
            value: text.to_owned(),
            expected: "<pipeline id>/<topic number>-<partition>",
        };
        let (pipeline, local) = text.rsplit_once('/').ok_or_else(wrong)?;
        let (topic, partition) = local.split_once('-').ok_or_else(wrong)?;
        let partition: i32 = partition.parse().map_err(|_| wrong())?;
        if partition < 0 {
            return Err(wrong());
        }
        Ok(Self {
            pipeline: PipelineId::new(pipeline)?,
            topic: topic.parse().map_err(|_| wrong())?,
            partition,
        })
    }
}

/// Rises with every new grant of a slot; part of every report about it. The first grant has epoch 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The *next* source offset of a sink or a reader: everything below it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NextOffset(pub i64);

impl NextOffset {
    /// The position after the record at `offset`.
    pub fn after(offset: i64) -> Self {
        Self(offset + 1)
    }
}

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds, of a point in time or of a span. What the zero is, the user of the value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// The point in time `span` later.
    pub fn plus(self, span: Millis) -> Millis {
        Millis(self.0.saturating_add(span.0))
    }

    /// The span since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Millis) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_escape_a_key_are_refused() {
        for bad in ["", "../x", "a/b", "-a", ".a", "a b", "a\n", "ä"] {
            assert!(PipelineId::new(bad).is_err(), "{bad:?}");
        }
        assert!(PipelineId::new("a".repeat(49)).is_err());
    }

    #[test]
    fn a_slot_reads_back_as_it_is_written() {
        let slot: SlotId = "clickstream-3f9a2c/0-5".parse().expect("slot");
        assert_eq!(slot.to_string(), "clickstream-3f9a2c/0-5");
        assert_eq!(slot.local(), "0-5");
        assert!("clickstream/0--1".parse::<SlotId>().is_err());
        assert!("clickstream".parse::<SlotId>().is_err());
    }
}
