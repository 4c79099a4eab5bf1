//! The work on one partition: what is read is applied; in between, what waits is published, closed and committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Aggregate, Trouble, ahead::Ahead, progress::Progress, skips::Skips, standing::Standing};
use crate::{
    flow::event_to_window::{Plan, Planner, SourceRecord},
    io::{
        StoreError, clock,
        kafka::intake::{FeedEvent, PartitionFeed, Record, RecordBatch},
        redis::windows::{Applied, WindowStore},
    },
    model::{bundle::Source, event::Skip, time::Millis},
    ops::failpoint,
    roles::{
        backlog::{Backlog, Stand},
        rebuild::Rebuild,
    },
    wire::metadata::AggregateMetadata,
};

/// Records applied by one script.
const SEGMENT_RECORDS: usize = 500;
/// How often the offset is committed, and the clock is looked at.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// At most so many boundaries wait to be closed; then reading pauses.
const PENDING_BOUNDARIES: usize = 2;
/// At most so many batches wait for acknowledgements; then reading pauses.
const PENDING_BATCHES: usize = 64;
/// How often the last commit is tried while the group is rebalancing.
const LAST_COMMITS: usize = 10;
/// Pause before a call that Redis could not serve is made again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// A claimed partition.
pub(super) struct Partition<'a> {
    pub(super) role: &'a Aggregate,
    pub(super) store: WindowStore,
    pub(super) source: Source,
    pub(super) metadata: AggregateMetadata,
    pub(super) progress: Progress,
    /// Messages that did not count.
    pub(super) skips: Skips,
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
    pub(super) position: i64,
    pub(super) last_closed: Option<Millis>,
    /// There was nothing more to read, and nothing has come since.
    pub(super) at_end: bool,
    /// The offset that was committed by the claim.
    claimed: i64,
    pub(super) committed: (i64, String),
    pub(super) next_commit: Instant,
    backlog: &'a Backlog,
    standing: Standing,
    /// End offset when the clock was last looked at.
    pub(super) seen_end: Option<i64>,
    /// The host's clock differs from the brokers', as it was seen last.
    pub(super) clocks_differ: bool,
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
            let closing = self.close_some().await?;
            let forgetting = self.forget_some().await?;
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
                () = std::future::ready(()), if closing || forgetting => {}
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
        while self.forget_some().await? {}
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
    pub(super) fn close(&mut self, boundary: Millis, offset: i64, by: &str) {
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
        while self.forget_some().await? {}
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
}
