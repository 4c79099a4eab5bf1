//! A bundle: the messages of one chat over one window, or one message, sent in one POST to one webhook.

use bytes::Bytes;

use super::{
    ids::{BundleId, ChatId, WebhookId, WorkspaceId, derive_id},
    position::Position,
    time::Millis,
    window::{Granularity, Window},
};

/// Everything about a bundle but its body. Stands in the headers of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleHead {
    /// The `webhook-id` a receiver sees.
    pub bundle_id: BundleId,
    /// To whom.
    pub webhook_id: WebhookId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// Of which chat; the record's key.
    pub chat_id: ChatId,
    /// Under which granularity.
    pub granularity: Granularity,
    /// Start of the window; none for a message sent at once.
    pub window_start: Option<Millis>,
    /// 1, 2, 3 … for the parts of a window that outgrew the limits; 0 for what was never cut.
    pub part: u32,
    /// Where it stands in its stream.
    pub position: Position,
    /// What the positions and offsets count in.
    pub source: Source,
    /// Offset of the first of its messages in the source partition.
    pub source_offset: i64,
    /// How many messages it has.
    pub messages: u32,
    /// Arrival of the message that arrived last.
    pub arrived_at: Millis,
}

/// A record of `bundles`.
#[derive(Debug, Clone)]
pub struct BundleRecord {
    /// Its headers.
    pub head: BundleHead,
    /// Its value: the POST body, byte for byte.
    pub body: Bytes,
}

/// The partition of the source topic that a sequence of positions belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Kafka's id of the topic; another topic under the same name begins new sequences.
    pub topic_id: String,
    /// Number of the partition.
    pub partition: i32,
}

/// Id of a bundle of a window: the same whenever and by whomever it is built.
#[must_use]
pub fn window_bundle_id(
    webhook: &WebhookId,
    workspace: &str,
    chat: &str,
    window: &Window,
    source: &Source,
    first_offset: i64,
) -> BundleId {
    BundleId(derive_id(
        "window",
        &[
            webhook.as_str(),
            workspace,
            chat,
            window.granularity.as_str(),
            &window.start.0.to_string(),
            &source.topic_id,
            &source.partition.to_string(),
            &first_offset.to_string(),
        ],
    ))
}

/// Id of a message that is sent at once.
#[must_use]
pub fn message_bundle_id(webhook: &WebhookId, workspace: &str, chat: &str, message: &str) -> BundleId {
    BundleId(derive_id("message", &[webhook.as_str(), workspace, chat, message]))
}
