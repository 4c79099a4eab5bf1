//! From Kafka into windows in Redis, from a cold start. The floor reads the same records and appends them chat by chat.

use super::{
    Options,
    figure::{Goal, Measure},
    filled::Filled,
    floor,
    input::Input,
    rig::{ACCEPTED, redis_cpu, redis_traffic},
    rounds::Rounds,
};

pub struct Aggregate(Filled);

impl Aggregate {
    pub async fn start(options: &Options) -> Self {
        Self(Filled::start(Input::popular(options.chats, 1), options.messages).await)
    }
}

impl Rounds for Aggregate {
    const NAME: &'static str = "aggregate";

    fn measures(&self) -> Vec<Measure> {
        vec![
            Measure::new("CPU, µs a message", 1).goal(Goal::UpTo(2.0)),
            Measure::new("messages a second", 0).goal(Goal::AtLeast(0.6)),
            Measure::new("CPU of Redis, µs a message", 1),
            Measure::new("round trips to Redis a message", 4),
            Measure::new("bytes to and from Redis a message", 0),
        ]
    }

    async fn floor(&mut self) -> Vec<f64> {
        let Filled { system, messages, .. } = &self.0;
        system.redis.flushall().await;
        let (bytes, spent) = (redis_traffic(&system.redis).await, redis_cpu(&system.redis).await);
        let (cost, batches) = floor::append(system, "message-events", *messages).await;
        let spent = redis_cpu(&system.redis).await - spent;
        let bytes = redis_traffic(&system.redis).await - bytes;
        let each = |all: f64| all / *messages as f64;
        vec![cost.micros_each(), cost.rate(), each(spent), each(batches as f64), each(bytes)]
    }

    async fn program(&mut self) -> Vec<f64> {
        self.0.forget().await;
        let run = self.0.run(ACCEPTED).await;
        vec![run.cost.micros_each(), run.cost.rate(), run.redis_cpu, run.round_trips, run.redis_bytes]
    }
}
