//! The log of an open window, as it lies in Redis: frames appended one after another (postcard).
//!
//! A `Chat` frame stands before the first message that it describes and again whenever the details change, so each
//! message is stored once and the details of a chat hardly more often.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::{
    event::{Account, Chat, Direction, Event, Message, Party},
    time::Millis,
};

/// One entry of a window's log. Variants are only ever added at the end: the index is the stored tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<'a> {
    /// The details of the account and chat of the messages that follow, version 1.
    ChatV1(#[serde(borrow)] ChatDetails<'a>),
    /// A message, version 1: still read, no longer written.
    MessageV1(#[serde(borrow)] MessageWithObject<'a>),
    /// A message, version 2.
    MessageV2(#[serde(borrow)] LoggedMessage<'a>),
}

/// Account and chat, but for `is_new_chat`, which belongs to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatDetails<'a> {
    account_name: &'a str,
    account_email: &'a str,
    account_phone: &'a str,
    full_name: &'a str,
    responsible_name: &'a str,
    responsible_email: &'a str,
    /// Link to the chat.
    pub chat_url: &'a str,
    chat_id: &'a str,
    is_group: bool,
    phone: &'a str,
}

/// A message and what decides its place in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedMessage<'a> {
    /// Its offset in the source partition.
    pub offset: i64,
    /// Its arrival.
    pub arrived: Millis,
    seconds: i64,
    nanos: u32,
    /// It was the first of a new chat.
    pub is_new_chat: bool,
    /// Its own link.
    pub permalink: Option<&'a str>,
    #[serde(borrow)]
    object: MessageObject<'a>,
}

/// The message object, without its timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MessageObject<'a> {
    direction: Direction,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    sender: Party<'a>,
    #[serde(borrow)]
    recipient: Party<'a>,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// A message as version 1 has it: its object is the JSON of the body, with names of fields that each message repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageWithObject<'a> {
    offset: i64,
    arrived: Millis,
    seconds: i64,
    nanos: u32,
    is_new_chat: bool,
    permalink: Option<&'a str>,
    object: &'a str,
}

impl<'a> ChatDetails<'a> {
    /// The details that an event carries.
    #[must_use]
    pub fn of(event: &'a Event<'_>) -> Self {
        let Event { account, chat, .. } = event;
        Self {
            account_name: &account.full_name,
            account_email: &account.email,
            account_phone: &account.phone,
            full_name: &chat.full_name,
            responsible_name: &chat.responsible_name,
            responsible_email: &chat.responsible_email,
            chat_url: &chat.chat_url,
            chat_id: &chat.chat_id,
            is_group: chat.is_group,
            phone: &chat.phone,
        }
    }

    /// The account, as in a body.
    #[must_use]
    pub fn account(&self) -> Account<'a> {
        Account {
            full_name: self.account_name.into(),
            email: self.account_email.into(),
            phone: self.account_phone.into(),
        }
    }

    /// The chat, as in a body.
    #[must_use]
    pub fn chat(&self, is_new_chat: bool) -> Chat<'a> {
        Chat {
            full_name: self.full_name.into(),
            responsible_name: self.responsible_name.into(),
            responsible_email: self.responsible_email.into(),
            chat_url: self.chat_url.into(),
            chat_id: self.chat_id.into(),
            is_new_chat,
            is_group: self.is_group,
            phone: self.phone.into(),
        }
    }
}

impl<'a> LoggedMessage<'a> {
    /// The message of an event, with its place in the source.
    #[must_use]
    pub fn new(event: &'a Event<'_>, offset: i64, arrived: Millis) -> Self {
        let Message { direction, timestamp, message_id, sender, recipient, text, permalink } = &event.message;
        Self {
            offset,
            arrived,
            seconds: timestamp.timestamp(),
            nanos: timestamp.timestamp_subsec_nanos(),
            is_new_chat: event.chat.is_new_chat,
            permalink: permalink.as_deref(),
            object: MessageObject {
                direction: *direction,
                message_id: Cow::Borrowed(message_id),
                sender: sender.borrowed(),
                recipient: recipient.borrowed(),
                text: Cow::Borrowed(text),
            },
        }
    }

    /// The message, as in a body.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        let MessageObject { direction, message_id, sender, recipient, text } = &self.object;
        Message {
            direction: *direction,
            timestamp: DateTime::<Utc>::from_timestamp(self.seconds, self.nanos).unwrap_or_default(),
            message_id: Cow::Borrowed(message_id),
            sender: sender.borrowed(),
            recipient: recipient.borrowed(),
            text: Cow::Borrowed(text),
            permalink: self.permalink.map(Cow::Borrowed),
        }
    }

    /// Bundles are ordered by timestamp, then by arrival.
    #[must_use]
    pub fn order(&self) -> (i64, u32, i64) {
        (self.seconds, self.nanos, self.offset)
    }
}

impl<'a> TryFrom<MessageWithObject<'a>> for LoggedMessage<'a> {
    type Error = serde_json::Error;

    /// Fails if the object is not that of a message.
    fn try_from(logged: MessageWithObject<'a>) -> Result<Self, serde_json::Error> {
        let MessageWithObject { offset, arrived, seconds, nanos, is_new_chat, permalink, object } = logged;
        let object = serde_json::from_str(object)?;
        Ok(Self { offset, arrived, seconds, nanos, is_new_chat, permalink, object })
    }
}

/// Bytes that are not the log of a window: the state in Redis is damaged or of a later version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log of a window is damaged at byte {at} of {len}")]
pub struct DamagedLog {
    at: usize,
    len: usize,
}

/// Writes a frame.
#[must_use]
pub fn encode(frame: &Frame<'_>) -> Vec<u8> {
    // Written once for each message: room at once for what it usually takes.
    let room = match frame {
        Frame::ChatV1(_) => 256,
        Frame::MessageV1(message) => message.object.len() + 128,
        Frame::MessageV2(message) => message.object.text.len() + 192,
    };
    postcard::to_extend(frame, Vec::with_capacity(room)).expect("texts, numbers and options always serialise")
}

/// Reads a log.
///
/// # Errors
/// [`DamagedLog`] at the first byte that begins no frame.
pub fn decode(log: &[u8]) -> Result<Vec<Frame<'_>>, DamagedLog> {
    let mut frames = Vec::new();
    let mut rest = log;
    while !rest.is_empty() {
        let at = log.len() - rest.len();
        let (frame, after) =
            postcard::take_from_bytes(rest).map_err(|_| DamagedLog { at, len: log.len() })?;
        frames.push(frame);
        rest = after;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::event::{Decoded, decode as decode_event};

    fn event() -> Event<'static> {
        let line = include_str!("../../tests/examples/events.jsonl").lines().next().unwrap();
        // What is escaped in JSON can't be borrowed from it.
        let line = line.replace("\"John Doe\"", r#""John \"\\\n""#).leak();
        let Ok(Decoded::Event(event)) = decode_event(Some(line.as_bytes())) else { panic!() };
        *event
    }

    #[test]
    fn frames_read_back_one_after_another() {
        let event = event();
        let frames = [
            Frame::ChatV1(ChatDetails::of(&event)),
            Frame::MessageV2(LoggedMessage::new(&event, 7, Millis(1_614_183_930_000))),
        ];
        let log: Vec<u8> = frames.iter().flat_map(encode).collect();
        assert_eq!(decode(&log).unwrap(), frames);
        assert!(decode(&log[..log.len() - 1]).is_err());
    }

    #[test]
    fn a_message_of_version_1_is_the_same_message() {
        let event = event();
        let current = LoggedMessage::new(&event, 7, Millis(1_614_183_930_000));
        let with_object = MessageWithObject {
            offset: current.offset,
            arrived: current.arrived,
            seconds: current.seconds,
            nanos: current.nanos,
            is_new_chat: current.is_new_chat,
            permalink: current.permalink,
            object: &serde_json::to_string(&event.message).unwrap(),
        };
        assert_eq!(LoggedMessage::try_from(with_object.clone()).unwrap(), current);
        assert_eq!(current.message(), event.message);
        assert!(LoggedMessage::try_from(MessageWithObject { object: "{}", ..with_object }).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(log: Vec<u8>) {
            let _ = decode(&log);
        }
    }
}
