//! Sizes and spans as people type them: `128MiB`, `2GiB`, `500ms`, `10s`, `2m`.

use std::time::Duration;

const SIZES: [(&str, u64); 11] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("B", 1),
];
const SPANS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A size in bytes: a number and B, KiB, MiB, GiB, TiB, KB, MB, GB, or Spark's k, m, g.
///
/// # Errors
/// What was expected, for clap to print beside the flag and the value.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    scaled(text, &SIZES).ok_or_else(|| "expected a size like 512MiB or 2GiB".to_owned())
}

/// A span of time: a number and ms, s, m, h or d.
///
/// # Errors
/// What was expected, for clap to print beside the flag and the value.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(text, &SPANS)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time like 500ms, 10s or 2m".to_owned())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size with the largest binary unit that leaves at least 1: `1.5 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    let unit = SIZES[..4].iter().rev().find(|(_, factor)| bytes >= *factor);
    match unit {
        Some((name, factor)) => {
            #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
            let scaled = bytes as f64 / *factor as f64;
            format!("{scaled:.1} {name}")
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_read() {
        assert_eq!(parse_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(parse_bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("1g"), Ok(1 << 30));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["", "10", "GiB", "-1s", "1.5GiB", "10 parsecs", "99999999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit() {
        assert_eq!(format_bytes(1 << 30), "1.0 GiB");
        assert_eq!(format_bytes(1536 << 10), "1.5 MiB");
        assert_eq!(format_bytes(12), "12 B");
    }
}
