//! Browser, system and kind of device behind a user agent, each distinct one worked out once.

use std::collections::HashMap;

/// Bytes that the cache may hold; it starts anew when they are reached.
const CACHE_BYTES: usize = 1 << 20;
/// A longer user agent is judged by its beginning of this many bytes.
const LONGEST: usize = 1024;
/// What an entry takes beside its text: the table's share and small allocations.
const ENTRY_BYTES: usize = 192;

/// What a user agent tells; `None` where it tells nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct UserAgent {
    pub(super) browser: Option<Box<str>>,
    pub(super) os: Option<Box<str>>,
    pub(super) device_category: Option<Box<str>>,
    pub(super) is_bot: bool,
}

#[derive(Debug, Default)]
pub(super) struct UserAgents {
    known: HashMap<Box<str>, UserAgent, ahash::RandomState>,
    bytes: usize,
}

impl UserAgents {
    /// Bytes that the cache holds.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    pub(super) fn read(&mut self, text: &str) -> &UserAgent {
        let text = &text[..text.floor_char_boundary(LONGEST)];
        if !self.known.contains_key(text) {
            let bytes = text.len() + ENTRY_BYTES;
            if self.bytes + bytes > CACHE_BYTES {
                self.known.clear();
                self.bytes = 0;
            }
            self.bytes += bytes;
            self.known.insert(text.into(), parse(text));
        }
        &self.known[text]
    }
}

fn parse(text: &str) -> UserAgent {
    let Some(result) = woothee::parser::Parser::new().parse(text) else {
        return UserAgent::default();
    };
    let known = |value: &str| (value != woothee::woothee::VALUE_UNKNOWN).then(|| value.into());
    UserAgent {
        browser: known(result.name),
        os: known(result.os),
        device_category: known(result.category),
        is_bot: result.category == "crawler",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_user_agents_are_known() {
        let mut agents = UserAgents::default();
        let mut told = |text: &str| {
            let agent = agents.read(text).clone();
            let text = |value: Option<Box<str>>| value.unwrap_or_default().into_string();
            (text(agent.browser), text(agent.os), text(agent.device_category), agent.is_bot)
        };
        let is =
            |browser: &str, os: &str, category: &str, bot| (browser.into(), os.into(), category.into(), bot);
        assert_eq!(
            told(
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
            ),
            is("Chrome", "Windows 10", "pc", false)
        );
        assert_eq!(
            told(
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
            ),
            is("Safari", "iPhone", "smartphone", false)
        );
        assert_eq!(
            told("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
            is("Googlebot", "", "crawler", true)
        );
        assert_eq!(told("nothing that anyone knows"), is("", "", "", false));
        assert_eq!(told(""), is("", "", "", false));
    }

    #[test]
    fn ever_new_user_agents_do_not_fill_the_memory() {
        let mut agents = UserAgents::default();
        for number in 0..20_000 {
            agents.read(&format!("agent {number} {}", "ä".repeat(number % 1000)));
            assert!(agents.bytes <= CACHE_BYTES);
        }
    }

    proptest! {
        #[test]
        fn no_user_agent_does_harm(
            text in "\\PC{0,40}|(Mozilla/5.0 )?\\(?(Windows|Macintosh|DoCoMo|KDDI-|PSP|BlackBerry|MSIE|Opera|SoftBank|J-PHONE|Android|iPhone)[ -~]{0,60}"
        ) {
            UserAgents::default().read(&text);
        }
    }
}
