//! Who is editing a webhook, so that of two edits on the same base one is refused. A help, not the truth: that is what
//! Kafka holds. If Redis forgets, edits that follow one another are as safe as before.

use redis::Script;
use serde::Deserialize;
use tracing::warn;

use super::{Redis, StoreError};
use crate::model::{
    edit::{CLAIM_VERSION, EditClaim},
    ids::WebhookId,
    time::Millis,
};

/// What is edited; each has claims of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The settings, by their owner.
    Settings,
    /// The activation, by a command.
    Activation,
}

impl Subject {
    fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Activation => "activation",
        }
    }
}

fn damaged(error: &serde_json::Error) -> StoreError {
    StoreError::Damaged(error.to_string())
}

/// A claim as it is stored; none where there is none. What a later release has written counts as forgotten: it would
/// stand for seconds only, and could not be read in all that time.
fn read(stored: &str) -> Result<Option<EditClaim>, StoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: Option<u32>,
    }
    if stored.is_empty() {
        return Ok(None);
    }
    if let Versioned { v: Some(v) } = serde_json::from_str(stored).map_err(|error| damaged(&error))?
        && v != CLAIM_VERSION
    {
        warn!(
            version = v,
            expected = CLAIM_VERSION,
            "the claim of an edit is of another version, and counts as forgotten"
        );
        return Ok(None);
    }
    serde_json::from_str(stored).map(Some).map_err(|error| damaged(&error))
}

/// Claims to edit webhooks.
#[derive(Clone)]
pub struct EditStore {
    redis: Redis,
    swap: Script,
    prefix: String,
}

impl EditStore {
    /// The claims under a prefix of topics.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Self {
        Self { redis, swap: Script::new(include_str!("swap.lua")), prefix: prefix.to_owned() }
    }

    /// Claims the next edit in one atomic step, or returns the claim that excludes it.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Busy`] the claim may stand.
    pub async fn claim(
        &self,
        webhook: &WebhookId,
        subject: Subject,
        claim: &EditClaim,
        now: Millis,
    ) -> Result<Option<EditClaim>, StoreError> {
        let key = format!("{{{}wh:{webhook}}}:edit:{}", self.prefix, subject.as_str());
        let wanted = serde_json::to_string(claim).map_err(|error| damaged(&error))?;
        let mut seen = String::new();
        loop {
            if let Some(other) = read(&seen)?
                && other.excludes(claim.base, now)
            {
                return Ok(Some(other));
            }
            let mut call = self.swap.key(&key);
            call.arg(&seen).arg(&wanted);
            let current: Vec<String> = self.redis.invoke("edits.claim", &call).await?;
            match current.into_iter().next() {
                None => return Ok(None),
                Some(current) => seen = current,
            }
        }
    }
}
