//! Made events, with the skew of a real shop: few customers and pages make most of the traffic.

use std::io::Write;

use rand::RngExt;
use rand::rngs::StdRng;

const CUSTOMERS: f64 = 50_000.0;
const PRODUCTS: f64 = 2_000.0;

const USER_AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
];
const PAGES: [&str; 10] =
    ["/home", "/shoes", "/search", "/cart", "/shirts", "/sale", "/checkout", "/account", "/help", "/stores"];
const ELEMENTS: [&str; 6] = ["add-to-cart", "nav-shoes", "size-42", "banner-top", "buy-now", "menu"];
const REFERRERS: [&str; 4] = [
    "https://www.search.example/",
    "https://shop.example.com/home",
    "https://news.example.org/deals",
    "https://mail.example.net/",
];
/// Source, medium and name.
const CAMPAIGNS: [(&str, &str, &str); 4] = [
    ("search", "cpc", "running"),
    ("newsletter", "email", "january_sale"),
    ("social", "post", "new+arrivals"),
    ("partner", "banner", "spring"),
];
/// Of 256 customers, how many have an IPv6 address.
const IPV6_SHARE: u64 = 64;

/// Writes event `number` of the run, as of `timestamp`.
pub(super) fn write(random: &mut StdRng, run: &str, number: u64, timestamp: &str, out: &mut Vec<u8>) {
    let customer = skewed(random, CUSTOMERS, 3);
    // What belongs to a customer stays the same.
    let traits = customer.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(20);
    let kind = match random.random_range(0..100) {
        0..70 => "view",
        70..95 => "click",
        _ => "purchase",
    };
    let product = skewed(random, PRODUCTS, 2);
    // Writing to memory can't fail.
    let _ = write!(
        out,
        r#"{{"id":{},"type":"{kind}","package_id":"{run}-{number}","event":{{"user_agent":"{}","ip":"{}","customer_id":{},"timestamp":"{timestamp}","page":"{}","session_id":"s-{:08x}""#,
        number + 1,
        pick(&USER_AGENTS, (traits >> 8) % 13),
        address(traits),
        10_000 + customer,
        page(random, product),
        ((traits >> 13) ^ (number >> 16)) & 0xffff_ffff,
    );
    if random.random_bool(0.4) {
        let _ = write!(out, r#","referrer":"{}""#, pick(&REFERRERS, random.random_range(0..4)));
    }
    match kind {
        "click" => {
            let _ = write!(
                out,
                r#","element":"{}","product_id":"p-{product}""#,
                pick(&ELEMENTS, random.random_range(0..6))
            );
        }
        "purchase" => {
            let cents: u32 = random.random_range(499..50_000);
            let _ = write!(
                out,
                r#","product_id":"p-{product}","order_id":"o-{run}-{number}","quantity":{},"price":{}.{:02},"currency":"EUR""#,
                random.random_range(1..5),
                cents / 100,
                cents % 100
            );
        }
        _ => {}
    }
    out.extend_from_slice(b"}}");
}

/// A number below `limit`; the higher the power, the more of them are small.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to the limit")]
fn skewed(random: &mut StdRng, limit: f64, power: i32) -> u64 {
    (random.random_range(0.0..1.0_f64).powi(power) * limit) as u64
}

/// Beyond the end the first ones come again: they are the frequent ones.
fn pick(choices: &[&'static str], index: u64) -> &'static str {
    choices[usize::try_from(index).unwrap_or(0) % choices.len()]
}

fn page(random: &mut StdRng, product: u64) -> String {
    let page = pick(&PAGES, skewed(random, 10.0, 2));
    match random.random_range(0..100) {
        0..15 => {
            let (source, medium, campaign) = CAMPAIGNS[random.random_range(0..CAMPAIGNS.len())];
            format!(
                "https://shop.example.com{page}?utm_source={source}&utm_medium={medium}&utm_campaign={campaign}"
            )
        }
        15..50 => format!("/product/p-{product}"),
        _ => page.to_owned(),
    }
}

/// From the ranges that are kept for documentation (RFC 5737, RFC 3849).
fn address(traits: u64) -> String {
    if traits & 0xff < IPV6_SHARE {
        return format!("2001:db8:{:x}::{:x}", (traits >> 16) & 0xffff, ((traits >> 32) & 0xffff) | 1);
    }
    let network = ["192.0.2", "198.51.100", "203.0.113"];
    format!("{}.{}", pick(&network, (traits >> 16) % 3), 1 + (traits >> 24) % 254)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn events_are_valid_and_look_like_traffic() {
        let mut random = StdRng::seed_from_u64(1);
        let mut bytes = 0;
        let mut kinds = std::collections::BTreeMap::new();
        for number in 0..2000 {
            let mut event = Vec::new();
            write(&mut random, "run", number, "2024-01-15T10:30:00.000Z", &mut event);
            bytes += event.len();
            let checked = millrace_common::event::check(&event).expect("valid");
            *kinds.entry(checked.kind().to_owned()).or_insert(0) += 1;
            let json: serde_json::Value = serde_json::from_slice(&event).expect("JSON");
            json["event"]["ip"].as_str().expect("text").parse::<std::net::IpAddr>().expect("an address");
        }
        assert!((250..700).contains(&(bytes / 2000)), "{} bytes an event", bytes / 2000);
        assert!(kinds["view"] > kinds["click"] && kinds["click"] > kinds["purchase"], "{kinds:?}");
    }
}
