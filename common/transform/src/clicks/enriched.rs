//! The enriched event: the client's own bytes, with one member added at the end of the object that holds what was
//! found out. Where members are dropped or renamed, the object `event` is put together anew from the members as they
//! stand; everything else stays byte for byte.

use millrace_common::event::{Member, RESERVED_MEMBER, column, members};

use super::derived::{Derived, TEXTS};
use super::options::ClicksOptions;

/// Writes enriched events. Holds only what saves work from one to the next.
#[derive(Debug, Default)]
pub(super) struct Writer {
    event_time: TimeText,
    received_time: TimeText,
}

impl Writer {
    /// Appends the enriched form of the event `json`, which has been checked. `times` are the event's and the
    /// record's, in milliseconds since 1970 UTC; a record without one has -1.
    pub(super) fn write(
        &mut self,
        bytes: &mut Vec<u8>,
        json: &[u8],
        options: &ClicksOptions,
        (event_ms, received_ms): (i64, i64),
        derived: &Derived<'_>,
    ) {
        if options.drop.is_empty() && options.rename.is_empty() {
            bytes.extend_from_slice(json.trim_ascii_end());
        } else {
            rewrite(bytes, json, options);
        }
        // A checked event is an object with members.
        bytes.pop();
        bytes.extend_from_slice(b",\"");
        bytes.extend_from_slice(RESERVED_MEMBER.as_bytes());
        bytes.extend_from_slice(b"\":{");
        let start = bytes.len();
        let received_ms = (received_ms >= 0).then_some(received_ms);
        let times = [
            (column::EVENT_TIME, self.event_time.of(event_ms)),
            (column::RECEIVED_TIME, received_ms.and_then(|time_ms| self.received_time.of(time_ms))),
        ];
        for (name, time) in times {
            if let Some(time) = time {
                push_name(bytes, start, name);
                push_text(bytes, time);
            }
        }
        for ((name, _), text) in TEXTS.iter().zip(derived.texts()) {
            if let Some(text) = text {
                push_name(bytes, start, name);
                push_text(bytes, text);
            }
        }
        if let Some(is_bot) = derived.is_bot {
            push_name(bytes, start, column::IS_BOT);
            bytes.extend_from_slice(if is_bot { b"true" } else { b"false" });
        }
        bytes.extend_from_slice(b"}}");
    }
}

/// `start`: where the object's members begin.
fn push_name(bytes: &mut Vec<u8>, start: usize, name: &str) {
    if bytes.len() > start {
        bytes.push(b',');
    }
    bytes.push(b'"');
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b"\":");
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        bytes.push(b'"');
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'"');
    } else {
        // Writing text to a vector can't fail.
        let _ = serde_json::to_writer(bytes, text);
    }
}

fn members_of_checked(json: &[u8]) -> Vec<Member<'_>> {
    members(json).unwrap_or_else(|fault| panic!("the event was checked, and its own object is one: {fault}"))
}

/// The event with the members of its `event` dropped and renamed.
fn rewrite(bytes: &mut Vec<u8>, json: &[u8], options: &ClicksOptions) {
    for (number, member) in members_of_checked(json).iter().enumerate() {
        bytes.push(if number == 0 { b'{' } else { b',' });
        bytes.extend_from_slice(member.key.as_bytes());
        bytes.push(b':');
        if member.name != "event" {
            bytes.extend_from_slice(member.value.as_bytes());
            continue;
        }
        bytes.push(b'{');
        let inner = members_of_checked(member.value.as_bytes());
        let kept = inner.iter().filter(|member| !options.drop.contains(&*member.name));
        for (number, member) in kept.enumerate() {
            if number > 0 {
                bytes.push(b',');
            }
            match options.rename.get(&*member.name) {
                Some(name) => push_text(bytes, name),
                None => bytes.extend_from_slice(member.key.as_bytes()),
            }
            bytes.push(b':');
            bytes.extend_from_slice(member.value.as_bytes());
        }
        bytes.push(b'}');
    }
    bytes.push(b'}');
}

/// RFC 3339 text of times; those of one day share most of the work.
#[derive(Debug, Default)]
struct TimeText {
    /// The day that `text` begins with, in days since 1970.
    day: Option<i64>,
    text: String,
}

impl TimeText {
    const DAY_MS: i64 = 86_400_000;
    /// `2024-01-15T`
    const DATE: usize = 11;

    /// The text of a time in milliseconds since 1970 UTC; `None` where RFC 3339 has none (the year 10,000).
    fn of(&mut self, time_ms: i64) -> Option<&str> {
        let day = time_ms.div_euclid(Self::DAY_MS);
        if self.day != Some(day) {
            let date = chrono::DateTime::from_timestamp_millis(day * Self::DAY_MS)?;
            self.text = date.format("%Y-%m-%dT").to_string();
            self.day = (self.text.len() == Self::DATE).then_some(day);
        }
        self.day?;
        self.text.truncate(Self::DATE);
        let ms = time_ms.rem_euclid(Self::DAY_MS);
        let (seconds, ms) = (ms / 1000, ms % 1000);
        for (part, digits, end) in
            [(seconds / 3600, 2, ':'), (seconds / 60 % 60, 2, ':'), (seconds % 60, 2, '.'), (ms, 3, 'Z')]
        {
            for place in (0..digits).rev() {
                let digit = part / 10_i64.pow(place) % 10;
                self.text.push(char::from(b'0' + u8::try_from(digit).unwrap_or(0)));
            }
            self.text.push(end);
        }
        Some(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_rfc_3339() {
        let mut text = TimeText::default();
        assert_eq!(text.of(1_705_314_600_007), Some("2024-01-15T10:30:00.007Z"));
        assert_eq!(text.of(1_705_363_199_999), Some("2024-01-15T23:59:59.999Z"));
        assert_eq!(text.of(-1), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(text.of(i64::MAX), None);
        assert_eq!(text.of(0), Some("1970-01-01T00:00:00.000Z"));
    }
}
