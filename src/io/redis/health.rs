//! The health of webhooks: one slot each, changed by compare-and-set, so that the rules stand in `model::health`.

use redis::Script;
use tracing::error;

use super::{Redis, StoreError};
use crate::model::{
    health::{HEALTH_VERSION, Health},
    ids::WebhookId,
    webhook::Activation,
};

/// What was last seen of a slot; saves a call where nobody else changed it, and shows whether it went backwards.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// As stored: empty if there was no slot, none if it was not looked at yet.
    stored: Option<String>,
    /// The one with the highest number.
    highest: Option<Health>,
}

impl Seen {
    fn note(&mut self, stored: String, health: &Health) {
        self.stored = Some(stored);
        if self.highest.as_ref().is_none_or(|highest| highest.number <= health.number) {
            self.highest = Some(health.clone());
        }
    }
}

/// Where the health of a webhook is on record, apart from Redis.
pub trait Record: Sync {
    /// Its health by the last outcome on record.
    fn health(&self) -> impl Future<Output = Health> + Send;
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

    /// The health of a webhook as it is stored; none if Redis knows nothing of it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn read(&self, webhook: &WebhookId) -> Result<Option<Health>, StoreError> {
        let mut command = redis::cmd("GET");
        command.arg(self.key(webhook));
        let stored: Option<String> = self.redis.command("health.read", &command).await?;
        stored.as_deref().map(decode).transpose()
    }

    /// Changes the health of a webhook under an enabling in one atomic step and returns it with what the change says.
    /// The change may be asked for more than once, each time with what is stored then. Where there is no slot, or one
    /// that went backwards, the record says what should be there.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Busy`] the change may or may not have happened.
    pub async fn update<T>(
        &self,
        webhook: &WebhookId,
        activation: Activation,
        seen: &mut Seen,
        record: &impl Record,
        mut change: impl FnMut(&mut Health) -> T,
    ) -> Result<(T, Health), StoreError> {
        let mut stored = match &seen.stored {
            Some(stored) => stored.clone(),
            None => self.swap(webhook, "", "").await?.unwrap_or_default(),
        };
        loop {
            let found = readable(webhook, &stored);
            let lowest = seen.highest.as_ref().map_or(0, |highest| highest.number);
            let mut health = match found.filter(|found| found.number >= lowest) {
                Some(found) => found,
                None => later(record.health().await, seen.highest.clone()),
            };
            health = health.under(activation);
            let answer = change(&mut health);
            let changed =
                serde_json::to_string(&health).map_err(|error| StoreError::Damaged(error.to_string()))?;
            match self.swap(webhook, &stored, &changed).await? {
                None => {
                    seen.note(changed, &health);
                    return Ok((answer, health));
                }
                Some(current) => stored = current,
            }
        }
    }

    /// Replaces a slot (empty: none) if it is as expected; else answers what is there.
    async fn swap(
        &self,
        webhook: &WebhookId,
        expected: &str,
        new: &str,
    ) -> Result<Option<String>, StoreError> {
        let call = {
            let mut call = self.swap.key(self.key(webhook));
            call.arg(expected).arg(new);
            call
        };
        let current: Vec<String> = self.redis.invoke("health.swap", &call).await?;
        Ok(current.into_iter().next())
    }
}

/// What a slot holds. One that can't be read is as good as none.
fn readable(webhook: &WebhookId, stored: &str) -> Option<Health> {
    if stored.is_empty() {
        return None;
    }
    match decode(stored) {
        Ok(health) => Some(health),
        Err(problem) => {
            error!(%webhook, %problem, "the health of a webhook is restored from its record");
            None
        }
    }
}

fn later(one: Health, other: Option<Health>) -> Health {
    other.filter(|other| other.number > one.number).unwrap_or(one)
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
