//! What a client may ask for, from the bytes that it sends. Pure, and strict: what is not plainly the key of a file or
//! the name of a slot is refused before anything is looked up.

use millrace_common::lake_key::{FileKey, folder_depth};
use millrace_common::types::{PipelineId, SlotId};
use serde::{Deserialize, Serialize};

/// Rows of a slot, unless the ticket says otherwise.
const LATEST: u64 = 100;
/// Of a ticket or a criterion; anything longer is none.
const LONGEST_TEXT: usize = 2048;

/// What a ticket asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    File(FileKey),
    Latest {
        slot: SlotId,
        /// At most this many rows.
        rows: u64,
        /// Only rows of this source offset or later.
        from: Option<i64>,
    },
}

/// A part of a lake to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// `year=…`, `year=…/month=…` or `year=…/month=…/day=…`.
    pub(super) folder: String,
    pub(super) pipeline: Option<PipelineId>,
}

/// A text that asks for nothing that there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(
        "the ticket {found} can't be read ({reason}): expected {{\"file\":\"year=…/….parquet\"}} or \
        {{\"slot\":\"<pipeline id>/<topic number>-<partition>\",\"latest\":ROWS}}"
    )]
    Ticket { found: String, reason: String },
    #[error(
        "{found} is no file of a lake: expected \
        year=YYYY/month=MM/day=DD/<pipeline id>-<topic number>-<partition>-<start offset>-<number>.parquet"
    )]
    File { found: String },
    #[error(
        "the criteria {found} can't be read ({reason}): expected nothing for the slots, or \
        {{\"files\":\"year=YYYY/month=MM/day=DD\"}} for a lake's files, with \"pipeline\" where there are several"
    )]
    Criteria { found: String, reason: String },
}

/// A ticket as it travels. One of `file` and `slot`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketText {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CriteriaText {
    files: String,
    pipeline: Option<String>,
}

impl Wanted {
    pub(super) fn parse(ticket: &[u8]) -> Result<Self, Unreadable> {
        let wrong = |reason: String| Unreadable::Ticket { found: shown(ticket), reason };
        if ticket.len() > LONGEST_TEXT {
            return Err(wrong(format!("it has more than {LONGEST_TEXT} bytes")));
        }
        let text: TicketText = serde_json::from_slice(ticket).map_err(|error| wrong(error.to_string()))?;
        match text {
            TicketText { file: Some(key), slot: None, latest: None, from: None } => {
                file_key(&key).map(Self::File)
            }
            TicketText { file: None, slot: Some(slot), latest, from } => {
                let slot = slot
                    .parse()
                    .map_err(|error: millrace_common::types::InvalidId| wrong(error.to_string()))?;
                Ok(Self::Latest { slot, rows: latest.unwrap_or(LATEST), from })
            }
            _ => Err(wrong("it names not exactly one of file and slot".to_owned())),
        }
    }

    /// The ticket that asks for it.
    pub(super) fn ticket(&self) -> String {
        let text = match self {
            Self::File(file) => TicketText { file: Some(file.as_str().to_owned()), ..TicketText::default() },
            Self::Latest { slot, rows, from } => TicketText {
                slot: Some(slot.to_string()),
                latest: Some(*rows),
                from: *from,
                ..TicketText::default()
            },
        };
        serde_json::to_string(&text).unwrap_or_else(|error| panic!("plain fields: {error}"))
    }

    /// The latest rows of `slot`, as many as usual.
    pub(super) fn latest(slot: SlotId) -> Self {
        Self::Latest { slot, rows: LATEST, from: None }
    }
}

/// Reads a key that stands below a lake's prefix.
pub(super) fn file_key(key: &str) -> Result<FileKey, Unreadable> {
    FileKey::parse(key).ok_or_else(|| Unreadable::File { found: shown(key.as_bytes()) })
}

impl Listing {
    /// Reads the criteria of a list; `None` asks for the slots.
    pub(super) fn parse(criteria: &[u8]) -> Result<Option<Self>, Unreadable> {
        if criteria.is_empty() {
            return Ok(None);
        }
        let wrong = |reason: String| Unreadable::Criteria { found: shown(criteria), reason };
        if criteria.len() > LONGEST_TEXT {
            return Err(wrong(format!("they have more than {LONGEST_TEXT} bytes")));
        }
        let text: CriteriaText =
            serde_json::from_slice(criteria).map_err(|error| wrong(error.to_string()))?;
        if folder_depth(&text.files).is_none() {
            return Err(wrong(format!("{:?} is no year, month or day", text.files)));
        }
        let pipeline =
            text.pipeline.map(PipelineId::new).transpose().map_err(|error| wrong(error.to_string()))?;
        Ok(Some(Self { folder: text.files, pipeline }))
    }
}

/// What was sent, for a message: quoted, without control characters, cut short.
fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    format!("{text:?}{}", if bytes.len() > LONGEST { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    use millrace_common::lake_key::UNPLACED;

    use super::*;

    const FILE: &str = "year=2024/month=01/day=15/click-stream-3f9a2c-0-5-42-1.parquet";

    #[test]
    fn a_ticket_names_a_file_or_a_slot_and_reads_back() {
        let file = Wanted::parse(format!("{{\"file\":{FILE:?}}}").as_bytes()).expect("file");
        let Wanted::File(key) = &file else { panic!("{file:?}") };
        assert_eq!((key.as_str(), key.pipeline().as_str()), (FILE, "click-stream-3f9a2c"));
        let slot = Wanted::parse(br#"{"slot":"clicks-1/0-3","latest":7,"from":12}"#).expect("slot");
        assert_eq!(
            slot,
            Wanted::Latest { slot: "clicks-1/0-3".parse().expect("id"), rows: 7, from: Some(12) }
        );
        for wanted in [file, slot] {
            assert_eq!(Wanted::parse(wanted.ticket().as_bytes()), Ok(wanted));
        }
    }

    #[test]
    fn unplaced_rows_have_files_too() {
        let key = format!("year={UNPLACED}/month={UNPLACED}/day={UNPLACED}/p-0-0-0-0.parquet");
        assert!(file_key(&key).is_ok());
    }

    #[test]
    fn no_key_leaves_the_day_folders() {
        let long = format!("{}{FILE}", "a".repeat(512));
        for bad in [
            "",
            "/",
            "..",
            "../secret.parquet",
            "_staging/p/0-0/ab.parquet",
            "_millrace/pipeline.json",
            "year=2024/month=01/day=15/",
            "year=2024/month=01/p-0-0-0-0.parquet",
            "year=2024/month=01/day=15/day=15/p-0-0-0-0.parquet",
            "/year=2024/month=01/day=15/p-0-0-0-0.parquet",
            "x/year=2024/month=01/day=15/p-0-0-0-0.parquet",
            "year=2024/month=01/day=15/../p-0-0-0-0.parquet",
            "year=../month=01/day=15/p-0-0-0-0.parquet",
            "year=2024/month=01/day=15/..-0-0-0-0.parquet",
            "year=2024/month=01/day=15/../../../_staging-0-0-0-0.parquet",
            "year=2024//month=01/day=15/p-0-0-0-0.parquet",
            "year=2024/month=01/day=15\\..\\p-0-0-0-0.parquet",
            "year=2024/month=01/day=15/%2e%2e-0-0-0-0.parquet",
            "year=2024/month=01/day=15/p-0-0-0-0.parquet\0",
            "year=2024/month=01/day=15/p-0-0-0-0.parquet/",
            "year=2024/month=01/day=15/p-0-0-0-0.json",
            "year=2024/month=01/day=15/-0-0-0-0.parquet",
            "year=2024/month=01/day=15/p-0-0-0.parquet",
            "year=2024/month=01/day=15/p-0-0--1-0.parquet",
            "year=2024/month=1/day=15/p-0-0-0-0.parquet",
            "year=２０２４/month=01/day=15/p-0-0-0-0.parquet",
            "YEAR=2024/month=01/day=15/p-0-0-0-0.parquet",
            "file:///etc/passwd",
            &long,
        ] {
            let refused = file_key(bad).expect_err(bad).to_string();
            assert!(refused.contains("is no file of a lake: expected year=YYYY"), "{refused}");
        }
    }

    #[test]
    fn other_tickets_are_refused_with_what_is_expected() {
        let long = format!("{{\"file\":\"{}\"}}", "a".repeat(LONGEST_TEXT));
        for bad in [
            "",
            "{}",
            "null",
            "[]",
            "\u{0}\u{1}",
            "year=2024/month=01/day=15/p-0-0-0-0.parquet",
            r#"{"file":"a","slot":"p/0-0"}"#,
            r#"{"file":"a","latest":3}"#,
            r#"{"slot":"p"}"#,
            r#"{"slot":"p/0-0","latest":-1}"#,
            r#"{"slot":"../0-0"}"#,
            r#"{"slot":"p/0-0","path":"/etc/passwd"}"#,
            &long,
        ] {
            let refused = Wanted::parse(bad.as_bytes()).expect_err(bad).to_string();
            assert!(refused.contains("expected {\"file\":"), "{refused}");
            assert!(refused.len() < 600, "{refused}");
        }
    }

    #[test]
    fn a_list_is_of_the_slots_or_of_a_part_of_a_lake() {
        assert_eq!(Listing::parse(b""), Ok(None));
        let listing = Listing::parse(br#"{"files":"year=2024/month=01","pipeline":"p"}"#).expect("listing");
        let expected = Listing {
            folder: "year=2024/month=01".into(),
            pipeline: Some(PipelineId::new("p").expect("id")),
        };
        assert_eq!(listing, Some(expected));
        for bad in [
            "{}",
            r#"{"files":""}"#,
            r#"{"files":"_staging"}"#,
            r#"{"files":"year=2024/.."}"#,
            r#"{"files":"year=2024/"}"#,
            r#"{"files":"year=2024/month=01/day=01/hour=01"}"#,
            r#"{"files":"year=2024","pipeline":"../x"}"#,
        ] {
            let refused = Listing::parse(bad.as_bytes()).expect_err(bad).to_string();
            assert!(refused.contains("expected nothing for the slots"), "{refused}");
        }
    }
}
