//! Identifiers. They come from other systems, so they are opaque text of a bounded size.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most bytes an identifier may have (spec, "Records that come in").
pub const MAX_ID_BYTES: usize = 128;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("empty, expected 1 to {MAX_ID_BYTES} bytes")]
    Empty,
    /// The text is longer than [`MAX_ID_BYTES`].
    #[error("{0} bytes long, expected 1 to {MAX_ID_BYTES}")]
    TooLong(usize),
}

/// Checks the size of an identifier without copying it.
///
/// # Errors
/// [`IdError`] if the text is empty or longer than [`MAX_ID_BYTES`].
pub fn check_id(text: &str) -> Result<&str, IdError> {
    match text.len() {
        0 => Err(IdError::Empty),
        n if n > MAX_ID_BYTES => Err(IdError::TooLong(n)),
        _ => Ok(text),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text of 1 to 128 bytes.
            ///
            /// # Errors
            /// [`IdError`] if it is empty or longer.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check_id(text).map(|text| Self(text.into()))
            }

            /// The identifier as it came in.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

id! {
    /// One customer. It owns accounts, chats and webhooks.
    WorkspaceId
}
id! {
    /// A chat within its workspace; the key of `message-events` and `bundles`.
    ChatId
}
id! {
    /// One URL with its settings; the key of `webhook-settings`.
    WebhookId
}

/// The id of a bundle: the `webhook-id` that a receiver sees, the same over every retry, re-send and crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BundleId(pub Uuid);

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The namespace of every id that Bundlehook derives (UUID version 5, RFC 9562).
const NAMESPACE: Uuid = Uuid::from_u128(0x6d0c_2b1e_5f0a_4c52_9d7e_b0de_1e40_0001);

/// Derives an id from its parts. Each part is preceded by its length, so different parts never give the same name.
#[must_use]
pub fn derive_id(kind: &str, parts: &[&str]) -> Uuid {
    let mut name = Vec::with_capacity(64 + parts.iter().map(|part| part.len() + 4).sum::<usize>());
    for part in std::iter::once(&kind).chain(parts) {
        name.extend_from_slice(&(part.len() as u32).to_be_bytes());
        name.extend_from_slice(part.as_bytes());
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_128_bytes() {
        assert_eq!(ChatId::parse(""), Err(IdError::Empty));
        assert_eq!(ChatId::parse(&"x".repeat(129)), Err(IdError::TooLong(129)));
        assert_eq!(ChatId::parse(&"x".repeat(128)).map(|id| id.as_str().len()), Ok(128));
    }

    #[test]
    fn parts_that_only_look_alike_when_joined_give_different_ids() {
        assert_ne!(derive_id("bundle", &["ab", "c"]), derive_id("bundle", &["a", "bc"]));
        assert_eq!(derive_id("bundle", &["ab", "c"]), derive_id("bundle", &["ab", "c"]));
    }
}
