//! Medians and spreads of rounds. Pure.

use serde::Serialize;

/// The rounds of one figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Rounds {
    median: f64,
    least: f64,
    greatest: f64,
    all: Vec<f64>,
}

impl Rounds {
    /// # Panics
    /// Without any round, or with one that is no number.
    pub(crate) fn of(all: Vec<f64>) -> Self {
        assert!(
            !all.is_empty() && all.iter().all(|value| value.is_finite()),
            "rounds were measured: {all:?}"
        );
        let mut sorted = all.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Self { median, least: sorted[0], greatest: sorted[sorted.len() - 1], all }
    }

    /// The median, and from the least to the greatest if there were several rounds.
    pub(crate) fn text(&self, decimals: usize) -> String {
        let middle = number(self.median, decimals);
        match self.all.len() {
            1 => middle,
            _ => format!("{middle} ({} – {})", number(self.least, decimals), number(self.greatest, decimals)),
        }
    }
}

/// A number with its thousands set apart.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let whole = text.split('.').next().unwrap_or_default();
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{}", &text[whole.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_rounds_lies_between_them() {
        assert_eq!(Rounds::of(vec![4.0, 1.0, 2.0, 3.0]).text(1), "2.5 (1.0 – 4.0)");
        assert_eq!(Rounds::of(vec![7.0]).text(0), "7");
    }

    #[test]
    fn thousands_are_set_apart() {
        let texts = [(1_234_567.0, 0), (999.0, 0), (-1000.25, 2), (0.5, 1)]
            .map(|(value, digits)| number(value, digits));
        assert_eq!(texts, ["1,234,567", "999", "-1,000.25", "0.5"]);
    }
}
