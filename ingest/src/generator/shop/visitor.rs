//! Who comes: browsers and crawlers with their addresses, and customers, a few of whom come again and again. What
//! belongs to a customer (browser, address, language) stays the same over all sessions of a run's seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::catalogue::skewed;

const CUSTOMERS: usize = 100_000;
const FIRST_CUSTOMER: usize = 10_000;
/// Of the sessions, how many are crawlers'.
const BOTS: f64 = 0.03;
/// Of people's sessions, how many are logged in.
const LOGGED_IN: f64 = 0.7;
const IPV6: f64 = 0.3;
/// Of people, how many send their language.
const WITH_LANGUAGE: f64 = 0.15;
const LANGUAGES: [&str; 6] = ["en-GB", "de-DE", "fr-FR", "es-ES", "nl-NL", "pt-PT"];

/// Weight, text with `{}` for the version, the versions.
type Agents = &'static [(u32, &'static str, &'static [&'static str])];

const CHROME: &[&str] = &["141", "140", "139", "138", "137", "131", "126", "109"];
const FIREFOX: &[&str] = &["144.0", "143.0", "140.0", "128.0", "115.0"];
const SAFARI: &[&str] = &["26.0", "18.6", "18.5", "17.6", "16.6"];

const BROWSERS: Agents = &[
    (
        22,
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
        CHROME,
    ),
    (
        20,
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{} Mobile/15E148 Safari/604.1",
        SAFARI,
    ),
    (
        14,
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Mobile Safari/537.36",
        CHROME,
    ),
    (
        7,
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{} Safari/605.1.15",
        SAFARI,
    ),
    (
        7,
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
        CHROME,
    ),
    (
        7,
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{0}.0.0.0 Safari/537.36 Edg/{0}.0.0.0",
        CHROME,
    ),
    (
        5,
        "Mozilla/5.0 (Linux; Android 14; SM-S911B) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/{} Chrome/130.0.0.0 Mobile Safari/537.36",
        &["28.0", "27.0", "25.0"],
    ),
    (4, "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{0}) Gecko/20100101 Firefox/{0}", FIREFOX),
    (
        3,
        "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Mobile Safari/537.36",
        CHROME,
    ),
    (
        3,
        "Mozilla/5.0 (iPad; CPU OS 17_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{} Mobile/15E148 Safari/604.1",
        SAFARI,
    ),
    (
        2,
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/{}.0.0.0 Mobile/15E148 Safari/604.1",
        CHROME,
    ),
    (2, "Mozilla/5.0 (X11; Linux x86_64; rv:{0}) Gecko/20100101 Firefox/{0}", FIREFOX),
    (
        2,
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 OPR/{}.0.0.0",
        &["122", "121", "119"],
    ),
    (
        1,
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
        CHROME,
    ),
    (1, "Mozilla/5.0 (Android 14; Mobile; rv:{0}) Gecko/{0} Firefox/{0}", FIREFOX),
];

const CRAWLERS: Agents = &[
    (40, "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", &[""]),
    (18, "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", &[""]),
    (
        12,
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
        &[""],
    ),
    (8, "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", &[""]),
    (6, "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)", &[""]),
    (5, "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", &[""]),
    (4, "DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)", &[""]),
    (3, "curl/{}", &["8.7.1", "8.5.0", "7.88.1"]),
    (2, "python-requests/{}", &["2.32.3", "2.31.0"]),
    (
        2,
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/{}.0.0.0 Safari/537.36",
        &["138", "126"],
    ),
];

/// Texts, and for each the sum of the weights up to it.
#[derive(Debug)]
struct Weighted(Vec<(u32, String)>);

impl Weighted {
    /// Newer versions, which stand first, have more weight.
    fn new(agents: Agents) -> Self {
        let mut sum = 0;
        let mut texts = Vec::new();
        for (weight, text, versions) in agents {
            let shares: Vec<u32> = (0..versions.len()).map(|place| 16 >> place.min(4)).collect();
            let all: u32 = shares.iter().sum();
            for (version, share) in versions.iter().zip(shares) {
                sum += (weight * 100 * share / all).max(1);
                texts.push((sum, text.replace("{0}", version).replace("{}", version)));
            }
        }
        Self(texts)
    }

    fn pick(&self, random: &mut StdRng) -> &str {
        let drawn = random.random_range(0..self.0.last().map_or(1, |(sum, _)| *sum));
        let index = self.0.partition_point(|(sum, _)| *sum <= drawn);
        &self.0[index].1
    }
}

/// Everybody who may come.
#[derive(Debug)]
pub(super) struct Visitors {
    seed: u64,
    browsers: Weighted,
    crawlers: Weighted,
}

/// What stands in each event of a visitor.
#[derive(Debug)]
pub(super) struct Visitor {
    /// Members of `event`, the first in order: `"user_agent":"…","ip":"…"`, and `"customer_id":…` when logged in.
    pub(super) members: String,
    pub(super) is_bot: bool,
    pub(super) language: Option<&'static str>,
    /// Whether pages are sent as whole addresses.
    pub(super) sends_addresses: bool,
}

impl Visitors {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, browsers: Weighted::new(BROWSERS), crawlers: Weighted::new(CRAWLERS) }
    }

    pub(super) fn arrive(&self, random: &mut StdRng) -> Visitor {
        if random.random_bool(BOTS) {
            let members =
                format!(r#""user_agent":"{}","ip":"{}""#, self.crawlers.pick(random), address(random));
            return Visitor { members, is_bot: true, language: None, sends_addresses: false };
        }
        if !random.random_bool(LOGGED_IN) {
            return self.person(random, None);
        }
        let customer = FIRST_CUSTOMER + skewed(random, CUSTOMERS);
        // The same customer comes with the same browser from the same place.
        let own = self.seed ^ (customer as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.person(&mut StdRng::seed_from_u64(own), Some(customer))
    }

    fn person(&self, random: &mut StdRng, customer: Option<usize>) -> Visitor {
        let mut members =
            format!(r#""user_agent":"{}","ip":"{}""#, self.browsers.pick(random), address(random));
        if let Some(customer) = customer {
            members.push_str(&format!(r#","customer_id":{customer}"#));
        }
        let language =
            random.random_bool(WITH_LANGUAGE).then(|| LANGUAGES[random.random_range(0..LANGUAGES.len())]);
        Visitor { members, is_bot: false, language, sends_addresses: random.random_bool(0.2) }
    }
}

/// From the ranges that belong to nobody: those for benchmarks (RFC 2544) and documentation (RFC 5737, RFC 3849).
fn address(random: &mut StdRng) -> String {
    if random.random_bool(IPV6) {
        let [a, b, c] = [(); 3].map(|()| random.random::<u16>());
        return format!("2001:db8:{a:x}:{:x}::{:x}", b & 0xff, c | 1);
    }
    let last = random.random_range(1..255);
    match random.random_range(0..8) {
        0 => format!("192.0.2.{last}"),
        1 => format!("203.0.113.{last}"),
        _ => format!("198.{}.{}.{last}", random.random_range(18..20), random.random_range(0..256)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    fn members(visitor: &Visitor) -> serde_json::Value {
        serde_json::from_str(&format!("{{{}}}", visitor.members)).expect("JSON")
    }

    #[test]
    fn customers_come_again_as_themselves_and_some_visitors_are_bots() {
        let visitors = Visitors::new(5);
        let mut random = StdRng::seed_from_u64(5);
        let mut customers: BTreeMap<u64, (serde_json::Value, u32)> = BTreeMap::new();
        let (mut bots, mut six, mut agents) = (0, 0, BTreeSet::new());
        for _ in 0..20_000 {
            let visitor = visitors.arrive(&mut random);
            let members = members(&visitor);
            let address: IpAddr = members["ip"].as_str().expect("text").parse().expect("an address");
            six += u32::from(address.is_ipv6());
            bots += u32::from(visitor.is_bot);
            agents.insert(members["user_agent"].as_str().expect("text").to_owned());
            if let Some(customer) = members["customer_id"].as_u64() {
                assert!(!visitor.is_bot);
                let known = customers.entry(customer).or_insert_with(|| (members.clone(), 0));
                assert_eq!(known.0, members);
                known.1 += 1;
            }
        }
        assert!((300..1_200).contains(&bots), "{bots} bots");
        assert!((4_000..8_000).contains(&six), "{six} by IPv6");
        assert!(agents.len() > 60 && agents.iter().all(|agent| !agent.contains('{')), "{agents:?}");
        let most = customers.values().map(|(_, sessions)| *sessions).max().expect("customers");
        assert!(most > 300 && customers.len() > 3_000, "{most} of {}", customers.len());
    }
}
