//! The work on one partition: records are applied, what is sent at once is published, boundaries are closed, and the
//! safe offset is committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Aggregate, Trouble,
    ahead::Ahead,
    progress::{Progress, safe_offset},
    skips::Skips,
    standing::Standing,
};
use crate::{
    flow::event_to_window::{Plan, Planner, SourceRecord},
    io::{
        StoreError, clock,
        kafka::{
            intake::{CommitError, FeedEvent, PartitionFeed, Record, RecordBatch},
            publisher::{AckGroup, Outgoing},
        },
        redis::windows::{Applied, WindowStore},
    },
    model::{
        bundle::{BundleRecord, Source},
        event::Skip,
        time::Millis,
        window::WindowRule,
    },
    ops::failpoint,
    roles::{
        backlog::{Backlog, Stand},
        rebuild::Rebuild,
    },
    wire::{
        bundle, dead_letter_headers,
        metadata::{AggregateMetadata, Metadata},
    },
};

/// Records applied by one script.
const SEGMENT_RECORDS: usize = 500;
/// How often the offset is committed, and the clock is looked at.
const TICK: Duration = Duration::from_millis(200);
/// At most so many boundaries wait to be closed; then reading pauses.
const PENDING_BOUNDARIES: usize = 2;
/// At most so many batches wait for acknowledgements; then reading pauses.
const PENDING_BATCHES: usize = 64;
/// How often the last commit is tried while the group is rebalancing.
const LAST_COMMITS: usize = 10;
/// Pause before a call that Redis could not serve is made again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// Age at which what is known of the brokers' clock is asked for again.
const CLOCK_AGE: Duration = Duration::from_mins(1);
/// The same where it differs from the host's: an acknowledgement that was handled late looks like a difference.
const CLOCK_DOUBT: Duration = Duration::from_secs(1);

/// A claimed partition.
pub(super) struct Partition<'a> {
    pub(super) role: &'a Aggregate,
    pub(super) store: WindowStore,
    pub(super) source: Source,
    pub(super) metadata: AggregateMetadata,
    pub(super) progress: Progress,
    /// Messages that did not count.
    skips: Skips,
    /// Boundaries at which windows are open, with the first offset of the oldest.
    pub(super) open: BTreeMap<Millis, i64>,
    /// Boundaries that are closed but whose windows are not all published.
    pub(super) pending: BTreeSet<Millis>,
    /// Rank of the next window to close at the first of them.
    pub(super) rank: usize,
    /// There may be sealed parts that are not listed yet.
    pub(super) parts_sealed: bool,
    /// Goes on with what is sent at once during a rebuild.
    pub(super) ahead: Option<Ahead>,
    /// The stretch that is being rebuilt.
    rebuild: Option<Rebuild>,
    /// Wakes the loop when acknowledgements come.
    pub(super) wake: Arc<Notify>,
    /// Everything below is applied in Redis.
    applied: i64,
    /// The next offset to take.
    position: i64,
    pub(super) last_closed: Option<Millis>,
    /// There was nothing more to read, and nothing has come since.
    at_end: bool,
    /// The offset that was committed by the claim.
    claimed: i64,
    committed: (i64, String),
    next_commit: Instant,
    backlog: &'a Backlog,
    standing: Standing,
    /// End offset when the clock was last looked at.
    seen_end: Option<i64>,
    /// The host's clock differs from the brokers', as it was seen last.
    clocks_differ: bool,
}

impl<'a> Partition<'a> {
    pub(super) async fn new(
        role: &'a Aggregate,
        store: WindowStore,
        source: Source,
        metadata: AggregateMetadata,
        (applied, claimed, start): (i64, i64, i64),
        backlog: &'a Backlog,
    ) -> Result<Self, Trouble> {
        let standing = Standing::new(&role.process.metrics, source.partition);
        let skips = Skips::new(&role.process, &source, metadata.skips.unwrap_or(start));
        let open = store.open_boundaries().await?;
        let (source_partition, none_done) = (source.partition, metadata.none);
        let last_closed = metadata.boundaries.closed_before(applied);
        let pending = open.keys().copied().filter(|boundary| Some(*boundary) <= last_closed).collect();
        Ok(Self {
            role,
            store,
            source,
            metadata,
            progress: Progress::default(),
            skips,
            open,
            pending,
            rank: 0,
            parts_sealed: true,
            ahead: Ahead::begin(role, source_partition, start, none_done),
            rebuild: Rebuild::begin(&role.process, "aggregate", source_partition, start, none_done),
            wake: Arc::new(Notify::new()),
            applied,
            position: start,
            last_closed,
            at_end: false,
            claimed,
            committed: (0, String::new()),
            next_commit: Instant::now(),
            backlog,
            standing,
            seen_end: None,
            clocks_differ: false,
        })
    }

    /// Everything below is applied.
    pub(super) fn applied(&self) -> i64 {
        self.applied
    }

    /// Works until the partition is revoked; then what was in flight is acknowledged and committed.
    pub(super) async fn run(
        &mut self,
        feed: &mut PartitionFeed,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        // What was open before this claim closes by what its messages' arrivals say: all of that must be known.
        let fresh = tokio::select! {
            fresh = self.role.process.tail.fresh_for(Instant::now()) => fresh,
            () = stop.cancelled() => return Ok(()),
        };
        if !fresh {
            return Err(Trouble::Fatal("the settings are no longer read".to_owned()));
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.collect();
            self.publish_parts().await?;
            self.publish_skips(false).await?;
            let more = self.close_some().await?;
            if Instant::now() >= self.next_commit {
                self.commit(feed).await?;
            }
            let room =
                self.pending.len() <= PENDING_BOUNDARIES && self.progress.at_once.len() < PENDING_BATCHES;
            let wake = self.wake.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                batch = Ahead::next(&mut self.ahead), if self.progress.at_once.len() < PENDING_BATCHES => {
                    self.take_ahead(&batch, stop).await?;
                }
                event = feed.next(), if room => match event {
                    Some(FeedEvent::Records(batch)) => self.take(feed, &batch, stop).await?,
                    Some(FeedEvent::End) => self.at_end = true,
                    None => break,
                },
                () = std::future::ready(()), if more => {}
                () = wake.notified() => {}
                _ = tick.tick() => self.close_by_clock(feed, stop).await?,
            }
            self.report().await;
        }
        self.drain(feed).await
    }

    /// Waits for what is on its way and commits it.
    async fn drain(&mut self, feed: &PartitionFeed) -> Result<(), Trouble> {
        loop {
            self.collect();
            self.publish_skips(true).await?;
            if self.progress.is_idle() && self.skips.is_idle() {
                break;
            }
            let wake = self.wake.clone();
            // Looked at again in any case: an acknowledgement may have come before this waited.
            let _ = tokio::time::timeout(TICK, wake.notified()).await;
        }
        for _ in 0..LAST_COMMITS {
            if self.commit(feed).await? {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Tells how the partition stands. The lag is what is in the log but not applied: the committed offset trails by
    /// design.
    async fn report(&mut self) {
        let (done, next, committed) = (self.applied, self.applied, self.committed.0.max(self.claimed));
        self.backlog.stands(Stand { done, next, committed });
        let due = |boundary: Millis| Millis(boundary.0 + self.metadata.rules.at(boundary).grace_ms);
        self.standing.tell(&self.store, &self.open, due).await;
    }

    /// Takes in a batch, cut where a boundary closes.
    async fn take(
        &mut self,
        feed: &PartitionFeed,
        batch: &RecordBatch,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        self.at_end = false;
        let fresh = tokio::select! {
            fresh = self.role.process.tail.fresh_for(batch.polled_at) => fresh,
            () = stop.cancelled() => return Ok(()),
        };
        if !fresh {
            return Err(Trouble::Fatal("the settings are no longer read".to_owned()));
        }
        failpoint::reach("aggregate.polled");
        let mut segment: Vec<Record<'_>> = Vec::with_capacity(batch.len().min(SEGMENT_RECORDS));
        let start = self.position;
        for record in batch.iter().filter(|record| record.offset >= start) {
            let by_record = self.metadata.rules.at(record.arrived).closed_by(record.arrived);
            let logged = self.metadata.boundaries.closed_before(record.offset);
            let closed = logged.max(Some(by_record)).max(self.last_closed);
            if closed != self.last_closed || segment.len() == SEGMENT_RECORDS {
                self.apply(feed, &mut segment, record.offset, stop).await?;
            }
            if let Some(boundary) = closed.filter(|_| closed != self.last_closed) {
                self.close(boundary, record.offset, "record");
            }
            segment.push(record);
        }
        self.apply(feed, &mut segment, batch.next_offset(), stop).await
    }

    /// Closes a boundary before the record at an offset.
    fn close(&mut self, boundary: Millis, offset: i64, by: &str) {
        self.metadata.boundaries.close(boundary, offset);
        self.last_closed = Some(boundary);
        self.pending.extend(self.open.range(..=boundary).map(|(boundary, _)| *boundary));
        self.role.process.metrics.boundaries_closed.with_label_values(&[by]).inc();
        debug!(partition = self.source.partition, boundary = %boundary, offset, by, "boundary closed");
    }

    /// Applies records between which no boundary closes, up to the next offset.
    async fn apply(
        &mut self,
        feed: &PartitionFeed,
        segment: &mut Vec<Record<'_>>,
        next: i64,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        if segment.is_empty() {
            return Ok(());
        }
        let plan = self.plan(segment);
        let rule = *self.metadata.rules.at(segment[segment.len() - 1].arrived);
        // A call without an answer may have been carried out, or may yet be, and so may have sealed parts.
        let mut unanswered = false;
        let applied = loop {
            match self.store.apply(&plan, next, self.last_closed, &rule).await {
                Ok(applied) => break applied,
                Err(error) if error.is_busy() => {
                    unanswered = true;
                    self.redis_trouble("apply", &error, stop).await?;
                    if error.is_full() {
                        self.relieve(feed).await?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        failpoint::reach("aggregate.applied");
        self.publish(&plan, &applied, segment, next).await?;
        failpoint::reach("aggregate.produced");
        self.count(&plan, &applied, segment);
        self.skips.count(&plan, &applied, next);
        self.metadata.skips = Some(self.skips.done());
        self.note_open(&plan);
        self.parts_sealed |= applied.sealed > 0 || unanswered;
        self.position = next;
        self.applied = self.applied.max(next);
        self.rebuild.take_if(|rebuild| rebuild.reached(next));
        self.end_ahead(next);
        segment.clear();
        Ok(())
    }

    /// Goes on with what is closed, since that frees memory, while Redis has none for more.
    async fn relieve(&mut self, feed: &PartitionFeed) -> Result<(), Trouble> {
        self.collect();
        self.publish_parts().await?;
        self.close_some().await?;
        if Instant::now() >= self.next_commit {
            self.commit(feed).await?;
        }
        Ok(())
    }

    /// Publishes the skips that wait, or all of them.
    async fn publish_skips(&mut self, all: bool) -> Result<(), Trouble> {
        self.skips.publish(&self.role.process, &self.wake, all).await?;
        self.metadata.skips = Some(self.skips.done());
        Ok(())
    }

    pub(super) fn plan(&self, segment: &[Record<'_>]) -> Plan {
        let directory = self.role.process.tail.directory();
        let planner = Planner {
            directory: &directory,
            source: &self.source,
            rules: &self.metadata.rules,
            last_closed: self.last_closed,
        };
        let records = segment.iter().map(|record| {
            let Record { offset, arrived, value, .. } = *record;
            SourceRecord { offset, arrived, value }
        });
        planner.plan(records)
    }

    /// Windows that this batch may have opened hold the safe offset back.
    fn note_open(&mut self, plan: &Plan) {
        for chat in &plan.chats {
            let mut offsets = chat.messages.iter().map(|message| message.offset);
            let Some(first) = offsets.find(|offset| *offset >= self.applied) else { continue };
            for window in &chat.windows {
                let oldest = self.open.entry(window.window.end).or_insert(first);
                *oldest = first.min(*oldest);
            }
        }
    }

    /// Publishes what is sent at once, and the dead letters, of a segment that was applied. What the metadata calls done,
    /// and what the second cursor has passed, was published before.
    async fn publish(
        &mut self,
        plan: &Plan,
        applied: &Applied,
        segment: &[Record<'_>],
        next: i64,
    ) -> Result<(), Trouble> {
        let done = self.published_to();
        if next > done {
            let acks = AckGroup::waking(&self.wake);
            self.publish_from(done, plan, &applied.repeats, segment, &acks).await?;
            self.progress.at_once.push_back((next, acks));
        }
        Ok(())
    }

    /// Publishes what is sent at once, and the dead letters, from an offset on. `repeats` says of each message whether
    /// it is one; what it does not name is none.
    pub(super) async fn publish_from(
        &self,
        done: i64,
        plan: &Plan,
        repeats: &[bool],
        segment: &[Record<'_>],
        acks: &AckGroup,
    ) -> Result<(), Trouble> {
        let repeats = repeats.iter().copied().chain(std::iter::repeat(false));
        for (message, repeat) in plan.at_once.iter().zip(repeats) {
            if repeat || message.offset < done {
                continue;
            }
            for record in &message.bundles {
                self.publish_bundle(record, acks).await?;
            }
        }
        for letter in plan.dead_letters.iter().filter(|letter| letter.offset >= done) {
            let Some(record) = segment.iter().find(|record| record.offset == letter.offset) else {
                continue;
            };
            let topic = &self.role.process.topics.message_events;
            let partition = self.source.partition;
            let headers =
                dead_letter_headers(&letter.poison, topic, partition, record.offset, record.arrived);
            let outgoing = Outgoing {
                topic: &self.role.process.topics.dead_letters,
                partition: None,
                key: record.key.unwrap_or_default(),
                value: record.value,
                headers: &headers,
            };
            self.role.process.publisher.publish(&outgoing, acks).await?;
        }
        Ok(())
    }

    /// Publishes a bundle in the partition that has the source partition's number.
    pub(super) async fn publish_bundle(&self, record: &BundleRecord, acks: &AckGroup) -> Result<(), Trouble> {
        let process = &self.role.process;
        let headers = bundle::encode(&record.head);
        let outgoing = Outgoing {
            topic: &process.topics.bundles,
            partition: Some(self.source.partition),
            key: record.head.chat_id.as_str().as_bytes(),
            value: Some(&record.body),
            headers: &headers,
        };
        process.publisher.publish(&outgoing, acks).await?;
        process.metrics.bundles_published.of(record.head.granularity).inc();
        process.metrics.bundle_messages.observe(f64::from(record.head.messages));
        process.metrics.bundle_size.observe(record.body.len() as f64);
        Ok(())
    }

    fn count(&self, plan: &Plan, applied: &Applied, segment: &[Record<'_>]) {
        let metrics = &self.role.process.metrics;
        metrics.events_read.inc_by(segment.len() as u64);
        metrics.events_accepted.inc_by(plan.accepted);
        metrics.parts_sealed.inc_by(applied.sealed);
        for (skip, count) in &plan.skips {
            metrics.events_skipped.of(*skip).inc_by(*count);
        }
        let duplicates = applied.duplicates.len() as u64;
        let repeats = applied.repeats.iter().filter(|repeat| **repeat).count() as u64;
        metrics.events_skipped.of(Skip::Duplicate).inc_by(duplicates + repeats);
        for letter in &plan.dead_letters {
            metrics.dead_letters.of(letter.poison.reason).inc();
            warn!(partition = self.source.partition, offset = letter.offset, poison = %letter.poison, "dead letter");
        }
        if let Some(last) = segment.last() {
            metrics.apply_delay.observe(clock::now().since(last.arrived).as_secs_f64());
        }
    }

    /// Redis can't serve: waits a little, nothing is committed meanwhile.
    pub(super) async fn redis_trouble(
        &self,
        operation: &str,
        error: &StoreError,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        self.role.process.metrics.redis_failures.with_label_values(&[operation, "busy"]).inc();
        debug!(partition = self.source.partition, operation, %error, "waiting for redis");
        tokio::select! {
            () = tokio::time::sleep(BUSY_PAUSE) => Ok(()),
            () = stop.cancelled() => Err(Trouble::Again("redis could not serve before the partition was revoked".to_owned())),
        }
    }

    /// Commits the safe offset, then lets Redis forget what is committed as done. False if that has to wait for a
    /// rebalance.
    async fn commit(&mut self, feed: &PartitionFeed) -> Result<bool, Trouble> {
        self.next_commit = Instant::now() + TICK;
        let safe = safe_offset(&self.metadata, &self.open, self.applied).max(self.committed.0);
        self.metadata.boundaries.trim(safe);
        let text = self.metadata.encode().map_err(|error| Trouble::Fatal(error.to_string()))?;
        if (safe, &text) != (self.committed.0, &self.committed.1)
            && !self.commit_now(feed, safe, text).await?
        {
            return Ok(false);
        }
        self.forget().await?;
        Ok(true)
    }

    async fn commit_now(&mut self, feed: &PartitionFeed, safe: i64, text: String) -> Result<bool, Trouble> {
        let metrics = &self.role.process.metrics;
        failpoint::reach("aggregate.committing");
        match feed.commit(safe, text.clone()).await {
            Ok(()) => {
                failpoint::reach("aggregate.committed");
                metrics.commits.with_label_values(&["aggregate"]).inc();
                self.committed = (safe, text);
                Ok(true)
            }
            Err(CommitError::Rebalancing(_)) => {
                metrics.commit_failures.with_label_values(&["aggregate", "rebalance"]).inc();
                Ok(false)
            }
            Err(CommitError::Failed(error)) => {
                metrics.commit_failures.with_label_values(&["aggregate", "broker"]).inc();
                Err(Trouble::Again(format!("the commit failed: {error}")))
            }
            Err(fenced) => {
                metrics.commit_failures.with_label_values(&["aggregate", "fenced"]).inc();
                Err(fenced.into())
            }
        }
    }

    /// Closes a boundary by the host's clock, where there is nothing to read that could. The decision is committed
    /// before anything past it is applied, so that a replay decides the same.
    async fn close_by_clock(
        &mut self,
        feed: &PartitionFeed,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        if !self.at_end {
            return Ok(());
        }
        // The brokers are asked only for what is due by the host's clock.
        let now = clock::now();
        if self.due_at(now).is_none() {
            return Ok(());
        }
        let now = self.agreed_time(now).await?;
        let Some(boundary) = self.due_at(now).filter(|_| !stop.is_cancelled()) else {
            return Ok(());
        };
        if !self.is_at_end(feed).await? {
            return Ok(());
        }
        self.close(boundary, self.position, "clock");
        let safe = safe_offset(&self.metadata, &self.open, self.applied).max(self.committed.0);
        let text = self.metadata.encode().map_err(|error| Trouble::Fatal(error.to_string()))?;
        while !self.commit_now(feed, safe, text.clone()).await? {
            tokio::select! {
                // Nothing past it was applied; the last commit has it, too.
                () = stop.cancelled() => break,
                () = tokio::time::sleep(TICK) => {}
            }
        }
        failpoint::reach("aggregate.boundary-logged");
        Ok(())
    }

    /// The boundary that can be closed at a time, if windows or parts wait for it.
    fn due_at(&self, now: Millis) -> Option<Millis> {
        let rule = self.metadata.rules.at(now);
        let boundary = rule.closed_by(now.minus(margin(rule)));
        let is_new = |due: Millis| due <= boundary && Some(due) > self.last_closed;
        let due = self.open.range(..=boundary).any(|(open, _)| is_new(*open));
        let awaited = self.progress.parts_waiting.iter().any(|part| is_new(part.key.window.start));
        (due || awaited).then_some(boundary)
    }

    /// True if everything that is in the log has been applied. An end that lies beyond the last record, as after a
    /// transaction, must be the same twice.
    async fn is_at_end(&mut self, feed: &PartitionFeed) -> Result<bool, Trouble> {
        let (_, end) = feed.watermarks(&self.role.process.topics.message_events).await?;
        let same = self.seen_end.replace(end) == Some(end);
        Ok(end == self.position || same)
    }

    /// The time that the host's clock and the brokers', as of the last minute, both have reached: where one of them is
    /// ahead, windows close by the other, so none closes early, and none waits for longer than the one is behind.
    async fn agreed_time(&mut self, now: Millis) -> Result<Millis, Trouble> {
        if self.role.process.embedded {
            return Ok(now);
        }
        let margin = margin(self.metadata.rules.at(now));
        let publisher = &self.role.process.publisher;
        let agrees = |ahead: i64| ahead.unsigned_abs() <= margin.as_millis() as u64;
        let recent =
            |(ahead, at): (i64, Millis)| now.since(at) < if agrees(ahead) { CLOCK_AGE } else { CLOCK_DOUBT };
        if !publisher.broker_clock().is_some_and(recent) {
            let topic = &self.role.process.topics.webhook_states;
            let heartbeat = Outgoing { topic, partition: None, key: b"heartbeat", value: None, headers: &[] };
            publisher.publish_and_wait(&heartbeat).await?;
        }
        let Some((ahead, _)) = publisher.broker_clock() else {
            return Ok(Millis(0));
        };
        let differ = !agrees(ahead);
        if differ && !std::mem::replace(&mut self.clocks_differ, differ) {
            warn!(
                partition = self.source.partition,
                ahead_ms = ahead,
                "the host's clock differs from the brokers'; windows close by the one that is behind"
            );
        }
        self.clocks_differ = differ;
        Ok(Millis(now.0 + ahead.min(0)))
    }
}

/// How far a clock must be past the moment at which a boundary closes.
fn margin(rule: &WindowRule) -> Duration {
    Duration::from_millis((rule.grace_ms / 2).clamp(50, 5_000) as u64)
}
