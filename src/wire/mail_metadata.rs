//! Metadata of a committed offset of `notifications` (schemas/commit-metadata-notify.json).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What stands beside the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailMetadata {
    v: u32,
    /// The e-mail at this offset may be on its way: it is being handed over to the server.
    pub sending: Option<Uuid>,
}

impl MailMetadata {
    #[must_use]
    pub fn new(sending: Option<Uuid>) -> Self {
        Self { v: 1, sending }
    }

    /// Reads it back. What can't be read says nothing.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|read: &Self| read.v == 1)
    }

    #[must_use]
    pub fn encode(self) -> String {
        serde_json::to_string(&self).expect("numbers and texts always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_nothing_else_does() {
        for sending in [None, Some(Uuid::from_u128(7))] {
            let metadata = MailMetadata::new(sending);
            assert_eq!(MailMetadata::decode(&metadata.encode()), Some(metadata));
        }
        assert_eq!(MailMetadata::decode(""), None);
        assert_eq!(MailMetadata::decode(r#"{"v":2,"sending":null}"#), None);
    }
}
