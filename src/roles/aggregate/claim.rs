//! Claiming a partition: a fresh token into Redis, then the committed offset is read, then a commit of it with the
//! token is accepted for our generation, then work. Whoever wrote before is fenced by then, in Redis and in Kafka.

use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Aggregate, Trouble, partition::Partition, skips::published_to};
use crate::{
    config::StartFrom,
    io::{
        clock,
        kafka::intake::PartitionFeed,
        redis::windows::{Found, WindowStore},
    },
    model::{bundle::Source, window::WindowRules},
    ops::failpoint,
    roles::{backlog::Backlog, process::Process},
    wire::metadata::{AggregateMetadata, Metadata},
};

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Again(reason)
    }
}

/// Claims a partition and moves its feed to where work begins.
///
/// # Errors
/// [`Trouble`]
pub(super) async fn claim<'a>(
    role: &'a Aggregate,
    feed: &mut PartitionFeed,
    remembered: Option<i64>,
    backlog: &'a Backlog,
) -> Result<Partition<'a>, Trouble> {
    let partition = feed.partition;
    let token = Uuid::new_v4();
    let process = &role.process;
    let mut store = WindowStore::new(process.redis.clone(), process.topics.prefix(), partition, token);
    let found = store.claim().await?;
    failpoint::reach("aggregate.token-set");
    let (safe, mut metadata, former_token) = starting_point(role, feed, token).await?;
    metadata.token = token;
    if metadata.rules.adopt(role.windows.rule(), clock::now()) {
        info!(partition, "other terms of windows take effect when the windows that are open have closed");
    }
    let text = metadata.encode().map_err(|error| Trouble::Fatal(error.to_string()))?;
    failpoint::reach("aggregate.claiming");
    feed.commit(safe, text).await?;
    failpoint::reach("aggregate.claim-committed");
    let usable = is_usable(&found, &metadata.topic, former_token, safe.max(remembered.unwrap_or(safe)));
    let claims = |state| process.metrics.claims.with_label_values(&["aggregate", state]);
    let applied = match found {
        Found { incarnation: Some(incarnation), applied: Some(applied), closed, .. } if usable => {
            store.go_on(incarnation, applied).await?;
            claims("kept").inc();
            if let Some(closed) = closed {
                metadata.boundaries.close(closed, applied);
            }
            let (open, last_closed) =
                (store.open_boundaries().await?, metadata.boundaries.closed_before(applied));
            metadata.closings = metadata.closings.map(|closings| closings.done_in(&open, last_closed));
            applied
        }
        Found { incarnation, .. } => {
            store.begin_anew(&metadata.topic, safe).await?;
            claims(if former_token.is_some() { "rebuilt" } else { "new" }).inc();
            if let Some(former) = incarnation {
                tokio::spawn(clear(process.clone(), partition, former));
            }
            safe
        }
    };
    failpoint::reach("aggregate.state-taken");
    let skips = published_to(role, feed, &metadata.topic).await?.max(metadata.skips);
    let skips = skips.unwrap_or(metadata.none);
    metadata.skips = Some(skips);
    let start = applied.min(metadata.none).min(skips);
    info!(
        partition,
        safe,
        applied,
        start,
        state = if usable { "kept" } else { "begun anew" },
        "partition claimed"
    );
    let source = Source { topic_id: metadata.topic.clone(), partition };
    let state = Partition::new(role, store, source, metadata, (applied, safe, start), backlog).await?;
    feed.start_at(start).await.map_err(|error| Trouble::Again(error.to_string()))?;
    Ok(state)
}

/// Deletes what a former incarnation left in Redis.
async fn clear(process: Process, partition: i32, incarnation: String) {
    loop {
        match WindowStore::clear(&process.redis, process.topics.prefix(), partition, &incarnation).await {
            Err(error) if error.is_busy() => tokio::time::sleep(super::CLAIM_PAUSE).await,
            Err(error) => {
                return warn!(partition, incarnation, %error, "a former incarnation is left in redis");
            }
            Ok(windows) => return info!(partition, incarnation, windows, "a former incarnation is deleted"),
        }
    }
}

/// True if the state is what the accepted claim before ours left, and no older than what was seen of it.
fn is_usable(found: &Found, topic: &str, former_token: Option<Uuid>, at_least: i64) -> bool {
    found.readable
        && former_token.is_some()
        && found.writer == former_token
        && found.topic.as_deref() == Some(topic)
        && found.incarnation.is_some()
        && found.applied.is_some_and(|applied| applied >= at_least)
}

/// The safe offset, its metadata, and the token of the claim before ours.
async fn starting_point(
    role: &Aggregate,
    feed: &PartitionFeed,
    token: Uuid,
) -> Result<(i64, AggregateMetadata, Option<Uuid>), Trouble> {
    let (low, high) = feed.watermarks(&role.process.topics.message_events).await?;
    let fresh = |offset| {
        let rules = WindowRules::single(role.windows.rule());
        AggregateMetadata::new(role.topic_id.clone(), token, offset, rules)
    };
    let Some((offset, text)) = feed.committed().await? else {
        let offset = first_offset(role, feed, low, high).await?;
        return Ok((offset, fresh(offset), None));
    };
    let metadata = AggregateMetadata::decode(&text).map_err(|error| Trouble::Fatal(error.to_string()))?;
    if metadata.topic != role.topic_id {
        info!(partition = feed.partition, "the topic was created anew; reading it from its beginning");
        return Ok((low, fresh(low), None));
    }
    if offset > high {
        return Err(Trouble::Fatal(format!(
            "the committed offset {offset} of partition {} lies above the end {high} of its log",
            feed.partition
        )));
    }
    if offset < low {
        let lost = low - offset;
        error!(partition = feed.partition, lost, "records were deleted before they were read");
        role.process.metrics.records_lost.with_label_values(&["aggregate"]).inc_by(lost as u64);
        let mut metadata = metadata;
        metadata.none = metadata.none.max(low);
        metadata.parts = metadata.parts.max(low);
        metadata.skips = metadata.skips.max(Some(low));
        return Ok((low, metadata, None));
    }
    let former = metadata.token;
    Ok((offset, metadata, Some(former)))
}

/// Where to start without a committed offset: at the beginning if nothing was ever published from this partition,
/// else as the operator says.
async fn first_offset(role: &Aggregate, feed: &PartitionFeed, low: i64, high: i64) -> Result<i64, Trouble> {
    let (_, published) = feed.watermarks(&role.process.topics.bundles).await?;
    match role.from {
        Some(StartFrom::Beginning) => Ok(low),
        Some(StartFrom::End) => Ok(high),
        None if published == 0 => Ok(low),
        None => Err(Trouble::Fatal(format!(
            "partition {} has no committed offset although `{}` holds bundles of it; say where to start with \
             `--from beginning` or `--from end`",
            feed.partition, role.process.topics.bundles
        ))),
    }
}
