//! Secrets at rest: signing secrets and values of extra headers are sealed with XChaCha20-Poly1305.
//!
//! A sealed text is `sealed:v1:KEY:BASE64`, where the bytes are the nonce and the ciphertext. The webhook's id and the
//! name of the field are authenticated with it, so it opens nowhere else.

use std::{borrow::Cow, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::model::{ids::WebhookId, webhook::Webhook};

/// What a sealed text begins with, of whatever version.
const ANY_VERSION: &str = "sealed:v";
/// What one of this version begins with.
const PREFIX: &str = "sealed:v1:";
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Most bytes of a key's id.
const MAX_KEY_ID: usize = 32;

/// Why something could not be sealed or opened. Never shows what is secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A line of the key file.
    #[error(
        "line {0} of the sealing keys is wrong, expected `ID:BASE64` with at most {MAX_KEY_ID} letters, digits, `-` \
         or `_`, each id once, and 32 bytes"
    )]
    KeyLine(usize),
    /// No key at all.
    #[error("there are no sealing keys, expected a line `ID:BASE64`")]
    NoKeys,
    /// Sealed with a key that is not there.
    #[error("`{field}` is sealed with the key `{key}`, which is not among the sealing keys")]
    UnknownKey { field: String, key: String },
    /// Not what was sealed for this webhook and field.
    #[error("`{0}` can't be opened: it was changed, or sealed for another webhook or field")]
    Broken(String),
}

/// True if a text says that it is sealed, also in a version that is not known here: it must not be sent as it is.
#[must_use]
pub fn is_sealed(text: &str) -> bool {
    text.strip_prefix(ANY_VERSION).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// True if a text has the form of a sealed one. Whether it can be opened, only the keys can tell.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    split(text).is_some()
}

/// The key's id and the bytes of a sealed text.
fn split(text: &str) -> Option<(&str, Vec<u8>)> {
    let (key, bytes) = text.strip_prefix(PREFIX)?.split_once(':')?;
    let bytes = BASE64_STANDARD.decode(bytes).ok()?;
    (is_key_id(key) && bytes.len() > NONCE_BYTES).then_some((key, bytes))
}

fn is_key_id(id: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_KEY_ID).contains(&id.len()) && id.bytes().all(legal)
}

/// The keys of a deployment. The first one seals, all of them open.
#[derive(Default)]
pub struct Keys(Vec<(String, XChaCha20Poly1305)>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

impl Keys {
    /// Reads a key file: a line `ID:BASE64` a key, 32 bytes each; blank lines and those with `#` are left out.
    ///
    /// # Errors
    /// [`SealError::KeyLine`] or [`SealError::NoKeys`].
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut keys: Vec<(String, XChaCha20Poly1305)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let cipher = line.split_once(':').and_then(|(id, key)| {
                let known = keys.iter().any(|(other, _)| other == id);
                let key = BASE64_STANDARD.decode(key).ok().filter(|_| is_key_id(id) && !known)?;
                Some((id.to_owned(), XChaCha20Poly1305::new_from_slice(&key).ok()?))
            });
            keys.push(cipher.ok_or(SealError::KeyLine(index + 1))?);
        }
        if keys.is_empty() { Err(SealError::NoKeys) } else { Ok(Self(keys)) }
    }

    /// Seals a text for one field of one webhook. The nonce must be random.
    ///
    /// # Errors
    /// [`SealError::NoKeys`].
    pub fn seal(
        &self,
        webhook: &WebhookId,
        field: &str,
        text: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<String, SealError> {
        let (id, cipher) = self.0.first().ok_or(SealError::NoKeys)?;
        let aad = associated(webhook, field);
        let payload = Payload { msg: text.as_bytes(), aad: &aad };
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| SealError::Broken(field.to_owned()))?;
        Ok(format!("{PREFIX}{id}:{}", BASE64_STANDARD.encode([&nonce[..], &sealed].concat())))
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// If the key is not there, or it was not sealed for this field of this webhook.
    pub fn open(&self, webhook: &WebhookId, field: &str, sealed: &str) -> Result<SecretString, SealError> {
        let broken = || SealError::Broken(field.to_owned());
        let (key, bytes) = split(sealed).ok_or_else(broken)?;
        let known = self.0.iter().find(|(id, _)| id == key);
        let (_, cipher) =
            known.ok_or_else(|| SealError::UnknownKey { field: field.to_owned(), key: key.to_owned() })?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or_else(broken)?;
        let aad = associated(webhook, field);
        let payload = Payload { msg: ciphertext, aad: &aad };
        let opened = cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| broken())?;
        String::from_utf8(opened).map(SecretString::from).map_err(|_| broken())
    }

    /// A webhook with its secrets and headers as they are sent. Those that are not sealed stay as they are.
    ///
    /// # Errors
    /// If one can't be opened, or is no secret or header value.
    pub fn unseal<'a>(&self, webhook: &'a Webhook) -> Result<Cow<'a, Webhook>, SealError> {
        if !webhook.is_sealed {
            return Ok(Cow::Borrowed(webhook));
        }
        let id = &webhook.webhook_id;
        let mut opened = webhook.clone();
        for secret in &mut opened.secrets {
            if is_sealed(secret.expose_secret()) {
                *secret = self.open(id, SECRETS, secret.expose_secret())?;
                let usable = standardwebhooks::Webhook::new(secret.expose_secret()).is_ok();
                usable.then_some(()).ok_or_else(|| SealError::Broken(SECRETS.to_owned()))?;
            }
        }
        for (name, value) in &mut opened.headers {
            if let Some(sealed) = value.to_str().ok().filter(|text| is_sealed(text)) {
                let field = header_field(name.as_str());
                let plain = self.open(id, &field, sealed)?;
                *value =
                    plain.expose_secret().parse::<HeaderValue>().map_err(|_| SealError::Broken(field))?;
                value.set_sensitive(true);
            }
        }
        Ok(Cow::Owned(opened))
    }

    /// A record of settings with every secret and header value sealed; none if there is nothing to seal. The record
    /// must have been read as settings before.
    ///
    /// # Errors
    /// [`SealError::NoKeys`].
    pub fn seal_settings(
        &self,
        webhook: &WebhookId,
        record: &[u8],
        nonce: impl Fn() -> [u8; NONCE_BYTES],
    ) -> Result<Option<Vec<u8>>, SealError> {
        let Ok(mut settings) = serde_json::from_slice::<Value>(record) else { return Ok(None) };
        let mut changed = false;
        let mut seal = |field: &str, value: &mut Value| -> Result<(), SealError> {
            if let Value::String(text) = value
                && !is_sealed(text)
            {
                *text = self.seal(webhook, field, text, nonce())?;
                changed = true;
            }
            Ok(())
        };
        if let Some(secrets) = settings["secrets"].as_array_mut() {
            secrets.iter_mut().try_for_each(|secret| seal(SECRETS, secret))?;
        }
        if let Some(headers) = settings["headers"].as_object_mut() {
            headers.iter_mut().try_for_each(|(name, value)| seal(&header_field(name), value))?;
        }
        Ok(changed.then(|| settings.to_string().into_bytes()))
    }
}

const SECRETS: &str = "secrets";

fn header_field(name: &str) -> String {
    format!("headers.{}", name.to_ascii_lowercase())
}

/// An id holds no line break, so no two pairs give the same bytes.
fn associated(webhook: &WebhookId, field: &str) -> Vec<u8> {
    format!("{field}\n{webhook}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::settings;

    const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];
    const SETTINGS: &[u8] = br#"{"webhook_id": "wh-1", "workspace_id": "ws", "url": "https://h.example.com/",
        "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "headers": {"Authorization": "Bearer t0ps3cret"},
        "owner": {"full_name": "A", "email": "a@x.example"}, "unknown": 1}"#;

    fn key(id: &str, byte: u8) -> String {
        format!("{id}:{}\n", BASE64_STANDARD.encode([byte; 32]))
    }

    fn wh(id: &str) -> WebhookId {
        WebhookId::parse(id).unwrap()
    }

    #[test]
    fn sealed_settings_are_settings_and_open_to_what_they_were() {
        let keys = Keys::parse(&key("k1", 1)).unwrap();
        let sealed = keys.seal_settings(&wh("wh-1"), SETTINGS, || NONCE).unwrap().unwrap();
        let text = String::from_utf8(sealed.clone()).unwrap();
        assert!(
            !text.contains("MfKQ9r8") && !text.contains("t0ps3cret") && text.contains("unknown"),
            "{text}"
        );
        let webhook = settings::decode(&sealed).unwrap();
        assert!(webhook.is_sealed && !webhook.has_plain_secrets);
        let opened = keys.unseal(&webhook).unwrap();
        assert_eq!(opened.secrets[0].expose_secret(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        assert_eq!(opened.headers[0].1, "Bearer t0ps3cret");
        assert!(opened.headers[0].1.is_sensitive());
        assert_eq!(keys.seal_settings(&wh("wh-1"), &sealed, || NONCE), Ok(None), "once is enough");
    }

    #[test]
    fn a_sealed_text_opens_for_its_webhook_and_field_only() {
        let keys = Keys::parse(&key("k1", 1)).unwrap();
        let sealed = keys.seal(&wh("wh-1"), "secrets", "text", NONCE).unwrap();
        assert_eq!(keys.open(&wh("wh-1"), "secrets", &sealed).unwrap().expose_secret(), "text");
        for (webhook, field) in [("wh-2", "secrets"), ("wh-1", "headers.x")] {
            let error = keys.open(&wh(webhook), field, &sealed).unwrap_err();
            assert_eq!(error, SealError::Broken(field.to_owned()));
        }
        let changed = sealed.replace(&sealed[sealed.len() - 6..sealed.len() - 4], "AA");
        assert!(keys.open(&wh("wh-1"), "secrets", &changed).is_err());
        assert!(!is_well_formed("sealed:v1:k1:AAAA") && !is_well_formed("sealed:v1:k 1:AAAA"));
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = Keys::parse(&key("old", 1)).unwrap();
        let sealed = old.seal(&wh("wh-1"), "secrets", "text", NONCE).unwrap();
        let both = Keys::parse(&format!("# rotated\n\n{}{}", key("new", 2), key("old", 1))).unwrap();
        assert!(both.open(&wh("wh-1"), "secrets", &sealed).is_ok());
        let anew = both.seal(&wh("wh-1"), "secrets", "text", NONCE).unwrap();
        assert!(anew.starts_with("sealed:v1:new:"));
        let expected = SealError::UnknownKey { field: "secrets".to_owned(), key: "new".to_owned() };
        assert_eq!(old.open(&wh("wh-1"), "secrets", &anew).unwrap_err(), expected);
    }

    #[test]
    fn wrong_keys_are_refused_and_never_shown() {
        let twice = key("a", 1).repeat(2);
        for (text, line) in
            [("a:AAAA", 1), ("nothing", 1), (&*format!("{}a b:x", key("k", 1)), 2), (&*twice, 2)]
        {
            assert_eq!(Keys::parse(text).unwrap_err(), SealError::KeyLine(line));
        }
        assert_eq!(Keys::parse("# none\n").unwrap_err(), SealError::NoKeys);
        assert_eq!(format!("{:?}", Keys::parse(&key("k1", 1)).unwrap()), "[\"k1\"]");
    }
}
