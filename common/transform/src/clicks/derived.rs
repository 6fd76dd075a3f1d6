//! What is found out about an event, in the order of its columns.

use std::borrow::Cow;

use millrace_common::event::column;

use super::options::{ClicksOptions, Enricher};
use super::page::Page;
use super::user_agent::UserAgents;

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

/// What the client said that more is found out from.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) user_agent: Option<&'a str>,
    pub(super) page: Option<&'a str>,
    pub(super) referrer: Option<&'a str>,
    pub(super) ip: Option<&'a str>,
}

/// The derived values of one event.
#[derive(Debug, Default)]
pub(super) struct Derived<'a> {
    /// In the order of [`TEXTS`].
    pub(super) texts: [Option<Cow<'a, str>>; TEXTS.len()],
    pub(super) is_bot: Option<bool>,
}

/// The enrichers of one slot, with their caches.
#[derive(Debug)]
pub(super) struct Enrichment {
    user_agents: Option<UserAgents>,
    pages: bool,
}

impl Enrichment {
    pub(super) fn new(options: &ClicksOptions) -> Result<Self, String> {
        let on = |enricher| options.enrichers.contains(&enricher);
        Ok(Self { user_agents: on(Enricher::UserAgent).then(UserAgents::default), pages: on(Enricher::Page) })
    }

    pub(super) fn derive<'a>(&'a mut self, known: &Known<'a>) -> Derived<'a> {
        let mut derived = Derived::default();
        if self.pages
            && let Some(page) = known.page
        {
            let Page { host, path, utm } = Page::read(page);
            derived.texts[0] = host;
            derived.texts[1] = Some(Cow::Borrowed(path));
            for (text, value) in derived.texts[2..7].iter_mut().zip(utm) {
                *text = value;
            }
        }
        if let (Some(agents), Some(user_agent)) = (&mut self.user_agents, known.user_agent) {
            let agent = agents.read(user_agent);
            derived.texts[9] = agent.browser.as_deref().map(Cow::Borrowed);
            derived.texts[10] = agent.os.as_deref().map(Cow::Borrowed);
            derived.texts[11] = agent.device_category.as_deref().map(Cow::Borrowed);
            derived.is_bot = Some(agent.is_bot);
        }
        derived
    }

    /// Bytes that the caches hold.
    pub(super) fn memory(&self) -> usize {
        self.user_agents.as_ref().map_or(0, UserAgents::memory)
    }
}
