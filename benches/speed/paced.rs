//! Messages at a steady rate, and how long each takes from the broker's acknowledgement on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};

/// When something happened to a message, by its id.
#[derive(Clone, Default)]
pub struct Times(Arc<Mutex<HashMap<String, Instant>>>);

impl Times {
    /// It happened, if that is not known yet.
    pub fn note(&self, id: String, at: Instant) {
        self.0.lock().expect("no holder panics").entry(id).or_insert(at);
    }

    /// True if it happened to all of these.
    pub fn have(&self, ids: &[String]) -> bool {
        let times = self.0.lock().expect("no holder panics");
        ids.iter().all(|id| times.contains_key(id))
    }
}

/// Milliseconds from one thing to another, for each of these messages, in order. Both have happened.
pub fn latencies(from: &Times, to: &Times, ids: &[String]) -> Vec<f64> {
    let (from, to) = (from.0.lock().expect("no holder panics"), to.0.lock().expect("no holder panics"));
    let latency = |id: &String| to[id].saturating_duration_since(from[id]).as_secs_f64() * 1e3;
    let mut latencies: Vec<f64> = ids.iter().map(latency).collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// The value that so many in a hundred do not exceed; not a number where there is none.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}

/// Notes when the broker acknowledges a message.
#[derive(Clone)]
struct Acknowledged(Times);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = Box<String>;

    fn delivery(&self, result: &DeliveryResult<'_>, id: Self::DeliveryOpaque) {
        result.as_ref().expect("the broker takes every message");
        self.0.note(*id, Instant::now());
    }
}

/// Sends messages to a topic.
pub struct Sender {
    producer: ThreadedProducer<Acknowledged>,
    topic: String,
    /// When the broker acknowledged them.
    pub acknowledged: Times,
}

impl Sender {
    pub fn new(servers: &str, topic: String) -> Self {
        let acknowledged = Times::default();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .create_with_context(Acknowledged(acknowledged.clone()))
            .expect("the configuration is valid");
        Self { producer, topic, acknowledged }
    }

    /// Hands a message over.
    pub fn send(&self, id: &str, chat: &str, event: &str) {
        let mut record =
            BaseRecord::with_opaque_to(&self.topic, Box::new(id.to_owned())).key(chat).payload(event);
        while let Err((error, returned)) = self.producer.send(record) {
            assert!(error.rdkafka_error_code().is_some(), "{error}");
            record = returned;
            self.producer.poll(Duration::from_millis(10));
        }
    }

    /// Waits until all are acknowledged. Blocks.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_mins(1)).expect("the broker takes every message");
    }
}

/// Does something at a rate, so many times a second, for so long. It is told how long after the beginning it is due.
pub async fn pace(rate: u32, length: Duration, mut each: impl FnMut(Duration)) {
    let (began, gap) = (Instant::now(), Duration::from_secs(1) / rate);
    for n in 0.. {
        let due = gap * n;
        if due >= length {
            return;
        }
        tokio::time::sleep_until((began + due).into()).await;
        each(due);
    }
}
