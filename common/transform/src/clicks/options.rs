//! The options of `clicks`: which events, which of their fields, and what is found out about them.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::event::{FIELDS, schema};
use millrace_common::types::Problem;
use serde_json::{Map, Value};

use crate::Options;

/// What can be found out about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Enricher {
    UserAgent,
    Page,
    Referrer,
    Country,
}

impl Enricher {
    pub(super) const ALL: [Self; 4] = [Self::UserAgent, Self::Page, Self::Referrer, Self::Country];

    fn name(self) -> &'static str {
        match self {
            Self::UserAgent => "user_agent",
            Self::Page => "page",
            Self::Referrer => "referrer",
            Self::Country => "country",
        }
    }
}

/// The options, read and sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClicksOptions {
    /// Only events of these types are kept; all if there are none.
    pub(super) types: BTreeSet<String>,
    /// Members of `event` that go to no sink.
    pub(super) drop: BTreeSet<String>,
    /// Members of `event` with a column of their own, and the name that they get.
    pub(super) rename: BTreeMap<String, String>,
    pub(super) enrichers: BTreeSet<Enricher>,
    /// Hosts whose pages are ours: a referrer there is internal.
    pub(super) own_hosts: Vec<String>,
    /// File on each worker's host.
    pub(super) country_database: Option<String>,
}

/// Reads the options and everything that is wrong with them.
pub(super) fn read(given: &Map<String, Value>) -> (ClicksOptions, Vec<Problem>) {
    let mut options = Options::new(given);
    let types = options.texts("types", "a list of event types, such as [\"click\", \"purchase\"]");
    let drop = options.texts("drop", "a list of members of event, such as [\"ip\"]");
    let rename = options
        .table("rename", "a table of members of event and their new names, such as { ip = \"address\" }");
    let enrichers = given.contains_key("enrichers").then(|| {
        let names = Enricher::ALL.map(Enricher::name).join(", ");
        options.texts("enrichers", &format!("a list of enrichers: {names}"))
    });
    let own_hosts = options.texts("own_hosts", "a list of host names, such as [\"shop.example\"]");
    let country_database = options.text("country_database", "the path of an MMDB file on each worker's host");

    if drop.iter().any(|name| name == "timestamp") {
        options.problem("drop", "timestamp", "a member other than timestamp: rows are filed by it");
    }
    let columns: BTreeSet<String> = schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut taken = BTreeSet::new();
    for (from, to) in &rename {
        let key = format!("rename.{from}");
        if !FIELDS.iter().any(|field| field.name == from) {
            let names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
            options.problem(&key, to, format!("a member that has a column: {}", names.join(", ")));
        } else if drop.contains(from) {
            options.problem(&key, to, format!("a member that is not dropped, but {from} is"));
        }
        let plain = !to.is_empty()
            && to.len() <= 64
            && !to.starts_with(|first: char| first.is_ascii_digit())
            && to.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !plain {
            options.problem(&key, to, "a name of at most 64 small letters, digits and _");
        } else if columns.contains(to) || to == "timestamp" || !taken.insert(to.clone()) {
            options.problem(&key, to, "a name that no other column has");
        }
    }
    let known = |name: &String| Enricher::ALL.into_iter().find(|enricher| enricher.name() == name);
    let mut chosen = BTreeSet::new();
    match &enrichers {
        None => {
            chosen.extend([Enricher::UserAgent, Enricher::Page, Enricher::Referrer]);
            chosen.extend(country_database.as_ref().map(|_| Enricher::Country));
        }
        Some(names) => {
            for name in names {
                match known(name) {
                    Some(enricher) => {
                        chosen.insert(enricher);
                    }
                    None => {
                        let names = Enricher::ALL.map(Enricher::name).join(", ");
                        options.problem("enrichers", name, format!("some of {names}"));
                    }
                }
            }
        }
    }
    if chosen.contains(&Enricher::Country) && country_database.is_none() {
        options.problem("enrichers", "country", "country_database beside it: the path of an MMDB file");
    }
    for host in own_hosts.iter().filter(|host| host.is_empty() || host.contains(['/', ':', ' '])) {
        options.problem("own_hosts", host, "a host name without scheme, port and path");
    }
    let read = ClicksOptions {
        types: types.into_iter().collect(),
        drop: drop.into_iter().collect(),
        rename,
        enrichers: chosen,
        own_hosts,
        country_database,
    };
    (read, options.finish())
}
