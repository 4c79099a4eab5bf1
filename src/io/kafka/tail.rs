//! The tail of `webhook-settings` and `webhook-states`: keeps the directory of webhooks up to date.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use rdkafka::{Message, error::KafkaError, message::BorrowedMessage};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    client::Topics,
    follow::{Follow, Following},
};
use crate::{
    config::KafkaSettings,
    model::{
        history::{Directory, Place},
        ids::WebhookId,
        time::Millis,
        webhook::Webhook,
    },
    wire::{Poison, PoisonReason, settings, state},
};

/// A batch is applied only if the tail had reached an end offset that was asked for at most this long before the
/// batch was polled. Below the 5 s after which a change counts.
const FRESHNESS: Duration = Duration::from_secs(4);

/// A record of `webhook-settings` that can't be used.
#[derive(Debug)]
pub struct Unusable {
    pub partition: i32,
    pub offset: i64,
    pub arrived: Millis,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub poison: Poison,
}

/// The directory of webhooks, kept up to date by a thread of its own.
#[derive(Clone)]
pub struct SettingsTail {
    directory: Arc<RwLock<Directory>>,
    following: Following,
}

impl SettingsTail {
    /// Starts reading both topics from their beginning. Unusable records that arrive from now on go to `unusable`.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        settings: &KafkaSettings,
        topics: &Topics,
        require_sealed: bool,
        embedded: bool,
        stop: CancellationToken,
        unusable: mpsc::UnboundedSender<Unusable>,
    ) -> Result<Self, KafkaError> {
        let follow = Follow {
            settings,
            topics: vec![topics.webhook_settings.clone(), topics.webhook_states.clone()],
            what: "log of settings",
            embedded,
            stop,
        };
        let directory = Arc::new(RwLock::new(Directory::default()));
        let filled = directory.clone();
        let following = follow.start(|following| {
            let reader = Reader { directory: filled, following, unusable, require_sealed };
            Box::new(move |topic: usize, message: &BorrowedMessage<'_>| reader.take(topic, message))
        })?;
        Ok(Self { directory, following })
    }

    /// The directory as it stands.
    pub fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far both topics have been read.
    #[must_use]
    pub fn following(&self) -> &Following {
        &self.following
    }

    /// Whether both topics have been read to their end, and lately.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        self.following.ready()
    }

    /// Waits until the directory holds every change that counts for what was polled at a moment. False if the tail
    /// has ended.
    pub async fn fresh_for(&self, polled_at: Instant) -> bool {
        // Where the clock of the machine has just begun there is no earlier moment.
        let since = polled_at.checked_sub(FRESHNESS).unwrap_or(polled_at);
        self.following.fresh_since(since).await
    }

    /// Waits until the directory holds everything that was published before a moment. False if the tail has ended.
    pub async fn read_since(&self, moment: Instant) -> bool {
        self.following.fresh_since(moment).await
    }

    /// A receiver that changes whenever the topics have been read to their end again.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.following.watch()
    }
}

struct Reader {
    directory: Arc<RwLock<Directory>>,
    following: Following,
    unusable: mpsc::UnboundedSender<Unusable>,
    /// Settings with secrets in the clear are refused.
    require_sealed: bool,
}

impl Reader {
    fn take(&self, topic: usize, message: &BorrowedMessage<'_>) {
        let at = Millis(message.timestamp().to_millis().unwrap_or_default());
        let place = Place { at, offset: message.offset() };
        if topic == 0 {
            self.take_settings(place, message);
        } else {
            self.take_state(place, message);
        }
    }

    fn take_settings(&self, place: Place, message: &BorrowedMessage<'_>) {
        let directory = || self.directory.write().unwrap_or_else(PoisonError::into_inner);
        let Some(value) = message.payload() else {
            let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
            if let Some(id) = key.and_then(|key| WebhookId::parse(key).ok()) {
                debug!(webhook = %id, "webhook deleted");
                directory().change(place, &id, None);
            }
            return;
        };
        match usable(message.key(), value, self.require_sealed) {
            Ok(webhook) => {
                if webhook.has_plain_secrets && self.following.is_live() {
                    warn!(webhook = %webhook.webhook_id, "settings hold secrets in the clear");
                }
                debug!(webhook = %webhook.webhook_id, offset = place.offset, "settings read");
                directory().change(place, &webhook.webhook_id.clone(), Some(webhook));
            }
            Err(poison) => {
                let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
                if let Some(id) = key.and_then(|key| WebhookId::parse(key).ok()) {
                    directory().refuse(place, &id);
                }
                self.report(message, poison);
            }
        }
    }

    /// What was refused before this process started was reported then.
    fn report(&self, message: &BorrowedMessage<'_>, poison: Poison) {
        warn!(offset = message.offset(), %poison, "settings that can't be used");
        if self.following.is_live() {
            let value = message.payload().unwrap_or_default();
            let unusable = Unusable {
                partition: message.partition(),
                offset: message.offset(),
                arrived: Millis(message.timestamp().to_millis().unwrap_or_default()),
                key: message.key().unwrap_or_default().to_vec(),
                value: if self.require_sealed { settings::masked(value) } else { value.to_vec() },
                poison,
            };
            // Nobody listens in roles that do not keep dead letters.
            let _ = self.unusable.send(unusable);
        }
    }

    fn take_state(&self, place: Place, message: &BorrowedMessage<'_>) {
        let Some(value) = message.payload() else {
            if let Some((id, kind)) = message.key().and_then(state::decode_key) {
                self.directory.write().unwrap_or_else(PoisonError::into_inner).take_back(&id, kind);
            }
            return;
        };
        match state::decode(value) {
            Ok((id, state)) => {
                self.directory.write().unwrap_or_else(PoisonError::into_inner).state(place, &id, state);
            }
            Err(poison) => warn!(offset = message.offset(), %poison, "a state that can't be read"),
        }
    }
}

/// The settings of a record of `webhook-settings`. Secrets in the clear are refused if they are to be sealed.
///
/// # Errors
/// [`Poison`] if they can't be used.
pub fn usable(key: Option<&[u8]>, value: &[u8], require_sealed: bool) -> Result<Webhook, Poison> {
    let webhook = settings::decode(value).and_then(|webhook| keyed(webhook, key))?;
    if webhook.has_plain_secrets && require_sealed {
        let detail =
            "`secrets` or `headers` are in the clear, expected them sealed (`BUNDLEHOOK_REQUIRE_SEALED`)";
        return Err(Poison { reason: PoisonReason::InvalidSettings, detail: detail.to_owned() });
    }
    Ok(webhook)
}

/// Settings whose key is another webhook's would not be compacted with their own.
fn keyed(webhook: Webhook, key: Option<&[u8]>) -> Result<Webhook, Poison> {
    if key == Some(webhook.webhook_id.as_str().as_bytes()) {
        return Ok(webhook);
    }
    let key = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
    let detail = format!("the record's key is `{key}`, expected `{}`, its `webhook_id`", webhook.webhook_id);
    Err(Poison { reason: PoisonReason::InvalidSettings, detail })
}
