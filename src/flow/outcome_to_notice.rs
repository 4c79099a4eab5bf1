//! What happened to a webhook becomes records for whoever must know: an event, an e-mail, a state.

use crate::{
    model::{
        health::{Notice, NoticeKind},
        webhook::Webhook,
    },
    wire::{bundle::Headers, notice, state},
};

/// Which topic a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeTopic {
    /// `webhook-events`.
    WebhookEvents,
    /// `notifications`.
    Notifications,
    /// `webhook-states`.
    WebhookStates,
}

/// A record to publish.
#[derive(Debug, Clone)]
pub struct NoticeRecord {
    /// Where to.
    pub topic: NoticeTopic,
    /// Its key.
    pub key: String,
    /// Its headers.
    pub headers: Headers,
    /// Its value.
    pub value: Vec<u8>,
}

/// The records of a notice. They carry the notice's id, so that whoever publishes them again, after a crash, changes
/// nothing. The state comes last: it is what makes the disabling known.
#[must_use]
pub fn records(webhook: &Webhook, notice: &Notice) -> Vec<NoticeRecord> {
    let (headers, value) = notice::encode_event(webhook, notice);
    let event = NoticeRecord {
        topic: NoticeTopic::WebhookEvents,
        key: webhook.webhook_id.to_string(),
        headers,
        value,
    };
    let notification = NoticeRecord {
        topic: NoticeTopic::Notifications,
        key: webhook.workspace_id.to_string(),
        headers: Vec::new(),
        value: notice::encode_notification(webhook, notice),
    };
    let mut records = vec![event, notification];
    if notice.kind == NoticeKind::Disabled {
        let (key, value) = state::encode_disabled(webhook, notice);
        records.push(NoticeRecord { topic: NoticeTopic::WebhookStates, key, headers: Vec::new(), value });
    }
    records
}
