//! Windows that Redis lost are built up again from the log. The floor is the same consumer reading alone.

use super::{
    Options,
    figure::{Goal, Measure},
    filled::Filled,
    floor,
    input::Input,
    rig::ACCEPTED,
    rounds::Rounds,
};

const REBUILT: &str = "bundlehook_rebuild_records_total{role=\"aggregate\"}";

pub struct Rebuild(Filled);

impl Rebuild {
    /// All messages are in windows, and what that needs is committed.
    pub async fn start(options: &Options) -> Self {
        let mut filled = Filled::start(Input::popular(options.chats, 1), options.messages).await;
        filled.run(ACCEPTED).await;
        Self(filled)
    }
}

impl Rounds for Rebuild {
    const NAME: &'static str = "rebuild";

    fn measures(&self) -> Vec<Measure> {
        vec![
            Measure::new("CPU, µs a message", 1),
            Measure::new("messages a second", 0).goal(Goal::AtLeast(0.4)),
        ]
    }

    async fn floor(&mut self) -> Vec<f64> {
        let cost = floor::read(&self.0.system, "message-events", self.0.messages);
        vec![cost.micros_each(), cost.rate()]
    }

    async fn program(&mut self) -> Vec<f64> {
        self.0.system.redis.flushall().await;
        let cost = self.0.run(REBUILT).await.cost;
        vec![cost.micros_each(), cost.rate()]
    }
}
