//! Records that can't be processed, and why.

use std::fmt;

use crate::model::time::Millis;

/// The closed set of reasons for a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoisonReason {
    /// The record has no value.
    NullValue,
    /// The value is not UTF-8.
    InvalidUtf8,
    /// The value is not JSON.
    InvalidJson,
    /// A required field is missing or null.
    MissingField,
    /// A field has the wrong type or an impossible value.
    InvalidField,
    /// A record of `webhook-settings` can't be used.
    InvalidSettings,
    /// An e-mail was refused for good.
    MailRefused,
    /// Whether an e-mail was sent is not known, so it is not sent again.
    MailUnsure,
}

impl PoisonReason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 8] = [
        Self::NullValue,
        Self::InvalidUtf8,
        Self::InvalidJson,
        Self::MissingField,
        Self::InvalidField,
        Self::InvalidSettings,
        Self::MailRefused,
        Self::MailUnsure,
    ];

    /// The reason as a header value and a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NullValue => "null_value",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidJson => "invalid_json",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::InvalidSettings => "invalid_settings",
            Self::MailRefused => "mail_refused",
            Self::MailUnsure => "mail_unsure",
        }
    }
}

/// Version of the headers of dead letters.
const DEAD_LETTER_VERSION: &str = "1";

/// The headers of a dead letter, which say what it is and where its record stands (schemas/dead-letter-headers.json).
#[must_use]
pub fn dead_letter_headers(
    poison: &Poison,
    topic: &str,
    partition: i32,
    offset: i64,
    arrived: Millis,
) -> [(&'static str, String); 7] {
    [
        ("bundlehook-version", DEAD_LETTER_VERSION.to_owned()),
        ("reason", poison.reason.as_str().to_owned()),
        ("detail", poison.detail.clone()),
        ("topic", topic.to_owned()),
        ("partition", partition.to_string()),
        ("offset", offset.to_string()),
        ("arrived-at", arrived.0.to_string()),
    ]
}

/// What the headers of a dead letter say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterHead {
    /// One of [`PoisonReason`], or of a later release.
    pub reason: String,
    /// For people.
    pub detail: String,
    /// Where the record stood that could not be processed.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When that record arrived.
    pub arrived_at: Millis,
}

/// Reads the headers of a dead letter, each asked for by its name. One without a version is of the first.
///
/// # Errors
/// The header that is missing or can't be read, or a version that is not known.
pub fn decode_dead_letter<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Result<DeadLetterHead, String> {
    if let Some(version) = header("bundlehook-version").filter(|version| *version != DEAD_LETTER_VERSION) {
        return Err(format!("a dead letter of version {version}, expected {DEAD_LETTER_VERSION}"));
    }
    let text =
        |name| header(name).map(str::to_owned).ok_or_else(|| format!("the header `{name}` is missing"));
    let number = |name| {
        let text = text(name)?;
        text.parse::<i64>().map_err(|_| format!("the header `{name}` is `{text}`, expected a number"))
    };
    let partition = number("partition")?;
    Ok(DeadLetterHead {
        reason: text("reason")?,
        detail: text("detail")?,
        topic: text("topic")?,
        partition: partition
            .try_into()
            .map_err(|_| format!("the header `partition` is `{partition}`, expected a partition"))?,
        offset: number("offset")?,
        arrived_at: Millis(number("arrived-at")?),
    })
}

/// A record that can't be processed. The detail names the field, what it holds if that is no customer's text, and
/// what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Poison {
    /// The kind of trouble.
    pub reason: PoisonReason,
    /// For people.
    pub detail: String,
}

impl Poison {
    pub(super) fn missing(field: &str) -> Self {
        Self { reason: PoisonReason::MissingField, detail: format!("`{field}` is missing or null") }
    }

    pub(super) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        Self { reason: PoisonReason::InvalidField, detail: format!("`{field}` {problem}") }
    }

    pub(super) fn utf8(error: std::str::Utf8Error) -> Self {
        let detail = format!("the value is not UTF-8 from byte {} on", error.valid_up_to());
        Self { reason: PoisonReason::InvalidUtf8, detail }
    }

    /// Names the field that a JSON error belongs to, by its path, and never what stands in it.
    #[must_use]
    pub fn json(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let (path, inner) = (error.path().to_string(), error.inner());
        if inner.is_data() && path != "." {
            return Self::invalid(&path, format_args!("is {}", Redacted(inner)));
        }
        if inner.is_data() {
            let detail = format!("the value is {}", Redacted(inner));
            return Self { reason: PoisonReason::InvalidField, detail };
        }
        Self {
            reason: PoisonReason::InvalidJson,
            detail: format!("the value is not JSON: {}", Redacted(inner)),
        }
    }
}

/// A JSON error without the content it quotes, which may be a customer's text.
struct Redacted<'a>(&'a serde_json::Error);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let text = text
            .strip_prefix("invalid type: ")
            .or_else(|| text.strip_prefix("invalid value: "))
            .unwrap_or(&text);
        match (text.find('"'), text.rfind('"')) {
            (Some(first), Some(last)) if first < last => {
                write!(f, "{}…{}", &text[..=first], &text[last..])
            }
            _ => f.write_str(text),
        }
    }
}
