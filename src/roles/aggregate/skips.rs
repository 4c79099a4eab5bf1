//! Messages that did not count, by webhook, day and reason: summed in memory, published to `message-skips` every second
//! at most, and taken into the views of the webhooks from there.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::{Aggregate, Trouble};
use crate::{
    flow::event_to_window::{ChatAppend, Plan},
    io::{
        kafka::{
            intake::PartitionFeed,
            publisher::{AckGroup, Outgoing},
            reader::RecordReader,
        },
        redis::{
            views::{Item, Said, ViewKind, ViewSource},
            windows::Applied,
        },
    },
    model::{
        bundle::Source,
        event::Skip,
        ids::{WebhookId, WorkspaceId},
        statistics::{Day, Tenure},
        time::Millis,
    },
    roles::{
        process::Process,
        reflecting::{HandOver, Items, Reflecting},
    },
    wire::skips::{SkipRecord, WebhookSkips},
};

/// How long what was counted waits for more.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many rows are published at once, so that they fit into a record.
const ROWS: usize = 1_000;

type Counts = BTreeMap<(Tenure, Day), BTreeMap<Skip, u64>>;

/// The skips of one partition.
pub(super) struct Skips {
    source: Source,
    /// All skips below this offset are acknowledged.
    done: i64,
    /// All skips below this offset are counted.
    counted: i64,
    counts: Counts,
    /// When the first of them came.
    since: Option<Instant>,
    /// A record that is on its way.
    published: Option<(SkipRecord, AckGroup)>,
    views: HandOver,
    _follower: AbortOnDropHandle<()>,
}

impl Skips {
    /// Everything below an offset is published. The views follow until this is dropped.
    pub fn new(process: &Process, source: &Source, done: i64) -> Self {
        let partition = source.partition;
        let reflecting = Reflecting {
            process: process.clone(),
            topic: process.topics.message_skips.clone(),
            source: ViewSource { kind: ViewKind::Skips, partition },
            read,
        };
        let (views, follower) = reflecting.begin();
        Self {
            source: source.clone(),
            done,
            counted: done,
            counts: Counts::new(),
            since: None,
            published: None,
            views,
            _follower: AbortOnDropHandle::new(tokio::spawn(follower.run())),
        }
    }

    /// All skips below this offset are in `message-skips`.
    pub fn done(&self) -> i64 {
        self.done
    }

    /// True if nothing is on its way or waits.
    pub fn is_idle(&self) -> bool {
        self.counts.is_empty() && self.published.is_none()
    }

    /// Counts what did not count of the records below an offset. What was counted before is passed over.
    pub fn count(&mut self, plan: &Plan, applied: &Applied, next: i64) {
        for skipped in &plan.skipped {
            let webhooks = skipped.webhooks.iter().map(|webhook| (webhook, &skipped.workspace));
            self.add(skipped.offset, skipped.arrived, skipped.reason, webhooks);
        }
        for (message, _) in plan.at_once.iter().zip(&applied.repeats).filter(|(_, repeat)| **repeat) {
            let heads = message.bundles.iter().map(|bundle| &bundle.head);
            let webhooks = heads.map(|head| (&head.webhook_id, &head.workspace_id));
            self.add(message.offset, message.arrived, Skip::Duplicate, webhooks);
        }
        if !applied.duplicates.is_empty() {
            let messages: Vec<_> = plan.chats.iter().flat_map(ChatAppend::pairs).collect();
            for (chat, window, message) in applied.duplicates.iter().filter_map(|index| messages.get(*index))
            {
                // Valid, since it was checked when the event was decoded.
                if let Ok(workspace) = WorkspaceId::parse(&chat.workspace) {
                    let webhooks = window.webhooks.iter().map(|webhook| (webhook, &workspace));
                    self.add(message.offset, message.arrived, Skip::Duplicate, webhooks);
                }
            }
        }
        self.counted = self.counted.max(next);
        if self.is_idle() {
            self.done = self.counted;
        }
    }

    fn add<'w>(
        &mut self,
        offset: i64,
        arrived: Millis,
        reason: Skip,
        webhooks: impl IntoIterator<Item = (&'w WebhookId, &'w WorkspaceId)>,
    ) {
        if offset < self.counted {
            return;
        }
        self.since.get_or_insert_with(Instant::now);
        for (webhook, workspace) in webhooks {
            let tenure = Tenure { webhook: webhook.clone(), workspace: workspace.clone() };
            let reasons = self.counts.entry((tenure, Day::of(arrived))).or_default();
            *reasons.entry(reason).or_default() += 1;
        }
    }

    /// Takes in the acknowledgement, and publishes what has waited for long enough, or all of it.
    pub async fn publish(&mut self, process: &Process, wake: &Arc<Notify>, all: bool) -> Result<(), Trouble> {
        if let Some((record, acks)) = self.published.take_if(|(_, acks)| acks.is_complete()) {
            let offset = acks.last_offset();
            self.views.note(offset, items(offset, &record));
            self.done = if self.counts.is_empty() { self.counted } else { record.to };
        }
        let is_due =
            all || self.counts.len() >= ROWS || self.since.is_some_and(|since| since.elapsed() >= INTERVAL);
        if self.counts.is_empty() || self.published.is_some() || !is_due {
            return Ok(());
        }
        self.since = None;
        let skips = std::mem::take(&mut self.counts);
        let skips = skips.into_iter().map(|((tenure, day), reasons)| WebhookSkips {
            webhook_id: tenure.webhook,
            workspace_id: Some(tenure.workspace),
            day,
            reasons,
        });
        let Source { topic_id, partition } = self.source.clone();
        let record = SkipRecord::new(topic_id, partition, (self.done, self.counted), skips.collect());
        let (key, acks) = (partition.to_string(), AckGroup::waking(wake));
        let outgoing = Outgoing {
            topic: &process.topics.message_skips,
            partition: Some(partition),
            key: key.as_bytes(),
            value: Some(&record.encode()),
            headers: &[],
        };
        process.publisher.publish(&outgoing, &acks).await?;
        self.published = Some((record, acks));
        Ok(())
    }
}

/// The offset up to which the skips of a partition are published, as far as its last record says.
pub(super) async fn published_to(
    role: &Aggregate,
    feed: &PartitionFeed,
    topic_id: &str,
) -> Result<Option<i64>, Trouble> {
    let topic = role.process.topics.message_skips.clone();
    let (low, end) = feed.watermarks(&topic).await?;
    if end <= low {
        return Ok(None);
    }
    let (settings, partition) = (role.process.kafka.clone(), feed.partition);
    let read = move || RecordReader::new(&settings, &topic, partition)?.read(&[end - 1]);
    let found = tokio::task::spawn_blocking(read).await.map_err(|error| Trouble::Again(error.to_string()))?;
    let found = found.map_err(|error| Trouble::Again(error.to_string()))?;
    let last = found.into_iter().flatten().next().map(|record| SkipRecord::decode(&record.value));
    match last {
        Some(Ok(record)) if record.topic == topic_id => Ok(Some(record.to)),
        Some(Err(problem)) => {
            error!(partition, offset = end - 1, %problem, "the last record of skips can't be read");
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn read(_: i32, offset: i64, value: &[u8]) -> Items {
    // What can't be read is of another release.
    SkipRecord::decode(value).map(|record| items(offset, &record)).unwrap_or_default()
}

fn items(offset: i64, record: &SkipRecord) -> Items {
    let of_webhook = |skips: &WebhookSkips| {
        let (webhook, day) = (&skips.webhook_id, skips.day);
        let tenure =
            skips.workspace_id.clone().map(|workspace| Tenure { webhook: webhook.clone(), workspace });
        let reasons: Vec<_> = skips.reasons.iter().map(|(reason, count)| (*reason, *count)).collect();
        let item = move |(reason, count)| {
            Some((tenure.clone()?, Item { offset, said: Said::Skipped(day, reason, count) }))
        };
        reasons.into_iter().filter_map(item)
    };
    record.skips.iter().flat_map(of_webhook).collect()
}
