//! A record of the source, borrowed from Kafka's own memory.

/// A record of the source.
#[derive(Debug, Clone, Default)]
pub struct SourceRecord<'a> {
    pub offset: i64,
    /// Kafka's timestamp in milliseconds since 1970 UTC, taken as the time of receipt; -1 if there is none.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Name and value of each header in their order; empty unless the transform asks for them.
    pub headers: Vec<(&'a str, Option<&'a [u8]>)>,
}
