//! The work on one partition of `notifications`: one e-mail after the other, each at most once.
//!
//! Before an e-mail is handed over, its id is committed beside the offset, and that commit is accepted only from the
//! partition's owner. Whoever finds the id there after a crash does not know whether the e-mail was sent, and does not send
//! it again. Ids below the offset are known from the topic itself, so one that is published again is passed over.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Notify, Outlet};
use crate::{
    config::StartFrom,
    io::{
        clock,
        kafka::{
            intake::{CommitError, FeedEvent, PartitionFeed, Record},
            replay::{Replayed, replay},
        },
        smtp::{Pending, SendError, letter},
    },
    ops::failpoint,
    roles::backlog::{Backlog, Stand},
    wire::{
        Poison, PoisonReason,
        mail_metadata::MailMetadata,
        notice::{Mail, decode_notification},
    },
};

/// Pause before a partition is claimed again, and before a commit is made again.
const PAUSE: Duration = Duration::from_millis(500);
/// So often it is told that the partition is worked on, where nothing happens.
const BEAT: Duration = Duration::from_secs(5);
/// A commit that the group does not take is made again so often once the partition is to be given up.
const LAST_COMMITS: usize = 6;
/// An e-mail that the server puts off so often is refused.
const DEFERRALS: u32 = 8;

/// Why the work on a partition ended before it was revoked.
type Trouble = String;

/// What became of an e-mail.
enum Sent {
    Yes,
    /// For good.
    No(Poison),
    /// The partition is to be given up first.
    NotYet,
}

/// Works on a partition until it is revoked.
pub(super) async fn work(notify: &Arc<Notify>, mut feed: PartitionFeed) {
    let _watch = notify.process.watch_for_panic("partition of notifications");
    let (stop, partition) = (feed.stopped(), feed.partition);
    let owned = notify.process.metrics.partitions_owned.with_label_values(&["notify"]);
    owned.inc();
    let backlog = notify.backlogs.watch(partition);
    while !stop.is_cancelled() {
        if let Err(trouble) = Worker::claim(notify, &mut feed, &stop, &backlog).await {
            warn!(partition, trouble, "claiming the partition again");
            wait(&stop, PAUSE).await;
        }
    }
    owned.dec();
}

struct Worker<'a> {
    notify: &'a Notify,
    feed: &'a PartitionFeed,
    stop: &'a CancellationToken,
    backlog: &'a Backlog,
}

impl Worker<'_> {
    /// Begins where the group stands, and works until the partition is revoked.
    async fn claim(
        notify: &Notify,
        feed: &mut PartitionFeed,
        stop: &CancellationToken,
        backlog: &Backlog,
    ) -> Result<(), Trouble> {
        let topic = &notify.process.topics.notifications;
        let text = |error: CommitError| error.to_string();
        let (begin, end) = feed.watermarks(topic).await.map_err(text)?;
        let (offset, metadata) = match feed.committed().await.map_err(text)? {
            Some((offset, metadata)) => (offset, MailMetadata::decode(&metadata)),
            None if notify.from == Some(StartFrom::End) => (end, None),
            None => (begin, None),
        };
        if offset < begin {
            let lost = (begin - offset) as u64;
            error!(
                partition = feed.partition,
                lost, "requests for e-mails were deleted before they were read"
            );
            notify.process.metrics.records_lost.with_label_values(&["notify"]).inc_by(lost);
        }
        let mut handled = handled(notify, feed.partition, offset).await?;
        failpoint::reach("notify.claimed");
        let mut unsure = metadata.and_then(|metadata| metadata.sending);
        let offset = offset.max(begin);
        feed.start_at(offset).await.map_err(|error| error.to_string())?;
        backlog.stands(Stand::at(offset));
        notify.process.metrics.claims.with_label_values(&["notify", "kept"]).inc();
        loop {
            let event = tokio::select! {
                event = feed.next() => event,
                () = tokio::time::sleep(BEAT) => {
                    backlog.progress();
                    continue;
                }
                () = stop.cancelled() => return Ok(()),
            };
            let Some(FeedEvent::Records(batch)) = event else {
                if event.is_none() {
                    return Ok(());
                }
                continue;
            };
            let worker = Worker { notify, feed, stop, backlog };
            for record in batch.iter() {
                notify.process.metrics.notifications_read.inc();
                if !worker.take(&record, &mut handled, unsure.take()).await? {
                    return Ok(());
                }
            }
        }
    }

    /// Does what one record asks for. False if the partition is to be given up first.
    async fn take(
        &self,
        record: &Record<'_>,
        handled: &mut HashSet<Uuid>,
        unsure: Option<Uuid>,
    ) -> Result<bool, Trouble> {
        let metrics = &self.notify.process.metrics;
        let missing =
            || Poison { reason: PoisonReason::NullValue, detail: "the record has no value".to_owned() };
        let decoded = record.value.ok_or_else(missing).and_then(decode_notification);
        match decoded {
            Err(poison) => self.dead_letter(record, &poison).await?,
            Ok(mail) if handled.contains(&mail.id) => {
                metrics.mails.with_label_values(&["repeated"]).inc();
            }
            Ok(mail) if unsure == Some(mail.id) => {
                let detail = "whether the e-mail was sent is not known: the process ended while it was being handed over";
                let poison = Poison { reason: PoisonReason::MailUnsure, detail: detail.to_owned() };
                handled.insert(mail.id);
                self.dead_letter(record, &poison).await?;
            }
            Ok(mail) => {
                match self.send(record.offset, &mail).await? {
                    Sent::Yes => {
                        metrics.mails.with_label_values(&["sent"]).inc();
                        info!(notification = %mail.id, webhook = %mail.webhook_id, "e-mail sent");
                    }
                    Sent::No(poison) => self.dead_letter(record, &poison).await?,
                    Sent::NotYet => return Ok(false),
                }
                handled.insert(mail.id);
            }
        }
        self.commit(record.offset + 1, None).await?;
        self.backlog.stands(Stand::at(record.offset + 1));
        Ok(true)
    }

    /// Sends an e-mail, again and again while the server can't be used.
    async fn send(&self, offset: i64, mail: &Mail) -> Result<Sent, Trouble> {
        let settings = &self.notify.settings;
        let invalid = |detail: String| Sent::No(Poison { reason: PoisonReason::InvalidField, detail });
        let console = settings.console_url.as_ref();
        let message = match letter::write(mail, &settings.mail_from, console, clock::now()) {
            Ok(message) => message,
            Err(error) => return Ok(invalid(error.to_string())),
        };
        let client = match &self.notify.outlet {
            Outlet::Smtp(client) => client,
            Outlet::Shown(outbox) => {
                println!("{}", outbox.put(mail, console, clock::now()));
                return Ok(Sent::Yes);
            }
        };
        let (mut failures, mut deferrals) = (0, 0);
        loop {
            if self.stop.is_cancelled() {
                return Ok(Sent::NotYet);
            }
            let offered = tokio::select! {
                offered = client.offer(&message) => offered,
                // Nothing was handed over yet.
                () = self.stop.cancelled() => return Ok(Sent::NotYet),
            };
            let error = match offered {
                Ok(pending) => match self.hand_over(offset, mail, pending).await? {
                    Ok(()) => return Ok(Sent::Yes),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let refused = |reason, error: &SendError| Sent::No(Poison { reason, detail: error.to_string() });
            deferrals += u32::from(matches!(error, SendError::Deferred(_)));
            match error {
                SendError::Refused(_) => return Ok(refused(PoisonReason::MailRefused, &error)),
                SendError::Unsure(_) => return Ok(refused(PoisonReason::MailUnsure, &error)),
                SendError::Deferred(_) if deferrals >= DEFERRALS => {
                    return Ok(refused(PoisonReason::MailRefused, &error));
                }
                SendError::Server(_) | SendError::Deferred(_) => {}
            }
            failures += 1;
            self.notify.process.metrics.mail_failures.inc();
            let pause = settings.mail_retry_schedule.pause(failures, rand::random(), None);
            warn!(%error, notification = %mail.id, pause_ms = pause.as_millis(), "the e-mail is tried again");
            self.rest(pause).await;
        }
    }

    /// Waits before an e-mail is tried again.
    async fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until && !self.stop.is_cancelled() {
            self.backlog.progress();
            wait(self.stop, BEAT.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Hands an e-mail over once it is noted that it may be on its way. What is known not to have been sent is noted, too.
    async fn hand_over(
        &self,
        offset: i64,
        mail: &Mail,
        pending: Pending,
    ) -> Result<Result<(), SendError>, Trouble> {
        failpoint::reach("notify.offered");
        self.commit(offset, Some(mail.id)).await?;
        failpoint::reach("notify.noted");
        match pending.hand_over().await {
            Ok(_) => {
                failpoint::reach("notify.handed-over");
                Ok(Ok(()))
            }
            Err(error) => {
                if !matches!(error, SendError::Unsure(_)) {
                    self.commit(offset, None).await?;
                }
                Ok(Err(error))
            }
        }
    }

    /// Commits, again while the group does not take it.
    async fn commit(&self, offset: i64, sending: Option<Uuid>) -> Result<(), Trouble> {
        let encoded = MailMetadata::new(sending).encode();
        let mut left = LAST_COMMITS;
        loop {
            let metrics = &self.notify.process.metrics;
            let error = match self.feed.commit(offset, encoded.clone()).await {
                Ok(()) => {
                    metrics.commits.with_label_values(&["notify"]).inc();
                    return Ok(());
                }
                Err(error) => error,
            };
            let cause = match &error {
                CommitError::Fenced(_) => "fenced",
                CommitError::Rebalancing(_) => "rebalance",
                CommitError::Failed(_) => "broker",
            };
            metrics.commit_failures.with_label_values(&["notify", cause]).inc();
            if matches!(error, CommitError::Fenced(_)) {
                return Err(error.to_string());
            }
            if self.stop.is_cancelled() {
                left -= 1;
            }
            if left == 0 {
                return Err(error.to_string());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn dead_letter(&self, record: &Record<'_>, poison: &Poison) -> Result<(), Trouble> {
        let (process, partition, reason) =
            (&self.notify.process, self.feed.partition, poison.reason.as_str());
        error!(partition, offset = record.offset, %poison, reason, "an e-mail that is not sent");
        process.publish_dead_letter(&process.topics.notifications, partition, record, poison).await
    }
}

/// The ids of the e-mails below an offset, as far as the topic still holds them.
async fn handled(notify: &Notify, partition: i32, below: i64) -> Result<HashSet<Uuid>, Trouble> {
    let found = Arc::new(Mutex::new(HashSet::new()));
    let ids = found.clone();
    let take = move |record: &Replayed<'_>| {
        if record.offset >= below {
            return ControlFlow::Break(());
        }
        if let Some(mail) = record.value.and_then(|value| decode_notification(value).ok()) {
            ids.lock().unwrap_or_else(PoisonError::into_inner).insert(mail.id);
        }
        ControlFlow::Continue(())
    };
    let topic = &notify.process.topics.notifications;
    replay(&notify.process.kafka, topic, partition, 0, take).await.map_err(|error| error.to_string())?;
    let ids = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(ids)
}

async fn wait(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
