//! From Kafka into windows in Redis.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    cost::{Cost, Reading},
    floor,
    input::Input,
    support::{LIMIT, System, ok, receiver, system, webhook},
};

const WINDOWS: [&str; 4] = ["1h", "6h", "12h", "24h"];
/// How often it is asked how far the process is.
const PACE: Duration = Duration::from_millis(100);
const ACCEPTED: &str = "bundlehook_events_accepted_total";

/// A system with messages in Kafka that no process has read yet.
pub struct Filled {
    system: System,
    messages: usize,
    /// Of their events.
    bytes: usize,
    /// Of Redis with all messages in it, less what it takes when it is empty, by round.
    memory: Vec<u64>,
}

/// Webhooks with the four windows.
fn windowed(url: &str) -> Vec<Value> {
    let settings = |hours: &&str| webhook(&format!("wh-{hours}"), "ws", url, json!({"granularity": hours}));
    WINDOWS.iter().map(settings).collect()
}

impl Filled {
    /// Starts the system, ends `aggregate`, and publishes the messages.
    pub async fn start(messages: usize, chats: usize) -> Option<Self> {
        let receiver = receiver(ok());
        let setup = system(3_600_000).partitions(4).env("BUNDLEHOOK_LOG", "warn");
        let system = setup.start(&windowed(&receiver.url("/"))).await?;
        stop(&system).await;
        let bytes = Input::new(chats, 1).publish(&system, messages).await;
        Some(Self { system, messages, bytes, memory: Vec::new() })
    }

    /// What the process spends on all messages, from a cold start: Redis is empty and nothing is committed.
    pub async fn product(&mut self) -> Cost {
        self.system.redis.flushall().await;
        let empty = self.used_memory().await;
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
        self.memory.push(self.used_memory().await - empty);
        cost
    }

    /// Bytes of Redis for a message in a window, and those of its event; the mean of all.
    pub fn memory_each(&self) -> Option<(f64, f64)> {
        let of_all = *self.memory.last()? as f64 / WINDOWS.len() as f64;
        Some((of_all / self.messages as f64, self.bytes as f64 / self.messages as f64))
    }

    async fn used_memory(&self) -> u64 {
        let info: String = self.system.redis.command(&["INFO", "memory"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("Redis says it");
        line.trim().parse().expect("it is a number")
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
