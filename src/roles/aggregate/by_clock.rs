//! Boundaries that close by the clock, where there is nothing to read that could close them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Trouble,
    partition::{Partition, TICK},
};
use crate::{
    io::{
        clock,
        kafka::{intake::PartitionFeed, publisher::Outgoing},
    },
    model::{time::Millis, window::WindowRule},
    ops::failpoint,
};

/// Age at which what is known of the brokers' clock is asked for again.
const CLOCK_AGE: Duration = Duration::from_mins(1);
/// The same where it differs from the host's: an acknowledgement that was handled late looks like a difference.
const CLOCK_DOUBT: Duration = Duration::from_secs(1);

impl Partition<'_> {
    /// Closes a boundary by the host's clock, where there is nothing to read that could. The decision is committed
    /// before anything past it is applied, so that a replay decides the same.
    pub(super) async fn close_by_clock(
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
        let (safe, text) = self.safe()?;
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
