//! From Kafka into windows in Redis.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    cost::{Cost, Reading},
    floor,
    input::Input,
    support::{LIMIT, Outgoing, System, ok, receiver, system, webhook},
};

/// Records published at once.
const BATCH: usize = 20_000;
/// How often it is asked how far the process is.
const PACE: Duration = Duration::from_millis(100);
const ACCEPTED: &str = "bundlehook_events_accepted_total";

/// A system with messages in Kafka that no process has read yet.
pub struct Filled {
    pub system: System,
    pub messages: usize,
}

/// Webhooks with the four windows.
fn windowed(url: &str) -> Vec<Value> {
    let settings = |hours: &&str| webhook(&format!("wh-{hours}"), "ws", url, json!({"granularity": hours}));
    ["1h", "6h", "12h", "24h"].iter().map(settings).collect()
}

impl Filled {
    /// Starts the system, ends `aggregate`, and publishes the messages.
    pub async fn start(messages: usize, chats: usize) -> Option<Self> {
        let receiver = receiver(ok());
        let setup = system(3_600_000).partitions(4).env("BUNDLEHOOK_LOG", "warn");
        let system = setup.start(&windowed(&receiver.url("/"))).await?;
        stop(&system).await;
        let mut input = Input::new(chats, 1);
        for from in (0..messages).step_by(BATCH) {
            let batch = (from..(from + BATCH).min(messages)).map(|_| {
                let (chat, event) = input.next();
                Outgoing::new(chat, event)
            });
            system.produce("message-events", batch).await;
        }
        Some(Self { system, messages })
    }

    /// What the process spends on all messages, from a cold start: Redis is empty and nothing is committed.
    pub async fn product(&mut self) -> Cost {
        self.system.redis.flushall().await;
        self.system.restart("aggregate").await;
        let process = &self.system.aggregate.process;
        // Before the first reading some may be done.
        let done = self.system.aggregate.sum(ACCEPTED).await as usize;
        let began = Reading::of(process.pid());
        while self.system.aggregate.sum(ACCEPTED).await < self.messages as f64 {
            tokio::time::sleep(PACE).await;
        }
        let cost = Reading::of(process.pid()).since(began, self.messages - done);
        stop(&self.system).await;
        cost
    }

    /// The floor: the same records read, and appended to Redis chat by chat.
    pub async fn floor(&self) -> Cost {
        self.system.redis.flushall().await;
        floor::append(&self.system, "message-events", self.messages).await
    }
}

async fn stop(system: &System) {
    system.aggregate.process.sigterm();
    assert!(system.aggregate.process.wait_exit(LIMIT).await.success());
}
