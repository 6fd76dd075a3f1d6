//! Why an event is refused: a stable code for programs, a place, and a sentence for people.

use std::fmt;

/// The longest pointer that a [`Rejection`] carries, in bytes: it travels in a record's header.
const LONGEST_POINTER: usize = 512;
/// The longest piece of the client's text that a message repeats, in characters.
const LONGEST_QUOTE: usize = 60;

/// What is wrong, as stable text: programs match on it, so a code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectionCode {
    /// The record has no value at all.
    NoValue,
    NotUtf8,
    NotJson,
    /// Nested deeper than [`super::MAX_DEPTH`].
    TooDeep,
    /// An object names a key twice, so no reader could say which value counts.
    DuplicateKey,
    /// A string holds half of a surrogate pair: no Unicode text.
    InvalidUnicode,
    /// A number's exponent has more than nine digits.
    NumberOutOfRange,
    /// The document is JSON, but no object.
    NotAnObject,
    MissingField,
    WrongKind,
    Empty,
    TooLong,
    /// `event.timestamp` is no RFC 3339 date and time.
    NotRfc3339,
    /// The event has the member that is kept for [`super::RESERVED_MEMBER`].
    ReservedMember,
    /// A member that the pipeline renames would get the name of another one.
    NameTaken,
    /// The transform fails on the record, or the process dies of it.
    TransformFailed,
}

impl RejectionCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoValue => "no_value",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::DuplicateKey => "duplicate_key",
            Self::InvalidUnicode => "invalid_unicode",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::WrongKind => "wrong_kind",
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::NotRfc3339 => "not_rfc3339",
            Self::ReservedMember => "reserved_member",
            Self::NameTaken => "name_taken",
            Self::TransformFailed => "transform_failed",
        }
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} at {pointer:?}: {message}")]
pub struct Rejection {
    pub code: RejectionCode,
    /// JSON pointer (RFC 6901) of the offending place; empty for the whole document. Where it would be
    /// longer than 512 bytes it names the nearest enclosing place that fits.
    pub pointer: String,
    /// What was found and what was expected. Repeats at most 60 characters of the client's text.
    pub message: String,
}

impl Rejection {
    pub fn new(code: RejectionCode, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), message: message.into() }
    }

    /// The same fault, seen from the object or array whose member `segment` it lies in.
    pub(super) fn within(mut self, segment: &str) -> Self {
        let escaped = segment.replace('~', "~0").replace('/', "~1");
        self.pointer = format!("/{escaped}{}", self.pointer);
        if self.pointer.len() > LONGEST_POINTER {
            let mut end = LONGEST_POINTER + 1;
            while !self.pointer.is_char_boundary(end) {
                end -= 1;
            }
            let last = self.pointer[..end].rfind('/').unwrap_or(0);
            self.pointer.truncate(last);
        }
        self
    }
}

/// `text` quoted and cut, for a message.
pub(super) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(LONGEST_QUOTE).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_escaped_and_stays_short() {
        let fault = Rejection::new(RejectionCode::DuplicateKey, "", "twice");
        let fault = fault.within("a/b~c").within("event");
        assert_eq!(fault.pointer, "/event/a~1b~0c");

        let mut deep = Rejection::new(RejectionCode::DuplicateKey, "", "twice");
        for _ in 0..100 {
            deep = deep.within("äöüäöüäöü");
        }
        assert!(deep.pointer.len() <= LONGEST_POINTER, "{}", deep.pointer);
        assert!(deep.pointer.ends_with('ü'), "{}", deep.pointer);

        let giant = Rejection::new(RejectionCode::DuplicateKey, "", "").within(&"k".repeat(9999));
        assert_eq!(giant.pointer, "");
    }
}
