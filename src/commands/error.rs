use rdkafka::error::KafkaError;
use uuid::Uuid;

use crate::{
    io::{StoreError, attempt_log::LogError},
    model::ids::WebhookId,
};

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// What it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// A value can't be used.
    #[error("{0}")]
    Invalid(String),
    /// It can't be carried out as things stand.
    #[error("{0}")]
    Refused(String),
    /// Somebody else has changed, or is changing, the same.
    #[error("{0}")]
    Conflict(String),
    /// Kafka or Redis can't be reached.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    /// The code for scripts: those of sysexits where one fits, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // EX_NOINPUT
            Self::NotFound(_) => 66,
            // EX_UNAVAILABLE
            Self::Unavailable(_) => 69,
            // EX_TEMPFAIL
            Self::Conflict(_) => 75,
            Self::Invalid(_) | Self::Refused(_) | Self::Failed(_) => 1,
        }
    }

    pub(super) fn failed(error: impl std::error::Error) -> Self {
        Self::Failed(error.to_string())
    }

    /// Kafka did not answer a question.
    #[allow(clippy::needless_pass_by_value, reason = "made for `map_err`")]
    pub(super) fn unread(error: KafkaError) -> Self {
        Self::Unavailable(format!("Kafka can't be read: {error}"))
    }

    /// It broke off half-way.
    pub(super) fn half_way(self, sent: u64, request: Uuid) -> Self {
        let text = format!(
            "{self}; {sent} deliveries are being sent again, and the others will be if it is asked for once more under the \
             request id `{request}`, under which none is sent twice"
        );
        match self {
            Self::Unavailable(_) => Self::Unavailable(text),
            _ => Self::Failed(text),
        }
    }

    pub(super) fn unknown(id: &WebhookId) -> Self {
        Self::NotFound(format!(
            "webhook `{id}` does not exist; `bundlehook webhook list` shows those that do"
        ))
    }
}

impl From<LogError> for CommandError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Store(error) => error.into(),
            error @ LogError::Kafka(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        if error.is_busy() { Self::Unavailable(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}
