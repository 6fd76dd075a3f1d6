//! The promises of the module as a whole.

use proptest::prelude::*;

use super::*;

const USUAL: &str = r#"{"id": 1, "type": "click", "package_id": "test-123", "event": {"user_agent": "Mozilla/5.0",
    "ip": "192.168.1.1", "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/home"}}"#;

/// Rebuilds what `json` says by way of its row; returns the row's `extra` too.
fn there_and_back(json: &str) -> (String, Option<String>) {
    let event = check(json.as_bytes()).unwrap_or_else(|rejection| panic!("{rejection}: {json}"));
    let mut scratch = "left over".to_owned();
    let columns = event.columns(&mut scratch);
    let extra = columns.extra.map(str::to_owned);
    let rebuilt = rebuild(&columns).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(
        canonical_json(rebuilt.as_bytes()).expect("canonical"),
        canonical_json(json.as_bytes()).expect("canonical"),
        "{json}"
    );
    (rebuilt, extra)
}

/// An event with `members` beside the timestamp.
fn event_with(members: &str) -> String {
    format!(r#"{{"type":"click","package_id":"p","event":{{"timestamp":"2024-01-01T00:00:00Z",{members}}}}}"#)
}

fn rejected(json: &[u8]) -> (&'static str, String) {
    match check(json) {
        Ok(_) => panic!("accepted {}", String::from_utf8_lossy(json)),
        Err(rejection) => {
            assert!(rejection.message.len() < 600, "{rejection}");
            (rejection.code.as_str(), rejection.pointer)
        }
    }
}

#[test]
fn the_reference_event_needs_no_extra() {
    let event = check(USUAL.as_bytes()).expect("event");
    assert_eq!((event.kind(), event.package_id()), ("click", "test-123"));
    assert_eq!(event.time_ms(), 1_704_067_200_000);
    let mut scratch = String::new();
    let columns = event.columns(&mut scratch);
    assert_eq!(columns.id, Some(1));
    assert_eq!(columns.fields[0], Some(ColumnValue::Integer(12345)));
    assert_eq!(columns.fields[PAGE], Some(ColumnValue::Text("/home".into())));
    assert_eq!(columns.extra, None);
    there_and_back(USUAL);
}

#[test]
fn what_a_column_cannot_give_back_stays_in_extra() {
    for (member, extra) in [
        (r#""customer_id":12345"#, None),
        (r#""price":19.9"#, None),
        (r#""page":"\u002fhome""#, None),
        (r#""customer_id":"12345""#, Some(r#"{"event":{"customer_id":"12345"}}"#)),
        (r#""customer_id":1.0"#, Some(r#"{"event":{"customer_id":1.0}}"#)),
        (r#""customer_id":1e3"#, Some(r#"{"event":{"customer_id":1e3}}"#)),
        (r#""customer_id":-0"#, Some(r#"{"event":{"customer_id":-0}}"#)),
        (r#""customer_id":null"#, Some(r#"{"event":{"customer_id":null}}"#)),
        (r#""customer_id":9223372036854775808"#, Some(r#"{"event":{"customer_id":9223372036854775808}}"#)),
        (r#""price":1e400"#, Some(r#"{"event":{"price":1e400}}"#)),
        (r#""price":"NaN""#, Some(r#"{"event":{"price":"NaN"}}"#)),
        (r#""page":["/home"]"#, Some(r#"{"event":{"page":["/home"]}}"#)),
        (r#""colour":{"a":[1,{}]}"#, Some(r#"{"event":{"colour":{"a":[1,{}]}}}"#)),
        (r#""c\u006flour":"\ud83d\ude00""#, Some(r#"{"event":{"c\u006flour":"\ud83d\ude00"}}"#)),
    ] {
        assert_eq!(there_and_back(&event_with(member)).1.as_deref(), extra, "{member}");
    }
}

#[test]
fn members_of_the_event_and_of_its_inside_are_kept_apart() {
    let json = r#"{"page":"/outer","extra":{"event":1},"id":"abc","type":"t","package_id":"p",
        "event":{"id":7,"type":"inner","timestamp":"2024-01-01T02:00:00.123456+02:00","event":{},"page":"/in"}}"#;
    let (_, extra) = there_and_back(json);
    assert_eq!(
        extra.as_deref(),
        Some(concat!(
            r#"{"id":"abc","page":"/outer","extra":{"event":1},"event":{"timestamp":"2024-01-01T02:00:00.123456+02:00","#,
            r#""id":7,"type":"inner","event":{}}}"#
        ))
    );
}

#[test]
fn a_number_in_quotes_can_still_be_queried() {
    let json = event_with(r#""customer_id":"12345","price":19.90"#);
    let event = check(json.as_bytes()).expect("event");
    let mut scratch = String::new();
    let columns = event.columns(&mut scratch);
    assert_eq!(columns.fields[0], Some(ColumnValue::Integer(12345)));
    assert_eq!(columns.fields[10], Some(ColumnValue::Number(19.9)));
}

#[test]
fn what_is_no_event_is_refused_with_code_and_place() {
    let with = |from: &str, to: &str| USUAL.replacen(from, to, 1);
    let at = |code, pointer: &str| (code, pointer.to_owned());
    for (json, expected) in [
        (String::new(), at("not_json", "")),
        ("  ".to_owned(), at("not_json", "")),
        ("not json".to_owned(), at("not_json", "")),
        ("[]".to_owned(), at("not_an_object", "")),
        ("null".to_owned(), at("not_an_object", "")),
        (format!("{USUAL} {USUAL}"), at("not_json", "")),
        (format!("\u{feff}{USUAL}"), at("not_json", "")),
        (USUAL[..USUAL.len() - 1].to_owned(), at("not_json", "")),
        (with("\"id\": 1,", "\"id\": 01,"), at("not_json", "")),
        (with("\"id\": 1,", "\"id\": 1.,"), at("not_json", "/id")),
        (with("\"id\": 1,", "\"id\": +1,"), at("not_json", "/id")),
        (with("\"id\": 1,", "\"id\": 1e,"), at("not_json", "/id")),
        (with("\"id\": 1,", "\"id\": NaN,"), at("not_json", "/id")),
        (with("\"id\": 1,", "\"id\": 1,,"), at("not_json", "")),
        (with("\"id\": 1,", "\"id\": [1,],"), at("not_json", "/id/1")),
        (with("\"id\": 1,", "\"id\": 1e9999999999,"), at("number_out_of_range", "/id")),
        (with("\"id\": 1,", "\"id\": \"\t\","), at("not_json", "/id")),
        (with("\"id\": 1,", r#""id": "\x","#), at("not_json", "/id")),
        (with("\"id\": 1,", r#""id": "\u12g4","#), at("not_json", "/id")),
        (with("\"id\": 1,", r#""id": "\ud800","#), at("invalid_unicode", "/id")),
        (with("\"id\": 1,", r#""id": "\udc00","#), at("invalid_unicode", "/id")),
        (with("\"id\": 1,", r#""id": "\ud800\u0041","#), at("invalid_unicode", "/id")),
        (with("\"id\": 1,", "\"id\": 1, \"id\": 1,"), at("duplicate_key", "/id")),
        (with("\"page\"", r#""i\u0070""#), at("duplicate_key", "/event/ip")),
        (with("\"/home\"", r#"[0,{"a/":1,"a/":2}]"#), at("duplicate_key", "/event/page/1/a~1")),
        (with("\"type\": \"click\",", ""), at("missing_field", "/type")),
        (with("\"click\"", "\"\""), at("empty", "/type")),
        (with("\"click\"", "null"), at("wrong_kind", "/type")),
        (with("\"test-123\"", "123"), at("wrong_kind", "/package_id")),
        (with("\"test-123\"", "\"\""), at("empty", "/package_id")),
        (with("test-123", &"é".repeat(129)), at("too_long", "/package_id")),
        (with("\"package_id\"", "\"package\""), at("missing_field", "/package_id")),
        (with("\"event\"", "\"events\""), at("missing_field", "/event")),
        (r#"{"type":"a","package_id":"b","event":[]}"#.to_owned(), at("wrong_kind", "/event")),
        (with("\"timestamp\"", "\"time\""), at("missing_field", "/event/timestamp")),
        (with("\"2024-01-01T00:00:00Z\"", "1704067200"), at("wrong_kind", "/event/timestamp")),
        (with("2024-01-01T00:00:00Z", "yesterday"), at("not_rfc3339", "/event/timestamp")),
    ] {
        let mut found = rejected(json.as_bytes());
        if expected.0 == "not_json" && expected.1.is_empty() {
            found.1.clear();
        }
        assert_eq!(found, expected, "{json}");
    }
    assert_eq!(rejected(b"{\"type\":\"\xff\"}").0, "not_utf8");
    assert!(check(with("test-123", &"é".repeat(128)).as_bytes()).is_ok());
}

#[test]
fn a_million_brackets_are_refused_without_harm() {
    for open in ["[", "{\"a\":", "[{\"a\":"] {
        let bomb = open.repeat(1_000_000);
        assert_eq!(rejected(bomb.as_bytes()).0, "too_deep");
        assert!(canonical_hash(bomb.as_bytes()).is_err());
        let inside = event_with(&format!("\"a\":{bomb}"));
        assert_eq!(rejected(inside.as_bytes()).0, "too_deep");
    }
    // The event and its member are two of the levels.
    let levels = |count| event_with(&format!("\"a\":{}{}", "[".repeat(count), "]".repeat(count)));
    there_and_back(&levels(MAX_DEPTH - 2));
    assert_eq!(rejected(levels(MAX_DEPTH - 1).as_bytes()).0, "too_deep");
}

#[test]
fn many_keys_are_checked_in_passing() {
    let keys = |count: usize| (0..count).map(|key| format!("\"k{key}\":0")).collect::<Vec<_>>().join(",");
    there_and_back(&event_with(&keys(20_000)));
    let twice = format!("{},\"k7\":1", keys(20_000));
    assert_eq!(rejected(event_with(&twice).as_bytes()), ("duplicate_key", "/event/k7".to_owned()));
}

#[test]
fn a_row_that_was_altered_is_an_error() {
    let event = check(USUAL.as_bytes()).expect("event");
    let mut scratch = String::new();
    let columns = event.columns(&mut scratch);
    for extra in ["", "[]", "{", "{\"event\":1}", "{\"a\":1,\"a\":2}"] {
        let altered = ClientColumns { extra: Some(extra), ..columns.clone() };
        assert!(matches!(rebuild(&altered), Err(RebuildError::Extra(_))), "{extra}");
    }
    let altered = ClientColumns { event_time_ms: i64::MAX, ..columns };
    assert!(matches!(rebuild(&altered), Err(RebuildError::EventTime(i64::MAX))));
}

/// Any JSON number, also such as no float holds.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|integer| integer.to_string()),
        any::<f64>()
            .prop_filter("JSON has no infinities", |float| float.is_finite())
            .prop_map(|float| format!("{float:e}")),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?",
    ]
}

/// Any JSON string, with escapes where none are needed.
fn string() -> impl Strategy<Value = String> {
    let char = prop_oneof![
        4 => "[ -!#-\\[\\]-~]",
        1 => any::<char>().prop_map(|char| {
            let mut units = [0; 2];
            char.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }),
        1 => any::<char>().prop_map(|char| if char < ' ' || "\"\\".contains(char) { '~' } else { char }.into()),
        1 => prop::sample::select(vec!["\\n", "\\/", "\\\\", "\\\"", "\\b", "\\f", "\\r", "\\t"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(char, 0..12).prop_map(|chars| format!("\"{}\"", chars.concat()))
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true", "false", "\"12345\"", "{}", "[]"]).prop_map(str::to_owned),
        number(),
        string(),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[ {}]", all.join(" ,"))),
            members(prop_oneof![string(), string()].boxed(), inner.boxed(), 0..4)
                .prop_map(|all| format!("{{{all}}}")),
        ]
    })
}

/// Members of an object in any order, no key twice.
fn members(
    key: BoxedStrategy<String>,
    value: BoxedStrategy<String>,
    size: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    prop::collection::vec((key, value), size).prop_map(|all| {
        let mut seen = std::collections::HashSet::new();
        all.iter()
            .filter(|(key, _)| {
                let content: String = serde_json::from_str(key).expect("a JSON string");
                seen.insert(content)
            })
            .map(|(key, value)| format!("{key} :{value}"))
            .collect::<Vec<_>>()
            .join(",\n")
    })
}

fn timestamp() -> impl Strategy<Value = String> {
    prop_oneof![
        "\"2[0-9]{3}-0[1-9]-[01][1-8][Tt][01][0-9]:[0-5][0-9]:[0-6]0(\\.[0-9]{1,12})?([Zz]|[+-][01][0-9]:[0-5][0-9])\"",
        "\"0[0-9]{3}-12-31T23:59:60(\\.[0-9]{3})?[Zz]\"",
        Just("\"2024-01-01T00:00:00\\u005a\"".to_owned()),
    ]
}

fn hostile_event() -> impl Strategy<Value = String> {
    let names = FIELDS
        .iter()
        .map(|field| format!("\"{}\"", field.name))
        .chain(
            ["\"event\"", "\"extra\"", "\"id\"", "\"type\"", "\"event_time\"", "\"\\u0069p\""]
                .map(str::to_owned),
        )
        .collect::<Vec<_>>();
    let key = prop_oneof![3 => prop::sample::select(names), 1 => string()].boxed();
    let inside = members(key, value().boxed(), 0..12);
    let outside = members(string().boxed(), value().boxed(), 0..4);
    let some_id = prop::option::of(value());
    let text = || string().prop_map(|text| if text == "\"\"" { "\"-\"".to_owned() } else { text });
    (text(), text(), some_id, timestamp(), inside, outside).prop_map(
        |(kind, package_id, id, timestamp, inside, outside)| {
            let comma = |members: &str| if members.is_empty() { "" } else { "," }.to_owned();
            let id = id.map(|id| format!("\"id\":{id},")).unwrap_or_default();
            format!(
                "{{{outside}{}\"type\":{kind},{id}\"event\":{{{inside}{}\"timestamp\":{timestamp}}},\"package_id\":{package_id}}}",
                comma(&outside),
                comma(&inside),
            )
        },
    )
}

/// What a person would get from the RFC's own words, for documents whose numbers a float holds.
fn reference_canonical(json: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    serde_json_canonicalizer::to_string(&value).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_accepted_event_comes_back_from_its_row(json in hostile_event()) {
        // Few are refused (a member that is named `timestamp` by chance); proptest fails if they are many.
        prop_assume!(check(json.as_bytes()).is_ok());
        there_and_back(&json);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (check(&bytes).is_ok(), canonical_hash(&bytes).is_ok());
    }

    #[test]
    fn an_event_with_a_few_bytes_changed_does_no_harm(
        json in hostile_event(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = json.into_bytes();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if check(&bytes).is_ok() {
            // Whatever passes must come back whole.
            there_and_back(std::str::from_utf8(&bytes).expect("checked"));
        }
    }

    #[test]
    fn the_scanner_takes_what_serde_json_takes(json in "[\\[\\]{},:\"0-9a-cetrufalsn.+\\\\ -]{0,12}") {
        let ours = canonical_json(json.as_bytes());
        let theirs: Result<serde_json::Value, _> = serde_json::from_str(&json);
        match (ours, theirs) {
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
            // serde_json keeps the last of two equal keys.
            (Err(rejection), Ok(_)) => prop_assert_eq!(rejection.code, RejectionCode::DuplicateKey),
            (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{}", error),
        }
    }

    #[test]
    fn the_canonical_form_is_that_of_the_rfc(
        keys in prop::collection::vec(string(), 0..8),
        texts in prop::collection::vec(string(), 8),
        floats in prop::collection::vec(any::<f64>().prop_filter("finite", |float| float.is_finite()), 8),
    ) {
        let mut seen = std::collections::HashSet::new();
        let members: Vec<String> = keys
            .iter()
            .zip(texts.iter().zip(&floats))
            .filter(|(key, _)| seen.insert(serde_json::from_str::<String>(key).expect("a JSON string")))
            .map(|(key, (text, float))| {
                format!("{key}: [{text}, {}, null]", serde_json::to_string(float).expect("a number"))
            })
            .collect();
        let json = format!("{{ {} }}", members.join(" , "));
        prop_assert_eq!(canonical_json(json.as_bytes()).ok(), reference_canonical(&json));
    }
}
