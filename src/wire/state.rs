//! Records of `webhook-states` (schemas/webhook-state.json).

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::{poison::Poison, settings, text::read_object};
use crate::model::{
    health::Notice,
    history::{Disabled, HOLD, InForce, Place, State, StateKind},
    ids::{WebhookId, WorkspaceId},
    time::{Millis, parse_timestamp},
    webhook::{Activation, Webhook},
};

/// A record as it is written; read back with [`decode`].
#[derive(Serialize)]
struct Written<'a, S> {
    v: u32,
    kind: &'static str,
    webhook_id: &'a WebhookId,
    workspace_id: &'a WorkspaceId,
    at: String,
    #[serde(flatten)]
    state: S,
}

#[derive(Deserialize)]
struct Read<'a> {
    v: u32,
    kind: String,
    webhook_id: WebhookId,
    at: String,
    activation: Option<Activation>,
    before: Option<String>,
    since: Option<WrittenPlace>,
    #[serde(borrow)]
    settings: Option<&'a RawValue>,
}

/// Where a record of `webhook-settings` stood.
#[derive(Serialize, Deserialize)]
struct WrittenPlace {
    at: String,
    offset: i64,
}

/// The record that keeps an activation. Returns key and value.
#[must_use]
pub fn encode_activation(webhook: &Webhook, activation: Activation) -> (String, Vec<u8>) {
    #[derive(Serialize)]
    struct State {
        activation: Activation,
        by: &'static str,
    }
    encode(webhook, "activation", Millis(activation.at), State { activation, by: "settings" })
}

/// The record that itself enables a webhook, by a command. Returns key and value.
#[must_use]
pub fn encode_enabling(webhook: &Webhook, at: Millis, by: &str) -> (String, Vec<u8>) {
    #[derive(Serialize)]
    struct State<'a> {
        activation: Option<Activation>,
        by: &'a str,
    }
    encode(webhook, "activation", at, State { activation: None, by })
}

/// The record that drops what is held: what arrived before a time. Returns key and value.
#[must_use]
pub fn encode_discard(webhook: &Webhook, before: Millis) -> (String, Vec<u8>) {
    #[derive(Serialize)]
    struct State {
        before: String,
        reason: &'static str,
    }
    encode(webhook, "cut", before, State { before: before.to_rfc3339(), reason: "discarded" })
}

/// The record that says that the system disabled a webhook. Returns key and value.
#[must_use]
pub fn encode_disabled(webhook: &Webhook, notice: &Notice) -> (String, Vec<u8>) {
    #[derive(Serialize)]
    struct State<'a> {
        activation: Activation,
        event_id: Uuid,
        failures: u32,
        last_error: &'a str,
        expires_at: String,
    }
    let state = State {
        activation: notice.activation,
        event_id: notice.id,
        failures: notice.failures,
        last_error: &notice.last_error,
        expires_at: (notice.at + HOLD).to_rfc3339(),
    };
    encode(webhook, "disabled", notice.at, state)
}

/// The record that keeps what is in force: `about` are settings of the same webhook. Returns key and value.
#[must_use]
pub fn encode_in_force(about: &Webhook, in_force: &InForce, at: Millis) -> (String, Vec<u8>) {
    #[derive(Serialize)]
    struct State {
        since: WrittenPlace,
        settings: Option<Value>,
    }
    let InForce { since, settings } = in_force;
    let since = WrittenPlace { at: since.at.to_rfc3339(), offset: since.offset };
    let state = State { since, settings: settings.as_deref().map(settings::encode) };
    encode(about, "in_force", at, state)
}

fn encode(webhook: &Webhook, kind: &'static str, at: Millis, state: impl Serialize) -> (String, Vec<u8>) {
    let Webhook { webhook_id, workspace_id, .. } = webhook;
    let record = Written { v: 1, kind, webhook_id, workspace_id, at: at.to_rfc3339(), state };
    let value = serde_json::to_vec(&record).expect("texts and numbers always serialise");
    (format!("{webhook_id}/{kind}"), value)
}

/// Reads the key of a record: the kind follows the last `/`. None for one that is no state's.
#[must_use]
pub fn decode_key(key: &[u8]) -> Option<(WebhookId, StateKind)> {
    let (id, kind) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    let kind = match kind {
        "activation" => StateKind::Activation,
        "disabled" => StateKind::Disabled,
        "cut" => StateKind::Cut,
        "in_force" => StateKind::InForce,
        _ => return None,
    };
    Some((WebhookId::parse(id).ok()?, kind))
}

/// Reads one record.
///
/// # Errors
/// [`Poison`] if it is no state of a known version and kind.
pub fn decode(value: &[u8]) -> Result<(WebhookId, State), Poison> {
    let text = std::str::from_utf8(value).map_err(Poison::utf8)?;
    let read: Read<'_> = read_object(text)?;
    if read.v != 1 {
        return Err(Poison::invalid("v", format_args!("is `{}`, expected 1", read.v)));
    }
    let activation = || read.activation.ok_or_else(|| Poison::missing("activation"));
    let state = match read.kind.as_str() {
        // Null: the record itself enables.
        "activation" => State::Activation(read.activation),
        "disabled" => State::Disabled(Disabled { activation: activation()?, at: time("at", &read.at)? }),
        "cut" => State::Cut(time("before", &read.before.ok_or_else(|| Poison::missing("before"))?)?),
        "in_force" => {
            let since = read.since.ok_or_else(|| Poison::missing("since"))?;
            let since = Place { at: time("since.at", &since.at)?, offset: since.offset };
            let settings = read.settings.map(|settings| settings::decode(settings.get().as_bytes()));
            State::InForce(InForce { since, settings: settings.transpose()?.map(Box::new) })
        }
        other => {
            let expected = "expected `activation`, `disabled`, `cut` or `in_force`";
            return Err(Poison::invalid("kind", format_args!("is `{other}`, {expected}")));
        }
    };
    Ok((read.webhook_id, state))
}

fn time(field: &str, text: &str) -> Result<Millis, Poison> {
    let problem = |error| Poison::invalid(field, format_args!("is `{text}`, {error}"));
    parse_timestamp(text).map(Millis::from).map_err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::NoticeKind;

    fn webhook() -> Webhook {
        let json = br#"{"webhook_id": "wh-1", "workspace_id": "ws", "url": "https://h.example/",
            "owner": {"full_name": "A", "email": "a@x.example"}}"#;
        settings::decode(json).unwrap()
    }

    #[test]
    fn states_read_back() {
        let activation = Activation { at: 1_614_182_400_000, topic: 0, offset: 12 };
        let (key, value) = encode_activation(&webhook(), activation);
        assert_eq!(key, "wh-1/activation");
        assert!(matches!(decode(&value).unwrap().1, State::Activation(Some(read)) if read == activation));

        let at = Millis(1_614_182_500_123);
        let notice = Notice {
            id: Uuid::nil(),
            kind: NoticeKind::Disabled,
            activation,
            at,
            failures: 11,
            last_error: "no answer".to_owned(),
        };
        let (key, value) = encode_disabled(&webhook(), &notice);
        assert_eq!(key, "wh-1/disabled");
        let disabled = Disabled { activation, at };
        assert!(matches!(decode(&value).unwrap().1, State::Disabled(read) if read == disabled));
    }

    #[test]
    fn what_the_commands_write_reads_back() {
        let at = Millis(1_614_182_500_123);
        let (key, value) = encode_enabling(&webhook(), at, "amnon@acme.example");
        assert_eq!(decode_key(key.as_bytes()).unwrap().1, StateKind::Activation);
        assert!(matches!(decode(&value).unwrap().1, State::Activation(None)));
        let (key, value) = encode_discard(&webhook(), at);
        assert_eq!(decode_key(key.as_bytes()).unwrap().1, StateKind::Cut);
        assert!(matches!(decode(&value).unwrap().1, State::Cut(before) if before == at));
    }

    #[test]
    fn what_is_in_force_reads_back() {
        let since = Place { at: Millis(1_614_182_500_123), offset: 7 };
        for settings in [Some(Box::new(webhook())), None] {
            let stored = InForce { since, settings };
            let (key, value) = encode_in_force(&webhook(), &stored, since.at);
            assert_eq!(decode_key(key.as_bytes()).unwrap().1, StateKind::InForce);
            let (id, State::InForce(read)) = decode(&value).unwrap() else { panic!("it is another kind") };
            assert_eq!((id.as_str(), read.since), ("wh-1", since));
            assert_eq!(read.settings.map(|w| w.label), stored.settings.map(|w| w.label));
        }
    }

    #[test]
    fn the_kind_follows_the_last_slash_of_a_key() {
        let (id, kind) = decode_key(b"a/b/disabled").unwrap();
        assert_eq!((id.as_str(), kind), ("a/b", StateKind::Disabled));
        assert!(decode_key(b"heartbeat").is_none());
        assert!(decode_key(b"wh-1/x").is_none());
    }

    #[test]
    fn an_unknown_version_or_kind_is_refused() {
        for value in [
            r#"{"v":2,"kind":"cut","webhook_id":"w","at":""}"#,
            r#"{"v":1,"kind":"x","webhook_id":"w","at":""}"#,
        ] {
            assert!(decode(value.as_bytes()).is_err(), "{value}");
        }
    }
}
