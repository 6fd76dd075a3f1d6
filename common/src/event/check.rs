//! The check that collector and worker share. Both decide by this one function, so an event that the
//! collector lets through is never set aside by a worker of the same version.

use std::borrow::Cow;

use super::field::{FIELDS, index_of};
use super::rejection::{Rejection, RejectionCode, quote};
use super::scan::{Raw, Scanner};
use super::time::{self, Time};
use super::{LONGEST_PACKAGE_ID, RESERVED_MEMBER};

/// A checked click event, borrowed from its JSON.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    pub(super) kind: Cow<'a, str>,
    pub(super) package_id: Cow<'a, str>,
    pub(super) id: Option<Raw<'a>>,
    pub(super) timestamp: Raw<'a>,
    pub(super) time: Time,
    /// In the order of [`FIELDS`].
    pub(super) fields: [Option<Raw<'a>>; FIELDS.len()],
    /// Members of the event that are none of the usual ones: key and value.
    pub(super) unknown: Vec<(Raw<'a>, Raw<'a>)>,
    /// The same of its member `event`.
    pub(super) unknown_in_event: Vec<(Raw<'a>, Raw<'a>)>,
}

impl Event<'_> {
    /// The member `type`; never empty.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The client's id of the event, by which raw records are keyed: 1 to [`LONGEST_PACKAGE_ID`] bytes.
    pub fn package_id(&self) -> &str {
        &self.package_id
    }

    /// `event.timestamp` in milliseconds since 1970 UTC, rounded down.
    pub fn time_ms(&self) -> i64 {
        self.time.ms
    }

    /// The member of `event` at `index` of [`FIELDS`], if it is a string.
    pub fn text(&self, index: usize) -> Option<Cow<'_, str>> {
        self.fields[index].as_ref().filter(|raw| raw.is_text()).map(Raw::content)
    }

    /// The same event without the members `names` of `event`; `timestamp` stays.
    #[must_use]
    pub fn without<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Self {
        let mut event = self.clone();
        for name in names {
            match index_of(name) {
                Some(index) => event.fields[index] = None,
                None => event.unknown_in_event.retain(|(key, _)| key.content() != *name),
            }
        }
        event
    }

    /// Whether `event` has the member `name`.
    pub fn has_member(&self, name: &str) -> bool {
        match index_of(name) {
            Some(index) => self.fields[index].is_some(),
            None => self.unknown_in_event.iter().any(|(key, _)| key.content() == name),
        }
    }
}

/// Checks that `json` is a click event: a JSON object with a non-empty string `type`, a non-empty string
/// `package_id` of at most [`LONGEST_PACKAGE_ID`] bytes, and an object `event` whose `timestamp` is an
/// RFC 3339 string, and no member [`RESERVED_MEMBER`]. Everything else in it is free, as long as it is JSON (RFC 8259) that RFC 8785 and the lake
/// can represent: no key twice in one object, no half surrogate pair, at most [`super::MAX_DEPTH`] levels.
///
/// Errors: what is wrong first, the JSON itself before the fields.
pub fn check(json: &[u8]) -> Result<Event<'_>, Rejection> {
    let members = Members::read(json)?;
    let kind = text(members.kind, "/type")?;
    let package_id = text(members.package_id, "/package_id")?;
    if package_id.len() > LONGEST_PACKAGE_ID {
        return Err(Rejection::new(
            RejectionCode::TooLong,
            "/package_id",
            format!(
                "{} of {} bytes, expected at most {LONGEST_PACKAGE_ID}",
                quote(&package_id),
                package_id.len()
            ),
        ));
    }
    match members.event {
        Some(Nested::Object) => {}
        Some(Nested::Other(value)) => return Err(wrong_kind("/event", &value, "an object")),
        None => return Err(missing("/event", "an object")),
    }
    const TIMESTAMP: &str = "/event/timestamp";
    let Some(timestamp) = members.timestamp else {
        return Err(missing(TIMESTAMP, "an RFC 3339 string"));
    };
    if !timestamp.is_text() {
        return Err(wrong_kind(TIMESTAMP, &timestamp, "an RFC 3339 string"));
    }
    let sent = timestamp.content();
    let Some(time) = time::read(&sent) else {
        return Err(Rejection::new(
            RejectionCode::NotRfc3339,
            TIMESTAMP,
            format!("found {}, expected RFC 3339 such as 2024-01-15T10:30:00Z", quote(&sent)),
        ));
    };
    Ok(Event {
        kind,
        package_id,
        id: members.id,
        timestamp,
        time,
        fields: members.fields,
        unknown: members.unknown,
        unknown_in_event: members.unknown_in_event,
    })
}

fn text<'a>(value: Option<Raw<'a>>, pointer: &str) -> Result<Cow<'a, str>, Rejection> {
    const EXPECTED: &str = "a string that is not empty";
    let value = value.ok_or_else(|| missing(pointer, EXPECTED))?;
    if !value.is_text() {
        return Err(wrong_kind(pointer, &value, EXPECTED));
    }
    let content = value.content();
    if content.is_empty() {
        return Err(Rejection::new(
            RejectionCode::Empty,
            pointer,
            format!("found an empty string, expected {EXPECTED}"),
        ));
    }
    Ok(content)
}

fn missing(pointer: &str, expected: &str) -> Rejection {
    Rejection::new(RejectionCode::MissingField, pointer, format!("it is missing, expected {expected}"))
}

fn wrong_kind(pointer: &str, value: &Raw<'_>, expected: &str) -> Rejection {
    Rejection::new(
        RejectionCode::WrongKind,
        pointer,
        format!("found {}, expected {expected}", value.describe()),
    )
}

/// What the member `event` is.
enum Nested<'a> {
    Object,
    Other(Raw<'a>),
}

/// What stands in the document, unjudged.
#[derive(Default)]
struct Members<'a> {
    kind: Option<Raw<'a>>,
    package_id: Option<Raw<'a>>,
    id: Option<Raw<'a>>,
    event: Option<Nested<'a>>,
    timestamp: Option<Raw<'a>>,
    fields: [Option<Raw<'a>>; FIELDS.len()],
    unknown: Vec<(Raw<'a>, Raw<'a>)>,
    unknown_in_event: Vec<(Raw<'a>, Raw<'a>)>,
}

impl<'a> Members<'a> {
    fn read(json: &'a [u8]) -> Result<Self, Rejection> {
        let mut members = Self::default();
        let mut scanner = Scanner::new(json)?;
        scanner.expect_object()?;
        scanner.object(|scanner, key| members.member(scanner, key))?;
        scanner.end()?;
        Ok(members)
    }

    fn member(&mut self, scanner: &mut Scanner<'a>, key: Raw<'a>) -> Result<(), Rejection> {
        match &*key.content() {
            "type" => self.kind = Some(scanner.value()?),
            "package_id" => self.package_id = Some(scanner.value()?),
            "id" => self.id = Some(scanner.value()?),
            "event" => {
                self.event = Some(if scanner.peek() == Some(b'{') {
                    scanner.object(|scanner, key| self.member_of_event(scanner, key))?;
                    Nested::Object
                } else {
                    Nested::Other(scanner.value()?)
                });
            }
            RESERVED_MEMBER => {
                return Err(Rejection::new(
                    RejectionCode::ReservedMember,
                    "",
                    format!(
                        "the event may not have the member {RESERVED_MEMBER:?}: enriched events hold there what was found out"
                    ),
                ));
            }
            _ => self.unknown.push((key, scanner.value()?)),
        }
        Ok(())
    }

    fn member_of_event(&mut self, scanner: &mut Scanner<'a>, key: Raw<'a>) -> Result<(), Rejection> {
        let name = key.content();
        let value = scanner.value()?;
        if name == "timestamp" {
            self.timestamp = Some(value);
        } else if let Some(index) = index_of(&name) {
            self.fields[index] = Some(value);
        } else {
            self.unknown_in_event.push((key, value));
        }
        Ok(())
    }
}
