//! Records of `webhook-events` and `notifications` (schemas/webhook-event.json, schemas/notification.json).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{bundle::Headers, poison::Poison, text::read_object};
use crate::model::{
    health::{Notice, NoticeKind},
    ids::{WebhookId, WorkspaceId},
    time::{Millis, parse_timestamp},
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
    last_error: Option<&'a str>,
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
    last_error: Option<&'a str>,
    at: String,
}

/// The type of the event and of the e-mail.
#[must_use]
pub fn kind(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Warning => "webhook.warning",
        NoticeKind::Disabled => "webhook.disabled",
        NoticeKind::Enabled => "webhook.enabled",
    }
}

/// What failed last, if anything did.
fn last_error(notice: &Notice) -> Option<&str> {
    (notice.kind != NoticeKind::Enabled).then_some(&notice.last_error)
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
        last_error: last_error(notice),
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
        last_error: last_error(notice),
        at: notice.at.to_rfc3339(),
    })
}

/// An e-mail to send, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its id: one e-mail at most is sent for it.
    pub id: Uuid,
    /// What it tells.
    pub kind: NoticeKind,
    pub workspace_id: WorkspaceId,
    pub webhook_id: WebhookId,
    /// Who gets it.
    pub to: Owner,
    pub label: String,
    /// Its query is masked.
    pub url: String,
    /// Consecutive failures.
    pub failures: u32,
    /// In words that a customer may read.
    pub last_error: Option<String>,
    /// When it happened.
    pub at: Millis,
}

#[derive(Deserialize)]
struct RawNotification {
    v: u32,
    notification_id: Uuid,
    kind: String,
    workspace_id: WorkspaceId,
    webhook_id: WebhookId,
    to: Owner,
    label: String,
    url: String,
    failures: u32,
    last_error: Option<String>,
    at: String,
}

/// Reads a record of `notifications`.
///
/// # Errors
/// [`Poison`] if it is no e-mail of a known version and kind.
pub fn decode_notification(value: &[u8]) -> Result<Mail, Poison> {
    let text = std::str::from_utf8(value).map_err(Poison::utf8)?;
    let read: RawNotification = read_object(text)?;
    if read.v != 1 {
        return Err(Poison::invalid("v", format_args!("is `{}`, expected 1", read.v)));
    }
    let kind = [NoticeKind::Warning, NoticeKind::Disabled, NoticeKind::Enabled]
        .into_iter()
        .find(|known| kind(*known) == read.kind)
        .ok_or_else(|| {
            let expected = "expected `webhook.warning`, `webhook.disabled` or `webhook.enabled`";
            Poison::invalid("kind", format_args!("is `{}`, {expected}", read.kind))
        })?;
    let at = parse_timestamp(&read.at).map_err(|error| Poison::invalid("at", error))?;
    Ok(Mail {
        id: read.notification_id,
        kind,
        workspace_id: read.workspace_id,
        webhook_id: read.webhook_id,
        to: read.to,
        label: read.label,
        url: read.url,
        failures: read.failures,
        last_error: read.last_error,
        at: at.into(),
    })
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_schema_can_be_read_and_others_are_refused() {
        let schema = include_str!("../../schemas/notification.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        for example in schema["examples"].as_array().unwrap() {
            let text = example.to_string();
            assert_eq!(decode_notification(text.as_bytes()).unwrap().webhook_id.as_str(), "wh-1");
            for (from, to) in
                [("\"v\":1", "\"v\":2"), ("webhook.disabled", "webhook.mended"), ("2021-02-24T", "x")]
            {
                assert!(decode_notification(text.replace(from, to).as_bytes()).is_err(), "{to}");
            }
        }
    }
}
