//! Records of `webhook-settings` (schemas/webhook-settings.json).

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::{
    poison::{Poison, PoisonReason},
    sealing::{is_sealed, is_well_formed},
    text::{Object, read_object},
};
use crate::model::{
    endpoint::parse_endpoint,
    ids::{WebhookId, WorkspaceId},
    time::{Millis, body_timestamp},
    webhook::{MASK, Owner, SuccessRule, Webhook, is_reserved_header},
    window::Granularity,
};

/// The most signing secrets a webhook may have: two, for rotation.
const MAX_SECRETS: usize = 2;

/// The most extra headers.
const MAX_HEADERS: usize = 32;

/// The most bytes of an extra header's value.
const MAX_HEADER_BYTES: usize = 4_096;

/// The most deliveries a second that may be asked for.
const MAX_PER_SECOND: u16 = 1_000;

#[derive(Deserialize)]
struct RawSettings {
    webhook_id: WebhookId,
    workspace_id: WorkspaceId,
    label: Option<String>,
    url: String,
    enabled: Option<bool>,
    granularity: Option<String>,
    success: Option<String>,
    max_per_second: Option<u16>,
    secrets: Option<Vec<SecretText>>,
    headers: Option<BTreeMap<String, SecretText>>,
    owner: Object<Owner>,
    version: Option<u64>,
    updated_at: Option<String>,
    updated_by: Option<String>,
}

/// Changes fields in a record; whatever else stands there stays as it is. None if the record is no object.
#[must_use]
pub fn edited(
    record: &[u8],
    fields: serde_json::Map<String, Value>,
    version: u64,
    at: Millis,
    by: &str,
) -> Option<Vec<u8>> {
    let mut settings: serde_json::Map<String, Value> = serde_json::from_slice(record).ok()?;
    settings.extend(fields);
    settings.insert("version".to_owned(), version.into());
    settings.insert("updated_at".to_owned(), body_timestamp(at.to_utc()).into());
    settings.insert("updated_by".to_owned(), by.into());
    serde_json::to_vec(&settings).ok()
}

/// Settings as a record that [`decode`] reads back, secrets as they stand.
#[must_use]
pub fn encode(webhook: &Webhook) -> Value {
    let headers = webhook.headers.iter().map(|(name, value)| (name.as_str(), text_of(value)));
    json!({
        "webhook_id": webhook.webhook_id,
        "workspace_id": webhook.workspace_id,
        "label": webhook.label,
        "url": webhook.url.as_str(),
        "enabled": webhook.enabled,
        "granularity": webhook.granularity.as_str(),
        "success": webhook.success,
        "max_per_second": webhook.max_per_second,
        "secrets": webhook.secrets.iter().map(ExposeSecret::expose_secret).collect::<Vec<_>>(),
        "headers": headers.collect::<BTreeMap<_, _>>(),
        "owner": webhook.owner,
        "version": webhook.version,
        "updated_at": webhook.updated_at,
        "updated_by": webhook.updated_by,
    })
}

/// The value of a header that was made from a text.
fn text_of(value: &HeaderValue) -> &str {
    std::str::from_utf8(value.as_bytes()).expect("it was made from a text")
}

/// A record that can't be used, for people who are not to see its secrets: whatever stands in `secrets` and `headers`
/// and is not sealed is masked, and so are signing secrets elsewhere. What is no JSON object is masked whole.
#[must_use]
pub fn masked(record: &[u8]) -> Vec<u8> {
    let Ok(mut settings) = serde_json::from_slice::<serde_json::Map<String, Value>>(record) else {
        return MASK.into();
    };
    for (field, value) in &mut settings {
        let is_secret = ["secrets", "headers"].iter().any(|name| field.eq_ignore_ascii_case(name));
        mask(value, is_secret);
    }
    Value::Object(settings).to_string().into_bytes()
}

/// Masks what is not sealed of a field that holds secrets, and signing secrets of any field.
fn mask(value: &mut Value, is_secret: bool) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| mask(value, is_secret)),
        Value::Object(fields) => fields.values_mut().for_each(|value| mask(value, is_secret)),
        Value::String(text) if is_well_formed(text) => {}
        Value::String(text) if is_secret || text.contains("whsec_") => MASK.clone_into(text),
        Value::Number(_) if is_secret => *value = MASK.into(),
        _ => {}
    }
}

/// A value that never shows in an error.
#[derive(Deserialize)]
#[serde(transparent)]
struct SecretText(String);

/// Reads one record.
///
/// # Errors
/// [`Poison`] that names the field, the value unless it is secret, and what is expected.
pub fn decode(value: &[u8]) -> Result<Webhook, Poison> {
    let text = std::str::from_utf8(value).map_err(Poison::utf8)?;
    let invalid = |detail| Poison { reason: PoisonReason::InvalidSettings, detail };
    let raw: RawSettings = read_object(text).map_err(|poison| invalid(poison.detail))?;
    raw.into_webhook().map_err(invalid)
}

impl RawSettings {
    fn into_webhook(self) -> Result<Webhook, String> {
        let url = parse_url(&self.url)?;
        let label = self.label.filter(|label| !label.trim().is_empty());
        let secrets = self.secrets.unwrap_or_default();
        let headers = self.headers.unwrap_or_default();
        let mut confidential = secrets.iter().chain(headers.values()).map(|text| is_sealed(&text.0));
        let (is_sealed, has_plain_secrets) =
            (confidential.clone().any(|sealed| sealed), confidential.any(|sealed| !sealed));
        let mut webhook = Webhook {
            webhook_id: self.webhook_id,
            workspace_id: self.workspace_id,
            label: label.unwrap_or_else(|| url.host_str().unwrap_or_default().to_owned()),
            url,
            enabled: self.enabled.unwrap_or(true),
            granularity: parse_granularity(self.granularity.as_deref())?,
            success: parse_success(self.success.as_deref())?,
            max_per_second: parse_rate(self.max_per_second)?,
            secrets: parse_secrets(secrets)?,
            headers: parse_headers(headers)?,
            is_sealed,
            has_plain_secrets,
            owner: self.owner.0,
            version: self.version.unwrap_or(1),
            updated_at: self.updated_at,
            updated_by: self.updated_by,
            fingerprint: 0,
        };
        webhook.fingerprint = fingerprint(&webhook);
        Ok(webhook)
    }
}

/// Of everything but who edited it, and when: an upstream that publishes all settings again and again with a new time
/// changes nothing.
fn fingerprint(webhook: &Webhook) -> u64 {
    let mut settings = encode(webhook);
    if let Some(fields) = settings.as_object_mut() {
        for field in ["version", "updated_at", "updated_by"] {
            fields.remove(field);
        }
    }
    let mut hasher = DefaultHasher::new();
    settings.to_string().hash(&mut hasher);
    hasher.finish()
}

fn parse_url(text: &str) -> Result<Url, String> {
    parse_endpoint(text).map_err(|error| format!("`url` is no URL to send to: {error}"))
}

fn parse_granularity(text: Option<&str>) -> Result<Granularity, String> {
    text.unwrap_or("none").parse().map_err(|error| format!("`granularity`: {error}"))
}

fn parse_success(text: Option<&str>) -> Result<SuccessRule, String> {
    match text {
        None | Some("200") => Ok(SuccessRule::Only200),
        Some("2xx") => Ok(SuccessRule::Any2xx),
        Some(other) => Err(format!("`success` is `{other}`, expected `200` or `2xx`")),
    }
}

fn parse_rate(rate: Option<u16>) -> Result<Option<u16>, String> {
    match rate {
        Some(rate) if !(1..=MAX_PER_SECOND).contains(&rate) => {
            Err(format!("`max_per_second` is `{rate}`, expected null or 1 to {MAX_PER_SECOND}"))
        }
        rate => Ok(rate),
    }
}

fn parse_secrets(secrets: Vec<SecretText>) -> Result<Vec<SecretString>, String> {
    if secrets.len() > MAX_SECRETS {
        return Err(format!("`secrets` has {} entries, expected at most {MAX_SECRETS}", secrets.len()));
    }
    let check = |(index, SecretText(secret)): (usize, SecretText)| {
        if is_sealed(&secret) {
            let field = format!("secrets[{index}]");
            return check_sealed(&field, &secret).map(|()| SecretString::from(secret));
        }
        let usable = secret.starts_with("whsec_")
            && secret.len() > "whsec_".len()
            && standardwebhooks::Webhook::new(&secret).is_ok();
        let problem =
            || format!("`secrets[{index}]` is not a Standard Webhooks secret, expected `whsec_` and base64");
        usable.then(|| SecretString::from(secret)).ok_or_else(problem)
    };
    secrets.into_iter().enumerate().map(check).collect()
}

fn parse_headers(headers: BTreeMap<String, SecretText>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    if headers.len() > MAX_HEADERS {
        return Err(format!("`headers` has {} entries, expected at most {MAX_HEADERS}", headers.len()));
    }
    let mut parsed: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(headers.len());
    for (name, SecretText(value)) in headers {
        let (header, value) = parse_header(&name, &value)?;
        if parsed.iter().any(|(other, _)| *other == header) {
            return Err(format!("`headers.{name}` occurs twice, expected each name once in whatever case"));
        }
        parsed.push((header, value));
    }
    Ok(parsed)
}

/// The error never shows the value.
fn parse_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let header: HeaderName =
        name.parse().map_err(|_| format!("`headers` has the name `{name}`, expected a header name"))?;
    if is_reserved_header(&header) {
        return Err(format!(
            "`headers.{name}` is reserved, expected a header that Bundlehook does not set itself"
        ));
    }
    if is_sealed(value) {
        check_sealed(&format!("headers.{name}"), value)?;
    } else if value.len() > MAX_HEADER_BYTES {
        return Err(format!(
            "`headers.{name}` has {} bytes, expected at most {MAX_HEADER_BYTES}",
            value.len()
        ));
    }
    let mut value: HeaderValue =
        value.parse().map_err(|_| format!("`headers.{name}` has a value with control characters"))?;
    value.set_sensitive(true);
    Ok((header, value))
}

fn check_sealed(field: &str, text: &str) -> Result<(), String> {
    let problem = || format!("`{field}` is not what was sealed, expected `sealed:v1:KEY:BASE64`");
    is_well_formed(text).then_some(()).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(field: &str, value: Value) -> Result<Webhook, String> {
        let mut settings = json!({
            "webhook_id": "wh-1", "workspace_id": "ws-acme", "url": "https://hooks.example/abc",
            "owner": {"full_name": "Amnon Haha", "email": "amnon@acme.example"},
        });
        settings[field] = value;
        decode(settings.to_string().as_bytes()).map_err(|poison| poison.detail)
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let webhook = with("version", Value::Null).unwrap();
        assert!(webhook.enabled);
        assert_eq!(webhook.granularity, Granularity::None);
        assert_eq!(webhook.success, SuccessRule::Only200);
        assert_eq!(webhook.label, "hooks.example");
        assert!(webhook.max_per_second.is_none() && webhook.secrets.is_empty() && webhook.headers.is_empty());
    }

    #[test]
    fn bad_values_are_named_with_what_is_expected() {
        let bad = [
            (
                "url",
                json!("ftp://x/"),
                "`url` is no URL to send to: the scheme is `ftp`, expected an absolute `http` or `https` URL",
            ),
            ("url", json!("/relative"), "relative URL without a base"),
            ("url", json!("https://a:b@c/"), "expected them in the header `authorization`"),
            ("granularity", json!("2h"), "`granularity`: `2h` is not a granularity, expected `none`, `1h`"),
            ("max_per_second", json!(0), "`max_per_second` is `0`, expected null or 1 to 1000"),
            ("secrets", json!(["topsecret"]), "`secrets[0]` is not a Standard Webhooks secret"),
            ("secrets", json!(["whsec_YQ==", "whsec_YQ==", "whsec_YQ=="]), "expected at most 2"),
            ("headers", json!({"Webhook-Id": "x"}), "`headers.Webhook-Id` is reserved"),
            ("headers", json!({"X-A": "1", "x-a": "2"}), "`headers.x-a` occurs twice"),
            ("headers", json!({"Transfer-Encoding": "chunked"}), "`headers.Transfer-Encoding` is reserved"),
            ("headers", json!({"x": "a".repeat(5_000)}), "`headers.x` has 5000 bytes, expected at most 4096"),
            ("headers", json!({"x": "topsecret\r\ny: z"}), "`headers.x` has a value with control characters"),
            ("headers", json!({"": "x"}), "`headers` has the name ``"),
            ("headers", json!({"a b": "x"}), "`headers` has the name `a b`"),
            ("headers", json!({"x": "topsecret\n"}), "`headers.x` has a value with control characters"),
            ("secrets", json!("topsecret"), "`secrets` is string \"…\", expected a sequence"),
            ("secrets", json!([{"topsecret": 1}]), "`secrets[0]` is map, expected a string"),
            ("headers", json!("topsecret"), "`headers` is string \"…\", expected a map"),
            ("headers", json!(["topsecret"]), "`headers` is sequence, expected a map"),
            ("headers", json!({"x": ["topsecret"]}), "`headers.x` is sequence, expected a string"),
            ("webhook_id", json!(""), "`webhook_id` is empty"),
            ("owner", json!({"full_name": "A"}), "missing field `email`"),
            ("owner", json!(["A", "a@x.example"]), "expected an object"),
            ("success", json!("any"), "`success` is `any`, expected `200` or `2xx`"),
        ];
        for (field, value, expected) in bad {
            let error = with(field, value.clone()).unwrap_err();
            assert!(error.contains(expected), "{field} {value}: {error}");
            assert!(!error.contains("topsecret"), "{error}");
        }
    }

    #[test]
    fn an_edit_leaves_everything_else_as_it_is() {
        let record = json!({
            "webhook_id": "wh-1", "workspace_id": "ws-acme", "url": "https://hooks.example/abc", "unknown": [1],
            "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "version": 3,
            "owner": {"full_name": "Amnon Haha", "email": "amnon@acme.example"},
        });
        let off = serde_json::Map::from_iter([("enabled".to_owned(), false.into())]);
        let edited = edited(record.to_string().as_bytes(), off, 4, Millis(0), "amnon").unwrap();
        let webhook = decode(&edited).unwrap();
        assert_eq!((webhook.enabled, webhook.version), (false, 4));
        assert_eq!(webhook.updated_by.as_deref(), Some("amnon"));
        let mut left: Value = serde_json::from_slice(&edited).unwrap();
        for field in ["enabled", "updated_at", "updated_by"] {
            left.as_object_mut().unwrap().remove(field);
        }
        left["version"] = 3.into();
        assert_eq!(left, record);
    }

    #[test]
    fn who_edited_it_and_when_makes_no_other_settings_of_it() {
        let plain = with("version", json!(1)).unwrap().fingerprint;
        for (field, value) in [("version", json!(2)), ("updated_at", json!("x")), ("updated_by", json!("y"))]
        {
            assert_eq!(with(field, value).unwrap().fingerprint, plain, "{field}");
        }
        for (field, value) in
            [("label", json!("x")), ("enabled", json!(false)), ("headers", json!({"a": "b"}))]
        {
            assert_ne!(with(field, value).unwrap().fingerprint, plain, "{field}");
        }
    }

    #[test]
    fn what_is_encoded_reads_back() {
        let rich = json!({
            "webhook_id": "wh-1", "workspace_id": "ws", "url": "https://h.example/a?b=ü", "label": "l", "enabled": false,
            "granularity": "6h", "success": "2xx", "max_per_second": 25, "headers": {"X-Ü".replace('Ü', "u"): "grün"},
            "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "owner": {"full_name": "A", "email": "a@x.example"},
            "version": 3, "updated_at": "2021-02-24T16:00:00+0000", "updated_by": "a@x.example",
        });
        let plain = json!({
            "webhook_id": "wh-1", "workspace_id": "ws", "url": "https://h.example/",
            "owner": {"full_name": "A", "email": "a@x.example"},
        });
        for settings in [rich, plain] {
            let webhook = decode(settings.to_string().as_bytes()).unwrap();
            let encoded = encode(&webhook);
            let read = decode(encoded.to_string().as_bytes()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{webhook:?}"));
            assert_eq!(encode(&read), encoded, "what is secret, too");
        }
    }

    #[test]
    fn secrets_in_the_clear_are_masked_wherever_they_stand() {
        let sealed = format!("sealed:v1:k1:{}", "A".repeat(40));
        for (settings, expected) in [
            (
                json!({"secrets": ["t0p", &sealed], "url": "u"}),
                json!({"secrets": ["***", &sealed], "url": "u"}),
            ),
            (json!({"secrets": "t0p", "x": ["whsec_t0p"]}), json!({"secrets": "***", "x": ["***"]})),
            (json!({"Headers": {"a": "t0p", "b": [1]}}), json!({"Headers": {"a": "***", "b": ["***"]}})),
            (json!({"headers": ["sealed:v1:t0p"]}), json!({"headers": ["***"]})),
        ] {
            let masked = masked(settings.to_string().as_bytes());
            assert_eq!(serde_json::from_slice::<Value>(&masked).unwrap(), expected);
        }
        for text in ["", "[]", "{\"secrets\": [\"t0p\"", "\u{feff}{\"secrets\": \"t0p\"}"] {
            assert_eq!(masked(text.as_bytes()), b"***");
        }
    }

    #[test]
    fn secrets_and_headers_are_kept() {
        let webhook = with("secrets", json!(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])).unwrap();
        assert!(webhook.secrets[0].expose_secret().starts_with("whsec_Mf"));
        let webhook = with("headers", json!({"Authorization": "Bearer s3cret"})).unwrap();
        assert!(!format!("{webhook:?}").contains("s3cret"));
    }
}
