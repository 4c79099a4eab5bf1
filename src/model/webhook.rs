//! A webhook's settings, already valid.

use std::fmt;

use http::{HeaderName, HeaderValue, StatusCode};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    ids::{WebhookId, WorkspaceId},
    window::Granularity,
};

/// One URL with its settings.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its id.
    pub webhook_id: WebhookId,
    /// Whose it is.
    pub workspace_id: WorkspaceId,
    /// Text shown in the console.
    pub label: String,
    /// Where to POST.
    pub url: Url,
    /// Switched on by its owner.
    pub enabled: bool,
    /// At once, or bundled.
    pub granularity: Granularity,
    /// Which answers are a success.
    pub success: SuccessRule,
    /// Most deliveries a second; none is no limit.
    pub max_per_second: Option<u16>,
    /// Standard Webhooks secrets (`whsec_…`), at most two; each may be sealed.
    pub secrets: Vec<SecretString>,
    /// Headers to send beside ours; each value may be sealed.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Some of these are sealed: they have to be opened before a request is made.
    pub is_sealed: bool,
    /// Some of these are not sealed.
    pub has_plain_secrets: bool,
    /// Who gets the notifications.
    pub owner: Owner,
    /// Counts edits.
    pub version: u64,
    /// When it was edited, as whoever did it says.
    pub updated_at: Option<String>,
    /// Who edited it.
    pub updated_by: Option<String>,
    /// Tells settings apart within a process: publishing the same again changes nothing.
    pub fingerprint: u64,
}

/// The workspace owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name for the salutation.
    pub full_name: String,
    /// Address for the notifications.
    pub email: String,
}

/// Which answers of a receiver are a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SuccessRule {
    /// Only 200.
    #[default]
    #[serde(rename = "200")]
    Only200,
    /// 200 to 299.
    #[serde(rename = "2xx")]
    Any2xx,
}

impl SuccessRule {
    /// The setting's text: `200` or `2xx`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Only200 => "200",
            Self::Any2xx => "2xx",
        }
    }

    /// True if the status is a success by this rule.
    #[must_use]
    pub fn accepts(self, status: StatusCode) -> bool {
        match self {
            Self::Only200 => status == StatusCode::OK,
            Self::Any2xx => status.is_success(),
        }
    }
}

/// Header names that a webhook may not set: ours, and those that frame the request.
const RESERVED: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// True if a webhook may not set this header.
#[must_use]
pub fn is_reserved_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.contains(&name) || name.starts_with("webhook-") || name.starts_with("bundlehook-")
}

/// What is shown in place of a secret value.
pub const MASK: &str = "***";

/// The first name in a URL's query whose value is the mask: whoever edits a URL that was shown masked may have left it.
#[must_use]
pub fn masked_value(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    url.query_pairs().find(|(_, value)| value == MASK).map(|(name, _)| name.into_owned())
}

/// A URL with the values of its query masked, fit for logs, notifications and other eyes than the owner's.
#[must_use]
pub fn masked_url(url: &Url) -> String {
    let mut masked = url.clone();
    if url.query().is_some() {
        let names: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
        masked.query_pairs_mut().clear().extend_pairs(names.iter().map(|name| (name, MASK)));
    }
    let _ = masked.set_password(None);
    masked.into()
}

/// When a webhook was last enabled, as the place of the record that did it. It only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Activation {
    /// Broker's timestamp of the record, in milliseconds.
    pub at: i64,
    /// 0 for `webhook-settings`, 1 for `webhook-states`.
    pub topic: u8,
    /// Offset of the record.
    pub offset: i64,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.at, self.topic, self.offset)
    }
}

impl From<Activation> for String {
    fn from(activation: Activation) -> Self {
        activation.to_string()
    }
}

/// A text that is not an activation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an activation, expected `milliseconds.topic.offset`")]
pub struct ActivationError(String);

impl TryFrom<String> for Activation {
    type Error = ActivationError;
    fn try_from(text: String) -> Result<Self, ActivationError> {
        let parse = || {
            let mut fields = text.splitn(3, '.');
            Some(Self {
                at: fields.next()?.parse().ok()?,
                topic: fields.next()?.parse().ok()?,
                offset: fields.next()?.parse().ok()?,
            })
        };
        parse().ok_or_else(|| ActivationError(text.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_of_a_query_are_masked() {
        let url = Url::parse("https://hooks.example/a/b?token=s3cret&x=1").unwrap();
        assert_eq!(masked_url(&url), "https://hooks.example/a/b?token=***&x=***");
        assert_eq!(masked_url(&Url::parse("https://hooks.example/a").unwrap()), "https://hooks.example/a");
    }

    #[test]
    fn a_success_is_exactly_what_the_rule_names() {
        assert!(SuccessRule::Only200.accepts(StatusCode::OK));
        assert!(!SuccessRule::Only200.accepts(StatusCode::NO_CONTENT));
        assert!(SuccessRule::Any2xx.accepts(StatusCode::NO_CONTENT));
        assert!(!SuccessRule::Any2xx.accepts(StatusCode::FOUND));
    }

    #[test]
    fn activations_are_ordered_and_read_back() {
        let older = Activation { at: 5, topic: 1, offset: 9 };
        let newer = Activation { at: 6, topic: 0, offset: 1 };
        assert!(older < newer);
        assert_eq!(Activation::try_from(older.to_string()), Ok(older));
        assert!(Activation::try_from("5.1".to_owned()).is_err());
    }
}
