//! `make bench-rebuild`: how fast windows that Redis lost are built up again from the log.
//!
//! A day's window of many chats is open when Redis is emptied and `aggregate` started anew. What is measured is what the
//! process says of its rebuild, and beside it, in turns, how fast the same kind of consumer reads the same records
//! without doing anything with them.

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::{collections::BTreeMap, time::Instant};

use bundlehook::{config::KafkaSettings, io::kafka::cursor::Cursor};
use clap::Parser;
use serde_json::{Value, json};

use support::{LIMIT, System, event, ok, receiver, system, wait_until, webhook};

/// Messages published at once.
const BATCH: usize = 10_000;
const REMAINING: &str = "bundlehook_rebuild_remaining_records{";
const REBUILT: &str = "bundlehook_rebuild_records_total{";

/// How fast windows are built up again.
#[derive(Parser)]
struct Options {
    /// Messages in the windows that are lost.
    #[arg(long, default_value_t = 300_000)]
    messages: usize,
    /// Chats that they belong to.
    #[arg(long, default_value_t = 1_000)]
    chats: usize,
    /// Bytes of each one's text.
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// How often both are measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() {
    let options = Options::parse();
    let receiver = receiver(ok());
    let windowed = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "24h"}));
    let setup = system(3_600_000).env("BUNDLEHOOK_LOG", "info").start(&[windowed]).await;
    let Some(mut system) = setup else { return };
    fill(&system, &options).await;
    for round in 1..=options.rounds {
        let reading = read(&system, options.messages).await;
        let rebuilding = rebuild(&mut system, options.messages).await;
        println!(
            "round {round}: {rebuilding:.0} records/s rebuilt, {reading:.0} records/s only read, ratio {:.2}",
            rebuilding / reading
        );
    }
}

/// Publishes the messages, and waits until they are in their windows.
async fn fill(system: &System, Options { messages, chats, bytes, .. }: &Options) {
    let text = "x".repeat(*bytes);
    let message = |n: usize| -> Value {
        let mut event = event("ws", &format!("c{}", n % chats), &n.to_string());
        event["message"]["text"] = text.as_str().into();
        event
    };
    for from in (0..*messages).step_by(BATCH) {
        system.publish(&(from..(from + BATCH).min(*messages)).map(message).collect::<Vec<_>>()).await;
        system.aggregate.wait_sum("bundlehook_events_accepted_total", from as f64).await;
    }
    system.aggregate.wait_sum("bundlehook_events_accepted_total", *messages as f64).await;
}

/// Records a second of a consumer that does nothing else, from its first batch on.
async fn read(system: &System, messages: usize) -> f64 {
    let mut kafka = KafkaSettings::embedded(system.kafka.servers().to_owned(), BTreeMap::new());
    kafka.topics.prefix.clone_from(&system.prefix);
    let topic = system.topic("message-events");
    let mut cursor = Cursor::start(&kafka, &topic, 0, 0).expect("the settings can be used");
    let first = cursor.next().await.expect("there are records").len();
    let (began, mut count) = (Instant::now(), first);
    while count < messages {
        count += cursor.next().await.expect("there are more").len();
    }
    (count - first) as f64 / began.elapsed().as_secs_f64()
}

/// Records a second of a rebuild, as the process tells it.
async fn rebuild(system: &mut System, messages: usize) -> f64 {
    system.aggregate.process.sigterm();
    assert!(system.aggregate.process.wait_exit(LIMIT).await.success());
    system.redis.flushall().await;
    system.restart("aggregate").await;
    system.aggregate.wait_sum(REBUILT, messages as f64).await;
    wait_until("nothing to be left", LIMIT, async || system.aggregate.sum(REMAINING).await < 1.0).await;
    let said = system.aggregate.process.stderr();
    let is_end = |line: &&str| line.contains("rebuilt") && line.contains("records");
    let line = said.lines().find(is_end).expect("it says when it is done");
    let rate = line.split("rate").nth(1).expect("it says how fast");
    // Colours stand between the name and the value.
    let digits = rate.split(['=', ' ', 'm', '\u{1b}']).find_map(|text| text.parse().ok());
    digits.expect("the rate is a number")
}
