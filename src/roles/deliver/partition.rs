//! The work on one partition of `bundles`: records are read, repeats are dropped, deliveries go to their lanes, and
//! the contiguous prefix of what is settled is committed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Deliver,
    lane::Queued,
    recorded::{self, Recorded, RecordedAttempts},
    settlements::Settlements,
};
use crate::{
    config::StartFrom,
    flow::bundle_to_delivery::{Admission, Delivery, TakenIn, admit},
    io::{
        clock,
        kafka::{
            intake::{CommitError, FeedEvent, PartitionFeed, Record, RecordBatch},
            publisher::Outgoing,
        },
    },
    model::bundle::BundleHead,
    wire::{
        PoisonReason,
        bundle::{self, BundleError},
        metadata::{DeliverMetadata, Metadata},
    },
};

/// How often the offset is committed.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before a claim is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);
/// At most so many bundles are read ahead of the oldest that is not settled.
const READ_AHEAD: usize = 20_000;

/// Claims a partition and works on it, again and again, until it is revoked.
pub(super) async fn work(deliver: Arc<Deliver>, mut feed: PartitionFeed) {
    let _watch = deliver.process.watch_for_panic("partition of bundles");
    let stop = feed.stopped();
    let owned = deliver.process.metrics.partitions_owned.with_label_values(&["deliver"]);
    owned.inc();
    while !stop.is_cancelled() {
        // Ends the deliveries of this claim, however it ends.
        let claim = stop.child_token();
        let ended = match Worker::claim(deliver.clone(), &mut feed, claim.clone()).await {
            Ok(mut worker) => {
                let ended = worker.run(&mut feed, &stop).await;
                claim.cancel();
                // What is in flight is recorded before it is read again.
                worker.settlements.drained().await;
                ended
            }
            Err(problem) => Err(problem),
        };
        claim.cancel();
        match ended {
            Ok(()) => break,
            Err(problem) => warn!(partition = feed.partition, problem, "claiming the partition again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(CLAIM_PAUSE) => {}
        }
    }
    owned.dec();
}

struct Worker {
    deliver: Arc<Deliver>,
    partition: i32,
    token: Uuid,
    /// What was taken in so far; the settled part of it is committed.
    taken_in: TakenIn,
    settlements: Settlements,
    position: i64,
    /// What a former claim recorded of bundles that are read again.
    recorded: RecordedAttempts,
    committed: (i64, String),
}

impl Worker {
    /// Commits the offset as it stands under a fresh token: whoever owned the partition before is fenced by then.
    async fn claim(
        deliver: Arc<Deliver>,
        feed: &mut PartitionFeed,
        revoked: CancellationToken,
    ) -> Result<Self, String> {
        let token = Uuid::new_v4();
        let topics = &deliver.process.topics;
        let (low, high) = feed.watermarks(&topics.bundles).await.map_err(describe)?;
        let (start, taken_in, attempts) = if let Some((offset, text)) =
            feed.committed().await.map_err(describe)?
        {
            let metadata = DeliverMetadata::decode(&text).map_err(|error| error.to_string())?;
            let (topic, highest) = metadata.highest().map_err(|error| error.to_string())?;
            if offset < low {
                let lost = (low - offset) as u64;
                error!(partition = feed.partition, lost, "bundles were deleted before they were delivered");
                deliver.process.metrics.records_lost.with_label_values(&["deliver"]).inc_by(lost);
            }
            if offset > high {
                let partition = feed.partition;
                let reason = format!(
                    "the committed offset {offset} of partition {partition} of `{}` lies above the end {high} of its log",
                    topics.bundles
                );
                deliver.process.fail(reason.clone());
                return Err(reason);
            }
            (offset.max(low), TakenIn { topic, highest }, metadata.attempts)
        } else {
            let (_, attempted) = feed.watermarks(&topics.delivery_attempts).await.map_err(describe)?;
            let start = first_offset(&deliver, feed.partition, (low, high), attempted > 0)?;
            (start, TakenIn::default(), attempted)
        };
        let metadata = DeliverMetadata::new(token, taken_in.topic.clone(), &taken_in.highest, attempts);
        let text = metadata.encode().map_err(|error| error.to_string())?;
        feed.commit(start, text.clone()).await.map_err(describe)?;
        let (recorded, attempts_to) =
            recorded::read(&deliver.process, feed.partition, attempts, start).await?;
        deliver.process.metrics.claims.with_label_values(&["deliver", "kept"]).inc();
        feed.start_at(start).await.map_err(|error| error.to_string())?;
        info!(partition = feed.partition, start, "partition claimed");
        Ok(Self {
            partition: feed.partition,
            settlements: Settlements::new(start, taken_in.clone(), (high, attempts), attempts_to, revoked),
            deliver,
            token,
            taken_in,
            position: start,
            recorded,
            committed: (start, text),
        })
    }

    async fn run(&mut self, feed: &mut PartitionFeed, stop: &CancellationToken) -> Result<(), String> {
        let mut next_commit = Instant::now() + COMMIT_INTERVAL;
        let mut tick = tokio::time::interval(COMMIT_INTERVAL);
        loop {
            let room = self.settlements.unsettled() < READ_AHEAD;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
                event = feed.next(), if room => match event {
                    Some(FeedEvent::Records(batch)) => self.take(feed, &batch, stop).await?,
                    Some(FeedEvent::End) => {}
                    None => break,
                },
            }
            if Instant::now() >= next_commit {
                next_commit = Instant::now() + COMMIT_INTERVAL;
                self.commit(feed).await?;
            }
        }
        self.settlements.drained().await;
        self.commit(feed).await
    }

    /// Takes in a batch. Waits while the memory for waiting bundles is full.
    async fn take(
        &mut self,
        feed: &PartitionFeed,
        batch: &RecordBatch,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        if !self.is_fresh_for(feed, batch.polled_at, stop).await? {
            return Ok(());
        }
        let start = self.position;
        for record in batch.iter().filter(|record| record.offset >= start) {
            let Some(room) = self.room_for(feed, &record, stop).await? else {
                return Ok(());
            };
            match bundle::decode(record.headers.iter().copied()) {
                Ok(head) => self.take_one(&record, head, room),
                Err(problem) => self.refuse(&record, &problem).await?,
            }
            self.position = record.offset + 1;
        }
        Ok(())
    }

    /// Waits until the directory holds every webhook that a bundle polled at a moment may be for: one that is not known
    /// yet must not look deleted. False if the partition was revoked. Commits go on meanwhile.
    async fn is_fresh_for(
        &mut self,
        feed: &PartitionFeed,
        polled_at: Instant,
        stop: &CancellationToken,
    ) -> Result<bool, String> {
        let deliver = self.deliver.clone();
        let fresh = deliver.process.tail.fresh_for(polled_at);
        tokio::pin!(fresh);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(false),
                fresh = &mut fresh => return if fresh { Ok(true) } else { Err("the settings are no longer read".to_owned()) },
                () = tokio::time::sleep(COMMIT_INTERVAL) => self.commit(feed).await?,
            }
        }
    }

    /// Memory for a bundle; none if the partition was revoked. Commits go on meanwhile.
    async fn room_for(
        &mut self,
        feed: &PartitionFeed,
        record: &Record<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<OwnedSemaphorePermit>, String> {
        let most = self.deliver.settings.waiting_memory * 1024;
        let kib = (record.value.unwrap_or_default().len() as u32 / 1024 + 1).min(most);
        loop {
            let memory = self.deliver.memory.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                permit = memory.acquire_many_owned(kib) => {
                    return permit.map(Some).map_err(|error| error.to_string());
                }
                () = tokio::time::sleep(COMMIT_INTERVAL) => self.commit(feed).await?,
            }
        }
    }

    /// A record that is no bundle, or of a later release, goes untouched to the dead letters.
    async fn refuse(&self, record: &Record<'_>, problem: &BundleError) -> Result<(), String> {
        let process = &self.deliver.process;
        let reason = PoisonReason::InvalidField.as_str();
        error!(partition = self.partition, offset = record.offset, %problem, "a record that is no bundle");
        let headers = [
            ("reason", reason.to_owned()),
            ("detail", problem.to_string()),
            ("topic", process.topics.bundles.clone()),
            ("partition", self.partition.to_string()),
            ("offset", record.offset.to_string()),
            ("arrived-at", record.arrived.0.to_string()),
        ];
        let letter = Outgoing {
            topic: &process.topics.dead_letters,
            partition: None,
            key: record.key.unwrap_or_default(),
            value: record.value,
            headers: &headers,
        };
        process.publisher.publish_and_wait(&letter).await.map_err(|error| error.to_string())?;
        process.metrics.dead_letters.with_label_values(&[reason]).inc();
        self.settlements.read(record.offset, None, true);
        Ok(())
    }

    fn take_one(&mut self, record: &Record<'_>, head: BundleHead, room: OwnedSemaphorePermit) {
        let process = &self.deliver.process;
        process.metrics.bundles_read.inc();
        let admission = admit(&mut self.taken_in, &head, &process.tail.directory());
        let recorded = self.recorded.remove(&record.offset).unwrap_or_default();
        let settled = recorded.settled || admission != Admission::Deliver;
        self.settlements.read(record.offset, Some(&head), settled);
        match admission {
            _ if recorded.settled => {}
            Admission::Repeat => process.metrics.bundles_repeated.inc(),
            Admission::Dropped => process.metrics.bundles_settled.with_label_values(&["dropped"]).inc(),
            Admission::Deliver => {
                let body = bytes::Bytes::copy_from_slice(record.value.unwrap_or_default());
                let (partition, offset) = (self.partition, record.offset);
                let Recorded { attempts, refusals, .. } = recorded;
                let delivery = Delivery { head, body, partition, offset, attempts, refusals };
                let settlements = self.settlements.clone();
                self.deliver.offer(Queued::new(delivery, settlements, room, &process.metrics));
            }
        }
    }

    async fn commit(&mut self, feed: &PartitionFeed) -> Result<(), String> {
        let metrics = &self.deliver.process.metrics;
        let (offset, taken_in, attempts) = self.settlements.settled();
        let metadata = DeliverMetadata::new(self.token, taken_in.topic, &taken_in.highest, attempts);
        let text = metadata.encode().map_err(|error| error.to_string())?;
        let label = self.partition.to_string();
        metrics.lag_records.with_label_values(&["deliver", &label]).set(self.settlements.unsettled() as i64);
        metrics.last_progress.with_label_values(&["deliver", &label]).set(clock::now().0 / 1000);
        if (offset, &text) == (self.committed.0, &self.committed.1) {
            return Ok(());
        }
        let result = feed.commit(offset, text.clone()).await;
        let cause = match &result {
            Ok(()) => {
                metrics.commits.with_label_values(&["deliver"]).inc();
                self.committed = (offset, text);
                return Ok(());
            }
            Err(CommitError::Fenced(_)) => "fenced",
            Err(CommitError::Failed(_)) => "broker",
        };
        metrics.commit_failures.with_label_values(&["deliver", cause]).inc();
        result.map_err(describe)
    }
}

/// Where to start without a committed offset: at the beginning if nothing was ever attempted in this partition, else
/// as the operator says.
fn first_offset(
    deliver: &Deliver,
    partition: i32,
    (low, high): (i64, i64),
    attempted: bool,
) -> Result<i64, String> {
    match deliver.from {
        Some(StartFrom::Beginning) => Ok(low),
        Some(StartFrom::End) => Ok(high),
        None if !attempted => Ok(low),
        None => {
            let topics = &deliver.process.topics;
            let reason = format!(
                "partition {partition} of `{}` has no committed offset although `{}` holds attempts of it; say where \
                 to start with `--from beginning`, which may send again what was delivered, or `--from end`",
                topics.bundles, topics.delivery_attempts
            );
            deliver.process.fail(reason.clone());
            Err(reason)
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn describe(error: CommitError) -> String {
    error.to_string()
}
