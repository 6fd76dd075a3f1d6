//! How a visitor came: from where, and what the landing page's address says of it.

use rand::RngExt;
use rand::rngs::StdRng;

use super::catalogue::HOST;

const SEARCH: [&str; 7] = [
    "https://www.google.com/",
    "https://www.google.de/",
    "https://www.bing.com/",
    "https://duckduckgo.com/",
    "https://search.yahoo.com/",
    "https://www.ecosia.org/",
    "https://yandex.ru/",
];
const SOCIAL: [&str; 8] = [
    "https://www.facebook.com/",
    "https://l.instagram.com/",
    "https://t.co/",
    "https://www.reddit.com/",
    "https://www.pinterest.com/",
    "https://www.linkedin.com/",
    "https://www.youtube.com/",
    "https://www.tiktok.com/",
];
const EMAIL: [&str; 3] = ["https://mail.google.com/", "https://outlook.live.com/", "https://mail.yahoo.com/"];
const OTHER: [&str; 4] = [
    "https://deals.example.org/winter",
    "https://news.example.net/style/best-rain-jackets",
    "https://forum.example.com/t/4711?page=2",
    "https://hiking.example/reviews",
];
const CAMPAIGNS: [&str; 6] =
    ["spring_sale", "january_sale", "brand", "new+arrivals", "caf%C3%A9_rides", "winter-clearance"];
const TERMS: [&str; 4] = ["rain+jacket", "trail+running+shoes", "backpack", "merino+socks"];
const ID_CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Where a session's first page was opened.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    pub(super) referrer: Option<String>,
    /// Of the landing page's address, without the question mark.
    pub(super) query: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Channel {
    Direct,
    Search,
    PaidSearch,
    Social,
    PaidSocial,
    Email,
    Push,
    Partner,
    Link,
    /// A page of the shop that was left open.
    Internal,
}

const CHANNELS: [(u32, Channel); 10] = [
    (32, Channel::Direct),
    (25, Channel::Search),
    (9, Channel::PaidSearch),
    (8, Channel::Social),
    (6, Channel::PaidSocial),
    (8, Channel::Email),
    (2, Channel::Push),
    (3, Channel::Partner),
    (4, Channel::Link),
    (3, Channel::Internal),
];

impl Arrival {
    pub(super) fn draw(random: &mut StdRng) -> Self {
        let one =
            |random: &mut StdRng, of: &[&str]| of[super::catalogue::skewed(random, of.len())].to_owned();
        let (referrer, query) = match super::weighted(random, &CHANNELS) {
            Channel::Direct => (None, None),
            Channel::Search => (Some(one(random, &SEARCH)), None),
            Channel::PaidSearch => {
                let (referrer, source, click) = [
                    ("https://www.google.com/", "google", "gclid"),
                    ("https://www.google.com/", "google", "gclid"),
                    ("https://www.bing.com/", "bing", "msclkid"),
                ][random.random_range(0..3)];
                let term = one(random, &TERMS);
                let extra = format!("&utm_term={term}&utm_content=ad-{}", random.random_range(1..9));
                let query = campaign(random, source, "cpc", &extra, Some(click));
                (Some(referrer.to_owned()), Some(query))
            }
            Channel::Social => (Some(one(random, &SOCIAL)), None),
            Channel::PaidSocial => {
                let (referrer, source, click) = [
                    ("https://l.facebook.com/", "facebook", "fbclid"),
                    ("https://l.instagram.com/", "instagram", "fbclid"),
                    ("https://www.tiktok.com/", "tiktok", "ttclid"),
                    ("https://t.co/", "twitter", "twclid"),
                    ("https://www.linkedin.com/", "linkedin", "li_fat_id"),
                ][random.random_range(0..5)];
                let query = campaign(random, source, "paid_social", "", Some(click));
                (Some(referrer.to_owned()), Some(query))
            }
            Channel::Email => {
                // A mail program sends none.
                let referrer = random.random_bool(0.5).then(|| one(random, &EMAIL));
                let click = random.random_bool(0.3).then_some("mc_eid");
                (referrer, Some(campaign(random, "newsletter", "email", "", click)))
            }
            Channel::Push => (None, Some(campaign(random, "app", "push", "", None))),
            Channel::Partner => {
                let query = campaign(random, "partner", "affiliate", "&utm_content=sidebar", None);
                (Some(one(random, &OTHER)), Some(query))
            }
            Channel::Link => (Some(one(random, &OTHER)), None),
            Channel::Internal => (Some(format!("{HOST}/home")), None),
        };
        Self { referrer, query }
    }
}

fn campaign(random: &mut StdRng, source: &str, medium: &str, extra: &str, click: Option<&str>) -> String {
    let name = CAMPAIGNS[random.random_range(0..CAMPAIGNS.len())];
    let mut query = format!("utm_source={source}&utm_medium={medium}&utm_campaign={name}{extra}");
    if let Some(click) = click {
        query.push('&');
        query.push_str(click);
        query.push('=');
        let length = random.random_range(22..56);
        query.extend((0..length).map(|_| char::from(ID_CHARACTERS[random.random_range(0..64)])));
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn visitors_come_from_everywhere() {
        let mut random = StdRng::seed_from_u64(2);
        let arrivals: Vec<Arrival> = (0..2_000).map(|_| Arrival::draw(&mut random)).collect();
        let from = |hosts: &[&str]| {
            let referrers = arrivals.iter().filter_map(|arrival| arrival.referrer.as_deref());
            referrers.filter(|referrer| hosts.contains(referrer)).count()
        };
        for hosts in [&SEARCH[..], &SOCIAL, &EMAIL, &OTHER, &["https://shop.example.com/home"]] {
            assert!(from(hosts) > 20, "{hosts:?}");
        }
        assert!(arrivals.iter().filter(|arrival| arrival.referrer.is_none()).count() > 400);
        for parameter in [
            "utm_source=",
            "utm_term=",
            "utm_content=",
            "gclid=",
            "msclkid=",
            "fbclid=",
            "ttclid=",
            "mc_eid=",
        ] {
            let queries = arrivals.iter().filter_map(|arrival| arrival.query.as_deref());
            assert!(queries.filter(|query| query.contains(parameter)).count() > 5, "{parameter}");
        }
    }
}
