//! One attempt, in the order of writes: the POST ends; the health of the webhook takes it in; its record is
//! acknowledged; the views follow; notices are published. Only then is the delivery settled. After a success the chat's
//! next POST may go as soon as the record is on its way.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    Deliver,
    queued::Queued,
    settlements::InFlight,
    slots::{ChatSlot, RequestSlot},
};
use crate::{
    flow::{
        bundle_to_delivery::Delivery,
        delivery_to_outcome::{self, Ended, Reply, Request},
        outcome_to_notice::{NoticeTopic, records},
    },
    io::{
        StoreError, clock,
        kafka::{
            health_log::HealthLog,
            publisher::{AckGroup, Outgoing},
        },
        redis::{self, health::Seen, turns::Turn},
    },
    model::{
        delivery::{Outcome, Settlement},
        health::{self, Failure, Health, Notice, NoticeKind, Verdict},
        history::Current,
        ids::WebhookId,
        time::Millis,
        webhook::Webhook,
    },
    ops::failpoint,
    wire::{
        self,
        attempt::{self, AttemptRecord},
    },
};

/// Pause before a call that Redis could not serve is made again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// What the lane last saw of its webhook's health.
pub(super) type SharedSeen = Arc<Mutex<Seen>>;

/// What an attempt came to.
pub(super) struct Attempted {
    pub queued: Queued,
    pub settlement: Settlement,
    /// From the request to the answer.
    pub took: Duration,
    pub health: Health,
    /// Ends the attempt when it is dropped.
    pub in_flight: InFlight,
    /// What a request that failed holds: nothing takes its place before the lane knows that the circuit has tripped.
    pub slots: (Option<RequestSlot>, Option<ChatSlot>),
}

/// The record of an attempt, on its way.
pub(super) struct Recording {
    record: AttemptRecord,
    acks: AckGroup,
}

/// What was sent, and what came back.
pub(super) struct Sent {
    request: Request,
    reply: Reply,
    started_at: Millis,
    duration: Duration,
    pub settlement: Settlement,
    /// None: a success; else the error as shown to the customer.
    pub error: Option<String>,
}

impl Deliver {
    /// Makes one attempt.
    pub(super) async fn attempt(
        self: Arc<Self>,
        mut queued: Queued,
        current: Current,
        lease: Option<Uuid>,
        seen: SharedSeen,
        in_flight: InFlight,
        (request, chat): (RequestSlot, ChatSlot),
    ) -> Attempted {
        let sent = self.send_once(&mut queued.delivery, &current.webhook).await;
        failpoint::reach("deliver.answered");
        let settlement = sent.settlement;
        let failed = settlement != Settlement::Delivered;
        let request = failed.then_some(request);
        let (verdict, health) = self.take_in(&queued, &current, lease, &sent, &seen).await;
        failpoint::reach("deliver.counted");
        let recording = self.record(&queued, &current, &sent, verdict, &health).await;
        // Records of a partition keep their order, so no claim finds that of the chat's next delivery without this one.
        let chat = failed.then_some(chat);
        self.recorded(&queued, recording).await;
        failpoint::reach("deliver.recorded");
        let health = self.publish_notices(&current, health, &seen).await;
        self.report(&queued, settlement, verdict, &health, sent.error.as_deref());
        Attempted { queued, settlement, took: sent.duration, health, in_flight, slots: (request, chat) }
    }

    /// Sends a delivery once, which now counts it, and finds out what came of it.
    pub(super) async fn send_once(&self, delivery: &mut Delivery, webhook: &Webhook) -> Sent {
        let metrics = &self.process.metrics;
        let (started_at, clock) = (clock::now(), Instant::now());
        let opened = self.keys.unseal(webhook);
        let webhook = opened.as_deref().unwrap_or(webhook);
        let request = delivery_to_outcome::request(delivery, webhook, started_at);
        metrics.requests_in_flight.inc();
        let reply = match &opened {
            Ok(_) => self.thread(&webhook.webhook_id).client.post(&request).await,
            Err(error) => {
                warn!(webhook = %webhook.webhook_id, %error, "nothing can be sent without the secrets");
                Reply::Unsent(Outcome::Connect)
            }
        };
        metrics.requests_in_flight.dec();
        let duration = clock.elapsed();
        let settlement = delivery_to_outcome::settle(delivery, webhook, &reply);
        let outcome = reply.outcome(webhook);
        metrics.delivery_attempts.of(outcome).inc();
        if matches!(reply, Reply::Unsent(_)) {
            metrics.attempts_unsent.with_label_values(&[outcome.as_str()]).inc();
        }
        metrics.attempt_duration.of(outcome).observe(duration.as_secs_f64());
        let error = delivery_to_outcome::customer_text(&reply, webhook);
        Sent { request, reply, started_at, duration, settlement, error }
    }

    /// Lets the health of the webhook take the attempt in.
    async fn take_in(
        &self,
        queued: &Queued,
        current: &Current,
        lease: Option<Uuid>,
        sent: &Sent,
        seen: &SharedSeen,
    ) -> (Verdict, Health) {
        let retry_after = match &sent.reply {
            Reply::Answered(answer) => answer.retry_after,
            Reply::Failed(_) | Reply::Unsent(_) => None,
        };
        let jitter = rand::random();
        let pause = |failures| self.settings.retry_schedule.pause(failures, jitter, retry_after);
        let ended = health::Ended {
            attempt: Failure {
                bundle: queued.delivery.head.delivery_id(),
                attempt: queued.delivery.attempts,
            },
            activation: current.activation,
            lease,
            error: sent.error.as_deref(),
            ours: matches!(sent.reply, Reply::Unsent(_)),
            at: clock::now(),
            pause: &pause,
        };
        let webhook = &queued.delivery.head.webhook_id;
        // If it was enabled anew meanwhile, the health is that of the new enabling at once, not only when a lane looks.
        let latest = self.process.tail.directory().current(webhook);
        let current =
            latest.as_ref().filter(|latest| latest.activation > current.activation).unwrap_or(current);
        if ended.error.is_none() && current.disabled.is_none() {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(health) = seen.clean(current.activation) {
                return (Verdict { counted: false, closed: false }, health.clone());
            }
        }
        self.update_health(current, seen, |health| health.take(webhook, &ended)).await
    }

    /// Changes the health of a webhook, waiting for Redis as long as it takes.
    pub(super) async fn update_health<T>(
        &self,
        current: &Current,
        seen: &SharedSeen,
        mut change: impl FnMut(&mut Health) -> T,
    ) -> (T, Health) {
        let webhook = &current.webhook.webhook_id;
        let record = OnRecord { log: &self.health_log, current };
        let mut change = |health: &mut Health| {
            if let Some(disabled) = current.disabled {
                health.hold(current.activation, disabled.at);
            }
            change(health)
        };
        loop {
            let mut known = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let health = &self.thread(webhook).health;
            let updating = health.update(webhook, current.activation, &mut known, &record, &mut change);
            let result = updating.await;
            seen.lock().unwrap_or_else(PoisonError::into_inner).catch_up(known);
            match result {
                Ok(answer) => return answer,
                Err(error) => self.wait_for_redis("health", &error).await,
            }
        }
    }

    /// The next turn of a webhook that has a limit, waiting for Redis as long as it takes.
    pub(super) async fn take_turn(&self, webhook: &WebhookId, per_second: u16) -> Turn {
        loop {
            match self.thread(webhook).turns.take(webhook, per_second).await {
                Ok(turn) => return turn,
                Err(error) => self.wait_for_redis("turn", &error).await,
            }
        }
    }

    pub(super) async fn wait_for_redis(&self, operation: &str, error: &StoreError) {
        self.process.metrics.redis_failures.with_label_values(&[operation, "busy"]).inc();
        debug!(operation, %error, "waiting for redis");
        tokio::time::sleep(BUSY_PAUSE).await;
    }

    /// Publishes the webhook's health where its count changed, and hands the record of an attempt over to be published.
    pub(super) async fn record(
        &self,
        queued: &Queued,
        current: &Current,
        sent: &Sent,
        verdict: Verdict,
        health: &Health,
    ) -> Recording {
        let (topics, delivery) = (&self.process.topics, &queued.delivery);
        let record = delivery_to_outcome::record(&Ended {
            delivery,
            webhook: &current.webhook,
            request: &sent.request,
            reply: &sent.reply,
            started_at: sent.started_at,
            duration_ms: sent.duration.as_millis() as u64,
            settlement: sent.settlement,
            verdict,
            health,
        });
        let webhook = &delivery.head.webhook_id;
        if verdict.counted || verdict.closed {
            let key = format!("{webhook}/{}", delivery.partition);
            let value = wire::health::encode(webhook, delivery.partition, health, clock::now());
            let outgoing = Outgoing {
                topic: &topics.webhook_health,
                partition: None,
                key: key.as_bytes(),
                value: Some(&value),
                headers: &[],
            };
            self.publish(&outgoing).await;
            failpoint::reach("deliver.health-logged");
        }
        let outgoing = Outgoing {
            topic: &topics.delivery_attempts,
            partition: Some(delivery.partition),
            key: webhook.as_str().as_bytes(),
            value: Some(&attempt::encode(&record)),
            headers: &[],
        };
        let acks = AckGroup::default();
        self.publish_into(&outgoing, &acks).await;
        Recording { record, acks }
    }

    /// Waits until the record of an attempt is acknowledged, and hands it over to the views.
    pub(super) async fn recorded(&self, queued: &Queued, Recording { record, acks }: Recording) {
        acks.complete().await;
        let offset = acks.last_offset();
        queued.parking.settlements().recorded(offset + 1);
        self.views.note(queued.delivery.partition, offset, &record);
    }

    /// Publishes into a group. What can't be published ends the process.
    pub(super) async fn publish_into(&self, record: &Outgoing<'_>, group: &AckGroup) {
        if let Err(error) = self.process.publisher.publish(record, group).await {
            let reason = format!("a record for `{}` could not be published: {error}", record.topic);
            self.process.fail(reason);
            std::future::pending::<()>().await;
        }
    }

    /// Publishes, waits for the acknowledgement, and returns the offset. What can't be published ends the process.
    pub(super) async fn publish(&self, record: &Outgoing<'_>) -> i64 {
        let group = AckGroup::default();
        self.publish_into(record, &group).await;
        group.complete().await;
        group.last_offset()
    }

    /// Publishes what stands in the outbox, then clears it. After a crash in between, whoever sees it next publishes
    /// it again under the same id.
    pub(super) async fn publish_notices(
        &self,
        current: &Current,
        health: Health,
        seen: &SharedSeen,
    ) -> Health {
        if health.outbox.is_empty() {
            return health;
        }
        failpoint::reach("deliver.outbox");
        for notice in &health.outbox {
            self.publish_notice(current, notice).await;
        }
        failpoint::reach("deliver.noticed");
        let published = health.outbox;
        let clear = |health: &mut Health| health.outbox.retain(|notice| !published.contains(notice));
        self.update_health(current, seen, clear).await.1
    }

    async fn publish_notice(&self, current: &Current, notice: &Notice) {
        let topics = &self.process.topics;
        for record in records(&current.webhook, notice) {
            let topic = match record.topic {
                NoticeTopic::WebhookEvents => &topics.webhook_events,
                NoticeTopic::Notifications => &topics.notifications,
                NoticeTopic::WebhookStates => &topics.webhook_states,
            };
            let (key, value) = (record.key.as_bytes(), Some(record.value.as_slice()));
            self.publish(&Outgoing { topic, partition: None, key, value, headers: &record.headers }).await;
            failpoint::reach("deliver.notice");
        }
        let kind = wire::notice::kind(notice.kind);
        self.process.metrics.notices.with_label_values(&[kind]).inc();
        if notice.kind == NoticeKind::Disabled {
            let webhook: &WebhookId = &current.webhook.webhook_id;
            info!(%webhook, failures = notice.failures, error = notice.last_error, "webhook disabled");
        }
    }

    fn report(
        &self,
        queued: &Queued,
        settlement: Settlement,
        verdict: Verdict,
        health: &Health,
        error: Option<&str>,
    ) {
        let metrics = &self.process.metrics;
        let head = &queued.delivery.head;
        match settlement {
            Settlement::Delivered => {
                metrics.bundles_settled.with_label_values(&["delivered"]).inc();
                let latency = clock::now().since(head.arrived_at);
                metrics.delivery_latency.of(head.granularity).observe(latency.as_secs_f64());
            }
            Settlement::Rejected => metrics.bundles_settled.with_label_values(&["rejected"]).inc(),
            Settlement::Open => {}
        }
        if verdict.closed || verdict.counted {
            metrics.circuit_changes.of((&health.circuit).into()).inc();
        }
        if let Some(error) = error {
            let (webhook, failures) = (&head.webhook_id, health.failures);
            info!(%webhook, bundle = %head.bundle_id, error, failures, counted = verdict.counted, "attempt failed");
        }
    }
}

/// What is on record of a webhook's health.
struct OnRecord<'a> {
    log: &'a HealthLog,
    current: &'a Current,
}

impl redis::health::Record for OnRecord<'_> {
    async fn health(&self) -> Health {
        let Current { webhook, activation, disabled, .. } = self.current;
        let recorded = self.log.latest(&webhook.webhook_id).await;
        Health::restored(recorded, *activation, disabled.map(|disabled| disabled.at))
    }
}

/// The time of the next attempt that a permission to wait names.
pub(super) fn span_until(at: Millis) -> Duration {
    at.since(clock::now())
}
