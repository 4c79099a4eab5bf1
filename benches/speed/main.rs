//! `make bench`: what the program comes to, beside the least that anything with the same clients would.
//!
//! Each figure is measured in rounds, in each of which the floor and the program have their turns on the same bytes, so
//! that whatever the machine does meanwhile hits both. What counts is the CPU time of the process for a message: rates
//! of a machine that others use, too, wander.

#[path = "../../tests/it/support/mod.rs"]
mod support;

mod aggregate;
mod check;
mod close;
mod cost;
mod deliver;
mod figure;
mod filled;
mod floor;
mod growth;
mod hours;
mod input;
mod latency;
mod memory;
mod paced;
mod pure;
mod rebuild;
mod receiver;
mod rig;
mod rounds;

use clap::{Parser, ValueEnum};
use futures_util::{StreamExt, stream};
use serde_json::json;

use figure::Figure;
use rounds::{Plan, measure};

/// So many figures are measured side by side where it counts only that they are: most of their time is waiting.
const SIDE_BY_SIDE: usize = 3;

/// What the program comes to, and the floor beside it.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "these are flags of a command line")]
struct Options {
    /// Which figures, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Which::value_variants().to_vec())]
    figures: Vec<Which>,
    /// How often each figure is measured; `close` at most twice, `memory` once.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Messages of a round of `aggregate` and `rebuild`; `growth` has a quarter.
    #[arg(long, default_value_t = 200_000)]
    messages: usize,
    /// Windows of a round of `close` and `memory`.
    #[arg(long, default_value_t = 1_000_000)]
    windows: usize,
    /// Deliveries of a round of `deliver`; `growth` has an eighth.
    #[arg(long, default_value_t = 40_000)]
    deliveries: usize,
    /// Chats that messages belong to.
    #[arg(long, default_value_t = 10_000)]
    chats: usize,
    /// Messages a second of `latency`.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Seconds of a turn of `latency`.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// One small round of each figure, without goals, to see that all of this works.
    #[arg(long)]
    smoke: bool,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Holds the floors against Kafka's, Redis's and others' own tools instead.
    #[arg(long)]
    check_floors: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Kafka into windows in Redis.
    Aggregate,
    /// Windows that are due at once, and messages that come meanwhile.
    Close,
    /// Bundles to an endpoint.
    Deliver,
    /// From Kafka's acknowledgement to the endpoint.
    Latency,
    /// Of the process for a window, of Redis for a message.
    Memory,
    /// Windows that Redis lost.
    Rebuild,
    /// Ten times as much, and several processes.
    Growth,
}

impl Options {
    fn for_smoke(mut self) -> Self {
        (self.rounds, self.messages, self.windows) = (1, 10_000, 8_000);
        (self.deliveries, self.chats) = (2_000, 500);
        (self.rate, self.seconds) = (100, 2);
        self
    }

    fn plan(&self) -> Plan {
        Plan { rounds: self.rounds, warm_up: !self.smoke }
    }
}

#[tokio::main]
async fn main() {
    let mut options = Options::parse();
    if options.smoke {
        options = options.for_smoke();
    }
    if support::kafka().await.is_none() {
        return;
    }
    if options.check_floors {
        println!("{}", check::floors(&options).await);
        return;
    }
    let figures: Vec<Figure> = if options.smoke {
        // `close` goes by the clock, so it has the machine for itself.
        let (close, others): (Vec<_>, Vec<_>) =
            options.figures.iter().partition(|which| **which == Which::Close);
        let mut figures = all(&others, SIDE_BY_SIDE, &options).await;
        figures.extend(all(&close, 1, &options).await);
        figures.into_iter().map(Figure::without_goals).collect()
    } else {
        all(&options.figures, 1, &options).await
    };
    if options.json {
        println!("{:#}", json!(figures.iter().map(Figure::to_json).collect::<Vec<_>>()));
    } else {
        println!("{}", figure::table(&figures));
    }
}

async fn all(which: &[Which], side_by_side: usize, options: &Options) -> Vec<Figure> {
    let measured = stream::iter(which).map(|which| Box::pin(measured(*which, options)));
    measured.buffered(side_by_side).flat_map(stream::iter).collect().await
}

async fn measured(which: Which, options: &Options) -> Vec<Figure> {
    let plan = options.plan();
    // What begins with a fresh system or process in each turn has nothing to warm.
    let cold = Plan { warm_up: false, ..plan };
    let figure = match which {
        Which::Aggregate => measure(aggregate::Aggregate::start(options).await, plan).await,
        Which::Close => {
            measure(close::Close::new(options), Plan { rounds: plan.rounds.min(2), ..cold }).await
        }
        Which::Deliver => measure(deliver::Deliver::start(options).await, plan).await,
        Which::Latency => measure(latency::Latency::start(options).await, plan).await,
        // Bytes, not times: another round would tell the same.
        Which::Memory => {
            measure(Box::pin(memory::Memory::start(options)).await, Plan { rounds: 1, ..cold }).await
        }
        Which::Rebuild => measure(rebuild::Rebuild::start(options).await, plan).await,
        Which::Growth => {
            let starting = (growth::Growth::aggregate(options), growth::Growth::deliver(options));
            let (aggregate, deliver) = tokio::join!(Box::pin(starting.0), Box::pin(starting.1));
            let aggregate = measure(aggregate, cold).await;
            return vec![aggregate, measure(deliver, cold).await];
        }
    };
    vec![figure]
}
