//! What commands on webhooks found out, as text for people.

use super::super::table::{headings, table};
use crate::{
    commands::{Logged, Tested, WebhookView},
    wire::attempt::AttemptRecord,
};

/// A row a webhook.
pub(super) fn list(webhooks: &[WebhookView]) -> String {
    let mut rows = vec![headings([
        "WEBHOOK",
        "WORKSPACE",
        "LABEL",
        "STATE",
        "FAILURES",
        "PARKED",
        "GRANULARITY",
        "LAST RESPONSE",
    ])];
    for webhook in webhooks {
        rows.push(vec![
            webhook.webhook_id.to_string(),
            webhook.workspace_id.to_string(),
            webhook.label.clone(),
            state(webhook).to_owned(),
            webhook.failures.to_string(),
            webhook.parked.to_string(),
            webhook.granularity.to_string(),
            last(webhook),
        ]);
    }
    table(&rows)
}

/// A row a property.
pub(super) fn webhook(webhook: &WebhookView) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let headers: Vec<String> =
        webhook.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let limit = webhook.max_per_second.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    let success = if webhook.success.accepts(http::StatusCode::NO_CONTENT) { "2xx" } else { "200" };
    let skipped = webhook.skipped.iter().map(|(skip, count)| format!("{count} {}", skip.as_str()));
    let skipped: Vec<String> = skipped.collect();
    let waiting = if webhook.state == "disabled" { "held" } else { "parked" };
    let rows = [
        ("webhook", webhook.webhook_id.to_string()),
        ("workspace", webhook.workspace_id.to_string()),
        ("label", webhook.label.clone()),
        ("url", webhook.url.clone()),
        ("enabled", if webhook.enabled { "yes" } else { "no" }.to_owned()),
        ("granularity", webhook.granularity.to_string()),
        ("success", success.to_owned()),
        ("most a second", limit),
        ("secrets", webhook.secrets.to_string()),
        ("headers", if headers.is_empty() { "-".to_owned() } else { headers.join(", ") }),
        ("owner", format!("{} <{}>", webhook.owner.full_name, webhook.owner.email)),
        ("version", webhook.version.to_string()),
        ("updated at", or_none(&webhook.updated_at)),
        ("updated by", or_none(&webhook.updated_by)),
        ("state", state(webhook).to_owned()),
        ("failures", webhook.failures.to_string()),
        ("since", or_none(&webhook.since)),
        ("next try", or_none(&webhook.next_attempt_at)),
        ("held until", or_none(&webhook.held_until)),
        (waiting, webhook.parked.to_string()),
        ("10 days", format!("{} delivered, {} failed", webhook.deliveries, webhook.failed)),
        ("skipped", if skipped.is_empty() { "-".to_owned() } else { skipped.join(", ") }),
        ("last response", last(webhook)),
    ];
    table(&rows.map(|(name, value)| vec![name.to_owned(), value]))
}

/// A row an attempt.
pub(super) fn log(attempts: &[Logged]) -> String {
    let mut rows = vec![headings([
        "STARTED", "KIND", "DELIVERY", "ATTEMPT", "RESULT", "MS", "COUNTED", "FAILURES", "STATE",
    ])];
    for Logged { attempt, .. } in attempts {
        rows.push(vec![
            attempt.started_at.clone(),
            attempt.kind.clone(),
            attempt.bundle.bundle_id.to_string(),
            attempt.attempt.to_string(),
            result(attempt),
            attempt.duration_ms.to_string(),
            if attempt.counted { "yes" } else { "no" }.to_owned(),
            attempt.failures.to_string(),
            attempt.state.clone(),
        ]);
    }
    table(&rows)
}

/// A test, by its attempt.
pub(super) fn tested(tested: &Tested) -> String {
    match &tested.attempt {
        None => format!("sent as {}", tested.bundle_id),
        Some(attempt) => {
            format!("sent as {}: {} in {} ms", tested.bundle_id, result(attempt), attempt.duration_ms)
        }
    }
}

fn result(attempt: &AttemptRecord) -> String {
    let status = attempt.response.as_ref().map(|response| response.status);
    match (&attempt.error, status) {
        (Some(error), _) => error.clone(),
        (None, Some(status)) => format!("answered {status}"),
        (None, None) => attempt.outcome.as_str().to_owned(),
    }
}

/// What its owner decided comes before how it fares.
fn state(webhook: &WebhookView) -> &'static str {
    if webhook.enabled { webhook.state } else { "off" }
}

fn last(webhook: &WebhookView) -> String {
    let Some(last) = &webhook.last_attempt else { return "-".to_owned() };
    let what = match last.status {
        Some(status) => format!("answered {status}"),
        None => last.outcome.as_str().to_owned(),
    };
    format!("{what} at {}", last.at)
}
