//! The tail of `webhook-health`: the last known health of every webhook, from which a slot in Redis is restored.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use rdkafka::{Message, error::KafkaError, message::BorrowedMessage};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    client::Topics,
    follow::{Follow, Following},
};
use crate::{
    config::KafkaSettings,
    model::{health::Health, ids::WebhookId},
    wire::health,
};

type Healths = Arc<RwLock<HashMap<WebhookId, Health>>>;

/// The last known health of every webhook that ever failed, kept up to date by a thread of its own.
#[derive(Clone)]
pub struct HealthLog {
    healths: Healths,
    following: Following,
}

impl HealthLog {
    /// Starts reading the topic from its beginning.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        settings: &KafkaSettings,
        topics: &Topics,
        embedded: bool,
        stop: CancellationToken,
    ) -> Result<Self, KafkaError> {
        let follow = Follow {
            settings,
            topics: vec![topics.webhook_health.clone()],
            what: "log of health",
            embedded,
            stop,
        };
        let healths = Healths::default();
        let filled = healths.clone();
        let following = follow
            .start(|_| Box::new(move |_: usize, message: &BorrowedMessage<'_>| take(&filled, message)))?;
        Ok(Self { healths, following })
    }

    /// Whether the topic has been read to its end, and lately.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        self.following.ready()
    }

    /// How far it has been read.
    #[must_use]
    pub fn following(&self) -> &Following {
        &self.following
    }

    /// The health of a webhook after its last recorded outcome, with everything that was recorded before this call.
    /// None if it never failed.
    pub async fn latest(&self, webhook: &WebhookId) -> Option<Health> {
        self.read_since(Instant::now()).await;
        self.known(webhook)
    }

    /// Waits until everything that was recorded before a moment has been read. False if the reading has ended.
    pub async fn read_since(&self, moment: Instant) -> bool {
        self.following.fresh_since(moment).await
    }

    /// The webhooks that had failures after their last recorded outcome, as far as it has been read.
    #[must_use]
    pub fn failing(&self) -> Vec<(WebhookId, Health)> {
        let healths = self.healths.read().unwrap_or_else(PoisonError::into_inner);
        let failing = healths.iter().filter(|(_, health)| !health.is_clean());
        failing.map(|(webhook, health)| (webhook.clone(), health.clone())).collect()
    }

    /// The health of a webhook after its last recorded outcome, as far as it has been read.
    #[must_use]
    pub fn known(&self, webhook: &WebhookId) -> Option<Health> {
        self.healths.read().unwrap_or_else(PoisonError::into_inner).get(webhook).cloned()
    }
}

/// Of a webhook's records, one for each partition, that with the highest number counts.
fn take(healths: &Healths, message: &BorrowedMessage<'_>) {
    let Some(value) = message.payload() else { return };
    match health::decode(value) {
        Ok((webhook, health)) => {
            let mut healths = healths.write().unwrap_or_else(PoisonError::into_inner);
            let known = healths.entry(webhook).or_insert_with(|| health.clone());
            if known.number < health.number {
                *known = health;
            }
        }
        Err(problem) => {
            warn!(offset = message.offset(), %problem, "a record of `webhook-health` that can't be read");
        }
    }
}
