//! The log of a webhook: its most recent attempts, newest first. A view of `delivery-attempts`.

use redis::Script;

use super::{Redis, StoreError};
use crate::model::ids::WebhookId;

/// How many attempts are kept a webhook.
pub const KEPT: isize = 100;

/// Logs of webhooks.
#[derive(Clone)]
pub struct AttemptLog {
    redis: Redis,
    push: Script,
    prefix: String,
}

impl AttemptLog {
    /// The logs under a prefix of topics.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Self {
        Self { redis, push: Script::new(include_str!("push.lua")), prefix: prefix.to_owned() }
    }

    fn key(&self, webhook: &WebhookId) -> String {
        format!("{{{}wh:{webhook}}}:log", self.prefix)
    }

    /// Adds an attempt, as its record, unless it is there.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn push(&self, webhook: &WebhookId, record: &[u8]) -> Result<(), StoreError> {
        let mut call = self.push.key(self.key(webhook));
        call.arg(record).arg(KEPT);
        self.redis.invoke(&call).await
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
