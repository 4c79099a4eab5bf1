//! `make bench-isolation`: what one endpoint that refuses connections and one that never answers cost the others.
//!
//! Two systems of the same kind run beside each other: in one of them two of the hundred webhooks are bad, and one of
//! those has 100,000 deliveries parked. They get the same load in turns, so that whatever the machine does meanwhile
//! hits both. Measured is the time from the broker's acknowledgement of a message to the first byte of its POST at the
//! receiver, both in this process; compared are the healthy webhooks alone.

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use clap::Parser;
use rdkafka::{
    ClientConfig, ClientContext,
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use serde_json::{Value, json};

use support::{
    Answer, Receiver, System, answer, event, hang, message_ids, receiver, refuse, system, webhook,
};

/// Webhooks of each system, each with a workspace of its own.
const WEBHOOKS: usize = 100;
/// Chats of a workspace.
const CHATS: usize = 20;
/// Kept out of each run at its beginning.
const WARM_UP: Duration = Duration::from_secs(2);
/// The goal for the median ratio of the healthy webhooks' latencies.
const GOAL: f64 = 1.2;

/// What one endpoint that refuses connections and one that never answers cost the others.
#[derive(Parser)]
struct Options {
    /// Pairs of runs.
    #[arg(long, default_value_t = 5)]
    pairs: usize,
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

/// When something happened to a message, by its id.
type Times = Arc<Mutex<HashMap<String, Instant>>>;

/// Notes when the broker acknowledges a message.
#[derive(Clone)]
struct Acknowledged(Times);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<String>;

    fn delivery(&self, result: &DeliveryResult<'_>, id: Self::DeliveryOpaque) {
        result.as_ref().expect("the broker takes every message");
        self.0.lock().expect("no holder panics").insert(*id, Instant::now());
    }
}

/// A system with its endpoints.
struct Side {
    name: &'static str,
    system: System,
    producer: ThreadedProducer<Acknowledged>,
    acknowledged: Times,
    arrived: Times,
    sent: usize,
    /// Alive as long as the system.
    _receivers: Vec<Receiver>,
}

impl Side {
    /// Starts it. Those of `bad` take the place of the last webhooks.
    async fn start(name: &'static str, bad: Vec<Receiver>) -> Option<Self> {
        let arrived = Times::default();
        let noted = arrived.clone();
        let healthy = receiver(answer(move |request| {
            let mut arrived = noted.lock().expect("no holder panics");
            for id in message_ids(request) {
                arrived.entry(id).or_insert(request.arrived);
            }
            Answer::status(200)
        }));
        let url = |n: usize| match bad.get((n + bad.len()).wrapping_sub(WEBHOOKS)) {
            Some(bad) => bad.url("/"),
            None => healthy.url("/"),
        };
        let settings = |n: usize| webhook(&format!("wh-{n}"), &workspace(n), &url(n), json!({}));
        let webhooks: Vec<Value> = (0..WEBHOOKS).map(settings).collect();
        let system = system(3_600_000)
            .partitions(4)
            .env("BUNDLEHOOK_RETRY_SCHEDULE", "5s,30s,2m,5m,10m")
            .env("BUNDLEHOOK_REQUEST_TIMEOUT", "10s")
            .env("BUNDLEHOOK_LOG", "warn")
            .start(&webhooks)
            .await?;
        let acknowledged = Times::default();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", system.kafka.servers())
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .create_with_context(Acknowledged(acknowledged.clone()))
            .expect("the configuration is valid");
        let mut receivers = bad;
        receivers.push(healthy);
        Some(Self { name, system, producer, acknowledged, arrived, sent: 0, _receivers: receivers })
    }

    /// Sends the next message of a webhook, and returns its id.
    fn send(&mut self, webhook: usize) -> String {
        let id = format!("{}-{}", webhook, self.sent);
        let chat = format!("{webhook}-{}", self.sent / WEBHOOKS % CHATS);
        self.sent += 1;
        let value = event(&workspace(webhook), &chat, &id).to_string();
        let topic = self.system.topic("message-events");
        let mut record = BaseRecord::with_opaque_to(&topic, Box::new(id.clone())).key(&chat).payload(&value);
        while let Err((error, returned)) = self.producer.send(record) {
            assert!(error.rdkafka_error_code().is_some(), "{error}");
            record = returned;
            self.producer.poll(Duration::from_millis(10));
        }
        id
    }

    /// Sends at a rate for a while, to every webhook in turn, and returns the latencies of the healthy ones in
    /// milliseconds, in order.
    async fn run(&mut self, options: &Options, healthy: usize) -> Vec<f64> {
        let (began, gap) = (Instant::now(), Duration::from_secs(1) / options.rate);
        let mut measured = Vec::new();
        let length = WARM_UP + Duration::from_secs(options.seconds);
        for n in 0.. {
            let at = began + gap * n;
            if at >= began + length {
                break;
            }
            tokio::time::sleep_until(at.into()).await;
            let webhook = n as usize % WEBHOOKS;
            let id = self.send(webhook);
            if webhook < healthy && at >= began + WARM_UP {
                measured.push(id);
            }
        }
        let arrived = self.arrived.clone();
        let all_arrived = async || {
            let arrived = arrived.lock().expect("no holder panics");
            measured.iter().all(|id| arrived.contains_key(id))
        };
        support::wait_until("all that was sent to healthy webhooks", support::LIMIT, all_arrived).await;
        let (acknowledged, arrived) =
            (self.acknowledged.lock().expect("no holder panics"), arrived.lock().expect("no holder panics"));
        let latency =
            |id: &String| arrived[id].saturating_duration_since(acknowledged[id]).as_secs_f64() * 1e3;
        let mut latencies: Vec<f64> = measured.iter().map(latency).collect();
        latencies.sort_by(f64::total_cmp);
        latencies
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

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Parks deliveries for a webhook, and answers how many bytes of Redis each takes.
async fn park(side: &mut Side, webhook: usize, count: usize) -> f64 {
    let before: u64 = used_memory(&side.system).await;
    for _ in 0..count {
        side.send(webhook);
    }
    side.producer.flush(Duration::from_mins(1)).expect("the broker takes every message");
    let parked = async || side.system.deliver.sum("bundlehook_deliveries_parked{").await >= count as f64;
    support::wait_until("the deliveries to be parked", support::LIMIT * 5, parked).await;
    (used_memory(&side.system).await - before) as f64 / count as f64
}

async fn used_memory(system: &System) -> u64 {
    let info: String = system.redis.command(&["INFO", "memory"]).await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("Redis says it");
    used.trim().parse().expect("it is a number")
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let (refusing, silent) = (receiver(refuse()), receiver(hang()));
    let Some(mut quiet) = Side::start("all healthy", Vec::new()).await else { return };
    let Some(mut troubled) = Side::start("two bad", vec![refusing, silent]).await else { return };
    let healthy = WEBHOOKS - 2;
    let bytes = park(&mut troubled, healthy, options.parked).await;
    println!("{} deliveries parked for one endpoint: {bytes:.0} bytes of Redis each", options.parked);
    println!("{:>4}  {:<12} {:>9} {:>9} {:>12}", "pair", "system", "p50 ms", "p99 ms", "memory MiB");
    let mut ratios = (Vec::new(), Vec::new());
    for pair in 1..=options.pairs {
        let mut results = Vec::new();
        for side in [&mut quiet, &mut troubled] {
            let latencies = side.run(&options, healthy).await;
            let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
            println!("{pair:>4}  {:<12} {p50:>9.2} {p99:>9.2} {:>12.1}", side.name, side.memory());
            results.push((p50, p99));
        }
        ratios.0.push(results[1].0 / results[0].0);
        ratios.1.push(results[1].1 / results[0].1);
    }
    let verdict = |value: f64, goal: f64| if value <= goal { "reached" } else { "missed" };
    let (p50, p99) = (median(ratios.0), median(ratios.1));
    println!("median ratio of p50: {p50:.2} (goal {GOAL}: {})", verdict(p50, GOAL));
    println!("median ratio of p99: {p99:.2} (goal {GOAL}: {})", verdict(p99, GOAL));
    println!("bytes of Redis for a parked delivery: {bytes:.0} (goal 200: {})", verdict(bytes, 200.0));
}
