//! A figure: what the program comes to beside the floor, in rounds, and how that is shown.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

/// What is asked of a measure, in the median of the rounds.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// The program's value is at most so many times the floor's.
    UpTo(f64),
    /// The program's value is at least so many times the floor's.
    AtLeast(f64),
    /// The program's value is at most so much more than the floor's.
    Plus(f64),
}

/// One thing that every turn of a figure tells.
pub struct Measure {
    name: String,
    /// Digits behind the point.
    digits: usize,
    goal: Option<Goal>,
    /// Of the floor and of the program, by round.
    rounds: Vec<(f64, f64)>,
}

/// What was measured of one thing.
pub struct Figure {
    pub name: &'static str,
    pub measures: Vec<Measure>,
}

/// The middle of some values, and how far they lie apart.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Goal {
    fn is_met(self, rounds: &[(f64, f64)]) -> bool {
        let median = |value: fn(f64, f64) -> f64| Spread::of(rounds, value).median;
        match self {
            Self::UpTo(times) => median(ratio) <= times,
            Self::AtLeast(times) => median(ratio) >= times,
            Self::Plus(more) => median(|floor, program| program - floor) <= more,
        }
    }

    fn show(self) -> String {
        match self {
            Self::UpTo(times) => format!("≤ {times} times"),
            Self::AtLeast(times) => format!("≥ {times} times"),
            Self::Plus(more) => format!("≤ {more:.1} more"),
        }
    }
}

fn ratio(floor: f64, program: f64) -> f64 {
    program / floor
}

impl Spread {
    /// Of what is made of each round; what is no number is passed over.
    fn of(rounds: &[(f64, f64)], value: impl Fn(f64, f64) -> f64) -> Self {
        let mut values: Vec<f64> = rounds.iter().map(|(floor, program)| value(*floor, *program)).collect();
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(values.len() / 2)), least: at(0), most: at(last) }
    }

    fn to_json(&self) -> Value {
        json!({"median": self.median, "least": self.least, "most": self.most})
    }

    fn show(&self, digits: usize) -> String {
        if self.median.is_nan() {
            return "–".to_owned();
        }
        format!("{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}

impl Measure {
    /// Nothing is measured yet. The name has the unit in it.
    pub fn new(name: impl Into<String>, digits: usize) -> Self {
        Self { name: name.into(), digits, goal: None, rounds: Vec::new() }
    }

    /// The same with a goal.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    fn spreads(&self) -> [Spread; 3] {
        let of = |value: fn(f64, f64) -> f64| Spread::of(&self.rounds, value);
        [of(|floor, _| floor), of(|_, program| program), of(ratio)]
    }

    fn verdict(&self) -> Option<(String, bool)> {
        self.goal.map(|goal| (goal.show(), goal.is_met(&self.rounds)))
    }

    fn to_json(&self) -> Value {
        let [floor, program, ratio] = self.spreads();
        let (goal, met) = self.verdict().unzip();
        json!({
            "measure": self.name, "rounds": self.rounds.len(), "floor": floor.to_json(),
            "program": program.to_json(), "ratio": ratio.to_json(), "goal": goal, "met": met,
        })
    }

    fn row(&self, figure: &str) -> Vec<String> {
        let [floor, program, ratio] = self.spreads();
        let (goal, met) = self.verdict().unwrap_or_default();
        let met = if met { "met" } else { "missed" };
        let met = if self.goal.is_some() { met } else { "" };
        let digits = self.digits;
        let values = [floor.show(digits), program.show(digits), ratio.show(2)];
        let named = [figure.to_owned(), self.name.clone()];
        named.into_iter().chain(values).chain([goal, met.to_owned()]).collect()
    }
}

impl Figure {
    /// Takes in what a round came to, each value at the place of its measure.
    pub fn take(&mut self, floor: &[f64], program: &[f64]) {
        assert_eq!((floor.len(), program.len()), (self.measures.len(), self.measures.len()));
        for ((measure, floor), program) in self.measures.iter_mut().zip(floor).zip(program) {
            measure.rounds.push((*floor, *program));
        }
    }

    /// The same without what is asked of it.
    pub fn without_goals(mut self) -> Self {
        self.measures.iter_mut().for_each(|measure| measure.goal = None);
        self
    }

    /// The latest round in a line.
    pub fn latest(&self) -> String {
        let value = |measure: &Measure| {
            let (floor, program) = measure.rounds.last().copied().unwrap_or((f64::NAN, f64::NAN));
            let digits = measure.digits;
            format!("{} {floor:.digits$} → {program:.digits$}", measure.name)
        };
        self.measures.iter().map(value).collect::<Vec<_>>().join("; ")
    }

    /// All of it.
    pub fn to_json(&self) -> Value {
        let measures: Vec<Value> = self.measures.iter().map(Measure::to_json).collect();
        json!({"figure": self.name, "measures": measures})
    }
}

/// Medians, with the least and the most.
pub fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["figure", "measure", "floor", "program", "ratio", "goal", ""]);
    for figure in figures {
        table.add_rows(figure.measures.iter().map(|measure| measure.row(figure.name)));
    }
    for column in table.column_iter_mut().skip(2).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
