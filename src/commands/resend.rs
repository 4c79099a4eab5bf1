//! Sending again what was sent before: the same bodies, byte for byte, as new records of `bundles`.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{CommandError, Commands, within};
use crate::{
    flow::request_to_bundle,
    io::kafka::{
        publisher::AckGroup,
        reader::{FoundRecord, RecordReader},
        replay::{Replayed, offset_at, replay},
    },
    model::{
        bundle::{BundleHead, BundleRecord, Request, RequestKind},
        history::Current,
        ids::{BundleId, WebhookId, WorkspaceId},
        time::Millis,
    },
    wire::{
        attempt::{AttemptRecord, BundleReference},
        bundle,
    },
};

/// Brokers' clocks may step back when a leader changes; a scan goes on for so long past the end of its range.
const CLOCK_STEPS: Duration = Duration::from_mins(10);
/// So many bundles that were found wait to be published.
const FOUND: usize = 64;

/// What to send again.
#[derive(Debug, Clone)]
pub struct Resend {
    pub what: What,
    /// Under another `webhook-id` each, so that the receiver takes them for new.
    pub new_id: bool,
    /// Carried out twice with the same one, each is sent once.
    pub request_id: Uuid,
}

/// Which deliveries.
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// One, by its `webhook-id`.
    Delivery(BundleId),
    /// All whose bundles were written within a time.
    Range {
        from: Millis,
        /// Not included; none: until now.
        to: Option<Millis>,
    },
}

/// What is being sent again.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Resent {
    pub request_id: Uuid,
    /// How many deliveries.
    pub deliveries: u64,
}

/// A bundle of the past.
struct Found {
    head: BundleHead,
    body: Bytes,
    partition: i32,
}

impl Commands {
    /// Sends deliveries of a webhook again. They keep their order behind what waits in their chats, and are deliveries like
    /// any other from then on.
    ///
    /// # Errors
    /// If there is no such webhook or delivery, the webhook is off, or Kafka or Redis can't be used.
    pub async fn resend(&self, id: &WebhookId, resend: &Resend) -> Result<Resent, CommandError> {
        let (commands, id, resend) = (self.clone(), id.clone(), resend.clone());
        // It goes on to its end even if whoever asked does not wait for that.
        let sending = tokio::spawn(async move { commands.resend_now(&id, &resend).await });
        sending.await.map_err(CommandError::failed)?
    }

    async fn resend_now(&self, id: &WebhookId, resend: &Resend) -> Result<Resent, CommandError> {
        let current = self.current(id).await?;
        if !current.webhook.enabled {
            return Err(CommandError::Refused(format!(
                "webhook `{id}` is switched off, expected one that is on; `bundlehook webhook enable` switches it on"
            )));
        }
        let at = self.broker_time().await?;
        let deliveries = match resend.what {
            What::Delivery(bundle) => {
                let found = self.find(&current, bundle).await?;
                let record = self.again(&found, resend, at).ok_or_else(|| is_a_test(bundle))?;
                let headers = bundle::encode(&record.head);
                self.publish(&self.bundle(&record, Some(found.partition), &headers)).await?;
                1
            }
            What::Range { from, to } => {
                self.resend_range(&current, resend, at, from..to.unwrap_or(at)).await?
            }
        };
        Ok(Resent { request_id: resend.request_id, deliveries })
    }

    fn again(&self, found: &Found, resend: &Resend, at: Millis) -> Option<BundleRecord> {
        let request = Request { kind: RequestKind::Resend, id: resend.request_id, by: self.by.clone() };
        request_to_bundle::resend(&found.head, found.body.clone(), request, resend.new_id, at)
    }

    /// The bundle of a logged delivery.
    async fn find(&self, current: &Current, bundle: BundleId) -> Result<Found, CommandError> {
        let webhook = &current.webhook;
        let place = self.place_of(current, bundle).await?;
        let record = self.bundle_at(&place).await?;
        let found = record.and_then(|record| found(record, place.partition));
        let is_it = |found: &Found| {
            found.head.bundle_id == bundle
                && found.head.webhook_id == webhook.webhook_id
                && found.head.workspace_id == webhook.workspace_id
        };
        found.filter(is_it).ok_or_else(|| {
            CommandError::NotFound(format!(
                "the body of delivery `{bundle}` is gone, or belongs to another workspace; bodies are kept for 14 days"
            ))
        })
    }

    /// Where the bundle of a logged delivery stands: by the log, else by the attempts of the last days.
    async fn place_of(&self, current: &Current, bundle: BundleId) -> Result<BundleReference, CommandError> {
        let id = &current.webhook.webhook_id;
        if let Some(attempt) = self.attempt_of(current, bundle).await? {
            return Ok(attempt.bundle);
        }
        let topic = &self.topics.delivery_attempts;
        for partition in 0..self.partitions(topic).await? {
            let place = Arc::new(Mutex::new(None));
            let (shared, key) = (place.clone(), id.as_str().as_bytes().to_vec());
            let take = move |record: &Replayed<'_>| {
                let value = record.value.filter(|_| record.key == Some(&key));
                let attempt = value.and_then(|value| serde_json::from_slice::<AttemptRecord>(value).ok());
                let Some(attempt) = attempt.filter(|attempt| attempt.bundle.bundle_id == bundle) else {
                    return ControlFlow::Continue(());
                };
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(attempt.bundle);
                ControlFlow::Break(())
            };
            replay(&self.kafka, topic, partition, 0, take).await.map_err(CommandError::unread)?;
            if let Some(place) = place.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Ok(place);
            }
        }
        Err(CommandError::NotFound(format!(
            "webhook `{id}` has no attempt of delivery `{bundle}`; attempts are kept for 10 days, `bundlehook webhook log` \
             shows the latest"
        )))
    }

    async fn bundle_at(&self, place: &BundleReference) -> Result<Option<FoundRecord>, CommandError> {
        let (kafka, topic) = (self.kafka.clone(), self.topics.bundles.clone());
        let (partition, offset) = (place.partition, place.offset);
        let read = move || RecordReader::new(&kafka, &topic, partition)?.read(&[offset]);
        let reading = within(self.patience, "the body could not be read", tokio::task::spawn_blocking(read));
        let records = reading.await?.map_err(CommandError::failed)?.map_err(CommandError::unread)?;
        Ok(records.into_iter().flatten().next())
    }

    /// Scans `bundles`, and publishes what belongs to the webhook. What was itself asked for is left out: it is there as
    /// what it was made of, or is a test.
    async fn resend_range(
        &self,
        current: &Current,
        resend: &Resend,
        at: Millis,
        range: std::ops::Range<Millis>,
    ) -> Result<u64, CommandError> {
        let (mut count, acks) = (0, AckGroup::default());
        let sent = self.publish_range(current, resend, at, range, &mut count, &acks).await;
        let acknowledged = tokio::select! {
            () = acks.complete() => Ok(()),
            problem = self.publisher.failed() => Err(CommandError::Failed(problem)),
        };
        sent.and(acknowledged).map(|()| count).map_err(|error| error.half_way(count, resend.request_id))
    }

    async fn publish_range(
        &self,
        current: &Current,
        resend: &Resend,
        at: Millis,
        range: std::ops::Range<Millis>,
        count: &mut u64,
        acks: &AckGroup,
    ) -> Result<(), CommandError> {
        let topic = &self.topics.bundles;
        for partition in 0..self.partitions(topic).await? {
            let from = offset_at(&self.kafka, topic, partition, range.start).await;
            let from = from.map_err(CommandError::unread)?;
            let (sender, mut found) = mpsc::channel(FOUND);
            let wanted = Wanted {
                webhook: current.webhook.webhook_id.clone(),
                workspace: current.webhook.workspace_id.clone(),
                range: range.clone(),
                seen: HashSet::new(),
            };
            let scanning = replay(&self.kafka, topic, partition, from, scan(wanted, partition, sender));
            let publishing = async {
                while let Some(found) = found.recv().await {
                    let Some(record) = self.again(&found, resend, at) else { continue };
                    let headers = bundle::encode(&record.head);
                    let outgoing = self.bundle(&record, Some(found.partition), &headers);
                    self.publisher.publish(&outgoing, acks).await.map_err(CommandError::failed)?;
                    *count += 1;
                }
                Ok::<(), CommandError>(())
            };
            let (scanned, published) = tokio::join!(scanning, publishing);
            published?;
            scanned.map_err(CommandError::unread)?;
        }
        Ok(())
    }
}

/// What a scan looks for.
struct Wanted {
    webhook: WebhookId,
    workspace: WorkspaceId,
    range: std::ops::Range<Millis>,
    /// `bundles` may hold one more than once after a crash.
    seen: HashSet<BundleId>,
}

fn scan(
    mut wanted: Wanted,
    partition: i32,
    sender: mpsc::Sender<Found>,
) -> impl FnMut(&Replayed<'_>) -> ControlFlow<()> + Send + 'static {
    move |record| {
        if record.at >= wanted.range.end + CLOCK_STEPS {
            return ControlFlow::Break(());
        }
        if !wanted.range.contains(&record.at) || record.header("webhook-id") != Some(wanted.webhook.as_str())
        {
            return ControlFlow::Continue(());
        }
        let head = bundle::decode(record.headers()).ok().filter(|head| {
            head.workspace_id == wanted.workspace
                && head.request().is_none()
                && wanted.seen.insert(head.bundle_id)
        });
        let Some(head) = head else { return ControlFlow::Continue(()) };
        let body = Bytes::copy_from_slice(record.value.unwrap_or_default());
        match sender.blocking_send(Found { head, body, partition }) {
            Ok(()) => ControlFlow::Continue(()),
            // Publishing has failed.
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn found(record: FoundRecord, partition: i32) -> Option<Found> {
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let head = bundle::decode(headers).ok()?;
    Some(Found { head, body: record.value.into(), partition })
}

fn is_a_test(bundle: BundleId) -> CommandError {
    CommandError::Refused(format!(
        "delivery `{bundle}` is a test, expected one of messages; `bundlehook webhook test` sends another"
    ))
}
