//! Records of `webhook-events` and `notifications` (schemas/webhook-event.json, schemas/notification.json).

use serde::Serialize;
use uuid::Uuid;

use super::bundle::Headers;
use crate::model::{
    health::{Notice, NoticeKind},
    ids::{WebhookId, WorkspaceId},
    webhook::{Activation, Owner, Webhook, masked_url},
};

#[derive(Serialize)]
struct WebhookEvent<'a> {
    v: u32,
    webhook_id: &'a WebhookId,
    workspace_id: &'a WorkspaceId,
    label: &'a str,
    url: String,
    activation: Activation,
    failures: u32,
    last_error: &'a str,
    at: String,
}

#[derive(Serialize)]
struct Notification<'a> {
    v: u32,
    #[serde(rename = "notification_id")]
    id: Uuid,
    kind: &'static str,
    workspace_id: &'a WorkspaceId,
    webhook_id: &'a WebhookId,
    to: &'a Owner,
    label: &'a str,
    url: String,
    failures: u32,
    last_error: &'a str,
    at: String,
}

/// The type of the event and of the e-mail.
#[must_use]
pub fn kind(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Warning => "webhook.warning",
        NoticeKind::Disabled => "webhook.disabled",
    }
}

/// The event: `CloudEvents` 1.0 in the headers (Kafka protocol binding, binary mode), and the value.
#[must_use]
pub fn encode_event(webhook: &Webhook, notice: &Notice) -> (Headers, Vec<u8>) {
    let headers = vec![
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", notice.id.to_string()),
        ("ce_source", "/bundlehook/deliver".to_owned()),
        ("ce_type", kind(notice.kind).to_owned()),
        ("ce_time", notice.at.to_rfc3339()),
        ("ce_subject", webhook.webhook_id.to_string()),
        ("content-type", "application/json".to_owned()),
    ];
    let event = WebhookEvent {
        v: 1,
        webhook_id: &webhook.webhook_id,
        workspace_id: &webhook.workspace_id,
        label: &webhook.label,
        url: masked_url(&webhook.url),
        activation: notice.activation,
        failures: notice.failures,
        last_error: &notice.last_error,
        at: notice.at.to_rfc3339(),
    };
    (headers, to_json(&event))
}

/// The e-mail to send.
#[must_use]
pub fn encode_notification(webhook: &Webhook, notice: &Notice) -> Vec<u8> {
    to_json(&Notification {
        v: 1,
        id: notice.id,
        kind: kind(notice.kind),
        workspace_id: &webhook.workspace_id,
        webhook_id: &webhook.webhook_id,
        to: &webhook.owner,
        label: &webhook.label,
        url: masked_url(&webhook.url),
        failures: notice.failures,
        last_error: &notice.last_error,
        at: notice.at.to_rfc3339(),
    })
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers always serialise")
}
