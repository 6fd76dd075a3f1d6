//! What a request's headers say of its body: how its events are written, and how it is compressed.

use axum::http::{HeaderMap, HeaderName, header};

/// How events stand in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON document: an event, or an array of them.
    Document,
    /// An event a line.
    Lines,
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Zstd,
}

/// Names of the encodings that are taken, as a client may be told.
pub(super) const ENCODINGS: &str = "gzip, deflate, zstd";

/// A body that can't be read, because of a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsupported {
    #[error(
        "found Content-Type {0}, expected \"application/json\", \"text/plain\", \"application/x-ndjson\" or \"application/jsonl\""
    )]
    MediaType(String),
    #[error("found Content-Encoding {0}, expected one of {ENCODINGS}")]
    Encoding(String),
}

pub(super) fn format(headers: &HeaderMap) -> Result<Format, Unsupported> {
    // What nearly every client sends.
    if headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json") {
        return Ok(Format::Document);
    }
    let found = text(headers, &header::CONTENT_TYPE);
    let media_type = found.as_deref().and_then(|value| value.split(';').next()).map(str::trim);
    match media_type.unwrap_or_default().to_ascii_lowercase().as_str() {
        // sendBeacon says text/plain, since it may say JSON to few.
        "application/json" | "text/plain" => Ok(Format::Document),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
            Ok(Format::Lines)
        }
        _ => Err(Unsupported::MediaType(quoted(found))),
    }
}

/// `None` for a body that stands as it is.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Unsupported> {
    let Some(found) = text(headers, &header::CONTENT_ENCODING) else { return Ok(None) };
    match found.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Encoding::Gzip)),
        "deflate" => Ok(Some(Encoding::Deflate)),
        "zstd" => Ok(Some(Encoding::Zstd)),
        _ => Err(Unsupported::Encoding(quoted(Some(found)))),
    }
}

/// The header's values, as if they stood in one.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn quoted(found: Option<String>) -> String {
    found.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn with(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_format_is_what_the_media_type_says() {
        let format = |value| format(&with(&header::CONTENT_TYPE, &[value]));
        for document in ["application/json", "Application/JSON; charset=utf-8", "text/plain;charset=UTF-8"] {
            assert_eq!(format(document), Ok(Format::Document), "{document}");
        }
        for lines in ["application/x-ndjson", "application/jsonl ; charset=utf-8"] {
            assert_eq!(format(lines), Ok(Format::Lines), "{lines}");
        }
        for bad in ["", "application/jsonp", "application/x-www-form-urlencoded", "text/html"] {
            let message = format(bad).expect_err(bad).to_string();
            assert!(message.contains(&format!("{bad:?}")) && message.contains("x-ndjson"), "{message}");
        }
        assert!(
            super::format(&HeaderMap::new())
                .expect_err("none")
                .to_string()
                .contains("found Content-Type none")
        );
    }

    #[test]
    fn one_known_encoding_is_taken() {
        let encoding = |values: &[&'static str]| encoding(&with(&header::CONTENT_ENCODING, values));
        assert_eq!(encoding(&[]), Ok(None));
        assert_eq!(encoding(&["identity"]), Ok(None));
        assert_eq!(encoding(&["GZIP"]), Ok(Some(Encoding::Gzip)));
        assert_eq!(encoding(&["zstd"]), Ok(Some(Encoding::Zstd)));
        for bad in [&["br"][..], &["gzip, gzip"], &["gzip", "zstd"], &["compress"]] {
            let message = encoding(bad).expect_err("unknown").to_string();
            assert!(message.contains(ENCODINGS), "{message}");
        }
    }
}
