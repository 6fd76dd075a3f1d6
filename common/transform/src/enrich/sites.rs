//! Well-known sites that lead to others, by the end of their host. Add to them as new ones come up.

use super::referrer::ReferrerKind::{self, Email, Other, Search, Social};

/// The kind of a site by its host, in small letters; `None` if it isn't listed. A listed domain stands for all hosts
/// in it, unless a longer one is listed as well.
pub(super) fn kind(host: &str) -> Option<ReferrerKind> {
    let mut domain = host;
    loop {
        if let Ok(index) = DOMAINS.binary_search_by(|(known, _)| (*known).cmp(domain)) {
            return Some(DOMAINS[index].1);
        }
        if let Some((brand, suffix)) = domain.split_once('.')
            && is_country_suffix(suffix)
            && let Some(kind) = brand_kind(brand, host[..host.len() - domain.len()].trim_end_matches('.'))
        {
            return Some(kind);
        }
        domain = domain.split_once('.')?.1;
    }
}

/// A site that has a domain in most countries. `subdomain`: what stands before its domain, often nothing.
fn brand_kind(brand: &str, subdomain: &str) -> Option<ReferrerKind> {
    let is_mail = subdomain == "mail" || subdomain.ends_with(".mail");
    match brand {
        "google" => Some(match subdomain {
            "" | "www" | "m" | "images" | "search" | "encrypted" | "lens" | "cse" | "scholar" | "news" => {
                Search
            }
            _ if is_mail => Email,
            "groups" => Social,
            _ => Other,
        }),
        "yandex" => Some(if is_mail { Email } else { Search }),
        "yahoo" => Some(match subdomain {
            _ if subdomain == "search" || subdomain.ends_with(".search") => Search,
            _ if is_mail => Email,
            _ => Other,
        }),
        "pinterest" => Some(Social),
        _ => None,
    }
}

/// `com`, a country's two letters, or both: under other ends the name may be anybody's.
fn is_country_suffix(suffix: &str) -> bool {
    let is_country = |label: &str| label.len() == 2 && label.bytes().all(|byte| byte.is_ascii_lowercase());
    match suffix.split_once('.') {
        None => suffix == "com" || is_country(suffix),
        Some((second, country)) => matches!(second, "com" | "co") && is_country(country),
    }
}

/// In the order of their text.
const DOMAINS: &[(&str, ReferrerKind)] = &[
    ("ask.com", Search),
    ("baidu.com", Search),
    ("bing.com", Search),
    ("bsky.app", Social),
    ("coccoc.com", Search),
    ("com.duckduckgo.mobile.android", Search),
    ("com.facebook.katana", Social),
    ("com.google.android.gm", Email),
    ("com.google.android.googlequicksearchbox", Search),
    ("com.instagram.android", Social),
    ("com.linkedin.android", Social),
    ("com.microsoft.bing", Search),
    ("com.microsoft.office.outlook", Email),
    ("com.pinterest", Social),
    ("com.reddit.frontpage", Social),
    ("com.snapchat.android", Social),
    ("com.twitter.android", Social),
    ("com.whatsapp", Social),
    ("com.yahoo.mobile.client.android.mail", Email),
    ("com.zhiliaoapp.musically", Social),
    ("deref-gmx.com", Email),
    ("deref-gmx.net", Email),
    ("deref-mail.com", Email),
    ("deref-web.de", Email),
    ("discord.com", Social),
    ("discord.gg", Social),
    ("disqus.com", Social),
    ("dogpile.com", Search),
    ("douban.com", Social),
    ("duckduckgo.com", Search),
    ("ecosia.org", Search),
    ("facebook.com", Social),
    ("fastmail.com", Email),
    ("fb.com", Social),
    ("fb.me", Social),
    ("flipboard.com", Social),
    ("gmx.com", Email),
    ("gmx.de", Email),
    ("gmx.net", Email),
    ("hey.com", Email),
    ("hotmail.com", Email),
    ("instagram.com", Social),
    ("kagi.com", Search),
    ("kakao.com", Social),
    ("line.me", Social),
    ("linkedin.com", Social),
    ("lnkd.in", Social),
    ("mail.live.com", Email),
    ("mail.ru", Email),
    ("mastodon.online", Social),
    ("mastodon.social", Social),
    ("messagerie.orange.fr", Email),
    ("messenger.com", Social),
    ("metager.de", Search),
    ("metager.org", Search),
    ("mixi.jp", Social),
    ("mojeek.com", Search),
    ("news.ycombinator.com", Social),
    ("nextdoor.com", Social),
    ("nova.rambler.ru", Search),
    ("ok.ru", Social),
    ("org.telegram.messenger", Social),
    ("outlook.com", Email),
    ("outlook.live.com", Email),
    ("outlook.office.com", Email),
    ("outlook.office365.com", Email),
    ("petalsearch.com", Search),
    ("pin.it", Social),
    ("presearch.com", Search),
    ("proton.me", Email),
    ("protonmail.com", Email),
    ("quora.com", Social),
    ("qwant.com", Search),
    ("redd.it", Social),
    ("reddit.com", Social),
    ("search.aol.com", Search),
    ("search.brave.com", Search),
    ("search.daum.net", Search),
    ("search.naver.com", Search),
    ("search.seznam.cz", Search),
    ("searx.be", Search),
    ("sm.cn", Search),
    ("snapchat.com", Social),
    ("so.com", Search),
    ("sogou.com", Search),
    ("startpage.com", Search),
    ("suche.gmx.net", Search),
    ("suche.t-online.de", Search),
    ("suche.web.de", Search),
    ("swisscows.com", Search),
    ("t.co", Social),
    ("t.me", Social),
    ("telegram.me", Social),
    ("threads.com", Social),
    ("threads.net", Social),
    ("tiktok.com", Social),
    ("tumblr.com", Social),
    ("tuta.com", Email),
    ("tutanota.com", Email),
    ("twitch.tv", Social),
    ("twitter.com", Social),
    ("vk.com", Social),
    ("wa.me", Social),
    ("web.telegram.org", Social),
    ("weibo.cn", Social),
    ("weibo.com", Social),
    ("weixin.qq.com", Social),
    ("whatsapp.com", Social),
    ("x.com", Social),
    ("xiaohongshu.com", Social),
    ("xing.com", Social),
    ("ya.ru", Search),
    ("yep.com", Search),
    ("you.com", Search),
    ("youtu.be", Social),
    ("youtube.com", Social),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order() {
        assert!(DOMAINS.is_sorted_by(|(one, _), (other, _)| one < other));
    }

    #[test]
    fn sites_are_known_by_their_domain() {
        for (host, expected) in [
            ("google.com", Some(Search)),
            ("www.google.co.uk", Some(Search)),
            ("www.google.com.br", Some(Search)),
            ("google.fr", Some(Search)),
            ("mail.google.com", Some(Email)),
            ("docs.google.com", Some(Other)),
            ("groups.google.com", Some(Social)),
            ("google.evil.example", None),
            ("google.com.evil.example", None),
            ("notgoogle.com", None),
            ("google.dev", None),
            ("google", None),
            ("de.search.yahoo.com", Some(Search)),
            ("search.yahoo.co.jp", Some(Search)),
            ("mail.yahoo.com", Some(Email)),
            ("de.mail.yahoo.com", Some(Email)),
            ("www.yahoo.com", Some(Other)),
            ("mail.yandex.ru", Some(Email)),
            ("yandex.com.tr", Some(Search)),
            ("www.bing.com", Some(Search)),
            ("search.naver.com", Some(Search)),
            ("blog.naver.com", None),
            ("l.facebook.com", Some(Social)),
            ("lm.facebook.com", Some(Social)),
            ("t.co", Some(Social)),
            ("not.co", None),
            ("pinterest.co.uk", Some(Social)),
            ("outlook.live.com", Some(Email)),
            ("live.com", None),
            ("com.google.android.gm", Some(Email)),
            ("com", None),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(kind(host), expected, "{host}");
        }
    }
}
