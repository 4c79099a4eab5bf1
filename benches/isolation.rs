//! `make bench-isolation`: what bad endpoints cost the others.
//!
//! Three systems of the same kind run beside each other, each with a hundred webhooks. In the first all endpoints are
//! healthy. In the second one refuses connections and has 100,000 deliveries parked, and one never answers. In the third
//! 48 are hostile: 16 flood with informational responses, 16 let their bodies drip, 16 send bodies without an end. They
//! get the same load in turns, so that whatever the machine does meanwhile hits all. Measured is the time from the
//! broker's acknowledgement of a message to the first byte of its POST at the receiver, both in this process; compared
//! with the first system are the healthy webhooks alone.

#[path = "speed/paced.rs"]
mod paced;
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use paced::{Sender, Times, latencies, pace, percentile};
use support::{
    Answer, Receiver, Step, System, answer, event, hang, hostile, message_ids, receiver, refuse, system,
    webhook,
};

/// Webhooks of each system, each with a workspace of its own.
const WEBHOOKS: usize = 100;
/// Hostile ones of each kind.
const HOSTILE: usize = 16;
/// Chats of a workspace.
const CHATS: usize = 20;
/// Kept out of each run at its beginning.
const WARM_UP: Duration = Duration::from_secs(2);
/// The goal for the median ratio of the healthy webhooks' latencies.
const GOAL: f64 = 1.2;

/// What bad endpoints cost the others.
#[derive(Parser)]
struct Options {
    /// Rounds, in each of which every system has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a run that are measured.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Messages a second, over all webhooks.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Deliveries that are parked for the endpoint that refuses connections.
    #[arg(long, default_value_t = 100_000)]
    parked: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A system with its endpoints.
struct Side {
    name: &'static str,
    system: System,
    sender: Sender,
    arrived: Times,
    sent: usize,
    /// Webhooks with a number below this are healthy.
    healthy: usize,
    /// Alive as long as the system.
    _receiver: Receiver,
}

impl Side {
    /// Starts it. The last webhooks have these URLs.
    async fn start(name: &'static str, bad: &[String]) -> Option<Self> {
        let arrived = Times::default();
        let noted = arrived.clone();
        let receiver = receiver(answer(move |request| {
            for id in message_ids(request) {
                noted.note(id, request.arrived);
            }
            Answer::status(200)
        }));
        let healthy = WEBHOOKS - bad.len();
        let url = |n: usize| if n < healthy { receiver.url("/") } else { bad[n - healthy].clone() };
        let settings = |n: usize| webhook(&format!("wh-{n}"), &workspace(n), &url(n), json!({}));
        let webhooks: Vec<Value> = (0..WEBHOOKS).map(settings).collect();
        let system = system(3_600_000)
            .partitions(4)
            .env("BUNDLEHOOK_RETRY_SCHEDULE", "5s,30s,2m,5m,10m")
            .env("BUNDLEHOOK_REQUEST_TIMEOUT", "10s")
            .env("BUNDLEHOOK_LOG", "warn")
            .start(&webhooks)
            .await?;
        let sender = Sender::new(system.kafka.servers(), system.topic("message-events"));
        Some(Self { name, system, sender, arrived, sent: 0, healthy, _receiver: receiver })
    }

    /// Sends the next message of a webhook, and returns its id.
    fn send(&mut self, webhook: usize) -> String {
        let id = format!("{}-{}", webhook, self.sent);
        let chat = format!("{webhook}-{}", self.sent / WEBHOOKS % CHATS);
        self.sent += 1;
        let value = event(&workspace(webhook), &chat, &id).to_string();
        self.sender.send(&id, &chat, &value);
        id
    }

    /// Sends at a rate for a while, to every webhook in turn, and returns the latencies of the healthy ones in
    /// milliseconds, in order.
    async fn run(&mut self, options: &Options) -> Vec<f64> {
        let mut measured = Vec::new();
        let length = WARM_UP + Duration::from_secs(options.seconds);
        pace(options.rate, length, |due| {
            let webhook = self.sent % WEBHOOKS;
            let id = self.send(webhook);
            if webhook < self.healthy && due >= WARM_UP {
                measured.push(id);
            }
        })
        .await;
        let all_arrived = async || self.arrived.have(&measured);
        support::wait_until("all that was sent to healthy webhooks", support::LIMIT, all_arrived).await;
        latencies(&self.sender.acknowledged, &self.arrived, &measured)
    }

    /// Memory of the delivering process, in MiB.
    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.system.deliver.process.pid()));
        let status = status.expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") / 1024.0
    }
}

fn workspace(n: usize) -> String {
    format!("ws-{n}")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Parks deliveries for a webhook, and answers how many bytes of Redis each takes.
async fn park(side: &mut Side, webhook: usize, count: usize) -> f64 {
    for _ in 0..count {
        side.send(webhook);
    }
    side.sender.flush();
    let parked = async || side.system.deliver.sum("bundlehook_deliveries_parked{").await >= count as f64;
    support::wait_until("the deliveries to be parked", support::LIMIT * 5, parked).await;
    let queues: Vec<String> = side.system.redis.command(&["KEYS", &format!("*bundles:*:wh-{webhook}")]).await;
    let mut bytes = 0;
    for queue in queues {
        bytes += side.system.redis.command::<u64>(&["MEMORY", "USAGE", &queue, "SAMPLES", "0"]).await;
    }
    bytes as f64 / count as f64
}

/// URLs of hostile endpoints, a few of each kind.
fn hostile_urls() -> Vec<String> {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let send = |text: String| Step::Send(text.into_bytes());
    let kinds = [
        vec![Step::Read, Step::Flood(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())],
        vec![Step::Read, send(format!("{OK}content-length: 100000\r\n\r\n")), Step::Drip(b"x".to_vec())],
        vec![Step::Read, send(format!("{OK}\r\n")), Step::Flood(vec![b'x'; 16 * 1024])],
    ];
    let endpoints = kinds.iter().flat_map(|steps| (0..HOSTILE).map(|_| hostile(steps.clone(), None)));
    endpoints.map(|endpoint| format!("http://{}/", endpoint.addr())).collect()
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (refusing, silent) = (receiver(refuse()), receiver(hang()));
    let bad = [refusing.url("/"), silent.url("/")];
    let Some(quiet) = Side::start("all healthy", &[]).await else { return };
    let Some(mut troubled) = Side::start("two bad", &bad).await else { return };
    let Some(attacked) = Side::start("48 hostile", &hostile_urls()).await else { return };
    let refused = troubled.healthy;
    let bytes = park(&mut troubled, refused, options.parked).await;
    println!("{} deliveries parked for one endpoint: {bytes:.0} bytes of Redis each", options.parked);
    println!("{:>5}  {:<12} {:>9} {:>9} {:>12}", "round", "system", "p50 ms", "p99 ms", "memory MiB");
    let mut sides = [quiet, troubled, attacked];
    let mut ratios = vec![(Vec::new(), Vec::new()); sides.len()];
    for round in 1..=options.rounds {
        let mut first = None;
        for (side, ratios) in sides.iter_mut().zip(&mut ratios) {
            let latencies = side.run(&options).await;
            let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
            println!("{round:>5}  {:<12} {p50:>9.2} {p99:>9.2} {:>12.1}", side.name, side.memory());
            let (quiet50, quiet99) = *first.get_or_insert((p50, p99));
            ratios.0.push(p50 / quiet50);
            ratios.1.push(p99 / quiet99);
        }
    }
    let verdict = |value: f64, goal: f64| if value <= goal { "reached" } else { "missed" };
    for (side, ratios) in sides.iter().zip(ratios).skip(1) {
        for (percent, ratios) in [("p50", ratios.0), ("p99", ratios.1)] {
            let ratio = median(ratios);
            println!(
                "{}: median ratio of {percent} {ratio:.2} (goal {GOAL}: {})",
                side.name,
                verdict(ratio, GOAL)
            );
        }
    }
    println!("bytes of Redis for a parked delivery: {bytes:.0} (goal 200: {})", verdict(bytes, 200.0));
}
