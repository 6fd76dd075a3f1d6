//! RFC 3339 to milliseconds and back.

use chrono::{DateTime, NaiveDate, SecondsFormat};

/// A point in time that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    /// Milliseconds since 1970 UTC, rounded down.
    pub(super) ms: i64,
    /// [`write`] gives back the very text that was sent.
    pub(super) exact: bool,
}

/// Reads an RFC 3339 date and time. A leap second counts as the last millisecond before it, so that it stays
/// in its own day.
pub(super) fn read(text: &str) -> Option<Time> {
    read_usual(text.as_bytes()).or_else(|| {
        let parsed = DateTime::parse_from_rfc3339(text).ok()?;
        let ms = parsed.timestamp() * 1000 + i64::from(parsed.timestamp_subsec_millis().min(999));
        Some(Time { ms, exact: write(ms).as_deref() == Some(text) })
    })
}

/// `2024-01-15T10:30:00Z`, or with milliseconds where there are some. `None` beyond chrono's years.
pub(super) fn write(ms: i64) -> Option<String> {
    let format = if ms.rem_euclid(1000) == 0 { SecondsFormat::Secs } else { SecondsFormat::Millis };
    DateTime::from_timestamp_millis(ms).map(|time| time.to_rfc3339_opts(format, true))
}

/// The two forms that [`write`] writes, which nearly all clients send.
fn read_usual(text: &[u8]) -> Option<Time> {
    let milli = match text.len() {
        20 => 0,
        24 if text[19] == b'.' => number(&text[20..23])?,
        _ => return None,
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|&(at, mark)| text[at] != mark) || text.last() != Some(&b'Z') {
        return None;
    }
    let year = i32::try_from(number(&text[..4])?).ok()?;
    let date = NaiveDate::from_ymd_opt(year, number(&text[5..7])?, number(&text[8..10])?)?;
    let time = date.and_hms_milli_opt(
        number(&text[11..13])?,
        number(&text[14..16])?,
        number(&text[17..19])?,
        milli,
    )?;
    Some(Time { ms: time.and_utc().timestamp_millis(), exact: text.len() == 20 || milli != 0 })
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_written_otherwise_is_not_exact() {
        for (text, ms, exact) in [
            ("1970-01-01T00:00:00Z", 0, true),
            ("1969-12-31T23:59:59.999Z", -1, true),
            ("2024-01-15T10:30:00.250Z", 1_705_314_600_250, true),
            ("2024-01-15T10:30:00.000Z", 1_705_314_600_000, false),
            ("2024-01-15T10:30:00.25Z", 1_705_314_600_250, false),
            ("2024-01-15T10:30:00.250999Z", 1_705_314_600_250, false),
            ("2024-01-15T12:30:00+02:00", 1_705_314_600_000, false),
            ("2024-01-15t10:30:00z", 1_705_314_600_000, false),
            ("2016-12-31T23:59:60Z", 1_483_228_799_999, false),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000, true),
        ] {
            assert_eq!(read(text), Some(Time { ms, exact }), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_time() {
        for text in [
            "",
            "2024-01-15",
            "2024-01-15T10:30:00",
            "2024-13-15T10:30:00Z",
            "2023-02-29T00:00:00Z",
            "2024-01-15T24:00:00Z",
            "2024-01-15T10:30:61Z",
            "2024-01-15T10:30:00.Z",
            "2024-01-15T10:30:00+25:00",
            "12024-01-15T10:30:00Z",
            "+024-01-15T10:30:00Z",
            "2024-01-15T10:30:0äZ",
            "1705314600",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
