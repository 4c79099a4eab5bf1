//! Windows of all lengths that are due at once, and messages that go at once meanwhile. The floor reads the same logs from
//! Redis and produces the same bundles; for the fresh messages and the memory of the process it is the quiet time before.

mod bundles;
mod fresh;

use std::time::Duration;

use self::{bundles::Bundles, fresh::Fresh};
use super::{
    Options,
    cost::{MIB, Reading, forget_peak, memory, peak_memory},
    figure::{Goal, Measure},
    hours,
    input::Input,
    rig::{ACCEPTED, NOWHERE, WINDOWS, kafka_bytes, now, publish, reach},
    rig::{start, stop, webhooks, with_hour},
    rounds::Rounds,
    support::System,
};

/// Time to start a system and to look at it while it is quiet, in milliseconds.
const START: u64 = 30_000;
/// Windows that are opened, read and produced in a millisecond.
const PACE: u64 = 15;
/// So much of the time until windows are due is left for the floor: a third.
const FLOOR: u64 = 3;
/// How long the quiet time is looked at.
const QUIET: Duration = Duration::from_secs(5);
/// A boundary closes so long after it, in milliseconds: the grace of the rig.
const GRACE: u64 = 200;
const CLOSED: &str = "bundlehook_windows_closed_total";

pub struct Close {
    windows: usize,
    round: Option<Round>,
}

/// A system of its own: the next day ends too late.
struct Round {
    system: System,
    fresh: Fresh,
    /// Where all windows end, in milliseconds.
    boundary: u64,
}

impl Close {
    pub fn new(options: &Options) -> Self {
        Self { windows: options.windows / WINDOWS.len() * WINDOWS.len(), round: None }
    }

    fn round(&self) -> &Round {
        self.round.as_ref().expect("it was prepared")
    }
}

impl Round {
    /// Starts a system and opens so many windows, which are due after so many milliseconds.
    async fn start(windows: usize, after: u64) -> Self {
        let (hour, boundary) = hours::day_ending(now(), after);
        let mut settings = webhooks(1, &WINDOWS, NOWHERE);
        settings.push(fresh::webhook());
        let system = start(with_hour(hour), &settings).await;
        stop(&system.deliver).await;
        let chats = windows / WINDOWS.len();
        publish(&system, &mut Input::in_turn(chats, 1), chats).await;
        reach([&system.aggregate], ACCEPTED, chats as f64).await;
        Self { fresh: Fresh::new(&system), system, boundary }
    }

    fn pid(&self) -> u32 {
        self.system.aggregate.process.pid()
    }

    /// Milliseconds until the windows are due.
    fn left(&self) -> u64 {
        self.boundary.saturating_sub(now())
    }

    fn assert_early(&self) {
        assert!(self.left() > 0, "the machine is too busy for so many windows: fewer by --windows");
    }
}

impl Rounds for Close {
    const NAME: &'static str = "close";

    fn measures(&self) -> Vec<Measure> {
        vec![
            Measure::new("CPU, µs a bundle", 1).goal(Goal::UpTo(2.5)),
            Measure::new("bundles a second", 0),
            Measure::new("fresh messages, p99 ms", 0).goal(Goal::UpTo(3.0)),
            Measure::new("process, MiB", 1).goal(Goal::Plus(64.0)),
            Measure::new("Kafka, bytes a bundle", 0),
        ]
    }

    async fn prepare(&mut self) {
        self.round = None;
        let mut after = START + self.windows as u64 / PACE;
        loop {
            let round = Round::start(self.windows, after).await;
            if round.left() >= after / FLOOR {
                self.round = Some(round);
                return;
            }
            // The machine is busy.
            after *= 2;
        }
    }

    async fn floor(&mut self) -> Vec<f64> {
        let round = self.round();
        let bundles = Bundles::of(&round.system, round.boundary).await;
        let cost = bundles.read_and_produce(&round.system).await;
        drop(bundles);
        let (from, memory) = (now(), memory(round.pid()));
        round.fresh.come_during(tokio::time::sleep(QUIET)).await;
        round.assert_early();
        let quiet = fresh::p99(&round.system, from, now()).await;
        vec![cost.micros_each(), cost.rate(), quiet, memory / MIB, f64::NAN]
    }

    async fn program(&mut self) -> Vec<f64> {
        let round = self.round();
        let (role, pid) = (&round.system.aggregate, round.pid());
        round.assert_early();
        let due = round.boundary + GRACE;
        tokio::time::sleep(Duration::from_millis(round.left() + GRACE)).await;
        forget_peak(pid);
        let began = Reading::of([pid]);
        round.fresh.come_during(reach([role], CLOSED, self.windows as f64)).await;
        let cost = Reading::of([pid]).since(began, self.windows);
        let peak = peak_memory(pid);
        let meanwhile = fresh::p99(&round.system, due, now()).await;
        // Those of the fresh messages are among them, but few.
        let kafka = kafka_bytes(&round.system, "bundles").await / self.windows as f64;
        vec![cost.micros_each(), cost.rate(), meanwhile, peak / MIB, kafka]
    }
}
