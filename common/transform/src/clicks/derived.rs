//! What is found out about an event, as the columns and the enriched event have it.

use std::borrow::Cow;

use millrace_common::event::column;

use super::options::Enricher;
use crate::enrich::{CountryCode, Found, Page, ReferrerKind};

/// The derived columns of text, each with the enricher that fills it.
pub(super) const TEXTS: [(&str, Enricher); 14] = [
    (column::PAGE_HOST, Enricher::Page),
    (column::PAGE_PATH, Enricher::Page),
    (column::UTM[0], Enricher::Page),
    (column::UTM[1], Enricher::Page),
    (column::UTM[2], Enricher::Page),
    (column::UTM[3], Enricher::Page),
    (column::UTM[4], Enricher::Page),
    (column::CLICK_ID, Enricher::Page),
    (column::CLICK_ID_KIND, Enricher::Page),
    (column::BROWSER, Enricher::UserAgent),
    (column::OS, Enricher::UserAgent),
    (column::DEVICE_CATEGORY, Enricher::UserAgent),
    (column::REFERRER_KIND, Enricher::Referrer),
    (column::COUNTRY, Enricher::Country),
];

/// The derived values of one event.
#[derive(Debug)]
pub(super) struct Derived<'a> {
    found: &'a Found<'a>,
    pub(super) is_bot: Option<bool>,
}

impl<'a> Derived<'a> {
    pub(super) fn of(found: &'a Found<'a>) -> Self {
        Self { found, is_bot: found.user_agent.is_bot }
    }

    /// In the order of [`TEXTS`].
    pub(super) fn texts(&self) -> [Option<&'a str>; TEXTS.len()] {
        let Found { page, user_agent, referrer_kind, country } = self.found;
        let (host, path, utm, click_id) = match page {
            Some(Page { host, path, utm, click_id }) => {
                let utm = utm.each_ref().map(|value| value.as_deref());
                (host.as_deref(), Some(*path), utm, click_id.as_ref())
            }
            None => (None, None, [None; column::UTM.len()], None),
        };
        let [source, medium, campaign, term, content] = utm;
        [
            host,
            path,
            source,
            medium,
            campaign,
            term,
            content,
            click_id.map(|(_, value): &(_, Cow<'_, str>)| &**value),
            click_id.map(|(kind, _)| *kind),
            user_agent.browser,
            user_agent.os,
            user_agent.device_category,
            referrer_kind.map(ReferrerKind::name),
            country.as_ref().map(CountryCode::as_str),
        ]
    }
}
