//! One message with its account and chat, already valid.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};

use super::time::body_timestamp;

/// A valid message event. Texts are borrowed from the record where they stand there unescaped.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// The customer; 1 to 128 bytes.
    pub workspace_id: Cow<'a, str>,
    /// The account that sent or received the message.
    pub account: Account<'a>,
    /// Where the message was written.
    pub chat: Chat<'a>,
    /// The message.
    pub message: Message<'a>,
}

/// The `WhatsApp` account, with the fields and the order of the POST body.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account<'a> {
    /// The teammate who connected the account.
    pub full_name: Cow<'a, str>,
    /// Their address.
    pub email: Cow<'a, str>,
    /// The account's phone number.
    pub phone: Cow<'a, str>,
}

/// The chat, with the fields and the order of the POST body.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chat<'a> {
    /// Name as displayed.
    pub full_name: Cow<'a, str>,
    /// The responsible teammate; empty if nobody.
    pub responsible_name: Cow<'a, str>,
    /// Their address; empty if nobody.
    pub responsible_email: Cow<'a, str>,
    /// Link to the chat.
    pub chat_url: Cow<'a, str>,
    /// Id within the workspace; 1 to 128 bytes.
    pub chat_id: Cow<'a, str>,
    /// The chat was just created.
    pub is_new_chat: bool,
    /// A group, not a direct chat.
    pub is_group: bool,
    /// Phone of the chat; empty for a group.
    pub phone: Cow<'a, str>,
}

/// The message object, with the fields and the order of the POST body.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message<'a> {
    /// Sent or received.
    pub direction: Direction,
    /// When it was written, by its sender's clock.
    #[serde(serialize_with = "as_body_timestamp")]
    pub timestamp: DateTime<Utc>,
    /// Id within the chat; 1 to 128 bytes.
    pub message_id: Cow<'a, str>,
    /// Who wrote it.
    pub sender: Party<'a>,
    /// To whom.
    pub recipient: Party<'a>,
    /// Not empty.
    pub text: Cow<'a, str>,
    /// Link to the message, if it has one; not part of the message object.
    #[serde(skip)]
    pub permalink: Option<Cow<'a, str>>,
}

/// A chat (its title) or a teammate (name in the inbox). Stored in logs of windows as it stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party<'a> {
    /// Name as displayed.
    #[serde(borrow)]
    pub full_name: Cow<'a, str>,
    /// Empty for a group.
    #[serde(borrow)]
    pub phone: Cow<'a, str>,
}

impl Party<'_> {
    /// The same, with borrowed texts.
    #[must_use]
    pub fn borrowed(&self) -> Party<'_> {
        Party { full_name: Cow::Borrowed(&self.full_name), phone: Cow::Borrowed(&self.phone) }
    }
}

/// Which way a message went. Stored in logs of windows by the order of its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// By the team.
    Sent,
    /// By the other side.
    Received,
}

/// Why a message does not count. Each skip is counted by its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// It has attachments.
    Attachments,
    /// Its text is missing, null or white space.
    EmptyText,
    /// It is older than the age limit at its arrival.
    TooOld,
    /// The same message of the chat came before.
    Duplicate,
    /// Its workspace has no webhook.
    UnknownWorkspace,
    /// The workspace's webhooks are all off.
    NoEnabledWebhook,
}

impl Skip {
    /// Every reason, for metrics.
    pub const ALL: [Self; 6] = [
        Self::Attachments,
        Self::EmptyText,
        Self::TooOld,
        Self::Duplicate,
        Self::UnknownWorkspace,
        Self::NoEnabledWebhook,
    ];

    /// The reason as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attachments => "attachments",
            Self::EmptyText => "empty_text",
            Self::TooOld => "too_old",
            Self::Duplicate => "duplicate",
            Self::UnknownWorkspace => "unknown_workspace",
            Self::NoEnabledWebhook => "no_enabled_webhook",
        }
    }

    /// The reason of a label.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|skip| skip.as_str() == label)
    }
}

fn as_body_timestamp<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&body_timestamp(*time))
}
