//! A system with messages in Kafka that `aggregate` brings into windows, from the beginning, as often as wanted.

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};

use super::{
    cost::{Cost, Reading, memory},
    input::Input,
    rig::{NOWHERE, WINDOWS, publish, reach, redis_cpu, redis_memory, redis_traffic, round_trips},
    rig::{start, stop, unhurried, webhooks},
    support::System,
};

/// A system with messages in Kafka, for four webhooks with the four windows. No process runs.
pub struct Filled {
    pub system: System,
    pub messages: usize,
    /// Of an event, in the mean.
    pub event_bytes: f64,
}

/// What it took to bring the messages into windows.
pub struct Run {
    pub cost: Cost,
    /// Calls of Redis, for each message.
    pub round_trips: f64,
    /// To and from Redis, for each message.
    pub redis_bytes: f64,
    /// Microseconds of CPU of Redis, for each message.
    pub redis_cpu: f64,
    /// Of the process at the end, in bytes.
    pub memory: f64,
}

impl Filled {
    /// Starts a system, publishes the messages, and ends its processes.
    pub async fn start(mut input: Input, messages: usize) -> Self {
        // Where nothing is committed, although parts of windows that were too large have been published before.
        let setup = unhurried().env("BUNDLEHOOK_FROM", "beginning");
        let system = start(setup, &webhooks(1, &WINDOWS, NOWHERE)).await;
        stop(&system.aggregate).await;
        stop(&system.deliver).await;
        let bytes = publish(&system, &mut input, messages).await;
        Self { system, messages, event_bytes: bytes as f64 / messages as f64 }
    }

    /// Forgets what was read: Redis is empty, and nothing is committed.
    pub async fn forget(&self) {
        self.system.redis.flushall().await;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.system.kafka.servers());
        let admin: AdminClient<DefaultClientContext> = config.create().expect("it needs no network");
        let group = format!("{}bundlehook-aggregate", self.system.prefix);
        let deleted = admin.delete_groups(&[group.as_str()], &AdminOptions::new()).await;
        let deleted = deleted.expect("the broker answers").pop().expect("there is an answer for each group");
        if let Err((_, code)) = deleted {
            assert_eq!(code, RDKafkaErrorCode::GroupIdNotFound, "the group can't be deleted");
        }
    }

    /// Starts the process, and ends it when a counter of its says that it has done all messages.
    pub async fn run(&mut self, counter: &str) -> Run {
        self.system.restart("aggregate").await;
        let (role, redis) = (&self.system.aggregate, &self.system.redis);
        // Before the first reading some may be done.
        let (bytes, trips) = (redis_traffic(redis).await, round_trips(role).await);
        let redis_before = redis_cpu(redis).await;
        let done = role.sum(counter).await as usize;
        let began = Reading::of([role.process.pid()]);
        reach([role], counter, self.messages as f64).await;
        let count = self.messages - done;
        let cost = Reading::of([role.process.pid()]).since(began, count);
        let run = Run {
            cost,
            round_trips: (round_trips(role).await - trips) / count as f64,
            redis_bytes: (redis_traffic(redis).await - bytes) / count as f64,
            redis_cpu: (redis_cpu(redis).await - redis_before) / count as f64,
            memory: memory(role.process.pid()),
        };
        stop(role).await;
        run
    }

    /// Bytes of Redis for a message in a window.
    pub async fn redis_each(&self) -> f64 {
        let taken = redis_memory(&self.system.redis).await;
        self.system.redis.flushall().await;
        (taken - redis_memory(&self.system.redis).await) / (self.messages * WINDOWS.len()) as f64
    }
}
