//! What open windows and the messages in them take. The process has nothing for a window if it takes as much with many
//! windows as with few. The floor of a message in Redis is its event.

use super::{
    Options,
    cost::MIB,
    figure::{Goal, Measure},
    filled::Filled,
    input::Input,
    rig::{ACCEPTED, WINDOWS},
    rounds::Rounds,
};

/// Messages of each chat in the system with few windows: not so many that a window is cut into parts.
const CROWD: usize = 500;
/// A process that kept something for a window would keep a pointer at least.
const POINTER: f64 = 8.0;

/// As many messages in few windows, in one each, and in those of the usual number of chats.
pub struct Memory {
    few: Filled,
    many: Filled,
    usual: Filled,
}

impl Memory {
    pub async fn start(options: &Options) -> Self {
        let messages = options.windows / WINDOWS.len();
        let (few, many) = (Input::in_turn(messages.div_ceil(CROWD), 1), Input::in_turn(messages, 1));
        let (few, many, usual) = tokio::join!(
            Filled::start(few, messages),
            Filled::start(many, messages),
            Filled::start(Input::in_turn(options.chats, 1), messages),
        );
        Self { few, many, usual }
    }
}

/// Bytes of the process, and of Redis for a message in a window, once all messages are in windows.
async fn taken(filled: &mut Filled) -> (f64, f64) {
    filled.forget().await;
    let run = filled.run(ACCEPTED).await;
    (run.memory, filled.redis_each().await)
}

impl Rounds for Memory {
    const NAME: &'static str = "memory";

    fn measures(&self) -> Vec<Measure> {
        let windows = (self.many.messages * WINDOWS.len()) as f64;
        vec![
            Measure::new("process, MiB: few windows, many", 1).goal(Goal::Plus(POINTER * windows / MIB)),
            Measure::new("Redis, bytes a message of several in a window", 0).goal(Goal::UpTo(1.3)),
            Measure::new("Redis, bytes a message that is alone in its window", 0),
        ]
    }

    async fn floor(&mut self) -> Vec<f64> {
        let (process, _) = taken(&mut self.few).await;
        vec![process / MIB, self.usual.event_bytes, self.many.event_bytes]
    }

    async fn program(&mut self) -> Vec<f64> {
        let (process, alone) = taken(&mut self.many).await;
        let (_, usual) = taken(&mut self.usual).await;
        vec![process / MIB, usual, alone]
    }
}
