//! The health of webhooks: one slot each, changed by compare-and-set, so that the rules stand in `model::health`.

use std::time::{Duration, Instant};

use redis::Script;
use tracing::error;

use super::{Redis, StoreError};
use crate::model::{
    health::{HEALTH_VERSION, Health},
    ids::WebhookId,
    webhook::Activation,
};

/// A slot that was clean so short a time ago is taken to be so.
const FRESH: Duration = Duration::from_millis(50);

/// What was last seen of a slot; saves a call where nobody else changed it, and shows whether it went backwards.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// As stored: empty if there was no slot, none if it was not looked at yet.
    stored: Option<String>,
    /// The one with the highest number.
    highest: Option<Health>,
    /// When Redis was asked for that.
    at: Option<Instant>,
}

impl Seen {
    /// The health under an enabling, if it was such so short a time ago that a success changes nothing. What somebody else
    /// changed since is for the successes that follow.
    #[must_use]
    pub fn clean(&self, activation: Activation) -> Option<&Health> {
        let is_clean = |health: &&Health| {
            health.is_clean() && health.activation == activation && health.outbox.is_empty()
        };
        let is_fresh = self.at.is_some_and(|at| at.elapsed() < FRESH);
        self.highest.as_ref().filter(is_clean).filter(|_| is_fresh)
    }

    /// Takes in what another task has seen since.
    pub fn catch_up(&mut self, other: Self) {
        if other.at >= self.at {
            let highest = [self.highest.take(), other.highest].into_iter().flatten();
            *self = Self { highest: highest.max_by_key(|health| health.number), ..other };
        }
    }

    fn note(&mut self, stored: String, health: &Health, asked: Instant) {
        self.stored = Some(stored);
        self.at = Some(asked);
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
            let asked = Instant::now();
            match self.swap(webhook, &stored, &changed).await? {
                None => {
                    seen.note(changed, &health, asked);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(health: &Health, before: Duration) -> Seen {
        let mut seen = Seen::default();
        seen.note(
            String::new(),
            health,
            Instant::now().checked_sub(before).expect("the host runs for longer"),
        );
        seen
    }

    #[test]
    fn a_success_is_taken_to_change_nothing_only_where_that_was_just_seen() {
        let enabled = Activation::default();
        let clean = Health::new(enabled);
        assert!(seen(&clean, Duration::ZERO).clean(enabled).is_some());
        assert!(seen(&clean, 2 * FRESH).clean(enabled).is_none());
        assert!(Seen::default().clean(enabled).is_none());
        let failed = Health { failures: 1, ..clean.clone() };
        assert!(seen(&failed, Duration::ZERO).clean(enabled).is_none());
        let later = Activation { at: 1, ..enabled };
        assert!(seen(&clean, Duration::ZERO).clean(later).is_none());
    }

    #[test]
    fn what_was_asked_for_earlier_does_not_hide_what_was_seen_later() {
        let clean = Health::new(Activation::default());
        let failed = Health { failures: 1, number: 1, ..clean.clone() };
        let mut latest = seen(&failed, Duration::ZERO);
        latest.catch_up(seen(&clean, FRESH / 2));
        assert!(latest.clean(Activation::default()).is_none());
        latest.catch_up(seen(&Health { number: 2, ..clean }, Duration::ZERO));
        assert!(latest.clean(Activation::default()).is_some());
    }
}
