//! Rounds, in each of which the floor and the program have their turns.

use std::{sync::LazyLock, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::figure::{Figure, Measure};

/// What is measured in rounds. Both turns of a round have the same input, so that whatever the machine does meanwhile hits
/// both.
pub trait Rounds {
    /// How the figure is called.
    const NAME: &'static str;

    /// What each turn tells, in this order.
    fn measures(&self) -> Vec<Measure>;

    /// Gets ready what both turns of the next round need.
    async fn prepare(&mut self) {}

    /// The least that it could cost, by measure; not a number where there is no such thing.
    async fn floor(&mut self) -> Vec<f64>;

    /// What the program comes to, by measure.
    async fn program(&mut self) -> Vec<f64>;
}

/// Of all figures that are measured side by side.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often a figure is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds that count.
    pub rounds: usize,
    /// One more before them that does not: what serves both is warm then.
    pub warm_up: bool,
}

/// Measures a figure. Tells how far it is, and of each round at once, on standard error.
pub async fn measure<R: Rounds>(mut measured: R, plan: Plan) -> Figure {
    let mut figure = Figure { name: R::NAME, measures: measured.measures() };
    let first = usize::from(!plan.warm_up);
    let bar = BARS.add(ProgressBar::new(3 * (plan.rounds + 1 - first) as u64)).with_prefix(R::NAME);
    let style = ProgressStyle::with_template("{prefix:>9} {bar:30} {msg} {elapsed}");
    bar.set_style(style.expect("the template is valid"));
    bar.enable_steady_tick(Duration::from_secs(1));
    for round in first..=plan.rounds {
        let title = if round == 0 { "warm-up".to_owned() } else { format!("round {round}") };
        let step = |what: &str| {
            bar.set_message(format!("{title} of {}, {what}", plan.rounds));
            bar.inc(1);
        };
        step("input");
        measured.prepare().await;
        step("floor");
        let floor = measured.floor().await;
        step("program");
        let program = measured.program().await;
        if round > 0 {
            figure.take(&floor, &program);
            BARS.suspend(|| eprintln!("{}, {title}: {}", R::NAME, figure.latest()));
        }
    }
    bar.finish_and_clear();
    figure
}
