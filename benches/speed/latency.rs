//! From Kafka's acknowledgement of an event to the first byte of its POST, for webhooks that get each message at once. The
//! floor is a relay that reads each record from one topic and writes it to another, from which it is read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bundlehook::io::clock;
use rdkafka::{Message as _, consumer::BaseConsumer, producer::BaseRecord};

use super::{
    Options,
    figure::{Goal, Measure},
    floor::{Producer, consumer},
    input::Input,
    paced::{Sender, Times, latencies, pace, percentile},
    rig::{create_topic, start, unhurried, webhooks},
    rounds::Rounds,
    support::{Answer, LIMIT, Receiver, System, answer, receiver, wait_until},
};

/// Kept out of each turn at its beginning.
const WARM_UP: Duration = Duration::from_secs(2);
/// Workspaces, each with a webhook.
const WORKSPACES: usize = 20;
/// How often it is looked whether a thread is to end.
const POLL: Duration = Duration::from_millis(100);

/// A system and a relay on the same Kafka.
pub struct Latency {
    system: Side,
    relay: Side,
    input: Input,
    rate: u32,
    length: Duration,
    _receiver: Receiver,
    _system: System,
    _relay: Relay,
}

/// One way through which messages go.
struct Side {
    sender: Sender,
    arrived: Times,
}

impl Latency {
    pub async fn start(options: &Options) -> Self {
        let arrived = Times::default();
        let noted = arrived.clone();
        let receiver = receiver(answer(move |request| {
            noted.note(message_id(&request.body), request.arrived);
            Answer::status(200)
        }));
        let setup = unhurried().env("BUNDLEHOOK_REQUEST_TIMEOUT", "10s");
        let system = start(setup, &webhooks(WORKSPACES, &["none"], &receiver.url("/"))).await;
        let sender = Sender::new(system.kafka.servers(), system.topic("message-events"));
        let (relay, relay_side) = Relay::start(&system).await;
        Self {
            system: Side { sender, arrived },
            relay: relay_side,
            // In turn: the POSTs of a chat go one after the other, and no chat has hundreds of messages a second.
            input: Input::in_turn(options.chats, 1).workspaces(WORKSPACES),
            rate: options.rate,
            length: WARM_UP + Duration::from_secs(options.seconds),
            _receiver: receiver,
            _system: system,
            _relay: relay,
        }
    }
}

impl Side {
    /// Sends messages for a while; the middle and the worst of a hundred latencies, in milliseconds.
    async fn turn(&self, input: &mut Input, rate: u32, length: Duration) -> Vec<f64> {
        let mut ids = Vec::new();
        pace(rate, length, |due| {
            let message = input.next(&clock::now().to_rfc3339());
            self.sender.send(&message.id, &message.chat, &message.event);
            if due >= WARM_UP {
                ids.push(message.id);
            }
        })
        .await;
        wait_until("all messages to arrive", 5 * LIMIT, async || self.arrived.have(&ids)).await;
        let sorted = latencies(&self.sender.acknowledged, &self.arrived, &ids);
        vec![percentile(&sorted, 50), percentile(&sorted, 99)]
    }
}

impl Rounds for Latency {
    const NAME: &'static str = "latency";

    fn measures(&self) -> Vec<Measure> {
        vec![
            Measure::new("p50, ms", 2).goal(Goal::UpTo(2.0)),
            Measure::new("p99, ms", 2).goal(Goal::UpTo(2.0)),
        ]
    }

    async fn floor(&mut self) -> Vec<f64> {
        self.relay.turn(&mut self.input, self.rate, self.length).await
    }

    async fn program(&mut self) -> Vec<f64> {
        self.system.turn(&mut self.input, self.rate, self.length).await
    }
}

/// Threads that read one topic into another, and that one. They end when it is dropped.
struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    async fn start(system: &System) -> (Self, Side) {
        let (from, to) = (create_topic(system, "relay-in").await, create_topic(system, "relay-out").await);
        let (first, second) = (consumer(system, &from), consumer(system, &to));
        let (producer, arrived) = (Producer::new(system), Times::default());
        let noted = arrived.clone();
        let mut relay = Self { stop: Arc::default(), threads: Vec::new() };
        relay.each(first, move |record| {
            let out = BaseRecord::to(&to).partition(record.partition());
            producer.send(
                out.key(record.key().unwrap_or_default()).payload(record.payload().unwrap_or_default()),
            );
        });
        relay.each(second, move |record| {
            noted.note(message_id(record.payload().unwrap_or_default()), Instant::now());
        });
        (relay, Side { sender: Sender::new(system.kafka.servers(), from), arrived })
    }

    /// Does something with each record, on a thread of its own.
    fn each(
        &mut self,
        consumer: BaseConsumer,
        mut take: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Some(record) = consumer.poll(POLL) {
                    take(&record.expect("the broker serves records"));
                }
            }
        }));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has told of its panic itself.
            let _ = thread.join();
        }
    }
}

/// The id of the message in an event or in a body.
fn message_id(json: &[u8]) -> String {
    let text = std::str::from_utf8(json).expect("JSON is UTF-8");
    let (_, rest) = text.split_once("\"message_id\":\"").expect("there is a message");
    rest.split('"').next().unwrap_or_default().to_owned()
}
