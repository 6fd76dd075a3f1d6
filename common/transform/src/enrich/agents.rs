//! Browser, system and kind of device behind a user agent, and whether a program sent it by itself.
//!
//! woothee knows the browsers and systems; what it doesn't know well, bots above all, is in the lists of
//! [`super::agent_lists`]. Every name given out comes from there, so the columns hold few distinct values.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use super::agent_lists::{BROWSERS, MARKS, Mark, OTHER_BOT, SYSTEMS};
use super::cache::Cache;

/// A longer user agent is judged by its beginning of this many bytes.
const LONGEST: usize = 1024;

/// What a user agent tells; `None` where it tells nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct UserAgent {
    /// The browser's name without its version; of a bot, the bot's.
    pub browser: Option<&'static str>,
    pub os: Option<&'static str>,
    /// `pc`, `smartphone`, `tablet`, `mobilephone`, `appliance` (consoles and television sets) or `crawler` (every bot).
    pub device_category: Option<&'static str>,
    /// Sent by a program and not by somebody's browser; `None` if there is no user agent.
    pub is_bot: Option<bool>,
}

#[derive(Debug)]
pub(super) struct UserAgents {
    known: Cache<UserAgent>,
}

impl UserAgents {
    pub(super) fn new(most_bytes: u32) -> Self {
        Self { known: Cache::new(most_bytes) }
    }

    pub(super) fn read(&mut self, text: &str) -> UserAgent {
        let text = &text[..text.floor_char_boundary(LONGEST)];
        self.known.get_or(text, || UserAgent::read(text))
    }

    pub(super) fn memory(&self) -> usize {
        self.known.memory()
    }
}

impl UserAgent {
    /// Works it out, each time.
    pub fn read(text: &str) -> Self {
        if matches!(text.trim(), "" | "-") {
            return Self::default();
        }
        let known = woothee::parser::Parser::new().parse(text).unwrap_or_default();
        let marks = Marks::of(text);
        let mut agent = Self {
            browser: marks.browser.or_else(|| named(BROWSERS, known.name)),
            os: named(SYSTEMS, known.os),
            device_category: match known.category {
                "pc" => Some("pc"),
                "smartphone" if is_tablet(text, known.os) => Some("tablet"),
                "smartphone" => Some("smartphone"),
                "mobilephone" => Some("mobilephone"),
                "appliance" => Some("appliance"),
                _ => None,
            },
            is_bot: Some(false),
        };
        if let Some(system) = marks.appliance {
            agent.device_category = Some("appliance");
            agent.os = system.or(agent.os);
        }
        let is_program = || matches!(known.category, "crawler" | "misc") || calls_itself_bot(text);
        if let Some(name) = marks.bot.or_else(|| is_program().then_some(OTHER_BOT)) {
            agent.browser = Some(name);
            agent.device_category = Some("crawler");
            agent.is_bot = Some(true);
        }
        agent
    }
}

#[derive(Debug, Default)]
struct Marks {
    browser: Option<&'static str>,
    appliance: Option<Option<&'static str>>,
    bot: Option<&'static str>,
}

impl Marks {
    fn of(text: &str) -> Self {
        static FINDER: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
            let tokens = MARKS.iter().map(|(token, _)| token);
            let mut finder = AhoCorasick::builder();
            finder.ascii_case_insensitive(true).match_kind(MatchKind::LeftmostFirst).build(tokens).ok()
        });
        let mut marks = Self::default();
        // Only a list of many millions of letters is too large for a finder.
        let Some(finder) = &*FINDER else { return marks };
        let mut found: Vec<usize> = finder
            .find_iter(text)
            .filter(|found| {
                let goes_on = |text: &str| text.ends_with(|letter: char| letter.is_ascii_alphanumeric());
                !goes_on(&text[..found.start()]) || !text.as_bytes()[found.start()].is_ascii_alphanumeric()
            })
            .map(|found| found.pattern().as_usize())
            .collect();
        found.sort_unstable();
        for index in found.into_iter().rev() {
            match MARKS[index].1 {
                Mark::Browser(name) => marks.browser = Some(name),
                Mark::Appliance(system) => marks.appliance = Some(system),
                Mark::Bot(name) => marks.bot = Some(name),
            }
        }
        marks
    }
}

/// Whether a word ends in what programs call themselves. Cubot makes telephones.
fn calls_itself_bot(text: &str) -> bool {
    let ends = ["bot", "crawler", "spider"];
    let is_one = |word: &str| {
        ends.iter().any(|end| {
            let start = word.len().checked_sub(end.len());
            start.is_some_and(|start| word[start..].eq_ignore_ascii_case(end))
        })
    };
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|word| is_one(word) && !word.eq_ignore_ascii_case("cubot"))
}

fn is_tablet(text: &str, system: &str) -> bool {
    match system {
        "iPad" => true,
        "Android" => text.starts_with("Mozilla/") && (text.contains("Tablet") || !text.contains("Mobile")),
        _ => false,
    }
}

fn named(list: &'static [(&str, &str)], known: &str) -> Option<&'static str> {
    list.iter().find(|(name, _)| *name == known).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `browser|os|device_category`, and `*` behind it for a bot.
    fn told(text: &str) -> String {
        let agent = UserAgent::read(text);
        let part = |part: Option<&'static str>| part.unwrap_or_default();
        let is_bot = if agent.is_bot == Some(true) { "*" } else { "" };
        format!("{}|{}|{}{is_bot}", part(agent.browser), part(agent.os), part(agent.device_category))
    }

    #[test]
    fn browsers_are_known() {
        for line in include_str!("../../tests/data/browsers.txt").lines() {
            let (expected, text) = line.split_once('\t').expect("two columns");
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn bots_are_known() {
        for line in include_str!("../../tests/data/bots.txt").lines() {
            let (expected, text) = line.split_once('\t').expect("two columns");
            assert_eq!(told(text), expected, "{text}");
            assert!(expected.ends_with("|crawler*"), "{text}");
        }
    }

    #[test]
    fn no_user_agent_tells_nothing() {
        for text in ["", " ", "-"] {
            assert_eq!(UserAgent::read(text), UserAgent::default());
        }
        assert_eq!(told("nothing that anyone knows"), "||");
        assert_eq!(UserAgent::read("nothing that anyone knows").is_bot, Some(false));
    }

    #[test]
    fn every_mark_finds_itself() {
        for (token, mark) in MARKS {
            assert_eq!(*token, token.to_ascii_lowercase());
            let marks = Marks::of(token);
            let found = match mark {
                Mark::Browser(name) => marks.browser == Some(name),
                Mark::Appliance(system) => marks.appliance == Some(*system),
                Mark::Bot(name) => marks.bot == Some(name),
            };
            assert!(found, "{token}: {marks:?}");
        }
    }

    #[test]
    fn long_ones_are_judged_by_their_beginning() {
        let mut agents = UserAgents::new(1 << 20);
        let text = format!("curl/8.5.0 {}", "ä".repeat(100_000));
        assert_eq!(agents.read(&text).browser, Some("curl"));
        assert!(agents.memory() < 10_000);
    }

    proptest! {
        #[test]
        fn no_user_agent_does_harm(
            text in "\\PC{0,40}|(Mozilla/5.0 )?\\(?(Windows|Macintosh|DoCoMo|KDDI-|PSP|BlackBerry|MSIE|Opera|SoftBank|J-PHONE|Android|iPhone)[ -~]{0,60}"
        ) {
            UserAgents::new(1000).read(&text);
        }
    }
}
