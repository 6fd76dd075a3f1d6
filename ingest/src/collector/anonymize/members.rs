//! The members of a JSON object that hold addresses, found in one pass without recursion. The text must be JSON.

use super::Change;
use super::address::{zeroed, zeroed_number};

/// Names of members that hold an address, without case, `_` and `-`.
const NAMES: [&str; 12] = [
    "ip",
    "ips",
    "ipaddress",
    "ipaddr",
    "clientip",
    "remoteip",
    "userip",
    "sourceip",
    "remoteaddr",
    "remoteaddress",
    "xforwardedfor",
    "xrealip",
];

/// What encloses the place.
struct Level {
    is_object: bool,
    /// Everything in it belongs to an address's member.
    is_address: bool,
    /// In an object: the next string is a key.
    key_is_next: bool,
    /// The last key was an address's name.
    member_is_address: bool,
}

/// The changes that zero the addresses in the members of `json`, a JSON text, in order.
pub(super) fn zeroed_members(json: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    while at < json.len() {
        let is_address = levels.last().is_some_and(|level| level.is_address || level.member_is_address);
        match json[at] {
            b'"' => {
                let end = string_end(json, at);
                match levels.last_mut().filter(|level| level.is_object && level.key_is_next) {
                    Some(level) => {
                        level.key_is_next = false;
                        level.member_is_address = is_name(&Content::of(json, at + 1, end - 1).bytes);
                        // In an address's member a key may be one, too.
                        if level.is_address {
                            zero_string(json, at + 1, end - 1, &mut changes);
                        }
                    }
                    None if is_address => zero_string(json, at + 1, end - 1, &mut changes),
                    None => {}
                }
                at = end;
                continue;
            }
            opening @ (b'{' | b'[') => levels.push(Level {
                is_object: opening == b'{',
                is_address,
                key_is_next: opening == b'{',
                member_is_address: false,
            }),
            b'}' | b']' => {
                levels.pop();
            }
            b',' => {
                if let Some(level) = levels.last_mut() {
                    level.key_is_next = level.is_object;
                    level.member_is_address = false;
                }
            }
            b'-' | b'0'..=b'9' => {
                let number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = at + json[at..].iter().take_while(|byte| number(byte)).count();
                if is_address
                    && let Some(with) = std::str::from_utf8(&json[at..end]).ok().and_then(zeroed_number)
                {
                    changes.push(Change { start: at, end, with });
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    changes
}

/// The end, beyond its closing quote, of the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while let Some(&byte) = json.get(next) {
        match byte {
            b'"' => return next + 1,
            b'\\' => next += 2,
            _ => next += 1,
        }
    }
    json.len()
}

fn is_name(key: &[u8]) -> bool {
    // No name is longer with a separator after each letter.
    if key.len() > 32 {
        return false;
    }
    let plain: Vec<u8> =
        key.iter().filter(|byte| !matches!(byte, b'_' | b'-')).map(u8::to_ascii_lowercase).collect();
    NAMES.iter().any(|name| name.as_bytes() == plain)
}

fn zero_string(json: &[u8], start: usize, end: usize, changes: &mut Vec<Change>) {
    let content = Content::of(json, start, end);
    changes.extend(zeroed(&content.bytes).into_iter().map(|change| Change {
        start: content.place(change.start),
        end: content.place(change.end),
        with: change.with,
    }));
}

/// A string without its escapes, and where each byte of it stands.
struct Content {
    bytes: Vec<u8>,
    /// Start of each byte in the JSON, and the end of the last; `None` without escapes.
    places: Option<Vec<usize>>,
    start: usize,
}

impl Content {
    /// Of `json[start..end]`, the inside of a string.
    fn of(json: &[u8], start: usize, end: usize) -> Self {
        let inside = &json[start..end];
        if !inside.contains(&b'\\') {
            return Self { bytes: inside.to_vec(), places: None, start };
        }
        let (mut bytes, mut places) =
            (Vec::with_capacity(inside.len()), Vec::with_capacity(inside.len() + 1));
        let mut at = 0;
        while at < inside.len() {
            places.push(start + at);
            let (byte, length) = match (inside[at], inside.get(at + 1)) {
                (b'\\', Some(b'u')) => (ascii(&inside[at..]), 6),
                // None of the short ones stands for a letter of an address or a name.
                (b'\\', _) => (b' ', 2),
                (byte, _) => (byte, 1),
            };
            bytes.push(byte);
            at += length;
        }
        places.push(end);
        Self { bytes, places: Some(places), start }
    }

    fn place(&self, index: usize) -> usize {
        self.places.as_ref().map_or(self.start + index, |places| places[index])
    }
}

/// What `\uXXXX` at the start of `text` stands for, or a space for anything beyond ASCII: no address has it.
fn ascii(text: &[u8]) -> u8 {
    let digits = text.get(2..6).and_then(|digits| std::str::from_utf8(digits).ok());
    let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    code.and_then(|code| u8::try_from(code).ok()).filter(u8::is_ascii).unwrap_or(b' ')
}
