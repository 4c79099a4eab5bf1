//! Records of `waiting-deliveries`: deliveries that are parked (schemas/waiting-delivery.json) and the claims under which
//! they were (schemas/waiting-claim.json); and the short form of the former that stands in the queue in Redis.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{bundle::Headers, rfc3339};
use crate::model::{
    ids::{BundleId, ChatId, WebhookId, WorkspaceId},
    parked::{Parked, Reason},
    time::Millis,
};

/// Version of the records.
const VERSION: u32 = 1;

/// Header of a tombstone that names the webhook, which the key does not.
pub const WEBHOOK_HEADER: &str = "webhook-id";

/// A delivery that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingDelivery {
    v: u32,
    bundle_id: BundleId,
    /// Whose queue it stands in.
    pub webhook_id: WebhookId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its chat.
    pub chat_id: ChatId,
    /// Partition of `bundles`.
    pub partition: i32,
    offset: i64,
    bytes: u32,
    #[serde(with = "rfc3339")]
    bundled_at: Millis,
    #[serde(with = "rfc3339")]
    arrived_at: Millis,
    attempts: u32,
    refusals: u32,
    #[serde(with = "rfc3339")]
    waiting_since: Millis,
    /// Why it waits.
    pub reason: Reason,
    /// The claim under which it was put.
    pub token: Uuid,
}

/// Whose delivery it is, and why it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// The chat.
    pub chat_id: ChatId,
}

/// A record that is not of this form.
#[derive(Debug, thiserror::Error)]
pub enum WaitingError {
    /// It is not JSON of this form.
    #[error("not a waiting delivery: {0}")]
    Json(#[from] serde_json::Error),
    /// It was written by another release.
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
}

impl WaitingDelivery {
    /// The record of a delivery of a partition, put under a claim.
    #[must_use]
    pub fn new(owner: &Owner, parked: &Parked, partition: i32, reason: Reason, token: Uuid) -> Self {
        let Owner { webhook_id, workspace_id, chat_id } = owner.clone();
        let Parked { offset, bundle_id, bytes, bundled_at, arrived_at, waiting_since, attempts, refusals } =
            *parked;
        Self {
            v: VERSION,
            bundle_id,
            webhook_id,
            workspace_id,
            chat_id,
            partition,
            offset,
            bytes,
            bundled_at,
            arrived_at,
            attempts,
            refusals,
            waiting_since,
            reason,
            token,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let Self { webhook_id, workspace_id, chat_id, .. } = self.clone();
        Owner { webhook_id, workspace_id, chat_id }
    }

    /// What the queue holds of it.
    #[must_use]
    pub fn parked(&self) -> Parked {
        let Self { offset, bundle_id, bytes, bundled_at, arrived_at, attempts, refusals, .. } = *self;
        let waiting_since = self.waiting_since;
        Parked { offset, bundle_id, bytes, bundled_at, arrived_at, waiting_since, attempts, refusals }
    }

    /// Writes the value of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always serialise")
    }

    /// Reads the value of a record.
    ///
    /// # Errors
    /// [`WaitingError`]
    pub fn decode(value: &[u8]) -> Result<Self, WaitingError> {
        let read: Self = serde_json::from_slice(value)?;
        if read.v == VERSION { Ok(read) } else { Err(WaitingError::Version(read.v)) }
    }
}

/// What a record of a partition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The bundle at an offset.
    Bundle(i64),
    /// The beginning of a claim.
    Claim(Uuid),
}

impl Key {
    /// Writes the key of a record of a partition.
    #[must_use]
    pub fn encode(self, partition: i32) -> String {
        match self {
            Self::Bundle(offset) => format!("{partition}/{offset}"),
            Self::Claim(token) => format!("{partition}/claim/{token}"),
        }
    }

    /// Reads a key, if it is one of this partition.
    #[must_use]
    pub fn decode(key: &[u8], partition: i32) -> Option<Self> {
        let (of, rest) = std::str::from_utf8(key).ok()?.split_once('/')?;
        if of.parse() != Ok(partition) {
            return None;
        }
        match rest.strip_prefix("claim/") {
            Some(token) => token.parse().ok().map(Self::Claim),
            None => rest.parse().ok().map(Self::Bundle),
        }
    }
}

/// The value of the record that marks where a claim begins.
#[must_use]
pub fn encode_claim(token: Uuid) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({ "v": VERSION, "token": token }))
        .expect("a text always serialises")
}

/// The headers of a tombstone.
#[must_use]
pub fn tombstone_headers(webhook: &WebhookId) -> Headers {
    vec![(WEBHOOK_HEADER, webhook.to_string())]
}

/// The form in Redis: about 50 bytes.
#[must_use]
pub fn encode_parked(parked: &Parked) -> Vec<u8> {
    postcard::to_stdvec(parked).expect("numbers always serialise")
}

/// Reads the form in Redis.
///
/// # Errors
/// If it is not of that form.
pub fn decode_parked(bytes: &[u8]) -> Result<Parked, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> WaitingDelivery {
        let owner = Owner {
            webhook_id: WebhookId::parse("wh-1").unwrap(),
            workspace_id: WorkspaceId::parse("ws-acme").unwrap(),
            chat_id: ChatId::parse("10010001").unwrap(),
        };
        let parked = Parked {
            offset: 1207,
            bundle_id: BundleId("2b0f3a3e-8c0e-5f1c-8a51-5a0f8f6f3c21".parse().unwrap()),
            bytes: 1893,
            bundled_at: Millis(1_614_211_260_004),
            arrived_at: Millis(1_614_211_199_100),
            waiting_since: Millis(1_614_211_270_020),
            attempts: 1,
            refusals: 0,
        };
        let token = "5d1f6c0e-9a7b-4d3f-8e2c-1b0a99887766".parse().unwrap();
        WaitingDelivery::new(&owner, &parked, 3, Reason::Retry, token)
    }

    #[test]
    fn a_record_is_the_example_of_the_schema_and_reads_back() {
        let schema = include_str!("../../schemas/waiting-delivery.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&waiting().encode()).unwrap();
        assert_eq!(written, schema["examples"][0]);
        assert_eq!(WaitingDelivery::decode(&waiting().encode()).unwrap(), waiting());
    }

    #[test]
    fn the_record_of_a_claim_is_the_example_of_the_schema() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../schemas/waiting-claim.json")).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&encode_claim(waiting().token)).unwrap();
        assert_eq!(written, schema["examples"][0]);
    }

    #[test]
    fn another_version_is_refused() {
        let text = String::from_utf8(waiting().encode()).unwrap().replace("\"v\":1", "\"v\":2");
        assert!(matches!(WaitingDelivery::decode(text.as_bytes()), Err(WaitingError::Version(2))));
        assert!(WaitingDelivery::decode(b"{}").is_err());
    }

    #[test]
    fn a_key_names_a_partition_and_a_bundle_or_a_claim() {
        for key in [Key::Bundle(1207), Key::Claim(Uuid::from_u128(7))] {
            assert_eq!(Key::decode(key.encode(3).as_bytes(), 3), Some(key));
            assert_eq!(Key::decode(key.encode(4).as_bytes(), 3), None);
        }
        for strange in [b"3".as_slice(), b"3/", b"3/claim/x", &[0xff]] {
            assert_eq!(Key::decode(strange, 3), None);
        }
    }

    #[test]
    fn the_form_in_redis_is_short_and_reads_back() {
        let parked = Parked { offset: 1 << 40, attempts: 500, bytes: 400_000, ..waiting().parked() };
        let bytes = encode_parked(&parked);
        assert!(bytes.len() <= 56, "{}", bytes.len());
        assert_eq!(decode_parked(&bytes), Ok(parked));
    }
}
