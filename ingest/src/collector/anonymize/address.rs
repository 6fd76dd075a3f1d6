//! Network addresses in a text, and what they look like without their last part. Where a text can be read in two ways
//! the one that takes more away counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Change;

/// The most octets and groups that an address has.
const OCTETS: usize = 4;
const GROUPS: usize = 8;

/// Every address in `text` that is not zeroed already, in order: the last octet of an IPv4 address, the last 80 bits of
/// an IPv6 one; of an IPv4 address within an IPv6 one the last octet.
pub(super) fn zeroed(text: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut at = 0;
    // Of the address before.
    let mut ended = 0;
    while at < text.len() {
        // An address begins where a run of its letters does, after a separator within the run, or where one has ended:
        // without that one's last part it would begin a run.
        let begins = at == ended || !text[at - 1].is_ascii_hexdigit();
        if begins && let Some((end, address)) = version_6(text, at) {
            change_6(text, at, end, address, &mut changes);
            (at, ended) = (end, end);
        } else if (at == ended || !text[at - 1].is_ascii_digit())
            && let Some((last_octet, end)) = version_4(text, at)
        {
            change_4(text, last_octet, end, &mut changes);
            (at, ended) = (end, end);
        } else {
            at += 1;
        }
    }
    changes
}

fn change_4(text: &[u8], last_octet: usize, end: usize, changes: &mut Vec<Change>) {
    if text[last_octet..end] != *b"0" {
        changes.push(Change { start: last_octet, end, with: "0".to_owned() });
    }
}

fn change_6(text: &[u8], start: usize, end: usize, address: Ipv6Addr, changes: &mut Vec<Change>) {
    let host_4 = text[start..end].iter().rposition(|&byte| byte == b':').map(|colon| start + colon + 1);
    if address.to_ipv4_mapped().is_some() {
        if let Some((last_octet, end)) = host_4.and_then(|host| version_4(text, host)) {
            return change_4(text, last_octet, end, changes);
        }
        let kept = Ipv6Addr::from(u128::from(address) & !0xff);
        return push_if_other(text, start, end, kept, changes);
    }
    let kept = Ipv6Addr::from(u128::from(address) & !((1 << 80) - 1));
    push_if_other(text, start, end, kept, changes);
}

fn push_if_other(text: &[u8], start: usize, end: usize, kept: Ipv6Addr, changes: &mut Vec<Change>) {
    let as_sent = std::str::from_utf8(&text[start..end]).ok().and_then(|sent| sent.parse::<Ipv6Addr>().ok());
    if as_sent != Some(kept) {
        changes.push(Change { start, end, with: kept.to_string() });
    }
}

/// The IPv4 address that begins at `at`: where its last octet does, and its end.
fn version_4(text: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut start = at;
    for octet in 1..=OCTETS {
        let end = start + text[start..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        let digits = std::str::from_utf8(&text[start..end]).ok()?;
        if digits.len() > 3 || digits.parse::<u16>().ok()? > 255 {
            return None;
        }
        if octet == OCTETS {
            return Some((start, end));
        }
        if text.get(end) != Some(&b'.') {
            return None;
        }
        start = end + 1;
    }
    None
}

/// The longest IPv6 address that begins at `at`, and its end.
fn version_6(text: &[u8], at: usize) -> Option<(usize, Ipv6Addr)> {
    // Ends where a group or an embedded IPv4 address does, or after `::`.
    let mut ends = [0; GROUPS * 2 + 2];
    let mut found = 0;
    let mut note = |end: usize| {
        if found < ends.len() {
            ends[found] = end;
            found += 1;
        }
    };
    let mut next = at;
    let mut gap = false;
    for group in 0..=GROUPS {
        if text[next..].starts_with(b"::") {
            if gap {
                break;
            }
            gap = true;
            next += 2;
            note(next);
        } else if group > 0 {
            if text.get(next) != Some(&b':') {
                break;
            }
            next += 1;
        }
        if let Some((_, end)) = version_4(text, next) {
            note(end);
        }
        let digits = text[next..].iter().take(5).take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits == 0 || digits > 4 {
            break;
        }
        next += digits;
        note(next);
    }
    // An embedded IPv4 address is noted before the shorter group that it begins with.
    let mut ends: Vec<usize> = ends[..found].to_vec();
    ends.sort_unstable();
    ends.into_iter().rev().find_map(|end| {
        let address = std::str::from_utf8(&text[at..end]).ok()?.parse().ok()?;
        Some((end, address))
    })
}

/// An address as a number: without its last octet, if it is one.
pub(super) fn zeroed_number(digits: &str) -> Option<String> {
    let address: u32 = digits.parse().ok()?;
    let kept = Ipv4Addr::from(address & !0xff);
    (address & 0xff != 0).then(|| u32::from(kept).to_string())
}
