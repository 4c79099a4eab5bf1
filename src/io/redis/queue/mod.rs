//! The queue of a partition of `bundles`: its deliveries that are parked, by webhook and in order. A view of the
//! partition of `waiting-deliveries` that has its number.
//!
//! | key (each begins with the partition's tag) | holds |
//! |---|---|
//! | `owner` | version, claimant's token, writer's token, incarnation, offset of `waiting-deliveries` at which the writer's claim begins, offset that it reflects, when it was written |
//! | `webhooks` | webhooks that have something parked, with how many |
//! | `{incarnation}:{webhook}` | its parked deliveries (`wire::waiting`), by the offset of the bundle |

mod look;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use redis::{Script, ScriptInvocation};
use uuid::Uuid;

use super::{Redis, StoreError};
use crate::{
    model::{ids::WebhookId, parked::Parked, time::Millis},
    wire::waiting::{decode_parked, encode_parked},
};

pub use self::look::{ParkedOf, QueueLook, counts, look};

/// Version of everything under a partition's tag.
const VERSION: u32 = 1;

/// What the names of a partition's keys begin with: all lie in one hash slot.
fn tag(prefix: &str, partition: i32) -> String {
    format!("{{{prefix}bundles:{partition}}}")
}

/// What the claimant finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The accepted claim that wrote it last.
    pub writer: Option<Uuid>,
    /// Where the record of that claim stands in `waiting-deliveries`.
    pub claimed_at: Option<i64>,
    /// It reflects `waiting-deliveries` below this offset.
    pub reflects: Option<i64>,
    /// When it was written last.
    pub written_at: Option<Millis>,
    /// It was written by a release that this one can read.
    pub readable: bool,
    incarnation: String,
    /// The webhooks that have something in it.
    webhooks: Vec<String>,
}

/// Changes of a queue: the last word on each bundle offset of each webhook. None: taken out.
pub type Changes = BTreeMap<WebhookId, BTreeMap<i64, Option<Parked>>>;

/// The queue of one partition. Every method is one atomic operation that can be repeated, and fails with
/// [`StoreError::Fenced`] if another process has claimed the partition.
pub struct QueueStore {
    redis: Redis,
    scripts: Scripts,
    tag: String,
    token: String,
    /// Part of the names of the keys, so that nothing of a queue that was given up is found again.
    incarnation: OnceLock<String>,
    /// What it reflects at least, as this process knows.
    reflects: AtomicI64,
}

struct Scripts {
    claim: Script,
    begin: Script,
    apply: Script,
    page: Script,
    webhooks: Script,
}

impl Scripts {
    fn new() -> Self {
        Self {
            claim: Script::new(include_str!("claim.lua")),
            begin: Script::new(include_str!("begin.lua")),
            apply: Script::new(concat!(include_str!("guard.lua"), include_str!("apply.lua"))),
            page: Script::new(concat!(include_str!("guard.lua"), include_str!("page.lua"))),
            webhooks: Script::new(concat!(include_str!("guard.lua"), include_str!("webhooks.lua"))),
        }
    }
}

impl QueueStore {
    /// The queue of a partition, for a claim's token. Nothing is asked of Redis yet.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str, partition: i32, token: Uuid) -> Self {
        let tag = tag(prefix, partition);
        let (scripts, reflects) = (Scripts::new(), AtomicI64::new(i64::MIN));
        Self { redis, scripts, tag, token: token.to_string(), incarnation: OnceLock::new(), reflects }
    }

    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.tag)
    }

    fn queue_key(&self, webhook: &str) -> String {
        let incarnation = self.incarnation.get().map_or("", String::as_str);
        format!("{}:{incarnation}:{webhook}", self.tag)
    }

    /// A call of a script with the owner's and the webhooks' key first and the token first.
    fn call<'s>(&self, script: &'s Script) -> ScriptInvocation<'s> {
        let mut call = script.key(self.key("owner"));
        call.key(self.key("webhooks")).arg(&self.token);
        call
    }

    /// Makes this process the claimant: whoever wrote before is fenced from now on.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn claim(&self) -> Result<Found, StoreError> {
        type Answer =
            (Option<u32>, Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Vec<String>);
        let answer: Answer = self.redis.invoke("queue.claim", &self.call(&self.scripts.claim)).await?;
        let (version, writer, incarnation, claimed_at, reflects, written_at, webhooks) = answer;
        Ok(Found {
            writer: writer.and_then(|writer| writer.parse().ok()),
            incarnation: incarnation.unwrap_or_default(),
            claimed_at,
            reflects,
            written_at: written_at.map(Millis),
            readable: version == Some(VERSION),
            webhooks,
        })
    }

    /// Goes on with the queue that was found, for a claim whose record stands at an offset of `waiting-deliveries`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn go_on(&self, found: &Found, claimed_at: i64) -> Result<(), StoreError> {
        self.incarnation.get_or_init(|| found.incarnation.clone());
        let mut call = self.call(&self.scripts.begin);
        call.arg(VERSION).arg(claimed_at).arg("").arg("");
        self.redis.invoke::<()>("queue.begin", &call).await?;
        self.reflects.store(found.reflects.unwrap_or(i64::MIN), Ordering::Release);
        Ok(())
    }

    /// Begins an empty queue that reflects `waiting-deliveries` below an offset, in place of the one that was found.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn begin_anew(
        &self,
        found: &Found,
        claimed_at: i64,
        reflects: i64,
        now: Millis,
    ) -> Result<(), StoreError> {
        self.incarnation.get_or_init(|| self.token.clone());
        let mut call = self.call(&self.scripts.begin);
        for webhook in &found.webhooks {
            call.key(format!("{}:{}:{webhook}", self.tag, found.incarnation));
        }
        call.arg(VERSION).arg(claimed_at).arg(reflects).arg(now.0);
        self.redis.invoke::<()>("queue.begin", &call).await?;
        self.reflects.store(reflects, Ordering::Release);
        Ok(())
    }

    /// Changes the queue, which then reflects `waiting-deliveries` below an offset; changes nothing if it does so already.
    /// Returns how many each of the webhooks has left, in the order of the changes.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if it reflects less than this process has seen.
    pub async fn apply(&self, changes: &Changes, reflects: i64, now: Millis) -> Result<Vec<u64>, StoreError> {
        let mut call = self.call(&self.scripts.apply);
        let puts = changes.values().flat_map(BTreeMap::values).filter(|change| change.is_some()).count();
        call.arg(self.reflects.load(Ordering::Acquire)).arg(reflects).arg(now.0).arg(puts);
        for (webhook, changes) in changes {
            let puts = changes.iter().filter_map(|(offset, change)| Some((offset, (*change)?)));
            let removals = changes.iter().filter(|(_, change)| change.is_none());
            call.key(self.queue_key(webhook.as_str())).arg(webhook.as_str()).arg(puts.clone().count());
            for (offset, parked) in puts {
                call.arg(offset).arg(encode_parked(&parked));
            }
            call.arg(removals.clone().count());
            for (offset, _) in removals {
                call.arg(offset);
            }
        }
        let left = self.redis.invoke("queue.apply", &call).await?;
        self.reflects.fetch_max(reflects, Ordering::AcqRel);
        Ok(left)
    }

    /// What a webhook has parked after a bundle offset, in order.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if entries are missing or it reflects less than this process has seen;
    /// [`StoreError::Damaged`] if an entry can't be read.
    pub async fn page(
        &self,
        webhook: &WebhookId,
        after: i64,
        most: usize,
    ) -> Result<Vec<Parked>, StoreError> {
        let mut call = self.call(&self.scripts.page);
        call.key(self.queue_key(webhook.as_str()));
        call.arg(self.reflects.load(Ordering::Acquire)).arg(webhook.as_str()).arg(after).arg(most);
        let page: Vec<Vec<u8>> = self.redis.invoke("queue.page", &call).await?;
        let decode = |entry: &Vec<u8>| {
            decode_parked(entry)
                .map_err(|error| StoreError::Damaged(format!("an entry of the queue: {error}")))
        };
        page.iter().map(decode).collect()
    }

    /// The webhooks that have something parked, with how many.
    ///
    /// # Errors
    /// [`StoreError::Lost`] if it reflects less than this process has seen; [`StoreError::Damaged`] if a name is no
    /// webhook's.
    pub async fn webhooks(&self) -> Result<HashMap<WebhookId, u64>, StoreError> {
        let mut call = self.call(&self.scripts.webhooks);
        call.arg(self.reflects.load(Ordering::Acquire));
        let counts: HashMap<String, u64> = self.redis.invoke("queue.webhooks", &call).await?;
        let parse = |(webhook, count): (String, u64)| {
            let webhook = WebhookId::parse(&webhook)
                .map_err(|error| StoreError::Damaged(format!("a webhook of the queue: {error}")))?;
            Ok((webhook, count))
        };
        counts.into_iter().map(parse).collect()
    }
}
