//! A line as the record that it becomes.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{
    model::ids::{WebhookId, check_id},
    wire::{
        event::{self, Decoded},
        settings,
    },
};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Message events.
    Events,
    /// Webhook settings.
    Settings,
}

/// What is published for a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The id of the chat or the webhook.
    pub key: Cow<'a, str>,
    /// The line as it stands; none is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl Kind {
    /// What so many records are called.
    pub fn name(self, count: u64) -> &'static str {
        match (self, count) {
            (Self::Events, 1) => "event",
            (Self::Events, _) => "events",
            (Self::Settings, _) => "webhook settings",
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(self, line: &[u8]) -> Result<Record<'_>, String> {
        match self {
            Self::Events => read_event(line),
            Self::Settings => read_settings(line),
        }
    }
}

fn read_event(line: &[u8]) -> Result<Record<'_>, String> {
    let key = match event::decode(Some(line)).map_err(|poison| poison.detail)? {
        Decoded::Event(event) => event.chat.chat_id,
        Decoded::Skip(..) => Cow::Owned(key_of_skip(line)?),
    };
    Ok(Record { key, value: Some(line) })
}

/// A message that does not count needs nothing but its key.
fn key_of_skip(line: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Event {
        chat: Chat,
    }
    #[derive(Deserialize)]
    struct Chat {
        chat_id: Id,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Text(String),
        Positive(u64),
        Negative(i64),
    }
    let expected =
        "`chat.chat_id` is missing or neither text nor a whole number, expected it as the record's key";
    let event: Event = serde_json::from_slice(line).map_err(|_| expected.to_owned())?;
    let id = match event.chat.chat_id {
        Id::Text(text) => text,
        Id::Positive(number) => number.to_string(),
        Id::Negative(number) => number.to_string(),
    };
    check_id(&id).map_err(|error| format!("`chat.chat_id` is {error}"))?;
    Ok(id)
}

fn read_settings(line: &[u8]) -> Result<Record<'_>, String> {
    if let Some(id) = deleted(line)? {
        return Ok(Record { key: Cow::Owned(id.into()), value: None });
    }
    let webhook = settings::decode(line).map_err(|poison| poison.detail)?;
    Ok(Record { key: Cow::Owned(webhook.webhook_id.into()), value: Some(line) })
}

/// The webhook that a line deletes, if it does.
fn deleted(line: &[u8]) -> Result<Option<WebhookId>, String> {
    #[derive(Deserialize)]
    struct Marked {
        deleted: Option<bool>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Deletion {
        webhook_id: WebhookId,
        #[serde(rename = "deleted")]
        _deleted: bool,
    }
    match serde_json::from_slice(line) {
        Ok(Marked { deleted: Some(true) }) => {}
        // What else may be wrong is found when it is read as settings.
        _ => return Ok(None),
    }
    match serde_json::from_slice::<Deletion>(line) {
        Ok(deletion) => Ok(Some(deletion.webhook_id)),
        Err(_) => Err("`deleted` is true, expected nothing beside it but a `webhook_id`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(kind: Kind, line: &str) -> Result<(String, bool), String> {
        kind.read(line.as_bytes()).map(|record| (record.key.into_owned(), record.value.is_some()))
    }

    #[test]
    fn events_are_keyed_by_chat() {
        let lines = include_str!("../../../tests/examples/events.jsonl").lines();
        let records: Vec<_> = lines.map(|line| (line, Kind::Events.read(line.as_bytes()).unwrap())).collect();
        assert!(records.iter().all(|(line, record)| record.value == Some(line.as_bytes())));
        let keys: Vec<_> = records.iter().map(|(_, record)| &*record.key).collect();
        assert_eq!(keys, ["10010001", "10010001", "10010001", "10010002", "10010001"]);
    }

    #[test]
    fn a_skip_needs_only_its_key() {
        let skip = |chat: serde_json::Value| json!({"chat": chat, "message": {"text": ""}}).to_string();
        assert_eq!(key(Kind::Events, &skip(json!({"chat_id": 7}))), Ok(("7".to_owned(), true)));
        assert_eq!(key(Kind::Events, &skip(json!({"chat_id": "x"}))), Ok(("x".to_owned(), true)));
        for chat in [json!(null), json!({}), json!({"chat_id": 1.5}), json!({"chat_id": ""})] {
            assert!(key(Kind::Events, &skip(chat)).unwrap_err().starts_with("`chat.chat_id` is "));
        }
    }

    #[test]
    fn settings_are_keyed_by_webhook() {
        let settings = r#"{"webhook_id": "wh-1", "workspace_id": "ws", "url": "https://h.example/", "deleted": false,
            "owner": {"full_name": "A", "email": "a@x.example"}}"#;
        assert_eq!(key(Kind::Settings, settings), Ok(("wh-1".to_owned(), true)));
        assert!(key(Kind::Settings, "{}").unwrap_err().contains("webhook_id"));
    }

    #[test]
    fn a_deletion_is_a_tombstone() {
        assert_eq!(
            key(Kind::Settings, r#"{"webhook_id": "wh-1", "deleted": true}"#),
            Ok(("wh-1".to_owned(), false))
        );
        for wrong in
            [r#"{"deleted": true}"#, r#"{"webhook_id": "wh-1", "deleted": true, "url": "https://x/"}"#]
        {
            assert!(key(Kind::Settings, wrong).unwrap_err().starts_with("`deleted` is true"), "{wrong}");
        }
    }
}
