//! Timestamps as they stand in events. Most of a run's share their second with the one before.

use chrono::{DateTime, SecondsFormat};

/// Writes RFC 3339 with milliseconds, `2024-01-15T10:30:00.250Z`.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<i64>,
    /// Up to the point before the milliseconds.
    text: String,
}

impl Stamp {
    /// `ms` since 1970 UTC. A time that has no year of four digits is written as 1970.
    pub(super) fn write(&mut self, ms: i64, out: &mut Vec<u8>) {
        let second = ms.div_euclid(1000);
        if self.second != Some(second) {
            let time = DateTime::from_timestamp(second, 0).unwrap_or_default();
            let mut text = time.to_rfc3339_opts(SecondsFormat::Secs, true);
            // The Z.
            text.pop();
            (self.second, self.text) = (Some(second), text);
        }
        let millis = ms.rem_euclid(1000);
        let digit = |value: i64| b'0' + u8::try_from(value % 10).unwrap_or(0);
        out.extend_from_slice(self.text.as_bytes());
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_library_writes_them() {
        let mut stamp = Stamp::default();
        for ms in [0, 7, 999, 1_705_314_600_250, 1_705_314_600_251, -1, 1_705_314_601_000, 951_827_696_789] {
            let mut out = Vec::new();
            stamp.write(ms, &mut out);
            let expected = DateTime::from_timestamp_millis(ms).expect("in range");
            let expected = expected.to_rfc3339_opts(SecondsFormat::Millis, true);
            assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
        }
    }
}
