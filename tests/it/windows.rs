//! The store of windows on a real Redis, against a simple model of it, under whatever may happen, in any order: batches
//! that come again, processes that die between two steps, a Redis that forgets or goes back to what it was, processes
//! that go on though they lost the partition.
//!
//! `PROPTEST_CASES` says how many cases are tried, `PROPTEST_RNG_SEED` repeats those of a seed.

mod model;
mod owner;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bundlehook::io::{Redis, StoreError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use self::model::{Content, Message, Place, published};
use self::owner::{End, Kafka, Owner, State, Step};
use crate::support::{self, RedisKind, redis};

/// Cases of a run unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 256;
/// Lets Redis keep a copy of all it has.
const SAVE: &str = "redis.call('SELECT', 1) redis.call('FLUSHDB') redis.call('SELECT', 0) \
    for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', key, key, 'DB', 1) end";
/// Lets it go back to that.
const ROLL_BACK: &str = "redis.call('SELECT', 0) redis.call('FLUSHDB') redis.call('SELECT', 1) \
    for _, key in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', key, key, 'DB', 0) end \
    redis.call('SELECT', 0)";

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// Messages come: chat, id, size and details of each.
    Arrive(Vec<(u8, u8, usize, u8)>),
    /// Hours pass.
    Pass(i64),
    /// So many are applied.
    Apply(usize),
    /// So many are applied, and nobody hears of it, so they are applied again.
    ApplyUnheard(usize),
    /// The owner reads so many messages again.
    GoBack(usize),
    PublishParts(Option<Step>),
    Close(Option<Step>),
    /// Another process claims the partition, and may die while it does; the former one does not know.
    TakeOver(Option<Step>),
    /// The owner claims the partition again.
    ClaimAgain,
    /// A former owner goes on.
    Zombie(usize),
    Forget,
    Save,
    RollBack,
}

fn event() -> impl Strategy<Value = Event> {
    let message = (0..3_u8, 0..12_u8, 1..400_usize, 0..2_u8);
    let step =
        || prop_oneof![3 => Just(None), 1 => Just(Some(Step::Published)), 1 => Just(Some(Step::Committed))];
    let claim = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Step::TokenSet)),
        1 => Just(Some(Step::ClaimCommitted)),
        1 => Just(Some(Step::StateTaken)),
    ];
    prop_oneof![
        8 => vec(message, 1..8).prop_map(Event::Arrive),
        4 => (1..8_i64).prop_map(Event::Pass),
        8 => (1..12_usize).prop_map(Event::Apply),
        2 => (1..12_usize).prop_map(Event::ApplyUnheard),
        2 => (1..12_usize).prop_map(Event::GoBack),
        3 => step().prop_map(Event::PublishParts),
        5 => step().prop_map(Event::Close),
        2 => claim.prop_map(Event::TakeOver),
        1 => Just(Event::ClaimAgain),
        2 => (1..12_usize).prop_map(Event::Zombie),
        1 => Just(Event::Forget),
        2 => Just(Event::Save),
        2 => Just(Event::RollBack),
    ]
}

/// How often each moment was hit.
type Hits = RefCell<BTreeMap<&'static str, usize>>;

/// One case.
struct World<'a> {
    server: &'a support::Redis,
    redis: &'a Redis,
    hits: &'a Hits,
    kafka: Kafka,
    hour: i64,
    owner: Option<Owner>,
    /// Lost the partition, and does not know.
    zombie: Option<Owner>,
    /// Redis went back since the last claim, so that it may take a zombie for the owner.
    rolled_back: bool,
}

impl World<'_> {
    fn hit(&self, moment: &'static str) {
        *self.hits.borrow_mut().entry(moment).or_default() += 1;
    }

    async fn script(&self, script: &str) {
        let _: Option<String> = self.server.command(&["EVAL", script, "0"]).await;
    }

    async fn happen(&mut self, event: &Event) {
        match event {
            Event::Arrive(messages) => self.arrive(messages),
            Event::Pass(hours) => self.hour += hours,
            Event::Forget => self.server.flushall().await,
            Event::Save => self.script(SAVE).await,
            Event::RollBack => {
                self.script(ROLL_BACK).await;
                self.rolled_back = true;
            }
            Event::TakeOver(die) => {
                self.zombie = self.owner.take().or(self.zombie.take());
                self.claim(None, *die).await;
            }
            Event::Zombie(most) => self.go_on_as_zombie(*most).await,
            Event::Apply(_)
            | Event::ApplyUnheard(_)
            | Event::GoBack(_)
            | Event::PublishParts(_)
            | Event::Close(_)
            | Event::ClaimAgain => self.work(event).await,
        }
    }

    /// Offsets are not dense: each third one is left out.
    fn arrive(&mut self, messages: &[(u8, u8, usize, u8)]) {
        for &(chat, id, size, details) in messages {
            let last = self.kafka.log.last().map_or(-1, |message| message.offset);
            let offset = last + 1 + i64::from(last % 3 == 1);
            self.kafka.log.push(Message { offset, hour: self.hour, chat, id, size, details });
        }
    }

    async fn claim(&mut self, remembered: Option<i64>, die: Option<Step>) {
        let claimed = Owner::claim(self.redis, &mut self.kafka, remembered, die).await;
        self.rolled_back = false;
        self.owner = match claimed {
            Ok(owner) => {
                self.hit(match owner.state {
                    State::Kept => "kept",
                    State::Rebuilt => "rebuilt",
                });
                Some(owner)
            }
            Err(End::Died) => None,
            Err(End::Refused(error)) => panic!("nobody else claims: {error}"),
        };
    }

    async fn work(&mut self, event: &Event) {
        if self.owner.is_none() {
            self.claim(None, None).await;
        }
        let Some(mut owner) = self.owner.take() else { return };
        let kafka = &mut self.kafka;
        let worked = match event {
            Event::Apply(most) => owner.apply(kafka, *most).await,
            Event::ApplyUnheard(most) => {
                let before = kafka.log.len();
                let applied = owner.apply(kafka, *most).await;
                owner.go_back(*most.min(&before), kafka);
                applied
            }
            Event::GoBack(messages) => {
                owner.go_back(*messages, kafka);
                Ok(())
            }
            Event::PublishParts(die) => owner.publish_parts(kafka, *die).await,
            Event::Close(die) => owner.close(kafka, *die).await,
            _ => Err(End::Refused(StoreError::Fenced)),
        };
        match worked {
            Ok(()) => self.owner = Some(owner),
            Err(End::Died) => {
                self.hit("died");
                self.zombie = Some(owner);
            }
            Err(End::Refused(error)) => {
                self.hit(match error {
                    StoreError::Fenced => "fenced",
                    StoreError::Lost => "lost",
                    other => panic!("{event:?}: {other}"),
                });
                self.claim(Some(owner.applied), None).await;
            }
        }
    }

    async fn go_on_as_zombie(&mut self, most: usize) {
        // As long as nobody has claimed the partition after it, it is its owner.
        if self.owner.is_none() {
            return;
        }
        let Some(mut zombie) = self.zombie.take() else { return };
        let before = zombie.applied;
        let applied = zombie.apply(&self.kafka, most).await;
        if zombie.applied > before {
            assert!(self.rolled_back, "a former owner was let through");
            self.hit("zombie after a roll-back");
        } else if applied.is_err() {
            self.hit("zombie fenced");
        }
        self.zombie = Some(zombie);
    }

    /// Lets everything come to its end, and holds it against the model.
    async fn finish(mut self) {
        self.hour += 12;
        self.arrive(&[(0, 99, 1, 0)]);
        self.claim(None, None).await;
        while self
            .owner
            .as_ref()
            .is_some_and(|owner| owner.applied <= self.kafka.log.last().expect("one came").offset)
        {
            self.work(&Event::Apply(50)).await;
        }
        self.work(&Event::PublishParts(None)).await;
        self.work(&Event::Close(None)).await;
        let last = self.kafka.log.last().expect("one came");
        assert_same(&self.kafka.published, &published(&self.kafka.log, last.closed()));
        let left: Vec<String> = self.server.command(&["KEYS", "*:w:*"]).await;
        assert_eq!(left.len(), 2, "only the last message's windows are open: {left:?}");
        if self.kafka.repeated > 0 {
            self.hit("published again");
        }
    }
}

/// Names what is missing, too much, or not what it should be.
fn assert_same(found: &BTreeMap<Place, Content>, expected: &BTreeMap<Place, Content>) {
    let shown = |content: Option<&Content>| {
        content.map(|(part, log)| (*part, String::from_utf8_lossy(log).into_owned()))
    };
    let places: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let wrong: Vec<_> = places
        .into_iter()
        .filter(|place| found.get(place) != expected.get(place))
        .map(|place| {
            format!("{place:?}: {:?}, expected {:?}", shown(found.get(place)), shown(expected.get(place)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn play(server: &support::Redis, redis: &Redis, hits: &Hits, events: &[Event]) {
    server.flushall().await;
    let (kafka, hour, owner, zombie) = (Kafka::default(), 0, None, None);
    let mut world = World { server, redis, hits, kafka, hour, owner, zombie, rolled_back: false };
    for event in events {
        world.happen(event).await;
    }
    world.finish().await;
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("`{name}` is `{value}`, expected a number")))
}

#[test]
fn whatever_happens_in_whatever_order_each_part_and_window_is_published_with_the_one_content_it_has() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime needs only threads");
    let server = runtime.block_on(redis(RedisKind::Single));
    let redis = runtime.block_on(server.client());
    let seed: u64 = setting("PROPTEST_RNG_SEED").unwrap_or_else(rand::random);
    let cases = setting("PROPTEST_CASES").unwrap_or(CASES);
    let hits = Hits::default();
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 4_096,
        ..Config::default()
    };

    let tried = TestRunner::new(config).run(&vec(event(), 1..120), |events| {
        let case = std::panic::AssertUnwindSafe(|| runtime.block_on(play(&server, &redis, &hits, &events)));
        std::panic::catch_unwind(case).map_err(|problem| {
            let said = problem.downcast_ref::<String>().cloned();
            TestCaseError::fail(said.unwrap_or_else(|| "it panicked".to_owned()))
        })
    });

    let hits = hits.into_inner();
    println!("{cases} cases of seed {seed}: {hits:?}");
    if let Err(failure) = tried {
        panic!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} repeats it: {failure}");
    }
    if cases >= CASES {
        for moment in ["kept", "rebuilt", "died", "fenced", "lost", "zombie fenced", "published again"] {
            assert!(hits.contains_key(moment), "no case hit `{moment}`, of seed {seed}");
        }
    }
}
