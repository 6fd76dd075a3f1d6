//! What clients sent, as text for people: cut where it is long, marked where it is no UTF-8. Never as anything but text.

use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of a record, as they can be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Shown {
    /// U+FFFD stands for what is no UTF-8.
    pub(crate) text: String,
    /// Of all of it.
    pub(crate) bytes: usize,
    pub(crate) is_utf8: bool,
    /// The text ends before the record does.
    pub(crate) is_cut: bool,
}

impl Shown {
    /// At most `longest` bytes of `bytes`.
    pub(crate) fn of(bytes: &[u8], longest: usize) -> Self {
        let mut end = bytes.len().min(longest);
        // Not within a character: at most three bytes more are left out.
        while end < bytes.len() && end > 0 && bytes[end] & 0b1100_0000 == 0b1000_0000 && longest - end < 3 {
            end -= 1;
        }
        Self {
            text: String::from_utf8_lossy(&bytes[..end]).into_owned(),
            bytes: bytes.len(),
            is_utf8: std::str::from_utf8(bytes).is_ok(),
            is_cut: end < bytes.len(),
        }
    }

    /// The text with its control and direction characters made visible, for one line among others.
    pub(crate) fn line(&self) -> String {
        visible(&self.text)
    }
}

/// Control characters, and those that turn the direction of what follows, as `\u{…}`.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let turns =
            matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || character.is_control() {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_what_turns_it_is_seen() {
        let cut = Shown::of("aäöü".as_bytes(), 4);
        assert_eq!((cut.text.as_str(), cut.bytes, cut.is_cut, cut.is_utf8), ("aä", 7, true, true));
        let bad = Shown::of(b"a\xffb", 100);
        assert_eq!((bad.text.as_str(), bad.is_utf8, bad.is_cut), ("a\u{fffd}b", false, false));
        assert_eq!(visible("a\u{202e}b\u{0}\n"), "a\\u{202e}b\\u{0}\\u{a}");
        for longest in 0..8 {
            assert!(!Shown::of("äöü€".as_bytes(), longest).text.contains('\u{fffd}'), "{longest}");
        }
    }
}
