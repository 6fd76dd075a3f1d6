//! What can be found out about an event from what the client said: browser and system, the parts of the page's
//! address, the kind of place that the visitor came from, and the country.
//!
//! What is worked out for a text is remembered by the slot, in bounded memory; the same text always gets the same
//! answer from the same settings. Refuses nothing: what can't be found out is absent.

mod address;
mod agent_lists;
mod agents;
mod cache;
mod country;
mod page;
mod referrer;
mod sites;

use std::sync::Arc;

use self::address::Address;
pub use self::agents::UserAgent;
use self::agents::UserAgents;
use self::country::KnownCountries;
pub use self::country::{Countries, CountryCode, DatabaseError, Databases};
pub use self::page::{CLICK_IDS, Page};
pub use self::referrer::ReferrerKind;
use self::referrer::Referrers;

/// Bytes that what is known of user agents may take: some thousands of them.
pub const USER_AGENTS_BYTES: u32 = 1 << 20;
/// Bytes that what is known of referrers' hosts may take.
pub const REFERRERS_BYTES: u32 = 1 << 18;
/// Bytes that what is known of addresses may take: nearly thirty thousand of them.
pub const ADDRESSES_BYTES: u32 = 1 << 20;

/// What is to be found out.
#[derive(Debug, Default, Clone)]
pub struct Settings {
    pub user_agent: bool,
    pub page: bool,
    pub referrer: bool,
    /// The database, if countries are wanted.
    pub countries: Option<Arc<Countries>>,
    /// Hosts whose pages are ours, each with all hosts in it: a referrer there is internal.
    pub own_hosts: Vec<String>,
}

/// What the client said.
#[derive(Debug, Default, Clone, Copy)]
pub struct Said<'a> {
    pub user_agent: Option<&'a str>,
    pub page: Option<&'a str>,
    pub referrer: Option<&'a str>,
    pub ip: Option<&'a str>,
}

/// What was found out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// `None` if the client told no page.
    pub page: Option<Page<'a>>,
    pub user_agent: UserAgent,
    pub referrer_kind: Option<ReferrerKind>,
    pub country: Option<CountryCode>,
}

/// Finds out about events, and remembers. Each slot has one of its own.
#[derive(Debug)]
pub struct Enrichers {
    user_agents: Option<UserAgents>,
    pages: bool,
    referrers: Option<Referrers>,
    countries: Option<KnownCountries>,
}

impl Enrichers {
    pub fn new(settings: Settings) -> Self {
        Self {
            user_agents: settings.user_agent.then(|| UserAgents::new(USER_AGENTS_BYTES)),
            pages: settings.page,
            referrers: settings.referrer.then(|| Referrers::new(&settings.own_hosts, REFERRERS_BYTES)),
            countries: settings.countries.map(|countries| KnownCountries::new(countries, ADDRESSES_BYTES)),
        }
    }

    pub fn find<'a>(&mut self, said: &Said<'a>) -> Found<'a> {
        let user_agent = match (&mut self.user_agents, said.user_agent) {
            (Some(agents), Some(text)) => agents.read(text),
            _ => UserAgent::default(),
        };
        let is_page_read = self.pages || self.referrers.is_some();
        let page = said.page.filter(|_| is_page_read).map(Address::read);
        let referrer_kind = match &mut self.referrers {
            Some(referrers) => referrers.read(said.referrer, page.and_then(|page| page.host)),
            None => None,
        };
        let country = match (&mut self.countries, said.ip) {
            (Some(countries), Some(ip)) => countries.find(ip),
            _ => None,
        };
        Found { page: page.filter(|_| self.pages).map(Page::of), user_agent, referrer_kind, country }
    }

    /// Bytes of what is remembered, without the database of countries, which all slots share.
    pub fn memory(&self) -> usize {
        self.user_agents.as_ref().map_or(0, UserAgents::memory)
            + self.referrers.as_ref().map_or(0, Referrers::memory)
            + self.countries.as_ref().map_or(0, KnownCountries::memory)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SAID: Said<'_> = Said {
        user_agent: Some("curl/8.5.0"),
        page: Some("https://shop.example/a?utm_source=news"),
        referrer: Some("https://www.google.com/"),
        ip: Some("203.0.113.9"),
    };

    #[test]
    fn only_what_is_wanted_is_found_out() {
        let nothing = Enrichers::new(Settings::default()).find(&SAID);
        assert_eq!(nothing, Found::default());

        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/countries.mmdb");
        let mut enrichers = Enrichers::new(Settings {
            user_agent: true,
            page: true,
            referrer: true,
            countries: Some(Arc::new(Countries::open(&file).expect("a database"))),
            own_hosts: Vec::new(),
        });
        for _ in 0..2 {
            let found = enrichers.find(&SAID);
            assert_eq!(found.user_agent.browser, Some("curl"));
            assert_eq!(found.page.expect("a page").utm[0].as_deref(), Some("news"));
            assert_eq!(found.referrer_kind, Some(ReferrerKind::Search));
            assert_eq!(found.country.expect("a country").as_str(), "US");
        }
        assert_eq!(enrichers.find(&Said::default()).referrer_kind, Some(ReferrerKind::Direct));
    }

    #[test]
    fn ever_new_events_do_not_fill_the_memory() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/countries.mmdb");
        let countries = Some(Arc::new(Countries::open(&file).expect("a database")));
        let settings = Settings { user_agent: true, referrer: true, countries, ..Settings::default() };
        let mut enrichers = Enrichers::new(settings);
        let most = (USER_AGENTS_BYTES + REFERRERS_BYTES + ADDRESSES_BYTES) as usize;
        let mut largest = 0;
        for number in 0..50_000_u32 {
            let user_agent = format!("agent {number} {}", "ä".repeat(number as usize % 1000));
            let referrer = format!("https://{number}.example/");
            let ip = std::net::Ipv4Addr::from(number.wrapping_mul(86_413)).to_string();
            enrichers.find(&Said {
                user_agent: Some(&user_agent),
                page: None,
                referrer: Some(&referrer),
                ip: Some(&ip),
            });
            largest = largest.max(enrichers.memory());
        }
        assert!(largest <= most && largest > most / 2, "{largest} of {most}");
    }
}
