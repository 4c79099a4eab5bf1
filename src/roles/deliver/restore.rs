//! The queue of a partition at its claim: what `waiting-deliveries` says since the queue was written last, or from the
//! beginning if the queue is gone; then what is recorded of attempts whose end the queue does not know.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Deliver,
    recorded::{Recorded, RecordedAttempts},
    vetting::Vetting,
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
    ops::failpoint,
    roles::rebuild::Rebuild,
    wire::waiting::{Key, Owner, WEBHOOK_HEADER, WaitingDelivery, WaitingError},
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

/// What is read of `waiting-deliveries`.
struct Reading {
    partition: i32,
    read: Read,
    vetting: Vetting,
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
    /// Restores the queue; from the log alone if the one in Redis is not to be trusted.
    ///
    /// # Errors
    /// If Redis or Kafka can't serve now, or a record was written by another release.
    pub async fn run(self, trusts_queue: bool) -> Result<Restored, String> {
        let claimed_at = self.deliver.mark_claim(self.partition, self.token, true).await;
        failpoint::reach("deliver.claim-marked");
        let (state, from) = self.begin(claimed_at, trusts_queue).await?;
        failpoint::reach("deliver.queue-begun");
        // A queue that is kept reflects the record of the claim that wrote it, unless that ended early.
        let reflects_claim = self.found.claimed_at.is_some_and(|claimed_at| claimed_at < from);
        let current = self.former.filter(|_| state == "kept" && reflects_claim);
        // What is kept lacks no more than its last changes.
        let lost = if state == "kept" { self.records.1 } else { from };
        let process = &self.deliver.process;
        let rebuild = Rebuild::begin(process, "deliver", self.partition, lost, self.records.1);
        let vetting = self.replay(from, Vetting::new(current), rebuild).await?;
        self.take_back(vetting).await?;
        self.merge().await?;
        failpoint::reach("deliver.queue-restored");
        let counts = self.queue.webhooks().await.map_err(|error| error.to_string())?;
        let ahead = self.ahead(&counts).await?;
        let parked: u64 = counts.values().sum();
        info!(partition = self.partition, state, parked, "queue of parked deliveries restored");
        Ok(Restored { state, counts, ahead })
    }

    /// Goes on with the queue that was found if it can be relied on, else begins an empty one. Returns the offset of
    /// `waiting-deliveries` below which it reflects everything.
    async fn begin(&self, claimed_at: i64, trusts_queue: bool) -> Result<(&'static str, i64), String> {
        let (low, end) = self.records;
        let now = clock::now();
        let found = &self.found;
        let is_recent = found.written_at.is_some_and(|at| now.since(at) < TOMBSTONES_STAY);
        let is_ours = found.readable && self.former.is_some() && found.writer == self.former;
        let reflects = found.reflects.filter(|reflects| (low..=end).contains(reflects));
        if let Some(reflects) = reflects.filter(|_| trusts_queue && is_recent && is_ours) {
            self.queue.go_on(found, claimed_at).await.map_err(|error| error.to_string())?;
            return Ok(("kept", reflects));
        }
        self.queue.begin_anew(found, claimed_at, low, now).await.map_err(|error| error.to_string())?;
        Ok((if self.former.is_some() { "rebuilt" } else { "new" }, low))
    }

    /// Applies `waiting-deliveries` from an offset to its end, and returns what was seen of its claims.
    async fn replay(
        &self,
        from: i64,
        vetting: Vetting,
        mut rebuild: Option<Rebuild>,
    ) -> Result<Vetting, String> {
        let partition = self.partition;
        let read = Read::default();
        let shared = Arc::new(Mutex::new(Reading { partition, read, vetting }));
        let (sender, mut full) = mpsc::channel::<Read>(2);
        let state = shared.clone();
        let take = move |record: &Replayed<'_>| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.note(record);
            let read = &mut state.read;
            let ends = read.unreadable.is_some();
            let lost = read.count >= BATCH && sender.blocking_send(std::mem::take(read)).is_err();
            if ends || lost { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let process = &self.deliver.process;
        let reading = replay(&process.kafka, &process.topics.waiting_deliveries, partition, from, take);
        let applying = async {
            while let Some(batch) = full.recv().await {
                self.apply(&batch.changes, batch.next).await?;
                rebuild.take_if(|rebuild| rebuild.reached(batch.next));
            }
            Ok::<(), String>(())
        };
        let (end, applied) = tokio::join!(reading, applying);
        applied?;
        let end = end.map_err(|error| format!("the waiting deliveries can't be read: {error}"))?;
        let (rest, vetting) = {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut state.read), std::mem::replace(&mut state.vetting, Vetting::new(None)))
        };
        if let Some(problem) = rest.unreadable {
            return Err(problem);
        }
        self.apply(&rest.changes, end).await?;
        rebuild.take_if(|rebuild| rebuild.reached(end));
        Ok(vetting)
    }

    /// Puts in the log what the queue holds in place of what does not count, then ends the records of former claims.
    async fn take_back(&self, vetting: Vetting) -> Result<(), String> {
        let group = AckGroup::default();
        for (offset, late) in &vetting.late {
            let held = self.held(&late.webhook_id, *offset).await?;
            warn!(
                partition = self.partition,
                offset,
                parked = held.is_some(),
                "a put of an ended claim is taken back"
            );
            match held {
                Some(parked) => {
                    let owner = late.owner();
                    self.put(&owner, &parked, late.reason, &group).await;
                }
                None => self.deliver.tombstone(&late.webhook_id, self.partition, *offset, &group).await,
            }
        }
        group.complete().await;
        let mut last = group.last_offset();
        for claim in vetting.former {
            last = self.deliver.mark_claim(self.partition, claim, false).await;
        }
        self.apply(&Changes::new(), last + 1).await
    }

    /// What the queue holds of a bundle.
    async fn held(&self, webhook: &WebhookId, offset: i64) -> Result<Option<Parked>, String> {
        let page = self.deliver.page(self.queue, webhook, offset - 1, 1).await;
        let page = page.map_err(|error| error.to_string())?;
        Ok(page.into_iter().find(|parked| parked.offset == offset))
    }

    async fn put(&self, owner: &Owner, parked: &Parked, reason: Reason, group: &AckGroup) {
        let record = WaitingDelivery::new(owner, parked, self.partition, reason, self.token);
        self.deliver.put_record(&record, group).await;
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
            let Some(parked) = self.held(webhook, *offset).await? else { continue };
            let change = self.renew(&parked, recorded, &group).await;
            if change != Some(parked) {
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
            self.put(&recorded.owner, &renewed, Reason::Retry, group).await;
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

impl Reading {
    /// Notes one record.
    fn note(&mut self, record: &Replayed<'_>) {
        let Self { partition, read, vetting } = self;
        read.next = record.offset + 1;
        let offset = match record.key.and_then(|key| Key::decode(key, *partition)) {
            Some(Key::Bundle(offset)) => offset,
            Some(Key::Claim(token)) if record.value.is_some() => return vetting.claim(token),
            Some(Key::Claim(token)) => return vetting.forget(token),
            None => {
                error!(partition, offset = record.offset, "a waiting delivery with a strange key");
                return;
            }
        };
        let change = match record.value.map(WaitingDelivery::decode) {
            None => {
                record.header(WEBHOOK_HEADER).and_then(|id| WebhookId::parse(id).ok()).map(|id| (id, None))
            }
            Some(Ok(put)) if !vetting.counts(&put) => return,
            Some(Ok(put)) => {
                let parked = put.parked();
                Some((put.webhook_id, Some(parked)))
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
}
