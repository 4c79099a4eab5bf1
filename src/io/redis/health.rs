//! The health of webhooks: one slot each, changed by compare-and-set, so that the rules stand in `model::health`.

use redis::Script;
use tracing::warn;

use super::{Redis, StoreError};
use crate::model::{
    health::{Circuit, HEALTH_VERSION, Health},
    history::Disabled,
    ids::WebhookId,
    webhook::Activation,
};

/// What was last seen of a slot.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// As stored; saves a call where nobody else changed it.
    stored: String,
    /// The one with the highest number. Redis may lose it, in a failover to a replica that lacks the last writes.
    latest: Option<Health>,
}

impl Seen {
    fn note(&mut self, stored: String, health: &Health) {
        self.stored = stored;
        if self.latest.as_ref().is_none_or(|latest| latest.number <= health.number) {
            self.latest = Some(health.clone());
        }
    }
}

/// Slots of health.
#[derive(Clone)]
pub struct HealthStore {
    redis: Redis,
    swap: Script,
    prefix: String,
}

impl HealthStore {
    /// The slots under a prefix of topics.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Self {
        Self { redis, swap: Script::new(include_str!("swap.lua")), prefix: prefix.to_owned() }
    }

    fn key(&self, webhook: &WebhookId) -> String {
        format!("{{{}wh:{webhook}}}:health", self.prefix)
    }

    /// Changes the health of a webhook in one atomic step and returns it with what the change says. The change may be
    /// asked for more than once, each time with what is stored then. A slot that went backwards or is gone is restored
    /// from what was seen of it, and from what the webhook begins with.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Busy`] the change may or may not have happened.
    pub async fn update<T>(
        &self,
        webhook: &WebhookId,
        seen: &mut Seen,
        initial: &Health,
        mut change: impl FnMut(&mut Health) -> T,
    ) -> Result<(T, Health), StoreError> {
        loop {
            let stored = if seen.stored.is_empty() { initial.clone() } else { decode(&seen.stored)? };
            let number = stored.number;
            let mut health = stored.restored(seen.latest.as_ref(), initial);
            if health.number > number {
                warn!(%webhook, number, seen = health.number, "the health of a webhook went backwards in redis");
            }
            let answer = change(&mut health);
            let changed =
                serde_json::to_string(&health).map_err(|error| StoreError::Damaged(error.to_string()))?;
            let call = {
                let mut call = self.swap.key(self.key(webhook));
                call.arg(&seen.stored).arg(&changed);
                call
            };
            let current: Vec<String> = self.redis.invoke(&call).await?;
            match current.into_iter().next() {
                None => {
                    seen.note(changed, &health);
                    return Ok((answer, health));
                }
                Some(current) => seen.stored = current,
            }
        }
    }
}

/// The health of a webhook of which Redis knows nothing.
#[must_use]
pub fn initial(activation: Activation, disabled: Option<Disabled>) -> Health {
    let mut health = Health::new(activation);
    if let Some(disabled) = disabled {
        health.circuit = Circuit::Disabled { at: disabled.at };
    }
    health
}

fn decode(text: &str) -> Result<Health, StoreError> {
    let health: Health =
        serde_json::from_str(text).map_err(|error| StoreError::Damaged(error.to_string()))?;
    if health.v != HEALTH_VERSION {
        return Err(StoreError::Damaged(format!(
            "health of version {}, expected {HEALTH_VERSION}",
            health.v
        )));
    }
    Ok(health)
}
