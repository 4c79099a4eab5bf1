//! A figure: the program's costs beside the floor's, and how they are shown.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::cost::Cost;

/// What was measured of one thing.
pub struct Figure {
    name: &'static str,
    /// What one of the things is that are counted.
    unit: &'static str,
    /// How many of them a round has.
    count: usize,
    /// Floor and program, by round.
    rounds: Vec<(Cost, Cost)>,
}

/// The middle of some values, and how far they lie apart.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), least: at(0), most: at(values.len().saturating_sub(1)) }
    }

    fn to_json(&self) -> Value {
        json!({"median": self.median, "least": self.least, "most": self.most})
    }

    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}

impl Figure {
    /// Nothing is measured yet.
    pub fn new(name: &'static str, unit: &'static str, count: usize) -> Self {
        Self { name, unit, count, rounds: Vec::new() }
    }

    /// Takes in a round, and tells of it at once on standard error.
    pub fn take(&mut self, round: usize, floor: Cost, product: Cost) {
        let each = |cost: Cost| format!("{:.1} µs, {:.0} a second", cost.micros_each(), cost.rate());
        eprintln!("{}, round {round}: floor {}; program {}", self.name, each(floor), each(product));
        self.rounds.push((floor, product));
    }

    fn spread(&self, value: impl Fn(Cost, Cost) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(|(floor, product)| value(*floor, *product)))
    }

    /// CPU time of the floor and of the program for each, in microseconds; then the program's over the floor's.
    fn cpu(&self) -> [Spread; 3] {
        [
            self.spread(|floor, _| floor.micros_each()),
            self.spread(|_, product| product.micros_each()),
            self.spread(|floor, product| product.micros_each() / floor.micros_each()),
        ]
    }

    /// The program's rate, a second; then over the floor's.
    fn rate(&self) -> [Spread; 2] {
        [
            self.spread(|_, product| product.rate()),
            self.spread(|floor, product| product.rate() / floor.rate()),
        ]
    }

    /// All of it.
    pub fn to_json(&self) -> Value {
        let ([floor, product, ratio], [rate, rate_ratio]) = (self.cpu(), self.rate());
        json!({
            "figure": self.name, "unit": self.unit, "count": self.count, "rounds": self.rounds.len(),
            "floor_cpu_micros": floor.to_json(), "cpu_micros": product.to_json(), "cpu_ratio": ratio.to_json(),
            "rate": rate.to_json(), "rate_ratio": rate_ratio.to_json(),
        })
    }
}

/// Medians, with the least and the most.
pub fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "figure",
        "each",
        "floor, CPU µs",
        "program, CPU µs",
        "ratio",
        "a second",
        "ratio of rates",
    ]);
    for figure in figures {
        let ([floor, product, ratio], [rate, rate_ratio]) = (figure.cpu(), figure.rate());
        let cells = [floor.show(1), product.show(1), ratio.show(2), rate.show(0), rate_ratio.show(2)];
        table.add_row([figure.name.to_owned(), figure.unit.to_owned()].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
