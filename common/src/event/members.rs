//! The members of a JSON object as they stand, for rewriting it without touching their bytes.

use std::borrow::Cow;

use super::rejection::Rejection;
use super::scan::Scanner;

/// A member of an object: its name without escapes, its key with quotes as it stands, and its value as it stands.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    pub name: Cow<'a, str>,
    pub key: &'a str,
    pub value: &'a str,
}

/// The members of the object `json`, in their order.
///
/// # Errors
/// When it is no JSON object by the rules of [`super::check`].
pub fn members(json: &[u8]) -> Result<Vec<Member<'_>>, Rejection> {
    let mut members = Vec::new();
    let mut scanner = Scanner::new(json)?;
    scanner.expect_object()?;
    scanner.object(|scanner, key| {
        let value = scanner.value()?;
        members.push(Member { name: key.content(), key: key.text, value: value.text });
        Ok(())
    })?;
    scanner.end()?;
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_as_they_were_sent() {
        let json = r#" {"a" : [1, {"b":2}] , "\u0062":"\u0063\"","c":1.0 } "#;
        let members = members(json.as_bytes()).expect("an object");
        let read: Vec<_> = members.iter().map(|member| (&*member.name, member.key, member.value)).collect();
        let expected = [
            ("a", r#""a""#, r#"[1, {"b":2}]"#),
            ("b", r#""\u0062""#, r#""\u0063\"""#),
            ("c", r#""c""#, "1.0"),
        ];
        assert_eq!(read, expected);
        assert!(super::members(b"[1]").is_err());
    }
}
