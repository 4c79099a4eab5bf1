//! Open windows: the state of aggregate, one hash slot a source partition.
//!
//! | key (each begins with the partition's tag) | holds |
//! |---|---|
//! | `owner` | version, claimant's token, writer's token, source topic's id, incarnation, applied position, last closed boundary |
//! | `{incarnation}:open` | boundaries at which windows are open, with the first offset of the oldest |
//! | `{incarnation}:due:{boundary}` | names of the windows that end there, by their first offset |
//! | `{incarnation}:w:{name}` | a window's log (`wire::window_log`) |
//! | `{incarnation}:i:{name}` | its message ids (`=…`), and messages, bytes, part, chat (`#n #b #p #c`) |
//! | `{incarnation}:parts` | sealed parts that are not acknowledged yet |
//! | `{incarnation}:seen:{ten minutes}` | first offset and arrival of each message sent at once |

mod look;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicI64, Ordering},
};

use redis::{Cmd, Script, ScriptInvocation};
use uuid::Uuid;

use super::{Redis, StoreError};
use crate::{
    flow::event_to_window::{AtOnce, ChatAppend, Plan},
    model::{
        time::Millis,
        window::{Granularity, WindowKey, WindowRule},
    },
};

pub use self::look::{OpenBoundary, WindowsLook, look};

/// Version of everything under a partition's tag. Since version 2 the log has its messages in frames of version 2.
const VERSION: u32 = 2;

/// The first version that this release reads, and goes on with.
const FIRST_VERSION: u32 = 1;

/// A repeat of a message sent at once is dropped within this many milliseconds.
const REPEAT_SPAN_MS: i64 = 600_000;

/// Windows of a former incarnation that are deleted in one step.
const CLEARED_AT_ONCE: isize = 499;

/// What the names of a partition's keys begin with: all lie in one hash slot.
fn tag(prefix: &str, partition: i32) -> String {
    format!("{{{prefix}me:{partition}}}")
}

/// What the claimant finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The accepted claim that wrote it last.
    pub writer: Option<Uuid>,
    /// Id of the source topic it belongs to.
    pub topic: Option<String>,
    /// Part of its keys' names.
    pub incarnation: Option<String>,
    /// Everything below this offset is applied.
    pub applied: Option<i64>,
    /// The last boundary closed below that.
    pub closed: Option<Millis>,
    /// It was written by a release that this one can read.
    pub readable: bool,
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The messages of windows that were repeats, by their place among all of the plan's windows.
    pub duplicates: Vec<usize>,
    /// Parts that were sealed.
    pub sealed: u64,
    /// For each message sent at once: it is a repeat.
    pub repeats: Vec<bool>,
}

/// A sealed part that is not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPart {
    /// The window's start, or the last boundary closed before it was sealed if that is later.
    pub boundary: Millis,
    /// Its name in Redis.
    pub name: String,
    /// Source offset of the message that sealed it.
    pub by: i64,
    /// Its number, from 1.
    pub part: u32,
    /// Of which window.
    pub key: WindowKey,
}

/// The state of one partition. Every method is one atomic operation that can be repeated. It fails with
/// [`StoreError::Fenced`] if another process has claimed the partition, and with [`StoreError::Lost`] if less is applied
/// than this process has seen: then also what it does not look at may be older.
pub struct WindowStore {
    redis: Redis,
    scripts: Scripts,
    tag: String,
    token: String,
    incarnation: String,
    /// What is applied at least, as this process knows.
    applied: AtomicI64,
}

struct Scripts {
    claim: Script,
    begin: Script,
    apply: Script,
    due: Script,
    read: Script,
    forget: Script,
    parts: Script,
    open: Script,
}

/// A script that begins with the guard.
macro_rules! guarded {
    ($file:literal) => {
        Script::new(concat!(include_str!("guard.lua"), include_str!($file)))
    };
}

impl Scripts {
    fn new() -> Self {
        Self {
            claim: Script::new(include_str!("claim.lua")),
            begin: Script::new(include_str!("begin.lua")),
            apply: guarded!("apply.lua"),
            due: guarded!("due.lua"),
            read: guarded!("read.lua"),
            forget: guarded!("forget.lua"),
            parts: guarded!("parts.lua"),
            open: guarded!("open.lua"),
        }
    }
}

impl SealedPart {
    /// Its place among all parts of its partition.
    #[must_use]
    pub fn position(&self) -> (Millis, i64, Granularity) {
        (self.boundary, self.by, self.key.window.granularity)
    }
}

impl WindowStore {
    /// The store of a partition, for a claim's token. Nothing is asked of Redis yet.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str, partition: i32, token: Uuid) -> Self {
        let tag = tag(prefix, partition);
        let (scripts, applied) = (Scripts::new(), AtomicI64::new(i64::MIN));
        Self { redis, scripts, tag, token: token.to_string(), incarnation: String::new(), applied }
    }

    fn owner(&self) -> String {
        format!("{}:owner", self.tag)
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{}:{name}", self.tag, self.incarnation)
    }

    fn due_key(&self, boundary: Millis) -> String {
        self.key(&format!("due:{}", boundary.0))
    }

    /// Log and index of a window.
    fn window_keys(&self, name: &str) -> [String; 2] {
        [self.key(&format!("w:{name}")), self.key(&format!("i:{name}"))]
    }

    /// A call of a script with the owner's key first and the token first.
    fn call<'s>(&self, script: &'s Script) -> ScriptInvocation<'s> {
        let mut call = script.key(self.owner());
        call.arg(&self.token);
        call
    }

    /// The same for one that begins with the guard.
    fn guarded<'s>(&self, script: &'s Script) -> ScriptInvocation<'s> {
        let mut call = self.call(script);
        call.arg(self.applied.load(Ordering::Acquire));
        call
    }

    /// Makes this process the claimant: whoever wrote before is fenced from now on.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn claim(&self) -> Result<Found, StoreError> {
        type Answer =
            (Option<u32>, Option<String>, Option<String>, Option<String>, Option<i64>, Option<String>);
        let answer: Answer = self.redis.invoke("windows.claim", &self.call(&self.scripts.claim)).await?;
        let (version, writer, topic, incarnation, applied, closed) = answer;
        Ok(Found {
            writer: writer.and_then(|writer| writer.parse().ok()),
            topic,
            incarnation,
            applied,
            closed: closed.and_then(|closed| closed.parse().ok()).map(Millis),
            readable: version.is_some_and(|version| (FIRST_VERSION..=VERSION).contains(&version)),
        })
    }

    /// Goes on with the state that was found, in which so much is applied.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn go_on(&mut self, incarnation: String, applied: i64) -> Result<(), StoreError> {
        let mut call = self.call(&self.scripts.begin);
        call.arg(VERSION).arg("").arg("").arg("");
        self.redis.invoke::<()>("windows.begin", &call).await?;
        self.incarnation = incarnation;
        self.applied.store(applied, Ordering::Release);
        Ok(())
    }

    /// Begins anew: nothing is open, everything below an offset counts as applied.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn begin_anew(&mut self, topic: &str, applied: i64) -> Result<(), StoreError> {
        let incarnation = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let mut call = self.call(&self.scripts.begin);
        call.arg(VERSION).arg(topic).arg(&incarnation).arg(applied);
        self.redis.invoke::<()>("windows.begin", &call).await?;
        self.incarnation = incarnation;
        self.applied.store(applied, Ordering::Release);
        Ok(())
    }

    /// Deletes what a former incarnation left, a page at a time. Nobody writes it any more: every name holds the
    /// incarnation.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn clear(
        redis: &Redis,
        prefix: &str,
        partition: i32,
        incarnation: &str,
    ) -> Result<u64, StoreError> {
        let tag = tag(prefix, partition);
        let key = |name: &str| format!("{tag}:{incarnation}:{name}");
        let boundaries: Vec<String> =
            redis.command("windows.clear", redis::cmd("HKEYS").arg(key("open"))).await?;
        let mut cleared = 0;
        for due in boundaries.iter().map(|boundary| key(&format!("due:{boundary}"))) {
            loop {
                let page: Vec<String> = redis
                    .command("windows.clear", redis::cmd("ZRANGE").arg(&due).arg(0).arg(CLEARED_AT_ONCE))
                    .await?;
                if page.is_empty() {
                    break;
                }
                cleared += page.len() as u64;
                let mut pipeline = redis::pipe();
                for name in &page {
                    pipeline.unlink(&[key(&format!("w:{name}")), key(&format!("i:{name}"))][..]).ignore();
                }
                pipeline.zrem(&due, &page).ignore();
                redis.pipeline::<()>("windows.clear", &pipeline).await?;
            }
        }
        let rest = [key("open"), key("parts")];
        redis.command::<()>("windows.clear", redis::cmd("UNLINK").arg(&rest)).await?;
        Ok(cleared)
    }

    /// Applies a plan for records up to the next position.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn apply(
        &self,
        plan: &Plan,
        to: i64,
        closed: Option<Millis>,
        rule: &WindowRule,
    ) -> Result<Applied, StoreError> {
        let call = self.apply_call(plan, to, closed, rule);
        let (sealed, repeats, duplicates): (u64, String, Vec<usize>) =
            self.redis.evaluate("windows.apply", &self.scripts.apply, &call).await?;
        self.applied.fetch_max(to, Ordering::AcqRel);
        Ok(Applied {
            duplicates: duplicates.into_iter().map(|ordinal| ordinal - 1).collect(),
            sealed,
            repeats: repeats.chars().map(|flag| flag == '1').collect(),
        })
    }

    /// The call of the script, written at once into the bytes that are sent: nothing is copied once more for a message.
    fn apply_call(&self, plan: &Plan, to: i64, closed: Option<Millis>, rule: &WindowRule) -> Cmd {
        let filters = numbered(filter_buckets(&plan.at_once));
        let windows = || plan.chats.iter().flat_map(|chat| chat.windows.iter().map(move |each| (chat, each)));
        let boundaries = numbered(windows().map(|(_, window)| window.window.end));
        let mut call = redis::cmd("EVALSHA");
        let keys = 3 + filters.len() + boundaries.len() + 2 * windows().count();
        call.arg(self.scripts.apply.get_hash()).arg(keys);
        call.arg(self.owner()).arg(self.key("open")).arg(self.key("parts"));
        for bucket in filters.keys() {
            call.arg(self.key(&format!("seen:{bucket}")));
        }
        for boundary in boundaries.keys() {
            call.arg(self.due_key(*boundary));
        }
        let mut keys_of_window = self.window_keys("");
        let name_at = keys_of_window[0].len();
        for name in windows().map(|(chat, window)| chat.name(window)) {
            for key in &mut keys_of_window {
                key.truncate(name_at);
                key.push_str(&name);
                call.arg(key.as_str());
            }
        }
        call.arg(&self.token).arg(self.applied.load(Ordering::Acquire));
        call.arg(to).arg(closed.map(|closed| closed.0.to_string()).unwrap_or_default());
        call.arg(rule.part_messages).arg(rule.part_bytes).arg(REPEAT_SPAN_MS).arg(3 * REPEAT_SPAN_MS);
        call.arg(filters.len()).arg(plan.at_once.len()).arg(boundaries.len());
        call.arg(name_at).arg(plan.chats.len());
        for boundary in boundaries.keys() {
            call.arg(boundary.0);
        }
        for message in &plan.at_once {
            let bucket = message.arrived.0.div_euclid(REPEAT_SPAN_MS);
            call.arg(filters[&bucket]).arg(filters[&(bucket - 1)]);
            call.arg(&message.repeat_key).arg(message.offset).arg(message.arrived.0);
        }
        for chat in &plan.chats {
            add_chat(&mut call, chat, &boundaries);
        }
        call
    }

    /// The boundaries at which windows are open, with the first offset of the oldest.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn open_boundaries(&self) -> Result<BTreeMap<Millis, i64>, StoreError> {
        let mut call = self.guarded(&self.scripts.open);
        call.key(self.key("open"));
        let open: HashMap<i64, i64> = self.redis.invoke("windows.open", &call).await?;
        Ok(open.into_iter().map(|(boundary, first)| (Millis(boundary), first)).collect())
    }

    /// How many windows are open at boundaries, together. Whoever else has claimed the partition may be changing it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn count_open(&self, boundaries: impl Iterator<Item = Millis>) -> Result<i64, StoreError> {
        let mut counts = redis::pipe();
        for boundary in boundaries {
            counts.zcard(self.due_key(boundary));
        }
        if counts.is_empty() {
            return Ok(0);
        }
        let counts: Vec<i64> = self.redis.pipeline("windows.count", &counts).await?;
        Ok(counts.iter().sum())
    }

    /// Windows that end at a boundary, in the order of closing, from a rank on.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a name can't be read.
    pub async fn due(
        &self,
        boundary: Millis,
        rank: usize,
        most: usize,
    ) -> Result<Vec<(WindowKey, i64)>, StoreError> {
        let mut call = self.guarded(&self.scripts.due);
        call.key(self.due_key(boundary)).arg(rank).arg(rank + most - 1);
        let page: Vec<(String, i64)> = self.redis.invoke("windows.due", &call).await?;
        let parse = |(name, first): (String, i64)| {
            let key =
                WindowKey::parse(&name).ok_or(StoreError::Damaged(format!("name of a window: `{name}`")))?;
            Ok((key, first))
        };
        page.into_iter().map(parse).collect()
    }

    /// Logs and part numbers of windows; 0 for one that was never cut.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn read(&self, windows: &[WindowKey]) -> Result<Vec<(Vec<u8>, u32)>, StoreError> {
        let mut call = self.guarded(&self.scripts.read);
        for key in windows.iter().flat_map(|window| self.window_keys(&window.name())) {
            call.key(key);
        }
        self.redis.invoke("windows.read", &call).await
    }

    /// Deletes closed windows.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget(&self, boundary: Millis, windows: &[WindowKey]) -> Result<(), StoreError> {
        let mut call = self.guarded(&self.scripts.forget);
        call.key(self.key("open")).key(self.due_key(boundary)).arg(boundary.0);
        for name in windows.iter().map(WindowKey::name) {
            for key in self.window_keys(&name) {
                call.key(key);
            }
            call.arg(name);
        }
        self.redis.invoke("windows.forget", &call).await
    }

    /// The sealed parts that are not forgotten yet, in the order of their positions.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a name can't be read.
    pub async fn sealed_parts(&self) -> Result<Vec<SealedPart>, StoreError> {
        let mut call = self.guarded(&self.scripts.parts);
        call.key(self.key("parts")).arg("names");
        let names: Vec<String> = self.redis.invoke("windows.parts", &call).await?;
        let parse = |name: String| {
            let mut fields = name.splitn(4, '/');
            let mut part = || {
                let closed = fields.next()?.parse().map(Millis).ok();
                let by = fields.next()?.parse().ok()?;
                let part = fields.next()?.parse().ok()?;
                let key = WindowKey::parse(fields.next()?)?;
                let boundary = closed.unwrap_or(key.window.start).max(key.window.start);
                Some(SealedPart { boundary, name: name.clone(), by, part, key })
            };
            part().ok_or_else(|| StoreError::Damaged(format!("name of a part: `{name}`")))
        };
        let mut parts: Vec<SealedPart> = names.into_iter().map(parse).collect::<Result<_, _>>()?;
        parts.sort_by_key(SealedPart::position);
        Ok(parts)
    }

    /// The log of a sealed part.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn read_part(&self, part: &SealedPart) -> Result<Vec<u8>, StoreError> {
        let mut call = self.guarded(&self.scripts.parts);
        call.key(self.key("parts")).arg("read").arg(&part.name);
        self.redis.invoke("windows.parts", &call).await
    }

    /// Deletes sealed parts.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn forget_parts(&self, names: &[String]) -> Result<(), StoreError> {
        let mut call = self.guarded(&self.scripts.parts);
        call.key(self.key("parts")).arg("forget").arg(names);
        self.redis.invoke::<Vec<String>>("windows.parts", &call).await.map(drop)
    }
}

fn add_chat(call: &mut Cmd, chat: &ChatAppend, boundaries: &BTreeMap<Millis, usize>) {
    call.arg(chat.windows.len());
    for window in &chat.windows {
        call.arg(boundaries[&window.window.end]);
    }
    call.arg(chat.details.len());
    for (fingerprint, frame) in &chat.details {
        call.arg(format!("{fingerprint:x}")).arg(frame);
    }
    call.arg(chat.messages.len());
    for message in &chat.messages {
        call.arg(message.offset).arg(&message.message_id).arg(message.size);
        call.arg(message.details).arg(&message.frame);
    }
}

/// The keys of the filter for repeats that a batch touches, by their ten minutes: those of each message's arrival, and
/// the ones before.
fn filter_buckets(at_once: &[AtOnce]) -> impl Iterator<Item = i64> {
    let present = at_once.iter().map(|message| message.arrived.0.div_euclid(REPEAT_SPAN_MS));
    present.flat_map(|bucket| [bucket - 1, bucket])
}

/// Distinct things in their order, each with its number from 1.
fn numbered<T: Ord>(things: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    things.collect::<BTreeSet<T>>().into_iter().zip(1..).collect()
}
