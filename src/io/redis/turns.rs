//! Turns of webhooks that have a limit of deliveries a second, shared by all processes.

use std::time::Duration;

use redis::Script;

use super::{Redis, StoreError};
use crate::model::ids::WebhookId;

/// A turn further away than this is not taken yet: who takes it might be gone by then.
const FURTHEST: Duration = Duration::from_secs(1);

/// When the next delivery of a webhook may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// After this span; nobody else begins then.
    Taken(Duration),
    /// To be asked for again after this span.
    Later(Duration),
}

/// Turns of all webhooks.
#[derive(Clone)]
pub struct Turns {
    redis: Redis,
    script: Script,
    prefix: String,
}

impl Turns {
    /// The turns under a prefix of topics.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Self {
        Self { redis, script: Script::new(include_str!("turn.lua")), prefix: prefix.to_owned() }
    }

    /// Takes the next turn of a webhook that gets at most so many deliveries a second.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Busy`] a turn may have been taken that nobody uses.
    pub async fn take(&self, webhook: &WebhookId, per_second: u16) -> Result<Turn, StoreError> {
        let spacing = 1_000_000 / u64::from(per_second.max(1));
        let call = {
            let mut call = self.script.key(format!("{{{}wh:{webhook}}}:turn", self.prefix));
            call.arg(spacing).arg(FURTHEST.as_micros() as u64);
            call
        };
        let (taken, wait): (bool, u64) = self.redis.invoke("turns.take", &call).await?;
        let wait = Duration::from_micros(wait);
        Ok(if taken { Turn::Taken(wait) } else { Turn::Later(wait) })
    }
}
