//! The last part of network addresses is taken out of an event before it goes anywhere; every other byte stays as the
//! client wrote it. Pure.
//!
//! In a JSON object the members with an address's name are looked at, wherever they stand; in anything else, for
//! which there are no members, the whole text is. Judges nothing: an event that is no JSON stays none.

mod address;
mod members;

use std::borrow::Cow;

use serde_json::value::RawValue;

use address::zeroed;
use members::zeroed_members;

/// A piece of the event and what stands there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    start: usize,
    end: usize,
    with: String,
}

/// How often what is left of an address is looked at together with what stands behind it.
const LOOKS: usize = 8;

/// `event` with its addresses zeroed: the last octet of an IPv4 address, the last 80 bits of an IPv6 one.
pub(super) fn anonymize(event: &[u8]) -> Cow<'_, [u8]> {
    let is_object = event.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
        && serde_json::from_slice::<&RawValue>(event).is_ok();
    let mut event = Cow::Borrowed(event);
    for _ in 0..LOOKS {
        let changes = if is_object { zeroed_members(&event) } else { zeroed(&event) };
        // Then the two may read as another address: `::0.0.0.1a` becomes `::a`.
        let goes_on = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.' | b'\\');
        let is_glued = changes.iter().any(|change| event.get(change.end).is_some_and(goes_on));
        if !changes.is_empty() {
            event = Cow::Owned(changed(&event, changes));
        }
        if !is_glued {
            break;
        }
    }
    event
}

fn changed(event: &[u8], changes: Vec<Change>) -> Vec<u8> {
    let mut changed = Vec::with_capacity(event.len());
    let mut done = 0;
    for change in changes {
        changed.extend_from_slice(&event[done..change.start]);
        changed.extend_from_slice(change.with.as_bytes());
        done = change.end;
    }
    changed.extend_from_slice(&event[done..]);
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(event: &str) -> String {
        String::from_utf8(anonymize(event.as_bytes()).into_owned()).expect("UTF-8")
    }

    #[test]
    fn only_the_address_changes() {
        let sent = "{ \"event\":{\"ip\" :\t\"192.168.1.77\", \"n\":1.0E+2,\"page\":\"/192.168.1.77\"},\"version\":\"1.2.3.4\"} ";
        assert_eq!(text(sent), sent.replacen("192.168.1.77", "192.168.1.0", 1));
        let sent = r#"{"event":{"ip":"2001:db8:85a3:8d3:1319:8a2e:370:7348"}}"#;
        assert_eq!(text(sent), r#"{"event":{"ip":"2001:db8:85a3::"}}"#);
        for same in [r#"{"event":{"ip":"10.0.0.0"}}"#, r#"{"event":{"ip":null}}"#, "{}", "[]", "\"\"", ""] {
            assert!(matches!(anonymize(same.as_bytes()), Cow::Borrowed(_)), "{same}");
        }
    }

    #[test]
    fn an_address_is_found_under_each_of_its_names_and_at_any_depth() {
        for name in
            ["ip", "IP", "client_ip", "clientIp", "Remote-Addr", "ipAddress", "x-forwarded-for", "\\u0069p"]
        {
            let sent = format!(r#"{{"a":[{{"{name}":"198.51.100.9"}}]}}"#);
            assert_eq!(text(&sent), sent.replace("100.9", "100.0"), "{name}");
        }
        for other in ["zip", "shipping", "version", "ipx"] {
            let sent = format!(r#"{{"{other}":"198.51.100.9"}}"#);
            assert_eq!(text(&sent), sent, "{other}");
        }
    }

    #[test]
    fn an_address_may_be_written_in_many_ways() {
        for (sent, expected) in [
            (r#""198.51.100.9, 203.0.113.7""#, r#""198.51.100.0, 203.0.113.0""#),
            (r#""198.51.100.9:8080""#, r#""198.51.100.0:8080""#),
            (r#""[2001:db8:1:2::3]:443""#, r#""[2001:db8:1::]:443""#),
            (r#""::ffff:198.51.100.9""#, r#""::ffff:198.51.100.0""#),
            (r#""198.51.100.\u0039\n""#, r#""198.51.100.0\n""#),
            (r#""\u0031\u00398.51.100.9""#, r#""\u0031\u00398.51.100.0""#),
            (r#""\ud800198.51.100.9""#, r#""\ud800198.51.100.0""#),
            (r#"["198.51.100.9",{"v":"198.51.100.8"}]"#, r#"["198.51.100.0",{"v":"198.51.100.0"}]"#),
            ("3325256713", "3325256704"),
            ("-3325256713", "-3325256713"),
            ("1.5", "1.5"),
        ] {
            let event = |value: &str| format!(r#"{{"event":{{"ip":{value},"x":"198.51.100.9"}}}}"#);
            assert_eq!(text(&event(sent)), event(expected));
        }
    }

    #[test]
    fn both_of_two_members_with_one_name_are_zeroed_and_keys_that_are_addresses() {
        let counted = r#"{"ips":{"203.0.113.9":"x"},"other":{"203.0.113.9":"x"}}"#;
        assert_eq!(text(counted), counted.replacen("113.9", "113.0", 1));
        assert_eq!(text(r#"{"ip":"1.2.3.4","ip":"5.6.7.8"}"#), r#"{"ip":"1.2.3.0","ip":"5.6.7.0"}"#);
    }

    #[test]
    fn in_what_is_no_object_every_address_is_zeroed() {
        assert_eq!(text(r#"{"ip":"1.2.3.4""#), r#"{"ip":"1.2.3.0""#);
        assert_eq!(text("from 2001:db8:1:2::3 to 10.9.8.7."), "from 2001:db8:1:: to 10.9.8.0.");
        assert_eq!(text("[\"1.2.3.4\"]"), "[\"1.2.3.0\"]");
        assert_eq!(&*anonymize(b"\xff 1.2.3.4 \xfe"), b"\xff 1.2.3.0 \xfe");
    }

    #[test]
    fn what_is_left_of_an_address_is_none_with_what_stands_behind_it() {
        assert_eq!(text("::a::a."), "::::.");
        assert_eq!(text("::0.0.0.1a"), "::");
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!("{{\"ip\":{}\"1.2.3.4\"{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(text(&deep), deep.replace("3.4", "3.0"));
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[0-9.:a-f]{0,20}".prop_map(|text| format!("{text:?}")),
            any::<[u8; 4]>().prop_map(|octets| format!("\"{}\"", std::net::Ipv4Addr::from(octets))),
            any::<[u16; 8]>().prop_map(|groups| format!("\"{}\"", std::net::Ipv6Addr::from(groups))),
            any::<u32>().prop_map(|number| number.to_string()),
            Just("null".to_owned()),
        ];
        let name = prop_oneof![Just("ip"), Just("page"), Just("client_ip"), Just("x")];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec((name.clone(), inner.clone()), 0..4).prop_map(|members| {
                    let members: Vec<_> =
                        members.iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
                    format!("{{{}}}", members.join(" ,"))
                }),
                prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(", "))),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_stays_json_and_a_second_look_finds_nothing(event in json()) {
            let once = text(&event);
            prop_assert!(serde_json::from_str::<&RawValue>(&once).is_ok(), "{}", once);
            prop_assert_eq!(text(&once), once);
        }

        #[test]
        fn no_address_under_an_addresss_name_keeps_its_host(octets in any::<[u8; 4]>(), groups in any::<[u16; 8]>()) {
            let (four, six) = (std::net::Ipv4Addr::from(octets), std::net::Ipv6Addr::from(groups));
            let out = text(&format!(r#"{{"event":{{"ip":"{four}","client_ip":"{six}"}}}}"#));
            let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            let [a, b, c, _] = octets;
            let expected = std::net::Ipv4Addr::from([a, b, c, 0]).to_string();
            prop_assert_eq!(value["event"]["ip"].as_str(), Some(&*expected));
            if six.to_ipv4_mapped().is_none() {
                let left: std::net::Ipv6Addr = value["event"]["client_ip"].as_str().unwrap().parse().unwrap();
                prop_assert_eq!(left.segments(), [groups[0], groups[1], groups[2], 0, 0, 0, 0, 0]);
            }
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let once = anonymize(&bytes).into_owned();
            prop_assert_eq!(&*anonymize(&once), &*once);
        }

        #[test]
        fn any_text_of_an_addresss_letters_is_taken(text in "[0-9a-f:.]{0,60}") {
            let once = anonymize(text.as_bytes()).into_owned();
            prop_assert_eq!(&*anonymize(&once), &*once);
        }
    }
}
