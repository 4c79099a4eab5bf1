//! Messages that go at once while something else goes on, and how long they take: from the moment at which Kafka appends
//! the event to that at which it appends the bundle.

use std::{cell::RefCell, time::Duration};

use bundlehook::io::clock;
use rdkafka::message::Headers as _;
use rdkafka::{Message as _, message::BorrowedHeaders};
use serde_json::{Value, json};

use crate::{
    floor::{consumer, next},
    input::Input,
    paced::{Sender, pace, percentile},
    rig::NOWHERE,
    support::{self, System, end_offsets},
};

/// Messages a second.
const RATE: u32 = 200;
/// Chats that they belong to, in all partitions.
const CHATS: usize = 1_000;
/// A workspace of their own: the others get nothing of them.
const WORKSPACE: &str = "ws-fresh-";

/// The webhook that gets them.
pub fn webhook() -> Value {
    support::webhook("wh-fresh", &format!("{WORKSPACE}0"), NOWHERE, json!({}))
}

pub struct Fresh {
    sender: Sender,
    input: RefCell<Input>,
}

impl Fresh {
    pub fn new(system: &System) -> Self {
        let sender = Sender::new(system.kafka.servers(), system.topic("message-events"));
        Self { sender, input: RefCell::new(Input::in_turn(CHATS, 3).named("fresh-").of_workspace(WORKSPACE)) }
    }

    /// Messages come until something is over.
    pub async fn come_during(&self, something: impl Future<Output = ()>) {
        let come = pace(RATE, Duration::MAX, |_| {
            let message = self.input.borrow_mut().next(&clock::now().to_rfc3339());
            self.sender.send(&message.id, &message.chat, &message.event);
        });
        tokio::select! {
            () = come => {}
            () = something => {}
        }
        self.sender.flush();
    }
}

/// What 99 of a hundred messages that arrived between two times have not exceeded, in milliseconds.
pub async fn p99(system: &System, from: u64, to: u64) -> f64 {
    let topic = system.topic("bundles");
    let records: i64 = end_offsets(system.kafka.servers(), &topic).await.iter().sum();
    let consumer = consumer(system, &topic);
    let mut latencies = Vec::new();
    for _ in 0..records {
        next(&consumer, |record| {
            let Some(arrived) = record.headers().and_then(arrival_of_fresh) else { return };
            if (from..to).contains(&(arrived as u64)) {
                let bundled = record.timestamp().to_millis().expect("the broker stamps records");
                latencies.push((bundled - arrived) as f64);
            }
        });
    }
    latencies.sort_by(f64::total_cmp);
    percentile(&latencies, 99)
}

/// When the message of a bundle arrived, if it went at once.
fn arrival_of_fresh(headers: &BorrowedHeaders) -> Option<i64> {
    let value = |name: &str| {
        let header = headers.iter().find(|header| header.key == name)?;
        std::str::from_utf8(header.value?).ok()
    };
    if value("stream")? != "none" {
        return None;
    }
    value("arrived-at")?.parse().ok()
}
