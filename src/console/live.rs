//! What happens to webhooks, told to whoever has a page open.

use std::{sync::Arc, time::Duration};

use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::Commands,
    config::KafkaSettings,
    io::kafka::{
        Topics,
        live::{self, Happened},
    },
    model::ids::WebhookId,
    wire::state,
};

/// So many events wait for a slow page; beyond that it misses some, and is told to look anew.
const EVENTS: usize = 256;
/// How often it is looked whether the log shows an attempt.
const LOOK: Duration = Duration::from_millis(100);
/// An attempt that does not show after so many looks is told of all the same.
const LOOKS: usize = 50;
/// Attempts of which it is waited at once until the log shows them; others are told of at once.
const WAITING: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An attempt to deliver, which the log shows by now.
    Attempt,
    /// Its settings, its state or its failures.
    Webhook,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "attempt",
            Self::Webhook => "webhook",
        }
    }
}

/// Something that happened to a webhook.
#[derive(Debug, Clone)]
pub struct LiveEvent {
    pub webhook: WebhookId,
    pub what: What,
}

/// The events of all webhooks.
pub struct LiveEvents(broadcast::Sender<LiveEvent>);

impl LiveEvents {
    /// Begins to follow the topics. The answer beside them ends when nothing is followed any more.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        commands: &Commands,
        kafka: &KafkaSettings,
        embedded: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Self, oneshot::Receiver<()>)> {
        let topics = Topics::new(&kafka.topics);
        let followed = vec![
            topics.delivery_attempts,
            topics.webhook_settings,
            topics.webhook_states,
            topics.webhook_health,
        ];
        let (sender, _) = broadcast::channel(EVENTS);
        let (events, commands) = (sender.clone(), commands.clone());
        let permits = Arc::new(tokio::sync::Semaphore::new(WAITING));
        let runtime = tokio::runtime::Handle::current();
        let ended = live::start(kafka, followed, embedded, stop.clone(), move |happened| {
            let Some((webhook, what)) = read(&happened) else { return };
            // Nobody has a page open.
            if events.receiver_count() == 0 {
                return;
            }
            let (events, commands, permits) = (events.clone(), commands.clone(), permits.clone());
            runtime.spawn(async move {
                if what == What::Attempt
                    && let Ok(_permit) = permits.try_acquire()
                {
                    shown(&commands, &webhook, &happened).await;
                }
                // The last page may have been closed meanwhile.
                let _ = events.send(LiveEvent { webhook, what });
            });
        })?;
        Ok((Self(sender), ended))
    }

    /// The events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<LiveEvent> {
        self.0.subscribe()
    }
}

fn read(happened: &Happened) -> Option<(WebhookId, What)> {
    let key = std::str::from_utf8(&happened.key).ok()?;
    match happened.topic {
        0 => Some((WebhookId::parse(key).ok()?, What::Attempt)),
        1 => Some((WebhookId::parse(key).ok()?, What::Webhook)),
        2 => Some((state::decode_key(key.as_bytes())?.0, What::Webhook)),
        _ => Some((WebhookId::parse(key.rsplit_once('/')?.0).ok()?, What::Webhook)),
    }
}

/// Waits until the log of a webhook shows an attempt.
async fn shown(commands: &Commands, webhook: &WebhookId, happened: &Happened) {
    for _ in 0..LOOKS {
        match commands.shows(webhook, happened.partition, happened.offset).await {
            Ok(false) => tokio::time::sleep(LOOK).await,
            // If it can't be asked, the page will not show more either.
            Ok(true) | Err(_) => return,
        }
    }
}
