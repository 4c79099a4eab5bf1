//! Records of `delivery-attempts` (schemas/delivery-attempt.json): one attempt with what was sent and received. The
//! webhook's log holds the same.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    delivery::Outcome,
    ids::{BundleId, ChatId, WebhookId, WorkspaceId},
    window::Granularity,
};

/// One attempt to deliver a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// [`VERSION`].
    pub v: u32,
    /// Its own id.
    pub attempt_id: Uuid,
    /// Number of the webhook's outcome after it.
    pub number: u64,
    /// Of which webhook.
    pub webhook_id: WebhookId,
    /// Whose.
    pub workspace_id: WorkspaceId,
    /// Of which chat.
    pub chat_id: ChatId,
    /// Which bundle, and where its body stands.
    pub bundle: BundleReference,
    /// The how-manieth attempt, from 1.
    pub attempt: u32,
    /// `bundle`, `test` or `resend`.
    pub kind: String,
    /// Id of the command that asked for it; absent for `bundle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// Who asked for it; absent for `bundle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// When it began; RFC 3339.
    pub started_at: String,
    /// How long it took.
    pub duration_ms: u64,
    /// What was sent, but for the body.
    pub request: SentRequest,
    /// What came back; null if nothing did.
    pub response: Option<ReceivedResponse>,
    /// What became of it.
    pub outcome: Outcome,
    /// What went wrong, as shown to the customer.
    pub error: Option<String>,
    /// It added one to the consecutive failures.
    pub counted: bool,
    /// Consecutive failures after it.
    pub failures: u32,
    /// State of the circuit after it.
    pub state: String,
    /// `delivered` or `rejected` if the bundle is done with; null if it is tried again.
    pub settled: Option<String>,
    /// When it may be tried again; RFC 3339.
    pub next_attempt_at: Option<String>,
}

/// Where the body of a bundle stands in the topic `bundles`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleReference {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Its id.
    pub bundle_id: BundleId,
    /// Its granularity.
    pub granularity: Granularity,
    /// Its window; RFC 3339.
    pub window_start: Option<String>,
    /// Its part.
    pub part: u32,
    /// How many messages it has.
    pub messages: u32,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SentRequest {
    /// POST.
    pub method: String,
    /// With the values of its query masked.
    pub url: String,
    /// Names and values, secret ones masked.
    pub headers: Vec<(String, String)>,
    /// Size of the body.
    pub body_bytes: usize,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceivedResponse {
    /// Status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body as text, cut at 64 KiB.
    pub body: String,
    /// Bytes that were read of it.
    pub body_bytes: u64,
    /// True if there was more.
    pub truncated: bool,
}

/// Version of the format.
pub const VERSION: u32 = 1;

/// Why a record is no attempt that this release can read.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Another release wrote it.
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
    /// It is not of that form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Reads a record.
///
/// # Errors
/// [`AttemptError`]
pub fn decode(value: &[u8]) -> Result<AttemptRecord, AttemptError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    // A later version may not have the fields of this one.
    match serde_json::from_slice::<Versioned>(value)?.v {
        VERSION => Ok(serde_json::from_slice(value)?),
        other => Err(AttemptError::Version(other)),
    }
}

/// Writes a record.
#[must_use]
pub fn encode(record: &AttemptRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("texts, numbers and lists always serialise")
}
