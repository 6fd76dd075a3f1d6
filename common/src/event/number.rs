//! The canonical text of a JSON number, without loss.
//!
//! RFC 8785 writes a number as ECMAScript writes the nearest 64-bit float. That is what stands here, where
//! the float's shortest text is the very number that was sent. Any other number (an integer beyond 2^53, more
//! digits than a float holds, 1e400) keeps all its digits, as `<digits>e<exponent>`: RFC 8785 alone would
//! make different numbers equal. Both forms spell exactly the number sent, so no two numbers share a text.

use std::borrow::Cow;

/// Integers of this many digits are exact as a float, and ECMAScript writes them as they are.
const EXACT_DIGITS: usize = 15;

/// The canonical text of the JSON number `text`.
pub(super) fn canonical(text: &str) -> Cow<'_, str> {
    if is_small_integer(text) {
        return Cow::Borrowed(text);
    }
    let decimal = Decimal::read(text);
    if decimal.digits.is_empty() {
        return Cow::Borrowed("0");
    }
    if let Some(written) = ecmascript(text)
        && Decimal::read(&written) == decimal
    {
        return Cow::Owned(written);
    }
    let sign = if decimal.negative { "-" } else { "" };
    Cow::Owned(format!("{sign}{}e{}", decimal.digits, decimal.exponent))
}

/// The float that ECMAScript writes exactly as `text`.
pub(super) fn exact_float(text: &str) -> Option<f64> {
    let float: f64 = text.parse().ok()?;
    (float.is_finite() && ryu_js::Buffer::new().format_finite(float) == text).then_some(float)
}

/// The 64-bit integer that is written exactly as the JSON number `text`.
pub(super) fn exact_integer(text: &str) -> Option<i64> {
    if text == "-0" { None } else { text.parse().ok() }
}

/// As ECMAScript writes a finite float.
pub(super) fn write_float(float: f64, out: &mut String) {
    out.push_str(ryu_js::Buffer::new().format(float));
}

fn is_small_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.len() <= EXACT_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()) && text != "-0"
}

fn ecmascript(text: &str) -> Option<String> {
    let float: f64 = text.parse().ok()?;
    float.is_finite().then(|| ryu_js::Buffer::new().format_finite(float).to_owned())
}

/// `digits` × 10^`exponent`; the digits neither begin nor end with a zero, so equal numbers are equal here.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number, or one that ECMAScript wrote.
    fn read(text: &str) -> Self {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        // The scanner lets at most nine digits through, so neither conversion nor sum can fail.
        let exponent = exponent.parse::<i64>().unwrap_or_default() - fraction.len() as i64
            + (digits.len() - significant.len()) as i64;
        Self { negative, digits: significant.trim_start_matches('0').to_owned(), exponent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_float_holds_are_written_as_rfc_8785_writes_them() {
        for (sent, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0e7", "0"),
            ("1.0", "1"),
            ("1e3", "1000"),
            ("1E+3", "1000"),
            ("19.90", "19.9"),
            ("0.000001", "0.000001"),
            ("1e-7", "1e-7"),
            ("100000000000000000000", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("-4.50", "-4.5"),
            ("1e000000000000000000002", "100"),
        ] {
            assert_eq!(canonical(sent), expected, "{sent}");
        }
    }

    #[test]
    fn numbers_that_a_float_does_not_hold_keep_their_digits() {
        for (sent, expected) in [
            ("9007199254740993", "9007199254740993e0"),
            ("12345678901234567890123", "12345678901234567890123e0"),
            ("0.1000000000000000000000001", "1000000000000000000000001e-25"),
            ("1e400", "1e400"),
            ("-10.0e399", "-1e400"),
            ("1e-400", "1e-400"),
        ] {
            assert_eq!(canonical(sent), expected, "{sent}");
        }
        assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
    }

    #[test]
    fn a_column_takes_only_numbers_that_it_gives_back() {
        assert_eq!(exact_integer("-9223372036854775808"), Some(i64::MIN));
        for lossy in ["9223372036854775808", "1.0", "1e3", "-0"] {
            assert_eq!(exact_integer(lossy), None, "{lossy}");
        }
        assert_eq!(exact_float("19.9"), Some(19.9));
        for lossy in ["19.90", "1e3", "-0", "1e400", "9007199254740993"] {
            assert_eq!(exact_float(lossy), None, "{lossy}");
        }
    }
}
