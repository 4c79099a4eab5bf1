//! The two POST bodies (schemas/body-aggregated.json, schemas/body-single.json).

use std::io;

use serde::Serialize;

use crate::model::event::{Account, Chat, Event, Message};

const ALWAYS: &str = "texts, booleans and lists always serialise";

/// Bytes of one message as JSON, as it stands in both bodies.
#[must_use]
pub fn message_size(message: &Message<'_>) -> usize {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, message).expect(ALWAYS);
    size.0
}

/// Counts what is written.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The body for a message that is sent at once.
#[must_use]
pub fn single(event: &Event<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Single<'a> {
        whatsapp_account: &'a Account<'a>,
        chat: &'a Chat<'a>,
        message: &'a Message<'a>,
    }
    to_json(&Single { whatsapp_account: &event.account, chat: &event.chat, message: &event.message })
}

/// What a body for a bundle is put together from.
#[derive(Serialize)]
pub struct Aggregated<'a> {
    /// As on the message that arrived last.
    pub whatsapp_account: Account<'a>,
    /// As on the message that arrived last, but `is_new_chat` of any.
    pub chat: Chat<'a>,
    /// In order.
    pub messages: &'a [Message<'a>],
    /// Of the earliest message, in the body's form.
    pub first_message_timestamp: String,
    /// Of the latest.
    pub last_message_timestamp: String,
    /// The note.
    pub aggregation: String,
}

/// The body for a bundle.
#[must_use]
pub fn aggregated(bundle: &Aggregated<'_>) -> Vec<u8> {
    to_json(bundle)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect(ALWAYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::event::{Decoded, decode};

    #[test]
    fn the_single_body_is_the_example() {
        let line = include_str!("../../tests/examples/events.jsonl").lines().next().unwrap();
        let Ok(Decoded::Event(event)) = decode(Some(line.as_bytes())) else { panic!() };
        let expected: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/examples/message.json")).unwrap();
        let body = single(&event);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap(), expected);
        let order: Vec<_> =
            ["whatsapp_account", "\"chat\"", "\"message\"", "direction", "message_id", "sender"]
                .map(|name| std::str::from_utf8(&body).unwrap().find(name).unwrap())
                .into();
        assert!(order.is_sorted());
    }
}
