//! Tables that are sorted and paged by the server: the address holds how, so a link does it, with or without script.

use std::cmp::Ordering;

use maud::{Markup, html};

use super::View;

/// By what rows are sorted.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::web) enum Key {
    Number(f64),
    Text(String),
}

impl Key {
    /// A number that may be unknown: those come first.
    #[allow(clippy::cast_precision_loss, reason = "an order of figures")]
    pub(in crate::web) fn maybe(value: Option<i64>) -> Self {
        Self::Number(value.map_or(f64::NEG_INFINITY, |value| value as f64))
    }

    #[allow(clippy::cast_precision_loss, reason = "an order of figures")]
    pub(in crate::web) fn count(value: u64) -> Self {
        Self::Number(value as f64)
    }

    pub(in crate::web) fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(_), Self::Text(_)) => Ordering::Less,
            (Self::Text(_), Self::Number(_)) => Ordering::Greater,
        }
    }
}

pub(in crate::web) struct Column<'a, T> {
    /// Its name in the address; empty for one that nobody sorts by.
    key: &'static str,
    title: &'static str,
    is_number: bool,
    by: Box<dyn Fn(&T) -> Key + 'a>,
    cell: Box<dyn Fn(&T) -> Markup + 'a>,
}

impl<'a, T> Column<'a, T> {
    pub(in crate::web) fn text(
        key: &'static str,
        title: &'static str,
        by: impl Fn(&T) -> Key + 'a,
        cell: impl Fn(&T) -> Markup + 'a,
    ) -> Self {
        Self { key, title, is_number: false, by: Box::new(by), cell: Box::new(cell) }
    }

    pub(in crate::web) fn number(
        key: &'static str,
        title: &'static str,
        by: impl Fn(&T) -> Key + 'a,
        cell: impl Fn(&T) -> Markup + 'a,
    ) -> Self {
        Self { is_number: true, ..Self::text(key, title, by, cell) }
    }

    /// One that nobody sorts by.
    pub(in crate::web) fn plain(title: &'static str, cell: impl Fn(&T) -> Markup + 'a) -> Self {
        Self::text("", title, |_| Key::Number(0.0), cell)
    }
}

/// A table below a heading that counts its rows.
pub(in crate::web) struct Table<'a, T> {
    /// Its name in the address: unique on its page.
    pub(in crate::web) id: &'a str,
    pub(in crate::web) heading: String,
    /// What stands there without rows: what to do next.
    pub(in crate::web) empty: Markup,
    pub(in crate::web) columns: Vec<Column<'a, T>>,
    pub(in crate::web) rows: Vec<&'a T>,
    pub(in crate::web) rows_a_page: usize,
}

impl<T> Table<'_, T> {
    pub(in crate::web) fn render(self, view: &View) -> Markup {
        let Self { id, heading, empty, columns, rows, rows_a_page } = self;
        let all = rows.len();
        let (by, is_falling) = match view.get(id) {
            Some(key) => (key.trim_start_matches('-'), key.starts_with('-')),
            None => ("", false),
        };
        let sorted = sort(rows, columns.iter().find(|column| !by.is_empty() && column.key == by), is_falling);
        let pages = all.div_ceil(rows_a_page).max(1);
        let page_key = format!("{id}.page");
        let page =
            view.get(&page_key).and_then(|page| page.parse::<usize>().ok()).unwrap_or(1).clamp(1, pages);
        let shown = sorted.iter().skip((page - 1) * rows_a_page).take(rows_a_page);
        let header = |column: &Column<'_, T>| {
            let is_sorted = !by.is_empty() && column.key == by;
            let order = is_sorted.then_some(if is_falling { "descending" } else { "ascending" });
            let next =
                if is_sorted && !is_falling { format!("-{}", column.key) } else { column.key.to_owned() };
            let link = view.with(&[(id, Some(&next)), (&page_key, None)]);
            html! {
                th scope="col" aria-sort=[order] class=[column.is_number.then_some("number")] {
                    @if column.key.is_empty() {
                        (column.title)
                    } @else {
                        a href={ (link) "#" (id) } {
                            (column.title)
                            @if is_sorted { span aria-hidden="true" { @if is_falling { " ▾" } @else { " ▴" } } }
                        }
                    }
                }
            }
        };
        html! {
            h2 id=(id) { (heading) " (" (super::words::count(all as u64)) ")" }
            @if all == 0 {
                p.empty { (empty) }
            } @else {
                div.scroll tabindex="0" role="region" aria-label=(heading) {
                    table {
                        thead { tr { @for column in &columns { (header(column)) } } }
                        tbody {
                            @for row in shown {
                                tr { @for column in &columns {
                                    td class=[column.is_number.then_some("number")] { ((column.cell)(row)) }
                                } }
                            }
                        }
                    }
                }
                @if pages > 1 { (pager(view, id, &page_key, page, pages)) }
            }
        }
    }
}

fn sort<'a, T>(rows: Vec<&'a T>, column: Option<&Column<'_, T>>, is_falling: bool) -> Vec<&'a T> {
    let Some(column) = column else { return rows };
    let mut keyed: Vec<(Key, &T)> = rows.into_iter().map(|row| ((column.by)(row), row)).collect();
    keyed.sort_by(|(a, _), (b, _)| if is_falling { b.order(a) } else { a.order(b) });
    keyed.into_iter().map(|(_, row)| row).collect()
}

fn pager(view: &View, id: &str, key: &str, page: usize, pages: usize) -> Markup {
    let link = |to: usize, words: &str| {
        let query = view.with(&[(key, Some(&to.to_string()))]);
        html! { a href={ (query) "#" (id) } { (words) } }
    };
    html! {
        nav.pager aria-label="Pages of the table" {
            @if page > 1 { (link(1, "First")) (link(page - 1, "Previous")) }
            span { "Page " (page) " of " (pages) }
            @if page < pages { (link(page + 1, "Next")) (link(pages, "Last")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(view: &View, rows: &[u64], rows_a_page: usize) -> String {
        let table = Table {
            id: "t",
            heading: "Things".into(),
            empty: html! { "none" },
            columns: vec![Column::number("n", "Number", |n: &u64| Key::count(*n), |n| html! { "<" (n) ">" })],
            rows: rows.iter().collect(),
            rows_a_page,
        };
        table.render(view).into_string()
    }

    fn view(pairs: &[(&str, &str)]) -> View {
        View::of(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    fn order(text: &str) -> Vec<u64> {
        text.split("&lt;")
            .skip(1)
            .map(|rest| rest.split("&gt;").next().expect("end").parse().expect("n"))
            .collect()
    }

    #[test]
    fn the_address_says_how_rows_are_sorted_and_which_page_is_shown() {
        let rows = [3, 1, 2, 10];
        assert_eq!(order(&shown(&view(&[]), &rows, 10)), rows);
        assert_eq!(order(&shown(&view(&[("t", "n")]), &rows, 10)), [1, 2, 3, 10]);
        assert_eq!(order(&shown(&view(&[("t", "-n")]), &rows, 10)), [10, 3, 2, 1]);
        let second = shown(&view(&[("t", "-n"), ("t.page", "2")]), &rows, 3);
        assert_eq!(order(&second), [1]);
        assert!(second.contains("Page 2 of 2") && second.contains("aria-sort=\"descending\""), "{second}");
        // What nobody offered is as if it were not there.
        for odd in [("t", "nonsense"), ("t.page", "-1"), ("t.page", "99999999999999999999"), ("t", "")] {
            assert_eq!(order(&shown(&view(&[odd]), &rows, 10)), rows);
        }
        assert!(shown(&view(&[]), &[], 3).contains("none"));
    }
}
