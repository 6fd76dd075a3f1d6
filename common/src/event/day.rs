//! The lake's layout: which day a row belongs to, and where a day's files lie.
//!
//! A pure function of the log: "tomorrow" is counted from the record's Kafka timestamp, never from a clock, so
//! a worker that redoes a range after years puts its rows where the first one did.

use std::fmt;

use chrono::{DateTime, Datelike, Days, NaiveDate};
use millrace_types::{NextOffset, SlotId};

/// Hive's name for rows without a value to partition by.
const DEFAULT_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
const FIRST_YEAR: i32 = 2000;
const LAST_YEAR: i32 = 9999;

/// Where in the lake a row lies. Ordered by day, unplaced rows first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Day {
    /// The day can't be trusted.
    Unplaced,
    /// A day of UTC from 2000-01-01 on.
    Of(NaiveDate),
}

impl Day {
    /// The day of an event at `event_time_ms` that was received at `received_ms` (both milliseconds since 1970
    /// UTC): its own if that is neither before 2000 nor after the day that follows the one of receipt.
    /// A record without time of receipt (Kafka's -1) is unplaced: nothing bounds its day.
    pub fn of(event_time_ms: i64, received_ms: i64) -> Self {
        let placed = || {
            let day = date(event_time_ms)?;
            let tomorrow = date(received_ms)?.checked_add_days(Days::new(1))?;
            let trusted =
                received_ms >= 0 && (FIRST_YEAR..=LAST_YEAR).contains(&day.year()) && day <= tomorrow;
            trusted.then_some(Self::Of(day))
        };
        placed().unwrap_or(Self::Unplaced)
    }
}

fn date(ms: i64) -> Option<NaiveDate> {
    DateTime::from_timestamp_millis(ms).map(|time| time.date_naive())
}

/// The day's folder below the lake's prefix, without a slash at the end: `year=2024/month=01/day=15`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(day) => {
                write!(f, "year={:04}/month={:02}/day={:02}", day.year(), day.month(), day.day())
            }
            Self::Unplaced => {
                write!(f, "year={DEFAULT_PARTITION}/month={DEFAULT_PARTITION}/day={DEFAULT_PARTITION}")
            }
        }
    }
}

/// Where file `number` of the flush that starts at `start` lies, below the lake's prefix:
/// `year=…/month=…/day=…/<pipeline id>-<topic number>-<partition>-<start offset>-<number>.parquet`.
pub fn final_key(day: &Day, slot: &SlotId, start: NextOffset, number: usize) -> String {
    format!("{day}/{}-{}-{start}-{number}.parquet", slot.pipeline, slot.local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: &str) -> i64 {
        DateTime::parse_from_rfc3339(time).expect("time").timestamp_millis()
    }

    fn folder(event_time: &str, received: &str) -> String {
        Day::of(ms(event_time), ms(received)).to_string()
    }

    const UNPLACED: &str =
        "year=__HIVE_DEFAULT_PARTITION__/month=__HIVE_DEFAULT_PARTITION__/day=__HIVE_DEFAULT_PARTITION__";

    #[test]
    fn days_from_2000_to_the_day_after_receipt_are_placed() {
        let received = "2024-02-28T12:00:00Z";
        for (event_time, expected) in [
            ("1999-12-31T23:59:59.999Z", UNPLACED),
            ("2000-01-01T00:00:00Z", "year=2000/month=01/day=01"),
            ("2024-02-28T23:59:59.999Z", "year=2024/month=02/day=28"),
            ("2024-02-29T23:59:59.999Z", "year=2024/month=02/day=29"),
            ("2024-03-01T00:00:00Z", UNPLACED),
            // Midnight lies in UTC, wherever the client is.
            ("2024-01-01T01:00:00+02:00", "year=2023/month=12/day=31"),
            ("2023-12-31T23:00:00-02:00", "year=2024/month=01/day=01"),
            ("2000-01-01T00:30:00+01:00", UNPLACED),
            ("0001-01-01T00:00:00Z", UNPLACED),
            ("9999-12-31T23:59:59Z", UNPLACED),
        ] {
            assert_eq!(folder(event_time, received), expected, "{event_time}");
        }
    }

    #[test]
    fn without_a_time_of_receipt_nothing_is_placed() {
        assert_eq!(Day::of(ms("2024-01-01T00:00:00Z"), -1), Day::Unplaced);
    }

    #[test]
    fn absurd_times_are_unplaced() {
        for event_time in [i64::MIN, i64::MAX, ms("9999-12-31T23:59:59Z") + 1000] {
            for received in [i64::MIN, i64::MAX, 0] {
                assert_eq!(Day::of(event_time, received), Day::Unplaced);
            }
        }
    }

    #[test]
    fn a_final_key_tells_slot_and_range() {
        let slot: SlotId = "clickstream-3f9a2c/0-5".parse().expect("slot");
        let day = Day::of(ms("2024-01-15T10:30:00Z"), ms("2024-01-15T10:30:01Z"));
        assert_eq!(
            final_key(&day, &slot, NextOffset(42), 1),
            "year=2024/month=01/day=15/clickstream-3f9a2c-0-5-42-1.parquet"
        );
    }
}
