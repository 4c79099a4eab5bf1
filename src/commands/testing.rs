//! Trying a webhook out.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use super::{CommandError, Commands};
use crate::{
    flow::request_to_bundle,
    io::kafka::publisher::Outgoing,
    model::{
        bundle::{BundleRecord, Request, RequestKind},
        history::Current,
        ids::{BundleId, WebhookId},
    },
    wire::{attempt::AttemptRecord, bundle},
};

/// How often the log is looked at for the result.
const LOOK: Duration = Duration::from_millis(200);

/// What came of a test.
#[derive(Debug, Clone, Serialize)]
pub struct Tested {
    pub request_id: Uuid,
    /// The `webhook-id` that was sent.
    pub bundle_id: BundleId,
    /// None if it is not known yet.
    pub attempt: Option<AttemptRecord>,
}

impl Commands {
    /// Sends a sample to a webhook, and waits for what comes of it. That is logged, and counts for nothing else. Carried
    /// out twice with the same request id, it is sent once.
    ///
    /// # Errors
    /// If there is no such webhook, or Kafka or Redis can't be used.
    pub async fn test(&self, id: &WebhookId, request_id: Uuid) -> Result<Tested, CommandError> {
        let current = self.current(id).await?;
        let request = Request { kind: RequestKind::Test, id: request_id, by: self.by.clone() };
        let test = request_to_bundle::test(&current.webhook, request, self.broker_time().await?);
        let bundle_id = test.head.bundle_id;
        self.publish(&self.bundle(&test, None, &bundle::encode(&test.head))).await?;
        // It is on its way; that its result does not come is no failure of the command.
        let attempt = tokio::time::timeout(self.patience, self.result(&current, bundle_id)).await;
        Ok(Tested { request_id, bundle_id, attempt: attempt.unwrap_or(Ok(None))? })
    }

    async fn result(
        &self,
        current: &Current,
        bundle: BundleId,
    ) -> Result<Option<AttemptRecord>, CommandError> {
        loop {
            let found = self.attempt_of(current, bundle).await?;
            if found.is_some() {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A bundle's record, in the partition of its chat.
    pub(super) fn bundle<'a>(
        &'a self,
        record: &'a BundleRecord,
        partition: Option<i32>,
        headers: &'a bundle::Headers,
    ) -> Outgoing<'a> {
        Outgoing {
            topic: &self.topics.bundles,
            partition,
            key: record.head.chat_id.as_str().as_bytes(),
            value: Some(&record.body),
            headers,
        }
    }
}
