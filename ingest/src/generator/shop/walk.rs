//! How a visitor goes through the shop: a Markov chain whose states are pages, with what is in the cart beside it.

use rand::RngExt;
use rand::rngs::StdRng;

use super::catalogue::{Page, category, category_of, post, product, product_of, search};
use super::weighted;

const FULL_CART: usize = 5;
/// The pages of a crawler's visit.
const CRAWLED: std::ops::Range<u32> = 3..30;

/// What a visitor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Opens the page where the walk is then.
    View,
    Click(&'static str),
    AddToCart(Line),
    /// Buys one of the cart's lines; `number` counts the session's orders.
    Purchase {
        line: Line,
        number: u32,
    },
}

/// A product and how many of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) product: usize,
    pub(super) quantity: u32,
}

#[derive(Debug)]
pub(super) struct Walk {
    at: Page,
    /// What was searched for, or the number of the list's page: as it stands in the address.
    query: Option<&'static str>,
    has_just_added: bool,
    cart: Vec<Line>,
    /// Lines of an order that are still to be told.
    bought: Vec<Line>,
    orders: u32,
    /// Of a crawler: how many pages are left.
    crawl: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Home,
    Category,
    Product,
    Search,
    Sale,
    Post,
    Account,
    Help,
    Stores,
    Click,
    AddToCart,
    RemoveFromCart,
    Cart,
    Checkout,
    Buy,
    Leave,
}

const FROM_HOME: [(u32, Move); 9] = [
    (25, Move::Click),
    (26, Move::Category),
    (14, Move::Product),
    (10, Move::Search),
    (5, Move::Sale),
    (2, Move::Post),
    (2, Move::Stores),
    (1, Move::Help),
    (15, Move::Leave),
];
const FROM_LIST: [(u32, Move); 6] = [
    (20, Move::Click),
    (46, Move::Product),
    (10, Move::Category),
    (5, Move::Search),
    (3, Move::Home),
    (16, Move::Leave),
];
const FROM_PRODUCT: [(u32, Move); 7] = [
    (20, Move::Click),
    (18, Move::AddToCart),
    (25, Move::Product),
    (14, Move::Category),
    (5, Move::Search),
    (3, Move::Home),
    (15, Move::Leave),
];
const AFTER_ADDING: [(u32, Move); 4] =
    [(54, Move::Cart), (20, Move::Product), (14, Move::Category), (12, Move::Leave)];
const FROM_CART: [(u32, Move); 5] = [
    (50, Move::Checkout),
    (14, Move::Product),
    (8, Move::Category),
    (8, Move::RemoveFromCart),
    (20, Move::Leave),
];
const FROM_CHECKOUT: [(u32, Move); 4] =
    [(20, Move::Click), (55, Move::Buy), (7, Move::Cart), (18, Move::Leave)];
const FROM_DONE: [(u32, Move); 4] =
    [(14, Move::Account), (10, Move::Home), (8, Move::Category), (68, Move::Leave)];
const FROM_ELSEWHERE: [(u32, Move); 6] = [
    (20, Move::Click),
    (12, Move::Home),
    (15, Move::Category),
    (12, Move::Product),
    (6, Move::Post),
    (35, Move::Leave),
];
const LANDINGS: [(u32, Move); 6] = [
    (34, Move::Home),
    (19, Move::Category),
    (33, Move::Product),
    (4, Move::Search),
    (5, Move::Sale),
    (5, Move::Post),
];

impl Walk {
    /// A person's walk, at its landing page.
    pub(super) fn begin(random: &mut StdRng) -> Self {
        let mut walk = Self {
            at: Page::Home,
            query: None,
            has_just_added: false,
            cart: Vec::new(),
            bought: Vec::new(),
            orders: 0,
            crawl: None,
        };
        let landing = weighted(random, &LANDINGS);
        walk.go(random, landing);
        walk
    }

    /// A crawler's.
    pub(super) fn crawl(random: &mut StdRng) -> Self {
        let crawl = Some(random.random_range(CRAWLED));
        Self { at: Page::Robots, query: None, crawl, ..Self::begin(random) }
    }

    /// Where the visitor is.
    pub(super) fn at(&self) -> Page {
        self.at
    }

    pub(super) fn query(&self) -> Option<&'static str> {
        self.query
    }

    /// What the visitor does next; `None` when the visit is over.
    pub(super) fn step(&mut self, random: &mut StdRng) -> Option<Action> {
        if let Some(left) = self.crawl {
            self.crawl = Some(left.checked_sub(1)?);
            let to = if random.random_bool(0.8) { Move::Product } else { Move::Category };
            return self.go(random, to);
        }
        if let Some(line) = self.bought.pop() {
            return Some(Action::Purchase { line, number: self.orders });
        }
        let from: &[(u32, Move)] = match self.at {
            Page::Home => &FROM_HOME,
            Page::Category(_) | Page::Search | Page::Sale => &FROM_LIST,
            Page::Product(_) if self.has_just_added => &AFTER_ADDING,
            Page::Product(_) => &FROM_PRODUCT,
            Page::Cart => &FROM_CART,
            Page::Checkout => &FROM_CHECKOUT,
            Page::Done => &FROM_DONE,
            Page::Post(_) | Page::Account | Page::Help | Page::Stores | Page::Robots => &FROM_ELSEWHERE,
        };
        let to = weighted(random, from);
        self.has_just_added = false;
        self.go(random, to)
    }

    fn go(&mut self, random: &mut StdRng, to: Move) -> Option<Action> {
        let query = self.query.take();
        self.at = match to {
            Move::Home => Page::Home,
            Move::Category => {
                self.query = random.random_bool(0.15).then_some("page=2");
                Page::Category(category(random))
            }
            Move::Product => Page::Product(match self.at {
                Page::Category(number) => product_of(random, number),
                Page::Product(number) if random.random_bool(0.6) => product_of(random, category_of(number)),
                _ => product(random),
            }),
            Move::Search => {
                self.query = Some(search(random));
                Page::Search
            }
            Move::Sale => Page::Sale,
            Move::Post => Page::Post(post(random)),
            Move::Account => Page::Account,
            Move::Help => Page::Help,
            Move::Stores => Page::Stores,
            Move::Cart => Page::Cart,
            Move::Checkout if self.cart.is_empty() => Page::Cart,
            Move::Checkout => Page::Checkout,
            Move::Click => {
                self.query = query;
                return Some(Action::Click(self.element(random)));
            }
            Move::RemoveFromCart => {
                self.cart.pop();
                return Some(Action::Click("remove-from-cart"));
            }
            Move::AddToCart => {
                // Only from a product's page.
                let Page::Product(product) = self.at else { return None };
                let quantity = if random.random_bool(0.85) { 1 } else { random.random_range(2..5) };
                let line = Line { product, quantity };
                if self.cart.len() < FULL_CART {
                    self.cart.push(line);
                }
                self.has_just_added = true;
                return Some(Action::AddToCart(line));
            }
            Move::Buy => {
                self.at = Page::Done;
                self.orders += 1;
                self.bought = std::mem::take(&mut self.cart);
                let line = self.bought.pop()?;
                return Some(Action::Purchase { line, number: self.orders });
            }
            Move::Leave => return None,
        };
        Some(Action::View)
    }

    fn element(&self, random: &mut StdRng) -> &'static str {
        let elements: &[&str] = match self.at {
            Page::Product(_) => &["size-42", "photo-2", "reviews", "size-guide", "wish-list", "itinéraire"],
            Page::Category(_) | Page::Search | Page::Sale => {
                &["filter-size", "sort-price", "next-page", "colour-blue"]
            }
            Page::Checkout => &["pay-card", "pay-invoice", "address", "voucher"],
            _ => &["nav-shoes", "banner-top", "menu", "search-box", "newsletter", "footer-imprint"],
        };
        elements[random.random_range(0..elements.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn visits_end_and_nothing_is_bought_that_was_not_added() {
        let mut random = StdRng::seed_from_u64(1);
        let (mut steps, mut added, mut orders, mut bounced) = (0_u32, 0_u32, 0_u32, 0_u32);
        for _ in 0..10_000 {
            let mut walk = Walk::begin(&mut random);
            let mut cart = Vec::new();
            let (mut length, mut last_order) = (1, 0);
            while let Some(action) = walk.step(&mut random) {
                length += 1;
                match action {
                    Action::AddToCart(line) => cart.push(line),
                    Action::Purchase { line, number } => {
                        let place = cart.iter().position(|added| *added == line).expect("added before");
                        cart.remove(place);
                        assert!(number == last_order || number == last_order + 1);
                        last_order = number;
                        assert_eq!(walk.at(), Page::Done);
                    }
                    Action::Click("remove-from-cart") => {}
                    Action::View | Action::Click(_) => {}
                }
                added += u32::from(matches!(action, Action::AddToCart(_)));
            }
            steps += length;
            orders += last_order;
            bounced += u32::from(length == 1);
        }
        assert!((4..12).contains(&(steps / 10_000)), "{steps} events in 10,000 visits");
        assert!(added > 2 * orders && orders > 300, "{added} added, {orders} orders");
        assert!((1_000..3_000).contains(&bounced), "{bounced} of 10,000 left at once");
    }

    #[test]
    fn a_crawler_opens_pages_and_does_nothing_else() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..100 {
            let mut walk = Walk::crawl(&mut random);
            assert_eq!(walk.at(), Page::Robots);
            let actions: Vec<Action> = std::iter::from_fn(|| walk.step(&mut random)).collect();
            assert!(actions.iter().all(|action| *action == Action::View));
            assert!(CRAWLED.contains(&u32::try_from(actions.len()).expect("few")));
        }
    }
}
