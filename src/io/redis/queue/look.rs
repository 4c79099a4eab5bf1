//! A look at the queue of a partition without claiming it: reads only, and fences nobody.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use uuid::Uuid;

use super::{Millis, Parked, Redis, StoreError, decode_parked};

/// The queue of a partition of `bundles`, as Redis holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueLook {
    /// Version of the queue.
    pub version: Option<u32>,
    /// The last claimant, accepted or not.
    pub token: Option<Uuid>,
    /// The accepted claim that wrote it last.
    pub writer: Option<Uuid>,
    /// It reflects `waiting-deliveries` below this offset.
    pub reflects: Option<i64>,
    /// When it was written last.
    pub written_at: Option<Millis>,
    /// The webhooks that have something parked, by id.
    pub webhooks: Vec<ParkedOf>,
}

/// What a webhook has parked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedOf {
    /// The webhook's id.
    pub webhook: String,
    /// How many deliveries.
    pub deliveries: u64,
    /// The first of them; none if it can't be read.
    pub oldest: Option<Parked>,
}

/// Looks at the queue of a partition; none if there is none.
///
/// # Errors
/// [`StoreError`]
pub async fn look(redis: &Redis, prefix: &str, partition: i32) -> Result<Option<QueueLook>, StoreError> {
    let tag = super::tag(prefix, partition);
    let owner: HashMap<String, String> =
        redis.command("queue.look", redis::cmd("HGETALL").arg(format!("{tag}:owner"))).await?;
    if owner.is_empty() {
        return Ok(None);
    }
    let incarnation = owner.get("incarnation").cloned().unwrap_or_default();
    let number = |name| owner.get(name).and_then(|text| text.parse::<i64>().ok());
    let token = |name| owner.get(name).and_then(|text| text.parse().ok());
    let counts: BTreeMap<String, u64> =
        redis.command("queue.look", redis::cmd("HGETALL").arg(format!("{tag}:webhooks"))).await?;
    let mut webhooks = Vec::with_capacity(counts.len());
    for (webhook, deliveries) in counts {
        let mut first = redis::cmd("ZRANGE");
        first.arg(format!("{tag}:{incarnation}:{webhook}")).arg(0).arg(0);
        let first: Vec<Vec<u8>> = redis.command("queue.look", &first).await?;
        let oldest = first.first().and_then(|entry| decode_parked(entry).ok());
        webhooks.push(ParkedOf { webhook, deliveries, oldest });
    }
    Ok(Some(QueueLook {
        version: number("v").and_then(|version| version.try_into().ok()),
        token: token("token"),
        writer: token("writer"),
        reflects: number("reflects"),
        written_at: number("written_at").map(Millis),
        webhooks,
    }))
}

/// How many each webhook has parked in some partitions of `bundles`, as their owners counted last.
///
/// # Errors
/// [`StoreError`]
pub async fn counts(
    redis: &Redis,
    prefix: &str,
    partitions: i32,
) -> Result<HashMap<String, u64>, StoreError> {
    let mut all = HashMap::new();
    for partition in 0..partitions {
        let mut command = redis::cmd("HGETALL");
        command.arg(format!("{}:webhooks", super::tag(prefix, partition)));
        let counts: HashMap<String, u64> = redis.command("queue.look", &command).await?;
        for (webhook, count) in counts {
            *all.entry(webhook).or_default() += count;
        }
    }
    Ok(all)
}
