//! `make bench-isolation`: what bad endpoints cost the others.
//!
//! Three systems of the same kind run beside each other, each with a hundred webhooks. In the first all endpoints are
//! healthy. In the second one refuses connections and has 100,000 deliveries parked, and one never answers. In the third
//! 48 are hostile: 16 flood with informational responses, 16 let their bodies drip, 16 send bodies without an end. They
//! get the same load in turns, so that whatever the machine does meanwhile hits all. Measured is the time from the
//! broker's acknowledgement of a message to the first byte of its POST at the receiver, both in this process; compared
//! with the first system are the healthy webhooks alone.

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
            let mut arrived = noted.lock().expect("no holder panics");
            for id in message_ids(request) {
                arrived.entry(id).or_insert(request.arrived);
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
        let acknowledged = Times::default();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", system.kafka.servers())
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .create_with_context(Acknowledged(acknowledged.clone()))
            .expect("the configuration is valid");
        Some(Self { name, system, producer, acknowledged, arrived, sent: 0, healthy, _receiver: receiver })
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
    async fn run(&mut self, options: &Options) -> Vec<f64> {
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
            if webhook < self.healthy && at >= began + WARM_UP {
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
    for _ in 0..count {
        side.send(webhook);
    }
    side.producer.flush(Duration::from_mins(1)).expect("the broker takes every message");
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
