//! `make bench`: what the program spends on a message, beside the least that anything with the same clients would.
//!
//! Each figure is measured in rounds, in each of which the floor and the program have their turns on the same bytes, so
//! that whatever the machine does meanwhile hits both. What counts is the CPU time of the process for a message: rates
//! of a machine that others use, too, wander.

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod aggregate;
mod cost;
mod deliver;
mod figure;
mod floor;
mod input;
mod receiver;

use clap::{Parser, ValueEnum};
use serde_json::json;

use figure::Figure;

/// What the program spends on a message, and the floor beside it.
#[derive(Parser)]
struct Options {
    /// Which figures, separated by commas.
    #[arg(long, value_delimiter = ',', default_values = ["aggregate", "deliver"])]
    figures: Vec<Which>,
    /// Messages of a round.
    #[arg(long, default_value_t = 200_000)]
    messages: usize,
    /// Chats that they belong to; a few have most of them.
    #[arg(long, default_value_t = 10_000)]
    chats: usize,
    /// How often each figure is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One small round of each figure, to see that all of this works.
    #[arg(long)]
    smoke: bool,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Kafka into windows in Redis.
    Aggregate,
    /// Bundles to an endpoint.
    Deliver,
}

#[tokio::main]
async fn main() {
    let mut options = Options::parse();
    if options.smoke {
        (options.messages, options.chats, options.rounds) = (2_000, 200, 1);
    }
    let mut figures = Vec::new();
    for which in &options.figures {
        let figure = match which {
            Which::Aggregate => measure_aggregate(&options).await,
            Which::Deliver => measure_deliver(&options).await,
        };
        figures.extend(figure);
    }
    if options.json {
        println!("{:#}", json!(figures.iter().map(Figure::to_json).collect::<Vec<_>>()));
    } else {
        println!("{}", figure::table(&figures));
    }
}

async fn measure_aggregate(options: &Options) -> Option<Figure> {
    let mut figure = Figure::new("aggregate", "message into four windows", options.messages);
    let mut filled = aggregate::Filled::start(options.messages, options.chats).await?;
    for round in 1..=options.rounds {
        let floor = filled.floor().await;
        figure.take(round, floor, filled.product().await);
    }
    if let Some((redis, event)) = filled.memory_each() {
        eprintln!(
            "a message in a window: {redis:.0} bytes of Redis, {:.2} of its event's {event:.0}",
            redis / event
        );
    }
    Some(figure)
}

async fn measure_deliver(options: &Options) -> Option<Figure> {
    let mut figure = Figure::new("deliver", "delivery", options.messages);
    let mut filled = deliver::Filled::start(options.chats).await?;
    for round in 1..=options.rounds {
        filled.fill(options.messages).await;
        let floor = filled.floor().await;
        figure.take(round, floor, filled.product().await);
    }
    Some(figure)
}
