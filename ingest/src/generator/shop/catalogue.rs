//! What the shop has: its products and its pages, each with its text ready to be copied. A few products are in
//! everybody's eye, most are hardly seen.

use rand::RngExt;
use rand::rngs::StdRng;

pub(super) const HOST: &str = "https://shop.example.com";

const PRODUCTS: usize = 2_400;
/// Folder and what a product of it is called.
const CATEGORIES: [(&str, &str); 12] = [
    ("shoes", "runner"),
    ("jackets", "jacket"),
    ("bags", "backpack"),
    ("shirts", "shirt"),
    ("trousers", "trousers"),
    ("dresses", "dress"),
    ("hats", "beanie"),
    ("watches", "watch"),
    ("socks", "socks"),
    ("gloves", "gloves"),
    ("tents", "tent"),
    ("bottles", "flask"),
];
const STYLES: [&str; 20] = [
    "trail", "alpine", "urban", "classic", "light", "rain", "merino", "summit", "coastal", "nordic", "retro",
    "storm", "canvas", "linen", "desert", "harbour", "forest", "polar", "weekend", "travel",
];
const POSTS: [&str; 8] = [
    "how-to-lace-boots",
    "leap-day",
    "washing-down-jackets",
    "ten-day-hikes",
    "packing-for-a-weekend",
    "café-rides",
    "sizing-guide",
    "our-repair-shop",
];
/// As they stand in an address.
const SEARCHES: [&str; 10] = [
    "rain+jacket",
    "trail+running+shoes",
    "backpack+40l",
    "merino",
    "gants+d%27hiver",
    "wanderschuhe",
    "gift",
    "tent+2+persons",
    "socks",
    "caf%C3%A9+racer",
];

/// A page of the shop. Copied about freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Home,
    Sale,
    Search,
    Cart,
    Checkout,
    Done,
    Account,
    Help,
    Stores,
    Robots,
    Post(usize),
    Category(usize),
    Product(usize),
}

const FIXED: [(Page, &str); 10] = [
    (Page::Home, "/home"),
    (Page::Sale, "/sale"),
    (Page::Search, "/search"),
    (Page::Cart, "/cart"),
    (Page::Checkout, "/checkout"),
    (Page::Done, "/checkout/done"),
    (Page::Account, "/account/orders"),
    (Page::Help, "/help"),
    (Page::Stores, "/stores"),
    (Page::Robots, "/robots.txt"),
];

#[derive(Debug)]
pub(super) struct Product {
    /// As it stands in an event.
    pub(super) id: String,
    pub(super) cents: u32,
    /// The price as a JSON number.
    pub(super) price: String,
}

#[derive(Debug)]
pub(super) struct Catalogue {
    products: Vec<Product>,
    /// Paths in the order of [`Catalogue::index`].
    paths: Vec<String>,
}

impl Catalogue {
    pub(super) fn new() -> Self {
        let products = (0..PRODUCTS).map(Product::new).collect();
        let fixed = FIXED.iter().map(|(_, path)| (*path).to_owned());
        let posts = POSTS.iter().map(|post| format!("/blog/{post}"));
        let categories = CATEGORIES.iter().map(|(folder, _)| format!("/{folder}"));
        let of_products = (0..PRODUCTS).map(|number| {
            let (folder, what) = CATEGORIES[number % CATEGORIES.len()];
            let style = STYLES[number / CATEGORIES.len() % STYLES.len()];
            format!("/{folder}/{style}-{what}-{number}")
        });
        Self { products, paths: fixed.chain(posts).chain(categories).chain(of_products).collect() }
    }

    /// All paths; [`Catalogue::index`] says which is whose.
    pub(super) fn paths(&self) -> &[String] {
        &self.paths
    }

    pub(super) fn path(&self, page: Page) -> &str {
        &self.paths[Self::index(page)]
    }

    pub(super) fn index(page: Page) -> usize {
        let posts = FIXED.len();
        let categories = posts + POSTS.len();
        match page {
            Page::Post(number) => posts + number,
            Page::Category(number) => categories + number,
            Page::Product(number) => categories + CATEGORIES.len() + number,
            fixed => FIXED.iter().position(|(page, _)| *page == fixed).unwrap_or(0),
        }
    }

    pub(super) fn product(&self, number: usize) -> &Product {
        &self.products[number]
    }
}

impl Product {
    fn new(number: usize) -> Self {
        // Prices have no order, and are the same in every run.
        let spread = (number * 7_919 + 13) % 240;
        let whole = u32::try_from(5 + spread).unwrap_or(5);
        let cents = [95, 50, 0, 99][number % 4];
        let price = match cents {
            0 => whole.to_string(),
            50 => format!("{whole}.5"),
            cents => format!("{whole}.{cents}"),
        };
        Self { id: format!("p-{number:04}"), cents: whole * 100 + cents, price }
    }
}

/// A product as visitors choose it.
pub(super) fn product(random: &mut StdRng) -> usize {
    skewed(random, PRODUCTS)
}

/// One of the products of `category`.
pub(super) fn product_of(random: &mut StdRng, category: usize) -> usize {
    skewed(random, PRODUCTS / CATEGORIES.len()) * CATEGORIES.len() + category
}

pub(super) fn category(random: &mut StdRng) -> usize {
    skewed(random, CATEGORIES.len())
}

/// The category in which product `number` lies.
pub(super) fn category_of(number: usize) -> usize {
    number % CATEGORIES.len()
}

pub(super) fn post(random: &mut StdRng) -> usize {
    skewed(random, POSTS.len())
}

pub(super) fn search(random: &mut StdRng) -> &'static str {
    SEARCHES[skewed(random, SEARCHES.len())]
}

/// A number below `limit` by Zipf's law of exponent 1, near enough: the chance to lie below k is log k / log limit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "from 0 to the limit"
)]
pub(super) fn skewed(random: &mut StdRng, limit: usize) -> usize {
    let position = ((limit + 1) as f64).powf(random.random_range(0.0..1.0));
    (position as usize).saturating_sub(1).min(limit - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn every_page_has_a_path_of_its_own() {
        let catalogue = Catalogue::new();
        assert_eq!(catalogue.paths().iter().collect::<BTreeSet<_>>().len(), catalogue.paths().len());
        for (page, path) in FIXED {
            assert_eq!(catalogue.path(page), path);
        }
        assert_eq!(catalogue.path(Page::Post(1)), "/blog/leap-day");
        assert_eq!(catalogue.path(Page::Category(11)), "/bottles");
        assert_eq!(catalogue.path(Page::Product(PRODUCTS - 1)), catalogue.paths().last().expect("paths"));
        for number in [0, 17, PRODUCTS - 1] {
            let folder = catalogue.path(Page::Category(category_of(number)));
            assert!(catalogue.path(Page::Product(number)).starts_with(&format!("{folder}/")));
        }
    }

    #[test]
    fn a_price_is_the_same_number_in_cents() {
        let catalogue = Catalogue::new();
        for number in 0..PRODUCTS {
            let product = catalogue.product(number);
            let price: f64 = product.price.parse().expect("a number");
            assert_eq!((price * 100.0).round(), f64::from(product.cents), "{}", product.price);
        }
    }

    #[test]
    fn few_products_make_most_of_the_traffic_and_nearly_all_are_seen() {
        let mut random = StdRng::seed_from_u64(3);
        let mut counts = vec![0_u32; PRODUCTS];
        for _ in 0..100_000 {
            counts[product(&mut random)] += 1;
        }
        assert!(counts[0] > 5_000 && counts[0] > 15 * counts[50], "{:?}", &counts[..51]);
        assert!(counts.iter().filter(|count| **count > 0).count() > PRODUCTS * 9 / 10);
        for category in 0..CATEGORIES.len() {
            let number = product_of(&mut random, category);
            assert!(number < PRODUCTS && category_of(number) == category);
        }
    }
}
