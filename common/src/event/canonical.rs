//! The canonical form of a JSON document (RFC 8785) and its hash, by which an event that was acknowledged is
//! compared with the one that the lake gives back. Differs from the RFC only in numbers that a 64-bit float
//! doesn't hold: they keep their digits (see `number`).

use std::borrow::Cow;
use std::cmp::Ordering;

use sha2::{Digest, Sha256};

use super::number;
use super::rejection::Rejection;
use super::scan::{Raw, Scanner, plain_prefix};

/// SHA-256 of the canonical form of `json`, any JSON document.
///
/// Errors: the document is not UTF-8 or not JSON, is nested too deep, names a key twice in one object, or
/// holds half a surrogate pair or an exponent of ten digits: what [`super::check`] refuses too.
pub fn canonical_hash(json: &[u8]) -> Result<[u8; 32], Rejection> {
    Ok(Sha256::digest(canonical_json(json)?.as_bytes()).into())
}

/// The canonical form of `json`. Errors as [`canonical_hash`].
pub fn canonical_json(json: &[u8]) -> Result<String, Rejection> {
    let mut scanner = Scanner::new(json)?;
    let node = read(&mut scanner)?;
    scanner.end()?;
    let mut out = String::with_capacity(json.len());
    write(&node, &mut out);
    Ok(out)
}

enum Node<'a> {
    Scalar(Raw<'a>),
    Array(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

fn read<'a>(scanner: &mut Scanner<'a>) -> Result<Node<'a>, Rejection> {
    match scanner.peek() {
        Some(b'{') => {
            let mut members = Vec::new();
            scanner.object(|scanner, key| {
                members.push((key.content(), read(scanner)?));
                Ok(())
            })?;
            members.sort_unstable_by(|a, b| by_utf16(&a.0, &b.0));
            Ok(Node::Object(members))
        }
        Some(b'[') => {
            let mut elements = Vec::new();
            scanner.array(|scanner| {
                elements.push(read(scanner)?);
                Ok(())
            })?;
            Ok(Node::Array(elements))
        }
        _ => Ok(Node::Scalar(scanner.value()?)),
    }
}

/// RFC 8785 section 3.2.3: keys are ordered by their UTF-16 code units.
fn by_utf16(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

fn write(node: &Node<'_>, out: &mut String) {
    match node {
        Node::Scalar(raw) if raw.is_text() => write_text(&raw.content(), out),
        Node::Scalar(raw) if raw.is_number() => out.push_str(&number::canonical(raw.text)),
        Node::Scalar(raw) => out.push_str(raw.text),
        Node::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(element, out);
            }
            out.push(']');
        }
        Node::Object(members) => {
            out.push('{');
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// Writes a JSON string with the escapes of RFC 8785, section 3.2.2.2.
pub(super) fn write_text(content: &str, out: &mut String) {
    out.push('"');
    let mut rest = content;
    while !rest.is_empty() {
        let (plain, after) = rest.split_at(plain_prefix(rest.as_bytes()));
        out.push_str(plain);
        // A character that needs an escape takes one byte.
        let Some(&byte) = after.as_bytes().first() else { break };
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x8 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0xc => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            other => {
                out.push_str("\\u00");
                for nibble in [other >> 4, other & 15] {
                    out.extend(char::from_digit(nibble.into(), 16));
                }
            }
        }
        rest = &after[1..];
    }
    out.push('"');
}
