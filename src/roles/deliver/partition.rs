//! The work on one partition of `bundles`: records are read, repeats are dropped, deliveries go to their lanes or are
//! parked, and the contiguous prefix of what is settled or parked is committed.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Deliver,
    bodies::Bodies,
    parker,
    parking::Parking,
    queued::{Origin, Queued},
    recorded::{self, RecordedAttempts},
    restore::{Restored, Restoring},
    settlements::Settlements,
};
use crate::{
    config::StartFrom,
    flow::bundle_to_delivery::{Admission, Delivery, Requested, TakenIn, admit},
    io::{
        clock,
        kafka::intake::{CommitError, FeedEvent, PartitionFeed, Record, RecordBatch},
        redis::queue::QueueStore,
    },
    model::{bundle::BundleHead, ids::WebhookId, parked::Parked},
    ops::failpoint,
    roles::backlog::{Backlog, Stand},
    wire::{
        Poison, PoisonReason,
        bundle::{self, BundleError},
        metadata::{DeliverMetadata, Metadata},
        waiting::Owner,
    },
};

/// How often the offset is committed.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// How often the last commit is tried while the group is rebalancing.
const LAST_COMMITS: usize = 5;
/// Why a claim ends early.
const QUEUE_BROKEN: &str = "its queue of parked deliveries can't be used";
/// Pause before a claim is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);
/// Claims a partition and works on it, again and again, until it is revoked.
pub(super) async fn work(deliver: Arc<Deliver>, mut feed: PartitionFeed) {
    let _watch = deliver.process.watch_for_panic("partition of bundles");
    let stop = feed.stopped();
    let owned = deliver.process.metrics.partitions_owned.with_label_values(&["deliver"]);
    owned.inc();
    let backlog = Arc::new(deliver.backlogs.watch(feed.partition));
    // Whether a queue that looks sound may be gone on with; one that proved not to be is begun anew.
    let mut trusts_queue = true;
    while !stop.is_cancelled() {
        // Ends the deliveries of this claim, however it ends.
        let claim = stop.child_token();
        let claiming =
            Worker::claim(deliver.clone(), &mut feed, claim.clone(), &mut trusts_queue, backlog.clone());
        let claimed = tokio::select! {
            claimed = claiming => claimed,
            () = stop.cancelled() => break,
        };
        let ended = match claimed {
            Ok(mut worker) => {
                let ended = worker.run(&mut feed, &stop).await;
                trusts_queue = !worker.parking.is_broken();
                claim.cancel();
                worker.end(&stop).await;
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
    requested: Requested,
    settlements: Settlements,
    backlog: Arc<Backlog>,
    parking: Parking,
    /// Carries out what is ordered there.
    _parker: AbortOnDropHandle<()>,
    /// Keeps the views of webhooks up with the attempts.
    _follower: AbortOnDropHandle<()>,
    position: i64,
    /// What a former claim recorded of bundles that are read again.
    recorded: RecordedAttempts,
    /// Which of them it parked; all are passed by and by.
    parked: HashSet<i64>,
    /// Lanes pull from the queue.
    announced: bool,
    /// The last bundle that was to be parked, since nothing behind it can be committed before.
    freed: Option<(i64, WebhookId)>,
    committed: (i64, String),
}

impl Worker {
    /// Commits the offset as it stands under a fresh token: whoever owned the partition before is fenced by then. Then
    /// restores its queue of parked deliveries.
    async fn claim(
        deliver: Arc<Deliver>,
        feed: &mut PartitionFeed,
        revoked: CancellationToken,
        trusts_queue: &mut bool,
        backlog: Arc<Backlog>,
    ) -> Result<Self, String> {
        let (token, partition) = (Uuid::new_v4(), feed.partition);
        let process = &deliver.process;
        let topics = &process.topics;
        let queue = QueueStore::new(process.redis.clone(), topics.prefix(), partition, token);
        let found = queue.claim().await.map_err(|error| {
            if error.is_busy() {
                process.metrics.redis_failures.with_label_values(&["claim", "busy"]).inc();
            }
            error.to_string()
        })?;
        failpoint::reach("deliver.token-set");
        let (low, high) = feed.watermarks(&topics.bundles).await.map_err(describe)?;
        let (start, taken_in, attempts, former) = if let Some((offset, text)) =
            feed.committed().await.map_err(describe)?
        {
            let metadata = DeliverMetadata::decode(&text).map_err(|error| error.to_string())?;
            let (topic, highest) = metadata.highest().map_err(|error| error.to_string())?;
            if offset < low {
                let lost = (low - offset) as u64;
                error!(partition, lost, "bundles were deleted before they were delivered");
                process.metrics.records_lost.with_label_values(&["deliver"]).inc_by(lost);
            }
            if offset > high {
                let reason = format!(
                    "the committed offset {offset} of partition {partition} of `{}` lies above the end {high} of its log",
                    topics.bundles
                );
                process.fail(reason.clone());
                return Err(reason);
            }
            (offset.max(low), TakenIn { topic, highest }, metadata.attempts, Some(metadata.token))
        } else {
            let (_, attempted) = feed.watermarks(&topics.delivery_attempts).await.map_err(describe)?;
            let start = first_offset(&deliver, partition, (low, high), attempted > 0)?;
            (start, TakenIn::default(), attempted, None)
        };
        let metadata = DeliverMetadata::new(token, taken_in.topic.clone(), &taken_in.highest, attempts);
        let text = metadata.encode().map_err(|error| error.to_string())?;
        let began = Instant::now();
        feed.commit(start, text.clone()).await.map_err(describe)?;
        failpoint::reach("deliver.claim-committed");
        let (mut recorded, attempts_to) = recorded::read(process, partition, attempts).await?;
        let records = feed.watermarks(&topics.waiting_deliveries).await.map_err(describe)?;
        let restoring = Restoring {
            deliver: &deliver,
            partition,
            token,
            queue: &queue,
            found,
            former,
            records,
            start,
            recorded: &recorded,
        };
        let restored = restoring.run(*trusts_queue).await;
        *trusts_queue = restored.is_ok();
        let Restored { state, counts, ahead } = restored?;
        recorded.retain(|offset, _| *offset >= start);
        process.metrics.claims.with_label_values(&["deliver", state]).inc();
        feed.start_at(start).await.map_err(|error| error.to_string())?;
        info!(partition, start, "partition claimed");
        let settlements = Settlements::new(
            start,
            taken_in.clone(),
            (high, attempts),
            attempts_to,
            (revoked, feed.session()),
        );
        settlements.confirm(began);
        let bodies = Bodies::new(&process.kafka, &topics.bundles, partition);
        let metrics = process.metrics.clone();
        let parking = Parking::new(partition, token, settlements.clone(), queue, bodies, metrics, counts);
        let parker = tokio::spawn(parker::run(deliver.clone(), parking.clone()));
        Ok(Self {
            partition,
            settlements,
            backlog,
            parking,
            _parker: AbortOnDropHandle::new(parker),
            _follower: deliver.views.follow(&deliver.process, partition),
            deliver,
            token,
            taken_in,
            requested: Requested::default(),
            position: start,
            recorded,
            parked: ahead,
            announced: false,
            freed: None,
            committed: (start, text),
        })
    }

    async fn run(&mut self, feed: &mut PartitionFeed, stop: &CancellationToken) -> Result<(), String> {
        // Restoring the queue may have taken long.
        self.commit(feed).await?;
        // What is parked may be for a webhook that is not known yet.
        if self.is_fresh_for(feed, Instant::now(), stop).await? {
            self.announce();
        }
        let mut next_commit = Instant::now() + COMMIT_INTERVAL;
        let mut tick = tokio::time::interval(COMMIT_INTERVAL);
        let (parking, claim) = (self.parking.clone(), self.settlements.revoked().clone());
        loop {
            let room = self.settlements.unsettled() < self.deliver.settings.read_ahead as usize;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = claim.cancelled() => return Err("the process stood still for too long".to_owned()),
                () = parking.broken() => return Err(QUEUE_BROKEN.to_owned()),
                _ = tick.tick() => {}
                event = feed.next(), if room => match event {
                    Some(FeedEvent::Records(batch)) => self.take(feed, &batch, stop).await?,
                    Some(FeedEvent::End) => self.parked.clear(),
                    None => break,
                },
            }
            self.announce();
            self.free_front();
            if Instant::now() >= next_commit {
                next_commit = Instant::now() + COMMIT_INTERVAL;
                self.commit(feed).await?;
            }
        }
        self.settlements.drained().await;
        for _ in 0..LAST_COMMITS {
            if self.commit(feed).await? {
                break;
            }
            tokio::time::sleep(COMMIT_INTERVAL).await;
        }
        Ok(())
    }

    /// Lets lanes pull what is parked, once everything that was parked before the claim has been passed in reading.
    fn announce(&mut self) {
        if self.announced || !self.parked.is_empty() {
            return;
        }
        self.announced = true;
        for webhook in self.parking.announce() {
            self.deliver.tell(&webhook, &self.parking);
        }
    }

    /// Has the oldest bundle that is not settled parked, with what waits with it, where half of the room for reading ahead
    /// is used up: reading never waits for an endpoint.
    fn free_front(&mut self) {
        if self.settlements.unsettled() < self.deliver.settings.read_ahead as usize / 2 {
            return;
        }
        let mut front = self.settlements.front();
        while let Some((offset, _)) = front.as_ref().filter(|(_, head)| head.is_test()) {
            // In flight as every test: at worst, a test that a crash breaks off is not sent again.
            self.settlements.settle(*offset);
            front = self.settlements.front();
        }
        let front = front.map(|(offset, head)| (offset, head.webhook_id.clone()));
        if let Some((_, webhook)) = front.as_ref().filter(|_| front != self.freed) {
            self.deliver.unload(webhook, &self.parking);
        }
        // Before the announcement a lane can't park what is in flight.
        self.freed = front.filter(|_| self.announced);
    }

    /// Lets what is in flight end, so that the next claim knows of it. Where the partition stays with this process, that
    /// may take as long as Redis and Kafka need; where it was revoked, what takes longer is repeated at worst.
    async fn end(self, stop: &CancellationToken) {
        let revoked = async {
            stop.cancelled().await;
            tokio::time::sleep(self.deliver.settings.drain()).await;
        };
        tokio::select! {
            () = self.settlements.drained() => {}
            () = revoked => {}
        }
        // Whoever owns the partition next tells how many are parked; until then nobody knows.
        let parked = &self.deliver.process.metrics.deliveries_parked;
        let _ = parked.remove_label_values(&[&self.partition.to_string()]);
    }

    /// Takes in a batch.
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
            match bundle::decode(record.headers.iter().copied()) {
                Ok(head) => self.take_one(&record, head),
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
                () = tokio::time::sleep(COMMIT_INTERVAL) => {
                    self.commit(feed).await?;
                }
            }
        }
    }

    /// A record that is no bundle, or of a later release, goes untouched to the dead letters.
    async fn refuse(&self, record: &Record<'_>, problem: &BundleError) -> Result<(), String> {
        error!(partition = self.partition, offset = record.offset, %problem, "a record that is no bundle");
        let poison = Poison { reason: PoisonReason::InvalidField, detail: problem.to_string() };
        let process = &self.deliver.process;
        process.publish_dead_letter(&process.topics.bundles, self.partition, record, &poison).await?;
        self.settlements.read(record.offset, None, true);
        Ok(())
    }

    fn take_one(&mut self, record: &Record<'_>, head: BundleHead) {
        let process = &self.deliver.process;
        process.metrics.bundles_read.inc();
        let offset = record.offset;
        let admission = admit(&mut self.taken_in, &mut self.requested, &head, &process.tail.directory());
        let recorded = self.recorded.remove(&offset);
        let is_known = self.parked.remove(&offset) || recorded.as_ref().is_some_and(|known| known.settled);
        let settled = is_known || !matches!(admission, Admission::Deliver | Admission::Test);
        self.settlements.read(offset, Some(&head), settled);
        match admission {
            _ if is_known => {}
            Admission::Repeat => process.metrics.bundles_repeated.inc(),
            Admission::Test => self.deliver.test(self.delivery(record, head, 0, 0), &self.parking),
            Admission::Dropped => process.metrics.bundles_settled.with_label_values(&["dropped"]).inc(),
            Admission::Deliver => {
                let (attempts, refusals) = recorded.map_or((0, 0), |recorded| recorded.on_top_of(0, 0));
                self.deliver_or_park(record, head, attempts, refusals);
            }
        }
    }

    /// Hands a delivery to its lane; parks it if something of its webhook is parked before it, or there is no memory.
    fn deliver_or_park(&self, record: &Record<'_>, head: BundleHead, attempts: u32, refusals: u32) {
        let value = record.value.unwrap_or_default();
        let (offset, bundled_at) = (record.offset, record.arrived);
        let pass = self.parking.pass(&head.webhook_id);
        let memory = &self.deliver.memory;
        let room = || memory.take(memory.share(&head.webhook_id), value.len());
        let passed = pass.and_then(|pass| Some((pass, room()?)));
        let Some((pass, room)) = passed else {
            let parked = Parked {
                offset,
                bundle_id: head.bundle_id,
                bytes: value.len() as u32,
                bundled_at,
                arrived_at: head.arrived_at,
                waiting_since: clock::now(),
                attempts,
                refusals,
            };
            let reason = self.deliver.why_full(&head.webhook_id);
            let BundleHead { webhook_id, workspace_id, chat_id, .. } = head;
            let owner = Owner { webhook_id, workspace_id, chat_id };
            return self.parking.put(owner, parked, reason);
        };
        let delivery = self.delivery(record, head, attempts, refusals);
        let metrics = &self.deliver.process.metrics;
        self.deliver.offer(Queued::new(delivery, self.parking.clone(), Origin::Read(pass), room, metrics));
    }

    fn delivery(&self, record: &Record<'_>, head: BundleHead, attempts: u32, refusals: u32) -> Delivery {
        let body = bytes::Bytes::copy_from_slice(record.value.unwrap_or_default());
        let (partition, offset, bundled_at) = (self.partition, record.offset, record.arrived);
        Delivery { head, body, partition, offset, bundled_at, attempts, refusals }
    }

    /// Commits what is settled. False if that has to wait for a rebalance.
    async fn commit(&mut self, feed: &PartitionFeed) -> Result<bool, String> {
        let metrics = &self.deliver.process.metrics;
        let (offset, taken_in, attempts) = self.settlements.settled();
        // Orders that were dropped are in flight no more, though the next claim must know of their attempts.
        if self.parking.is_broken() {
            return Err(QUEUE_BROKEN.to_owned());
        }
        let metadata = DeliverMetadata::new(self.token, taken_in.topic, &taken_in.highest, attempts);
        let text = metadata.encode().map_err(|error| error.to_string())?;
        // How long the oldest one waits that is not settled depends on endpoints; what is not read does not.
        self.backlog.stands(Stand { done: offset, next: self.position, committed: self.committed.0 });
        let is_committed = (offset, &text) == (self.committed.0, &self.committed.1);
        if is_committed && !self.settlements.wants_confirmation() {
            return Ok(true);
        }
        let began = Instant::now();
        failpoint::reach("deliver.committing");
        let result = feed.commit(offset, text.clone()).await;
        let cause = match &result {
            Ok(()) => {
                metrics.commits.with_label_values(&["deliver"]).inc();
                self.committed = (offset, text);
                self.settlements.confirm(began);
                return Ok(true);
            }
            Err(CommitError::Rebalancing(_)) => {
                // Said to members only.
                self.settlements.confirm(began);
                metrics.commit_failures.with_label_values(&["deliver", "rebalance"]).inc();
                return Ok(false);
            }
            Err(CommitError::Fenced(_)) => "fenced",
            Err(CommitError::Failed(_)) => "broker",
        };
        metrics.commit_failures.with_label_values(&["deliver", cause]).inc();
        result.map(|()| true).map_err(describe)
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
