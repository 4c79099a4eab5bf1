//! The log of a webhook: its most recent attempts, newest first. A view of `delivery-attempts`.

use super::{Redis, StoreError};
use crate::model::ids::WebhookId;

/// How many attempts are kept a webhook.
pub const KEPT: isize = 100;

/// Logs of webhooks.
#[derive(Clone)]
pub struct AttemptLog {
    redis: Redis,
    prefix: String,
}

impl AttemptLog {
    /// The logs under a prefix of topics.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Self {
        Self { redis, prefix: prefix.to_owned() }
    }

    fn key(&self, webhook: &WebhookId) -> String {
        format!("{{{}wh:{webhook}}}:log", self.prefix)
    }

    /// Adds an attempt, as its record.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn push(&self, webhook: &WebhookId, record: &[u8]) -> Result<(), StoreError> {
        let key = self.key(webhook);
        let mut pipeline = redis::pipe();
        pipeline.atomic().lpush(&key, record).ignore().ltrim(&key, 0, KEPT - 1).ignore();
        self.redis.pipeline(&pipeline).await
    }

    /// The most recent attempts, newest first.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn recent(&self, webhook: &WebhookId, most: isize) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut command = redis::cmd("LRANGE");
        command.arg(self.key(webhook)).arg(0).arg(most - 1);
        self.redis.command(&command).await
    }
}
