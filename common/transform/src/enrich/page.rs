//! What a page's address tells: host, path, `utm_*` parameters, and the click of an advertisement. Not remembered:
//! most pages are read in less time than it takes to look for them in a table that is larger than the processor's
//! caches.

use std::borrow::Cow;

use millrace_common::event::column;
use url::form_urlencoded;

use super::address::{Address, lower};

/// Parameters by which advertisers know a click again. Of several, the first in this order counts: Google's may come
/// in pairs, and Facebook puts its own on every link that leaves it, on those that bear another's already as well.
pub const CLICK_IDS: [&str; 10] =
    ["gclid", "gbraid", "wbraid", "dclid", "msclkid", "ttclid", "twclid", "li_fat_id", "yclid", "fbclid"];

/// The parts of a `page` value: a path (`/home?utm_source=x`) or a whole URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page<'a> {
    /// In lower case, without user and port; `None` for a path.
    pub host: Option<Cow<'a, str>>,
    /// As sent, without query and fragment; `/` for a URL that has none.
    pub path: &'a str,
    /// Decoded values in the order of [`column::UTM`]; the first of each counts. Bytes that are no UTF-8 become
    /// U+FFFD: the column `page` has them as sent.
    pub utm: [Option<Cow<'a, str>>; column::UTM.len()],
    /// One of [`CLICK_IDS`], and its decoded value.
    pub click_id: Option<(&'static str, Cow<'a, str>)>,
}

impl<'a> Page<'a> {
    /// Never fails: a text that is no address is a path.
    pub fn read(page: &'a str) -> Self {
        Self::of(Address::read(page))
    }

    pub(super) fn of(Address { host, path, query }: Address<'a>) -> Self {
        let mut page = Self { host: host.map(lower), path, ..Self::default() };
        if !query.is_empty() {
            page.read_query(query);
        }
        page
    }

    fn read_query(&mut self, query: &'a str) {
        let mut click = (CLICK_IDS.len(), "", "");
        for pair in query.split('&') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            if value.is_empty() {
                continue;
            }
            if let Some(rest) = name.strip_prefix("utm_") {
                let index = column::UTM.iter().position(|known| known[4..] == *rest);
                if let Some(index) = index
                    && self.utm[index].is_none()
                {
                    self.utm[index] = Some(decode(pair, value));
                }
            } else if name.len() >= 5
                && let Some(rank) = CLICK_IDS.iter().position(|known| *known == name)
                && rank < click.0
            {
                click = (rank, pair, value);
            }
        }
        self.click_id = CLICK_IDS.get(click.0).map(|kind| (*kind, decode(click.1, click.2)));
    }
}

/// The value of `pair`, which is `name=value`.
fn decode<'a>(pair: &'a str, value: &'a str) -> Cow<'a, str> {
    if value.bytes().any(|byte| byte == b'%' || byte == b'+') {
        form_urlencoded::parse(pair.as_bytes()).next().map_or(Cow::Borrowed(value), |(_, value)| value)
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_and_path_are_told() {
        let page = Page::read("https://Shop.Example:8443/a/b?utm_source=x");
        assert_eq!((page.host.as_deref(), page.path), (Some("shop.example"), "/a/b"));
        let page = Page::read("/home?utm_source=x");
        assert_eq!((page.host.as_deref(), page.path), (None, "/home"));
    }

    #[test]
    fn utm_values_are_decoded_and_the_first_counts() {
        let page = "/?a=b&utm_source=news%20letter&utm_medium=e+mail=a&utm_source=second&utm_term=&utm_id=7\
            &utm_campaign=%e2%9c%93%zz%ff&utm_content&utm_=x#utm_term=y";
        let utm = Page::read(page).utm.map(|value| value.map(Cow::into_owned));
        let expected = [Some("news letter"), Some("e mail=a"), Some("✓%zz\u{fffd}"), None, None];
        assert_eq!(utm, expected.map(|value| value.map(str::to_owned)));
    }

    #[test]
    fn the_click_of_an_advertisement_is_told() {
        for (query, expected) in [
            ("gclid=Cj0K%3DAB", Some(("gclid", "Cj0K=AB"))),
            ("fbclid=first&x=1&fbclid=second", Some(("fbclid", "first"))),
            ("fbclid=f&gclid=g", Some(("gclid", "g"))),
            ("gbraid=b&gclid=g", Some(("gclid", "g"))),
            ("gclid=&msclkid=m", Some(("msclkid", "m"))),
            ("li_fat_id=l", Some(("li_fat_id", "l"))),
            ("yclid=1&twclid=2", Some(("twclid", "2"))),
            ("GCLID=g&xgclid=h&gclid", None),
        ] {
            let page = format!("https://shop.example/?{query}");
            let click_id = Page::read(&page).click_id;
            let click_id = click_id.as_ref().map(|(kind, value)| (*kind, &**value));
            assert_eq!(click_id, expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_page_does_harm(
            page in "\\PC*|(https?:)?//?[@:\\[\\]/?&#%=a-z0-9é]{0,40}(utm_source=[%0-9a-f+]{0,9}&?|gclid=[%+é=]{0,4}&?){0,3}"
        ) {
            let read = Page::read(&page);
            prop_assert!(page.contains(read.path) || read.path == "/");
        }
    }
}
