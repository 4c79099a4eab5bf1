//! Records of `message-skips` (schemas/message-skips.json): which messages of a partition did not count, by webhook,
//! day and reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    event::Skip,
    ids::{WebhookId, WorkspaceId},
    statistics::Day,
};

/// Version of the records.
const VERSION: u32 = 1;

/// What was skipped in a stretch of a partition of `message-events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipRecord {
    v: u32,
    /// Kafka's id of the source topic.
    pub topic: String,
    /// Number of the source partition.
    pub partition: i32,
    /// First offset of the stretch.
    pub from: i64,
    /// The offset after it.
    pub to: i64,
    /// What was skipped.
    pub skips: Vec<WebhookSkips>,
}

/// The messages that one webhook would have got on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSkips {
    /// The webhook.
    pub webhook_id: WebhookId,
    /// Whose it was; absent in records of early releases, which count for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// The day on which they arrived.
    pub day: Day,
    /// How many, by reason.
    pub reasons: BTreeMap<Skip, u64>,
}

/// A record that is not of this form.
#[derive(Debug, thiserror::Error)]
pub enum SkipsError {
    /// It is of a later release.
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
    /// It is no such record.
    #[error("not a record of skips: {0}")]
    Invalid(#[from] serde_json::Error),
}

impl SkipRecord {
    /// What was skipped from one offset to before another.
    #[must_use]
    pub fn new(topic: String, partition: i32, (from, to): (i64, i64), skips: Vec<WebhookSkips>) -> Self {
        Self { v: VERSION, topic, partition, from, to, skips }
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers and lists always serialise")
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`SkipsError`]
    pub fn decode(value: &[u8]) -> Result<Self, SkipsError> {
        let record: Self = serde_json::from_slice(value)?;
        if record.v == VERSION { Ok(record) } else { Err(SkipsError::Version(record.v)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_example_of_the_schema_and_reads_back() {
        let schema = include_str!("../../schemas/message-skips.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let skips = WebhookSkips {
            webhook_id: WebhookId::parse("wh-1").unwrap(),
            workspace_id: Some(WorkspaceId::parse("ws-acme").unwrap()),
            day: "2021-02-24".parse().unwrap(),
            reasons: BTreeMap::from([(Skip::Attachments, 3), (Skip::TooOld, 1)]),
        };
        let record = SkipRecord::new("K0J9x3vZTFmT0a1v2c3d4g".to_owned(), 3, (1042, 1108), vec![skips]);
        let written: serde_json::Value = serde_json::from_slice(&record.encode()).unwrap();
        assert_eq!(written, schema["examples"][0]);
        assert_eq!(SkipRecord::decode(&record.encode()).unwrap(), record);
        let later = String::from_utf8(record.encode()).unwrap().replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(SkipRecord::decode(later.as_bytes()), Err(SkipsError::Version(2))));
    }
}
