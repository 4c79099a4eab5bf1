//! Records of `message-events` (schemas/message-event.json).
#![allow(clippy::option_option, reason = "a field that is missing and one that is null are told apart")]

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    poison::Poison,
    text::{IdText, Object, Text, read_object},
};
use crate::model::{
    event::{Account, Chat, Direction, Event, Message, Party, Skip},
    ids::check_id,
    time::parse_timestamp,
};

/// What a readable record holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<'a> {
    /// A message that counts, as far as the record alone can tell.
    Event(Box<Event<'a>>),
    /// One that does not, whatever else is in it; and its workspace, if it names one.
    Skip(Skip, Option<Cow<'a, str>>),
}

/// Reads one record. A skip is decided before anything else is asked of the message (spec, "Which messages count").
///
/// # Errors
/// [`Poison`] if the value is not UTF-8, not JSON, or lacks what is required.
pub fn decode(value: Option<&[u8]>) -> Result<Decoded<'_>, Poison> {
    let Some(value) = value else {
        let detail = "the record has no value, expected a message".to_owned();
        return Err(Poison { reason: super::PoisonReason::NullValue, detail });
    };
    let text = std::str::from_utf8(value).map_err(Poison::utf8)?;
    let Object(raw): Object<RawEvent<'_>> = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(_) => return explain(text),
    };
    if let Some(skip) = raw.message.as_ref().and_then(|message| message.0.skip()) {
        return Ok(Decoded::Skip(skip, raw.workspace_id.map(|id| id.0)));
    }
    raw.into_event().map(|event| Decoded::Event(Box::new(event)))
}

/// The slow path for a record that does not parse: it may still be a skip, else its fault is named by its path.
fn explain(text: &str) -> Result<Decoded<'_>, Poison> {
    let only_skip: Result<Object<OnlySkip<'_>>, _> = serde_json::from_str(text);
    if let Some(skip) = only_skip.ok().and_then(|only| only.0.message.0.skip()) {
        // It counts for nobody then, but is a skip all the same.
        let of: Option<Object<OnlyWorkspace<'_>>> = serde_json::from_str(text).ok();
        return Ok(Decoded::Skip(skip, of.map(|of| of.0.workspace_id.0)));
    }
    let event: RawEvent<'_> = read_object(text)?;
    event.into_event().map(|event| Decoded::Event(Box::new(event)))
}

#[derive(Deserialize)]
struct OnlySkip<'a> {
    #[serde(borrow)]
    message: Object<SkipFields<'a>>,
}

#[derive(Deserialize)]
struct OnlyWorkspace<'a> {
    #[serde(borrow)]
    workspace_id: Text<'a>,
}

#[derive(Deserialize)]
struct SkipFields<'a> {
    #[serde(default)]
    attachments: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
}

impl SkipFields<'_> {
    /// Attachments decide whatever the text is; a text of the wrong type is no skip but a fault.
    fn skip(&self) -> Option<Skip> {
        let text: Option<Text<'_>> = match self.text {
            Some(raw) => serde_json::from_str(raw.get()).ok(),
            None => Some(Text("".into())),
        };
        let attachments = self.attachments.as_ref();
        let not_a_text = text.is_none() && attachments.is_none_or(Vec::is_empty);
        skip(attachments, text.as_ref()).filter(|_| !not_a_text)
    }
}

fn skip(attachments: Option<&Vec<IgnoredAny>>, text: Option<&Text<'_>>) -> Option<Skip> {
    if attachments.is_some_and(|attachments| !attachments.is_empty()) {
        Some(Skip::Attachments)
    } else if text.is_none_or(|text| text.0.trim().is_empty()) {
        Some(Skip::EmptyText)
    } else {
        None
    }
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    workspace_id: Option<Text<'a>>,
    #[serde(borrow)]
    whatsapp_account: Option<Object<RawAccount<'a>>>,
    #[serde(borrow)]
    chat: Option<Object<RawChat<'a>>>,
    #[serde(borrow)]
    message: Option<Object<RawMessage<'a>>>,
}

#[derive(Deserialize)]
struct RawAccount<'a> {
    #[serde(borrow)]
    full_name: Option<Text<'a>>,
    #[serde(borrow)]
    email: Option<Text<'a>>,
    // A missing phone is an error, a null one is empty: the outer option tells them apart.
    #[serde(borrow, default, deserialize_with = "present")]
    phone: Option<Option<Text<'a>>>,
}

#[derive(Deserialize)]
struct RawChat<'a> {
    #[serde(borrow)]
    full_name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    responsible_name: Option<Option<Text<'a>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    responsible_email: Option<Option<Text<'a>>>,
    #[serde(borrow)]
    chat_url: Option<Text<'a>>,
    #[serde(borrow)]
    chat_id: Option<IdText<'a>>,
    is_new_chat: Option<bool>,
    is_group: Option<bool>,
    #[serde(borrow, default, deserialize_with = "present")]
    phone: Option<Option<Text<'a>>>,
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow)]
    direction: Option<Text<'a>>,
    #[serde(borrow)]
    timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    message_id: Option<Text<'a>>,
    #[serde(borrow)]
    sender: Option<Object<RawParty<'a>>>,
    #[serde(borrow)]
    recipient: Option<Object<RawParty<'a>>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    permalink: Option<Text<'a>>,
    attachments: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawParty<'a> {
    #[serde(borrow)]
    full_name: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    phone: Option<Option<Text<'a>>>,
}

fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Text<'a>>>, D::Error> {
    Option::<Text<'a>>::deserialize(deserializer).map(Some)
}

fn need<T>(field: &str, value: Option<T>) -> Result<T, Poison> {
    value.ok_or_else(|| Poison::missing(field))
}

fn text<'a>(field: &str, value: Option<Text<'a>>) -> Result<Cow<'a, str>, Poison> {
    need(field, value).map(|text| text.0)
}

/// A required field where null reads as empty.
fn nullable<'a>(field: &str, value: Option<Option<Text<'a>>>) -> Result<Cow<'a, str>, Poison> {
    need(field, value).map(|value| value.map(|text| text.0).unwrap_or_default())
}

fn id<'a>(field: &str, value: Cow<'a, str>) -> Result<Cow<'a, str>, Poison> {
    check_id(&value).map_err(|error| Poison::invalid(field, format_args!("is {error}")))?;
    Ok(value)
}

impl<'a> RawEvent<'a> {
    fn into_event(self) -> Result<Event<'a>, Poison> {
        Ok(Event {
            workspace_id: id("workspace_id", text("workspace_id", self.workspace_id)?)?,
            account: need("whatsapp_account", self.whatsapp_account)?.0.into_account()?,
            chat: need("chat", self.chat)?.0.into_chat()?,
            message: need("message", self.message)?.0.into_message()?,
        })
    }
}

impl<'a> RawAccount<'a> {
    fn into_account(self) -> Result<Account<'a>, Poison> {
        Ok(Account {
            full_name: text("whatsapp_account.full_name", self.full_name)?,
            email: text("whatsapp_account.email", self.email)?,
            phone: nullable("whatsapp_account.phone", self.phone)?,
        })
    }
}

impl<'a> RawChat<'a> {
    fn into_chat(self) -> Result<Chat<'a>, Poison> {
        Ok(Chat {
            full_name: text("chat.full_name", self.full_name)?,
            responsible_name: nullable("chat.responsible_name", self.responsible_name)?,
            responsible_email: nullable("chat.responsible_email", self.responsible_email)?,
            chat_url: text("chat.chat_url", self.chat_url)?,
            chat_id: id("chat.chat_id", need("chat.chat_id", self.chat_id)?.0)?,
            is_new_chat: need("chat.is_new_chat", self.is_new_chat)?,
            is_group: need("chat.is_group", self.is_group)?,
            phone: nullable("chat.phone", self.phone)?,
        })
    }
}

impl<'a> RawMessage<'a> {
    fn skip(&self) -> Option<Skip> {
        skip(self.attachments.as_ref(), self.text.as_ref())
    }

    fn into_message(self) -> Result<Message<'a>, Poison> {
        let direction = match &*text("message.direction", self.direction)? {
            "sent" => Direction::Sent,
            "received" => Direction::Received,
            other => {
                let shown: String = other.chars().take(20).collect();
                let problem =
                    format_args!("is `{}`, expected `sent` or `received`", shown.escape_debug()).to_string();
                return Err(Poison::invalid("message.direction", problem));
            }
        };
        let timestamp = text("message.timestamp", self.timestamp)?;
        let timestamp = parse_timestamp(&timestamp).map_err(|error| {
            let shown: String = timestamp.chars().take(40).collect();
            Poison::invalid("message.timestamp", format_args!("is `{}`, {error}", shown.escape_debug()))
        })?;
        Ok(Message {
            direction,
            timestamp,
            message_id: id("message.message_id", text("message.message_id", self.message_id)?)?,
            sender: need("message.sender", self.sender)?.0.into_party("message.sender")?,
            recipient: need("message.recipient", self.recipient)?.0.into_party("message.recipient")?,
            text: text("message.text", self.text)?,
            permalink: self.permalink.map(|text| text.0),
        })
    }
}

impl<'a> RawParty<'a> {
    fn into_party(self, field: &str) -> Result<Party<'a>, Poison> {
        let missing = |name: &str| Poison::missing(&format!("{field}.{name}"));
        Ok(Party {
            full_name: self.full_name.ok_or_else(|| missing("full_name"))?.0,
            phone: self.phone.ok_or_else(|| missing("phone"))?.map(|text| text.0).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::PoisonReason;

    fn example() -> Value {
        let line = include_str!("../../tests/examples/events.jsonl").lines().next().unwrap();
        serde_json::from_str(line).unwrap()
    }

    fn with(pointer: &str, value: Value) -> Vec<u8> {
        let mut event = example();
        *event.pointer_mut(pointer).unwrap() = value;
        event.to_string().into_bytes()
    }

    fn poison(bytes: &[u8]) -> (PoisonReason, String) {
        let poison = decode(Some(bytes)).unwrap_err();
        (poison.reason, poison.detail)
    }

    #[test]
    fn the_examples_decode() {
        let fates: Vec<_> = include_str!("../../tests/examples/events.jsonl")
            .lines()
            .map(|line| match decode(Some(line.as_bytes())).unwrap() {
                Decoded::Event(event) => event.message.message_id.into_owned(),
                Decoded::Skip(skip, _) => skip.as_str().to_owned(),
            })
            .collect();
        assert_eq!(fates, ["m-0001", "m-0002", "attachments", "m-0004", "m-0005"]);
    }

    #[test]
    fn a_chat_id_may_be_a_number() {
        let bytes = with("/chat/chat_id", json!(10_010_001));
        let Ok(Decoded::Event(event)) = decode(Some(&bytes)) else { panic!() };
        assert_eq!(event.chat.chat_id, "10010001");
    }

    #[test]
    fn null_phones_and_responsible_read_as_empty() {
        for pointer in
            ["/chat/phone", "/chat/responsible_name", "/message/sender/phone", "/whatsapp_account/phone"]
        {
            assert!(matches!(decode(Some(&with(pointer, Value::Null))), Ok(Decoded::Event(_))), "{pointer}");
        }
    }

    #[test]
    fn other_nulls_read_as_missing() {
        let (reason, detail) = poison(&with("/chat/full_name", Value::Null));
        assert_eq!(
            (reason, detail.as_str()),
            (PoisonReason::MissingField, "`chat.full_name` is missing or null")
        );
        assert!(poison(&with("/message/sender", json!(["a", "b"]))).1.contains("expected an object"));
        assert_eq!(poison(&with("/message/sender", Value::Null)).1, "`message.sender` is missing or null");
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path_without_its_content() {
        let (reason, detail) = poison(&with("/chat/is_group", json!("private words")));
        assert_eq!(reason, PoisonReason::InvalidField);
        assert!(detail.starts_with("`chat.is_group` is string \"…\", expected a boolean"), "{detail}");
    }

    #[test]
    fn what_is_no_json_or_no_text_is_told_apart() {
        assert_eq!(poison(b"{\"workspace_id\": ").0, PoisonReason::InvalidJson);
        assert_eq!(poison(b"\xff\xfe").0, PoisonReason::InvalidUtf8);
        assert_eq!(poison(b"{}").0, PoisonReason::MissingField);
        assert_eq!(poison(b"[]").0, PoisonReason::InvalidField);
        assert_eq!(poison(b"3").0, PoisonReason::InvalidField);
        assert_eq!(poison(b"{} {}").0, PoisonReason::InvalidJson);
        assert_eq!(decode(None).unwrap_err().reason, PoisonReason::NullValue);
    }

    #[test]
    fn a_skip_is_decided_before_anything_else_is_asked() {
        let skipped = [
            json!({"message": {"attachments": [{}], "text": "x"}}),
            json!({"message": {"text": " \u{a0}\n"}}),
            json!({"message": {"text": null}, "chat": 5}),
            json!({"message": {}}),
            json!({"message": {"attachments": [{}], "text": 5}}),
        ];
        for event in skipped {
            assert!(matches!(decode(Some(event.to_string().as_bytes())), Ok(Decoded::Skip(..))), "{event}");
        }
        assert!(decode(Some(b"{}")).is_err(), "no message at all");
        assert!(decode(Some(br#"{"message": {"text": 5}}"#)).is_err(), "a text of the wrong type");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let _ = decode(Some(&bytes));
        }

        #[test]
        fn no_json_makes_the_decoder_panic(pointer in 0usize..8, junk in "[\\[\\]{}\",:0-9a-z\\\\]{0,30}") {
            let pointers = ["/chat", "/message", "/message/text", "/workspace_id", "/message/timestamp",
                "/chat/chat_id", "/message/attachments", "/message/sender"];
            let value = serde_json::from_str(&junk).unwrap_or(Value::String(junk));
            let mut event = example();
            if let Some(place) = event.pointer_mut(pointers[pointer]) { *place = value; }
            let _ = decode(Some(event.to_string().as_bytes()));
        }
    }
}
