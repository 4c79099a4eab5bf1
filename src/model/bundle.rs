//! A bundle: the messages of one chat over one window, or one message, sent in one POST to one webhook.

use bytes::Bytes;
use uuid::Uuid;

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
    /// What it comes from.
    pub origin: Origin,
    /// How many messages it has.
    pub messages: u32,
    /// Arrival of the message that arrived last; of what was asked for, when it was.
    pub arrived_at: Millis,
}

impl BundleHead {
    /// The request that it was made for, if it does not come from messages.
    #[must_use]
    pub fn request(&self) -> Option<&Request> {
        match &self.origin {
            Origin::Messages { .. } => None,
            Origin::Request(request) => Some(request),
        }
    }

    /// `bundle`, `test` or `resend`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.request().map_or("bundle", |request| request.kind.as_str())
    }

    /// Tells deliveries apart, also those of one bundle that is sent again under its id.
    #[must_use]
    pub fn delivery_id(&self) -> BundleId {
        self.request().map_or(self.bundle_id, |request| resent_bundle_id(request.id, self.bundle_id))
    }

    /// True if somebody tries the webhook out with it.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.request().is_some_and(|request| request.kind == RequestKind::Test)
    }
}

/// What a bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Messages.
    Messages {
        /// Where it stands in its stream.
        position: Position,
        /// What the positions and offsets count in.
        source: Source,
        /// Offset of the first of its messages in the source partition.
        source_offset: i64,
    },
    /// Somebody asked for it; it has no place in a stream.
    Request(Request),
}

/// A command that a bundle was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What was asked for.
    pub kind: RequestKind,
    /// Id of the command; one that is carried out twice has the same.
    pub id: Uuid,
    /// Who asked.
    pub by: String,
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A sample, to try the webhook out: logged, not counted, not tried again.
    Test,
    /// An earlier bundle once more.
    Resend,
}

impl RequestKind {
    /// The kind as it stands in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Resend => "resend",
        }
    }
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

/// Id of a test delivery, the same however often the request is carried out.
#[must_use]
pub fn test_bundle_id(request: Uuid) -> BundleId {
    BundleId(derive_id("test", &[&request.to_string()]))
}

/// Another id for a bundle that is sent again, the same however often the request is carried out.
#[must_use]
pub fn resent_bundle_id(request: Uuid, original: BundleId) -> BundleId {
    BundleId(derive_id("resend", &[&request.to_string(), &original.to_string()]))
}
