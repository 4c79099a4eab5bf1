//! Records of `webhook-health` (schemas/webhook-health.json), from which a slot that is gone is restored.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::rfc3339;
use crate::model::{
    health::{Circuit, HEALTH_VERSION, Health, Notice, NoticeKind},
    ids::WebhookId,
    time::Millis,
    webhook::Activation,
};

/// Version of the records.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    webhook_id: WebhookId,
    partition: i32,
    number: u64,
    failures: u32,
    activation: Activation,
    state: State,
    #[serde(with = "rfc3339::option")]
    since: Option<Millis>,
    #[serde(with = "rfc3339::option")]
    next_attempt_at: Option<Millis>,
    #[serde(with = "rfc3339::option")]
    warned_at: Option<Millis>,
    notices: Vec<UnpublishedNotice>,
    #[serde(with = "rfc3339")]
    at: Millis,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Healthy,
    Tripped,
    Disabled,
}

#[derive(Serialize, Deserialize)]
struct UnpublishedNotice {
    id: Uuid,
    kind: NoticeKind,
    activation: Activation,
    #[serde(with = "rfc3339")]
    at: Millis,
    failures: u32,
    last_error: String,
}

/// A record that is not of this form.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// It is not JSON of this form.
    #[error("not the health of a webhook: {0}")]
    Json(#[from] serde_json::Error),
    /// It was written by another release.
    #[error("version {0}, expected {VERSION}")]
    Version(u32),
}

/// Writes the health of a webhook as it stands after an outcome that the owner of a partition took in.
#[must_use]
pub fn encode(webhook: &WebhookId, partition: i32, health: &Health, at: Millis) -> Vec<u8> {
    let (state, since, next_attempt_at) = match health.circuit {
        Circuit::Healthy => (State::Healthy, None, None),
        Circuit::Tripped { since, next_at, .. } => (State::Tripped, Some(since), Some(next_at)),
        Circuit::Disabled { at } => (State::Disabled, Some(at), None),
    };
    let record = Record {
        v: VERSION,
        webhook_id: webhook.clone(),
        partition,
        number: health.number,
        failures: health.failures,
        activation: health.activation,
        state,
        since,
        next_attempt_at,
        warned_at: health.warned_at,
        notices: health.outbox.iter().map(unpublished).collect(),
        at,
    };
    serde_json::to_vec(&record).expect("texts and numbers always serialise")
}

/// Reads a record: the webhook and its health. Leases and what was counted are not in it.
///
/// # Errors
/// [`HealthError`]
pub fn decode(value: &[u8]) -> Result<(WebhookId, Health), HealthError> {
    let record: Record = serde_json::from_slice(value)?;
    if record.v != VERSION {
        return Err(HealthError::Version(record.v));
    }
    let since = record.since.unwrap_or(record.at);
    let circuit = match record.state {
        State::Healthy => Circuit::Healthy,
        State::Tripped => {
            Circuit::Tripped { since, next_at: record.next_attempt_at.unwrap_or(record.at), probe: None }
        }
        State::Disabled => Circuit::Disabled { at: since },
    };
    let health = Health {
        v: HEALTH_VERSION,
        number: record.number,
        failures: record.failures,
        activation: record.activation,
        circuit,
        warned_at: record.warned_at,
        counted: Vec::new(),
        outbox: record.notices.into_iter().map(notice).collect(),
    };
    Ok((record.webhook_id, health))
}

fn unpublished(notice: &Notice) -> UnpublishedNotice {
    let Notice { id, kind, activation, at, failures, last_error } = notice.clone();
    UnpublishedNotice { id, kind, activation, at, failures, last_error }
}

fn notice(unpublished: UnpublishedNotice) -> Notice {
    let UnpublishedNotice { id, kind, activation, at, failures, last_error } = unpublished;
    Notice { id, kind, activation, at, failures, last_error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVATION: Activation = Activation { at: 1_614_182_400_000, topic: 0, offset: 12 };

    fn health(circuit: Circuit, outbox: Vec<Notice>) -> Health {
        let (at, failures) = (Millis(1_614_183_929_123), 11);
        Health { number: 4711, failures, warned_at: Some(at), circuit, outbox, ..Health::new(ACTIVATION) }
    }

    fn round(health: &Health) -> Health {
        let webhook = WebhookId::parse("wh-1").unwrap();
        let (read, back) = decode(&encode(&webhook, 3, health, Millis(1_614_183_929_500))).unwrap();
        assert_eq!(read, webhook);
        back
    }

    #[test]
    fn every_state_reads_back_with_what_is_still_to_be_published() {
        let at = Millis(1_614_183_929_123);
        let notice = Notice {
            id: Uuid::from_u128(7),
            kind: NoticeKind::Disabled,
            activation: ACTIVATION,
            at,
            failures: 11,
            last_error: "status 500".to_owned(),
        };
        for circuit in [
            Circuit::Healthy,
            Circuit::Tripped { since: at, next_at: Millis(at.0 + 5_000), probe: None },
            Circuit::Disabled { at },
        ] {
            let health = health(circuit, vec![notice.clone()]);
            assert_eq!(round(&health), health);
        }
    }

    #[test]
    fn the_examples_of_the_schema_can_be_read_and_another_version_is_refused() {
        let schema = include_str!("../../schemas/webhook-health.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        for example in schema["examples"].as_array().unwrap() {
            let text = example.to_string();
            decode(text.as_bytes()).unwrap();
            let newer = text.replace("\"v\":1", "\"v\":2");
            assert!(matches!(decode(newer.as_bytes()), Err(HealthError::Version(2))));
        }
    }
}
