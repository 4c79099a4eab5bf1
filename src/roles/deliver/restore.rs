//! The queue of a partition at its claim: what `waiting-deliveries` says since the queue was written last, or from the
//! beginning if the queue is gone; then what is recorded of attempts whose end the queue does not know.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::{error, info};
use uuid::Uuid;

use super::{
    Deliver,
    recorded::{Recorded, RecordedAttempts},
};
use crate::{
    io::{
        clock,
        kafka::{
            publisher::AckGroup,
            replay::{Replayed, replay},
        },
        redis::queue::{Changes, Found, QueueStore},
    },
    model::{
        ids::WebhookId,
        parked::{Parked, Reason},
    },
    wire::waiting::{self, WEBHOOK_HEADER, WaitingDelivery, WaitingError},
};

/// A queue that was not written for so long may lack a tombstone that is gone by now; those stay for a day at least.
const TOMBSTONES_STAY: Duration = Duration::from_hours(12);
/// So many changes are applied at once.
const BATCH: usize = 1_000;

/// The queue of a claim that was accepted.
pub(super) struct Restored {
    /// `kept`, `rebuilt` or `new`.
    pub state: &'static str,
    /// How many each webhook has parked.
    pub counts: HashMap<WebhookId, u64>,
    /// Which of the bundles that are read from now on are parked already.
    pub ahead: HashSet<i64>,
}

/// What is needed to restore a queue.
pub(super) struct Restoring<'a> {
    pub deliver: &'a Deliver,
    pub partition: i32,
    pub token: Uuid,
    pub queue: &'a QueueStore,
    pub found: Found,
    /// The former claim that was accepted.
    pub former: Option<Uuid>,
    /// First and next offset of the partition of `waiting-deliveries`.
    pub records: (i64, i64),
    /// Bundles are read from this offset on.
    pub start: i64,
    pub recorded: &'a RecordedAttempts,
}

/// Changes that were read and not applied yet.
#[derive(Default)]
struct Read {
    changes: Changes,
    count: usize,
    /// They are those of the records below this offset.
    next: i64,
    unreadable: Option<String>,
}

impl Restoring<'_> {
    /// Restores the queue.
    ///
    /// # Errors
    /// If Redis or Kafka can't serve now, or a record was written by another release.
    pub async fn run(self) -> Result<Restored, String> {
        let (state, from) = self.begin().await?;
        self.replay(from).await?;
        self.merge().await?;
        let counts = self.queue.webhooks().await.map_err(|error| error.to_string())?;
        let ahead = self.ahead(&counts).await?;
        let parked: u64 = counts.values().sum();
        info!(partition = self.partition, state, parked, "queue of parked deliveries restored");
        Ok(Restored { state, counts, ahead })
    }

    /// Goes on with the queue that was found if it can be relied on, else begins an empty one. Returns the offset of
    /// `waiting-deliveries` below which it reflects everything.
    async fn begin(&self) -> Result<(&'static str, i64), String> {
        let (low, end) = self.records;
        let now = clock::now();
        let found = &self.found;
        let is_recent = found.written_at.is_some_and(|at| now.since(at) < TOMBSTONES_STAY);
        let is_ours = found.readable && self.former.is_some() && found.writer == self.former;
        let reflects = found.reflects.filter(|reflects| (low..=end).contains(reflects));
        if let Some(reflects) = reflects.filter(|_| is_recent && is_ours) {
            self.queue.go_on(found).await.map_err(|error| error.to_string())?;
            return Ok(("kept", reflects));
        }
        self.queue.begin_anew(found, low, now).await.map_err(|error| error.to_string())?;
        Ok((if self.former.is_some() { "rebuilt" } else { "new" }, low))
    }

    /// Applies `waiting-deliveries` from an offset to its end.
    async fn replay(&self, from: i64) -> Result<(), String> {
        let (partition, read) = (self.partition, Arc::new(Mutex::new(Read::default())));
        let (sender, mut full) = mpsc::channel::<Read>(2);
        let shared = read.clone();
        let take = move |record: &Replayed<'_>| {
            let mut read = shared.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut read, record, partition);
            let ends = read.unreadable.is_some();
            let lost = read.count >= BATCH && sender.blocking_send(std::mem::take(&mut *read)).is_err();
            if ends || lost { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let process = &self.deliver.process;
        let reading = replay(&process.kafka, &process.topics.waiting_deliveries, partition, from, take);
        let applying = async {
            while let Some(batch) = full.recv().await {
                self.apply(&batch.changes, batch.next).await?;
            }
            Ok::<(), String>(())
        };
        let (end, applied) = tokio::join!(reading, applying);
        applied?;
        let end = end.map_err(|error| format!("the waiting deliveries can't be read: {error}"))?;
        let rest = std::mem::take(&mut *read.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(problem) = rest.unreadable {
            return Err(problem);
        }
        self.apply(&rest.changes, end).await
    }

    async fn apply(&self, changes: &Changes, reflects: i64) -> Result<(), String> {
        let applied = self.deliver.apply(self.queue, changes, reflects).await;
        applied.map(drop).map_err(|error| error.to_string())
    }

    /// Takes out what is recorded as settled, and renews what is recorded as failed.
    async fn merge(&self) -> Result<(), String> {
        let counts = self.queue.webhooks().await.map_err(|error| error.to_string())?;
        let (group, mut changes) = (AckGroup::default(), Changes::new());
        for (offset, recorded) in self.recorded {
            let webhook = &recorded.owner.webhook_id;
            if !counts.contains_key(webhook) {
                continue;
            }
            let page = self.deliver.page(self.queue, webhook, offset - 1, 1).await;
            let page = page.map_err(|error| error.to_string())?;
            let Some(parked) = page.first().filter(|parked| parked.offset == *offset) else { continue };
            let change = self.renew(parked, recorded, &group).await;
            if change != Some(*parked) {
                changes.entry(webhook.clone()).or_default().insert(*offset, change);
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        group.complete().await;
        self.apply(&changes, group.last_offset() + 1).await
    }

    async fn renew(&self, parked: &Parked, recorded: &Recorded, group: &AckGroup) -> Option<Parked> {
        if recorded.settled {
            self.deliver.tombstone(&recorded.owner.webhook_id, self.partition, parked.offset, group).await;
            return None;
        }
        let (attempts, refusals) = recorded.on_top_of(parked.attempts, parked.refusals);
        let renewed = Parked { attempts, refusals, ..*parked };
        if renewed != *parked {
            let (owner, token) = (&recorded.owner, self.token);
            let record = WaitingDelivery::new(owner, &renewed, self.partition, Reason::Retry, token);
            self.deliver.put_record(&record, group).await;
        }
        Some(renewed)
    }

    async fn ahead(&self, counts: &HashMap<WebhookId, u64>) -> Result<HashSet<i64>, String> {
        let mut ahead = HashSet::new();
        for webhook in counts.keys() {
            let mut after = self.start - 1;
            loop {
                let page = self.deliver.page(self.queue, webhook, after, BATCH).await;
                let page = page.map_err(|error| error.to_string())?;
                ahead.extend(page.iter().map(|parked| parked.offset));
                match page.last() {
                    Some(last) if page.len() == BATCH => after = last.offset,
                    _ => break,
                }
            }
        }
        Ok(ahead)
    }
}

/// Notes one record.
fn note(read: &mut Read, record: &Replayed<'_>, partition: i32) {
    read.next = record.offset + 1;
    let Some(offset) = record.key.and_then(|key| waiting::key_offset(key, partition)) else {
        error!(partition, offset = record.offset, "a waiting delivery with a strange key");
        return;
    };
    let change = match record.value.map(WaitingDelivery::decode) {
        None => record.header(WEBHOOK_HEADER).and_then(|id| WebhookId::parse(id).ok()).map(|id| (id, None)),
        Some(Ok(waiting)) => {
            let parked = waiting.parked();
            Some((waiting.webhook_id, Some(parked)))
        }
        Some(Err(problem @ WaitingError::Version(_))) => {
            read.unreadable = Some(format!("the waiting delivery of bundle {offset}: {problem}"));
            return;
        }
        Some(Err(problem)) => {
            error!(partition, offset = record.offset, %problem, "a record that is no waiting delivery");
            return;
        }
    };
    let Some((webhook, change)) = change else {
        error!(partition, offset = record.offset, "a tombstone that names no webhook");
        return;
    };
    read.changes.entry(webhook).or_default().insert(offset, change);
    read.count += 1;
}
