//! A strict JSON scanner that borrows: it checks the whole document in one pass and hands out the text of
//! each value as it stands.
//!
//! Written by hand because an event must come back from the lake exactly: numbers keep their digits, a key
//! that stands twice is refused, half a surrogate pair is refused, and nesting costs no stack beyond
//! [`super::MAX_DEPTH`] levels (library skippers recurse without limit). It converts nothing.

use std::borrow::Cow;

use super::MAX_DEPTH;
use super::rejection::{Rejection, RejectionCode, quote};

/// Objects with more keys than this are searched for duplicates by sorting.
const FEW_KEYS: usize = 16;
/// Digits of an exponent beyond which a number is refused.
const MAX_EXPONENT_DIGITS: usize = 9;

/// The text of one JSON value or key, as sent; a string keeps its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    pub(super) text: &'a str,
    escaped: bool,
}

impl<'a> Raw<'a> {
    pub(super) fn is_text(&self) -> bool {
        self.text.starts_with('"')
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.text.as_bytes().first(), Some(b'-' | b'0'..=b'9'))
    }

    /// The content of a string, without its quotes and escapes; of anything else its text.
    pub(super) fn content(&self) -> Cow<'a, str> {
        if !self.is_text() {
            return Cow::Borrowed(self.text);
        }
        let inner = &self.text[1..self.text.len() - 1];
        if self.escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }

    /// What this is, for a message.
    pub(super) fn describe(&self) -> String {
        match self.text.as_bytes().first() {
            Some(b'"') => format!("the string {}", quote(&self.content())),
            Some(b'{') => "an object".to_owned(),
            Some(b'[') => "an array".to_owned(),
            Some(b'-' | b'0'..=b'9') => format!("the number {}", quote(self.text)),
            _ => self.text.to_owned(),
        }
    }

    fn same_content(&self, other: &Raw<'_>) -> bool {
        if self.escaped || other.escaped {
            self.content() == other.content()
        } else {
            self.text == other.text
        }
    }
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    /// Index of the next byte.
    at: usize,
    depth: usize,
    /// Keys of the objects that are open, innermost last.
    keys: Vec<Raw<'a>>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(json: &'a [u8]) -> Result<Self, Rejection> {
        let text = std::str::from_utf8(json).map_err(|error| {
            Rejection::new(
                RejectionCode::NotUtf8,
                "",
                format!("byte {} is not UTF-8, expected JSON in UTF-8", error.valid_up_to()),
            )
        })?;
        Ok(Self { text, at: 0, depth: 0, keys: Vec::new() })
    }

    /// The next byte after white space, not consumed.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Checks that only white space is left.
    pub(super) fn end(&mut self) -> Result<(), Rejection> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the document")),
        }
    }

    /// Checks that an object is next.
    pub(super) fn expect_object(&mut self) -> Result<(), Rejection> {
        match self.peek() {
            Some(b'{') => Ok(()),
            _ => {
                let other = self.value()?;
                Err(Rejection::new(
                    RejectionCode::NotAnObject,
                    "",
                    format!("found {}, expected an object", other.describe()),
                ))
            }
        }
    }

    /// Scans any one value with all that it holds.
    pub(super) fn value(&mut self) -> Result<Raw<'a>, Rejection> {
        let first = self.peek();
        let start = self.at;
        let escaped = match first {
            Some(b'"') => return self.string(),
            Some(b'{') => {
                self.object(|scanner, _| scanner.value().map(|_| ()))?;
                false
            }
            Some(b'[') => {
                self.array(|scanner| scanner.value().map(|_| ()))?;
                false
            }
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                false
            }
            _ => {
                self.literal()?;
                false
            }
        };
        Ok(Raw { text: &self.text[start..self.at], escaped })
    }

    /// Scans an object; `member` is called after each key and its colon, and scans the value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Raw<'a>) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        self.open()?;
        let first_key = self.keys.len();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("a key in quotes"));
                }
                let key = self.string()?;
                if self.peek() != Some(b':') {
                    return Err(self.unexpected("':' after a key"));
                }
                self.at += 1;
                self.keys.push(key);
                member(self, key).map_err(|fault| fault.within(&key.content()))?;
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("',' or '}' after a value")),
                }
            }
        }
        self.depth -= 1;
        self.refuse_duplicates(first_key)?;
        self.keys.truncate(first_key);
        Ok(())
    }

    /// Scans an array; `element` scans each value.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        self.open()?;
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            for index in 0usize.. {
                element(self).map_err(|fault| fault.within(&index.to_string()))?;
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b']') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("',' or ']' after a value")),
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Steps over the opening bracket.
    fn open(&mut self) -> Result<(), Rejection> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Rejection::new(
                RejectionCode::TooDeep,
                "",
                format!(
                    "nested deeper than {MAX_DEPTH} levels at byte {}, expected at most {MAX_DEPTH}",
                    self.at
                ),
            ));
        }
        Ok(())
    }

    fn refuse_duplicates(&mut self, first_key: usize) -> Result<(), Rejection> {
        let keys = &mut self.keys[first_key..];
        let twice = if keys.len() <= FEW_KEYS {
            keys.iter()
                .enumerate()
                .find(|(index, key)| keys[..*index].iter().any(|other| key.same_content(other)))
                .map(|(_, key)| key.content())
        } else {
            let mut sorted: Vec<Cow<'a, str>> = keys.iter().map(Raw::content).collect();
            sorted.sort_unstable();
            sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
        };
        match twice {
            None => Ok(()),
            Some(key) => Err(Rejection::new(
                RejectionCode::DuplicateKey,
                "",
                format!("the key {} stands twice in one object, expected once", quote(&key)),
            )
            .within(&key)),
        }
    }

    /// Scans a string; the opening quote is next.
    fn string(&mut self) -> Result<Raw<'a>, Rejection> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_prefix(&bytes[self.at..]);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    let text = &self.text[start..self.at];
                    return Ok(Raw { text, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    match escape(&bytes[self.at..]) {
                        Escape::Char(_, length) => self.at += length,
                        Escape::HalfPair => {
                            return Err(Rejection::new(
                                RejectionCode::InvalidUnicode,
                                "",
                                format!("half a surrogate pair at byte {}, expected Unicode text", self.at),
                            ));
                        }
                        Escape::Wrong => {
                            return Err(self.unexpected("one of the escapes that JSON knows"));
                        }
                    }
                }
                Some(_) => return Err(self.unexpected("control characters in strings escaped")),
                None => return Err(self.unexpected("'\"' at the end of a string")),
            }
        }
    }

    fn number(&mut self) -> Result<(), Rejection> {
        if self.next_is(|byte| byte == b'-') {
            self.at += 1;
        }
        if self.next_is(|byte| byte == b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.next_is(|byte| byte == b'.') {
            self.at += 1;
            self.digits()?;
        }
        if self.next_is(|byte| matches!(byte, b'e' | b'E')) {
            self.at += 1;
            if self.next_is(|byte| matches!(byte, b'+' | b'-')) {
                self.at += 1;
            }
            let start = self.at;
            self.digits()?;
            let digits = self.text[start..self.at].trim_start_matches('0');
            if digits.len() > MAX_EXPONENT_DIGITS {
                return Err(Rejection::new(
                    RejectionCode::NumberOutOfRange,
                    "",
                    format!(
                        "an exponent of {} digits at byte {start}, expected at most {MAX_EXPONENT_DIGITS}",
                        digits.len()
                    ),
                ));
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Rejection> {
        if !self.next_is(|byte| byte.is_ascii_digit()) {
            return Err(self.unexpected("a digit"));
        }
        while self.next_is(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn next_is(&self, test: impl Fn(u8) -> bool) -> bool {
        self.text.as_bytes().get(self.at).is_some_and(|&byte| test(byte))
    }

    fn literal(&mut self) -> Result<(), Rejection> {
        let rest = &self.text.as_bytes()[self.at..];
        for word in ["true", "false", "null"] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        Err(self.unexpected("a JSON value"))
    }

    fn unexpected(&self, expected: &str) -> Rejection {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(char) => format!("{char:?}"),
            None => "the end".to_owned(),
        };
        Rejection::new(
            RejectionCode::NotJson,
            "",
            format!("found {found} at byte {}, expected {expected}", self.at),
        )
    }
}

/// How many bytes of a string's inside need no look: neither quote, backslash, nor control character.
/// Eight bytes at a time; a set high bit in `hit` marks a byte that does, exactly for the lowest one.
pub(super) fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 128;
    let mut done = 0;
    while let Some(chunk) = bytes[done..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quotes = word ^ (ONES * b'"' as u64);
        let backslashes = word ^ (ONES * b'\\' as u64);
        let hit = ((word.wrapping_sub(ONES * 0x20) & !word)
            | (quotes.wrapping_sub(ONES) & !quotes)
            | (backslashes.wrapping_sub(ONES) & !backslashes))
            & HIGH;
        if hit != 0 {
            return done + hit.trailing_zeros() as usize / 8;
        }
        done += 8;
    }
    done + bytes[done..].iter().take_while(|&&byte| byte != b'"' && byte != b'\\' && byte >= 0x20).count()
}

enum Escape {
    /// The character that the escape stands for, and the escape's length in bytes.
    Char(char, usize),
    HalfPair,
    Wrong,
}

/// Reads the escape that `bytes` begin with.
fn escape(bytes: &[u8]) -> Escape {
    let char = match bytes.get(1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(bytes),
        _ => return Escape::Wrong,
    };
    Escape::Char(char, 2)
}

fn unicode_escape(bytes: &[u8]) -> Escape {
    let Some(first) = hex4(bytes, 2) else {
        return Escape::Wrong;
    };
    match first {
        0xd800..0xdc00 => {
            let second = match bytes.get(6..8) {
                Some(b"\\u") => hex4(bytes, 8),
                _ => None,
            };
            match second {
                Some(second @ 0xdc00..0xe000) => {
                    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    char::from_u32(code).map_or(Escape::HalfPair, |char| Escape::Char(char, 12))
                }
                _ => Escape::HalfPair,
            }
        }
        // A low half without a high one is no character either.
        code => char::from_u32(code).map_or(Escape::HalfPair, |char| Escape::Char(char, 6)),
    }
}

fn hex4(bytes: &[u8], start: usize) -> Option<u32> {
    bytes
        .get(start..start + 4)?
        .iter()
        .try_fold(0, |sum, &byte| char::from(byte).to_digit(16).map(|digit| sum * 16 + digit))
}

/// The content of a string that was scanned, without its quotes.
fn unescape(inner: &str) -> String {
    let mut content = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        content.push_str(&rest[..at]);
        match escape(&rest.as_bytes()[at..]) {
            Escape::Char(char, length) => {
                content.push(char);
                rest = &rest[at + length..];
            }
            Escape::HalfPair | Escape::Wrong => {
                unreachable!("the scanner refuses every string with such an escape")
            }
        }
    }
    content.push_str(rest);
    content
}
