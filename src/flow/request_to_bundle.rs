//! What somebody asks for becomes a bundle: a sample to try a webhook out, or an earlier bundle once more.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{
    model::{
        aggregation::{self, Line},
        bundle::{BundleHead, BundleRecord, Origin, Request, resent_bundle_id, test_bundle_id},
        event::{Account, Chat, Direction, Event, Message, Party},
        ids::ChatId,
        time::{Millis, body_timestamp},
        webhook::Webhook,
        window::Granularity,
    },
    wire::body::{self, Aggregated},
};

/// The chat of every test: none of a customer's.
pub const TEST_CHAT: &str = "test";

/// A test of a webhook, asked for at a time: a body as of its granularity.
///
/// # Panics
/// Never: the id of the chat of tests is one.
#[must_use]
pub fn test(webhook: &Webhook, request: Request, at: Millis) -> BundleRecord {
    let sample = sample(webhook, at.to_utc());
    let (body, window_start) = match webhook.granularity {
        Granularity::None => (body::single(&sample), None),
        // Its window has not closed; it only shows what a bundle looks like.
        granularity => (aggregated(&sample), Some(window_start(granularity, at))),
    };
    let head = BundleHead {
        bundle_id: test_bundle_id(request.id),
        webhook_id: webhook.webhook_id.clone(),
        workspace_id: webhook.workspace_id.clone(),
        chat_id: ChatId::parse(TEST_CHAT).expect("it has 1 to 128 bytes"),
        granularity: webhook.granularity,
        window_start,
        part: 0,
        origin: Origin::Request(request),
        messages: 1,
        arrived_at: at,
    };
    BundleRecord { head, body: body.into() }
}

/// An earlier bundle once more, asked for at a time: the same body, under the same id or a new one. None for a test.
#[must_use]
pub fn resend(
    original: &BundleHead,
    body: Bytes,
    request: Request,
    new_id: bool,
    at: Millis,
) -> Option<BundleRecord> {
    if original.is_test() {
        return None;
    }
    let bundle_id = original.bundle_id;
    let bundle_id = if new_id { resent_bundle_id(request.id, bundle_id) } else { bundle_id };
    let head = BundleHead { bundle_id, origin: Origin::Request(request), arrived_at: at, ..original.clone() };
    Some(BundleRecord { head, body })
}

fn window_start(granularity: Granularity, at: Millis) -> Millis {
    let length = i64::from(granularity.hours()) * 3_600_000;
    Millis(at.0 - at.0.rem_euclid(length.max(1)))
}

fn sample(webhook: &Webhook, at: DateTime<Utc>) -> Event<'_> {
    let owner = &webhook.owner;
    let chat = Party { full_name: "Test chat".into(), phone: "+10000000001".into() };
    let teammate = Party { full_name: owner.full_name.as_str().into(), phone: "+10000000000".into() };
    Event {
        workspace_id: webhook.workspace_id.as_str().into(),
        account: Account {
            full_name: owner.full_name.as_str().into(),
            email: owner.email.as_str().into(),
            phone: teammate.phone.clone(),
        },
        chat: Chat {
            full_name: chat.full_name.clone(),
            responsible_name: owner.full_name.as_str().into(),
            responsible_email: owner.email.as_str().into(),
            chat_url: "".into(),
            chat_id: TEST_CHAT.into(),
            is_new_chat: false,
            is_group: false,
            phone: chat.phone.clone(),
        },
        message: Message {
            direction: Direction::Received,
            timestamp: at,
            message_id: "test".into(),
            sender: chat,
            recipient: teammate,
            text: "This is a test of your webhook. Nobody has written it.".into(),
            permalink: None,
        },
    }
}

fn aggregated(sample: &Event<'_>) -> Vec<u8> {
    let message = &sample.message;
    let line = Line { sender: &message.sender.full_name, timestamp: message.timestamp, text: &message.text };
    let timestamp = body_timestamp(message.timestamp);
    body::aggregated(&Aggregated {
        whatsapp_account: sample.account.clone(),
        chat: sample.chat.clone(),
        messages: std::slice::from_ref(message),
        first_message_timestamp: timestamp.clone(),
        last_message_timestamp: timestamp,
        aggregation: aggregation::html([line], None, ""),
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        model::bundle::RequestKind,
        wire::{bundle::tests::head, settings},
    };

    fn webhook(granularity: &str) -> Webhook {
        let json = serde_json::json!({
            "webhook_id": "wh-1", "workspace_id": "ws-acme", "url": "https://hooks.example/x",
            "granularity": granularity, "owner": {"full_name": "Amnon <A>", "email": "a@acme.example"},
        });
        settings::decode(json.to_string().as_bytes()).unwrap()
    }

    fn request(kind: RequestKind) -> Request {
        Request { kind, id: Uuid::from_u128(3), by: "amnon".to_owned() }
    }

    #[test]
    fn a_test_has_the_body_of_the_granularity() {
        for (granularity, field) in [("none", "message"), ("6h", "messages")] {
            let record = test(&webhook(granularity), request(RequestKind::Test), Millis(1_614_182_400_000));
            let body: serde_json::Value = serde_json::from_slice(&record.body).unwrap();
            assert!(body.get(field).is_some(), "{body}");
            assert_eq!(body["chat"]["chat_id"], "test");
            let start = (granularity == "6h").then_some(Millis(1_614_168_000_000));
            assert_eq!(record.head.window_start, start);
        }
    }

    #[test]
    fn a_re_send_has_the_same_body_and_the_same_id_or_another_that_is_always_the_same() {
        let body = Bytes::from_static(b"{\"a\": 1}");
        let again =
            |new_id| resend(&head(), body.clone(), request(RequestKind::Resend), new_id, Millis(7)).unwrap();
        assert_eq!(again(false).head.bundle_id, head().bundle_id);
        assert_ne!(again(true).head.bundle_id, head().bundle_id);
        assert_eq!(again(true).head, again(true).head);
        assert_eq!((again(true).body, again(true).head.arrived_at), (body, Millis(7)));
    }

    #[test]
    fn a_test_is_not_sent_again() {
        let test = test(&webhook("none"), request(RequestKind::Test), Millis(0));
        assert!(resend(&test.head, test.body, request(RequestKind::Resend), false, Millis(7)).is_none());
    }
}
