//! Switching webhooks on and off.

use serde::Serialize;

use super::{CommandError, Commands};
use crate::{
    flow::outcome_to_notice::{self, NoticeTopic},
    io::{clock, kafka::publisher::Outgoing, redis::edits::Subject},
    model::{
        edit::Revision,
        health::{Circuit, Notice, NoticeKind},
        history::Current,
        ids::{WebhookId, derive_id},
        time::Millis,
        webhook::Webhook,
    },
    ops::failpoint,
    wire::state,
};

/// What becomes of the deliveries that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// They are sent.
    Send,
    /// They are dropped.
    Discard,
}

/// What a switch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Switched {
    /// It was so already.
    Unchanged,
    /// Its owner's settings say so now.
    BySettings,
    /// The system's disabling is void.
    ByActivation,
}

impl Commands {
    /// Switches a webhook off, as its owner: what is open or waits is dropped.
    ///
    /// # Errors
    /// If there is no such webhook, it does not have the version that is expected, or its settings are edited meanwhile.
    pub async fn disable(&self, id: &WebhookId, version: Option<u64>) -> Result<Switched, CommandError> {
        let base = self.base(id, version).await?;
        if !base.webhook.enabled {
            return Ok(Switched::Unchanged);
        }
        self.publish_switch(&base, false).await?;
        Ok(Switched::BySettings)
    }

    /// Switches a webhook on that its owner or the system has disabled. What the system holds is sent or discarded, so
    /// that must be said where something may be held.
    ///
    /// # Errors
    /// As [`Commands::disable`].
    pub async fn enable(
        &self,
        id: &WebhookId,
        held: Option<Held>,
        version: Option<u64>,
    ) -> Result<Switched, CommandError> {
        let base = self.base(id, version).await?;
        if !base.webhook.enabled {
            // To be off has dropped whatever was held.
            self.publish_switch(&base, true).await?;
            return Ok(Switched::BySettings);
        }
        let current = self.current(id).await?;
        let Circuit::Disabled { at } = self.health_of(&current).await?.circuit else {
            return Ok(Switched::Unchanged);
        };
        let held = held.ok_or_else(|| {
            CommandError::Refused(format!(
                "webhook `{id}` was disabled by the system at {at} and its deliveries are held; say what becomes of them \
                 with `--send` or `--discard`"
            ))
        })?;
        self.activate(&current, held).await?;
        Ok(Switched::ByActivation)
    }

    /// Publishes an activation. A discard is published before: should nothing follow it, the webhook is as disabled as
    /// before, and the command can be given again.
    async fn activate(&self, current: &Current, held: Held) -> Result<(), CommandError> {
        let (webhook, id) = (&current.webhook, &current.webhook.webhook_id);
        let what = match held {
            Held::Send => "enable --send",
            Held::Discard => "enable --discard",
        };
        self.claim(id, Subject::Activation, Revision::of_activation(current.activation), what).await?;
        failpoint::reach("command.claimed");
        if self.current(id).await?.activation > current.activation {
            return Err(CommandError::Conflict(format!(
                "webhook `{id}` was enabled by somebody else meanwhile; look at it and try again"
            )));
        }
        if held == Held::Discard {
            let (key, value) = state::encode_discard(webhook, self.broker_time().await?);
            self.publish_state(&key, &value).await?;
            failpoint::reach("command.discarded");
        }
        let at = clock::now();
        let (key, value) = state::encode_enabling(webhook, at, &self.by);
        self.publish_state(&key, &value).await?;
        failpoint::reach("command.published");
        self.tell_enabled(webhook, at).await
    }

    /// Publishes the event and the e-mail of an enabling. A command that dies before has enabled the webhook all the same.
    async fn tell_enabled(&self, webhook: &Webhook, at: Millis) -> Result<(), CommandError> {
        let activation = self.current(&webhook.webhook_id).await?.activation;
        let id = derive_id("enabled", &[webhook.webhook_id.as_str(), &activation.to_string()]);
        let (failures, last_error) = (0, String::new());
        let notice = Notice { id, kind: NoticeKind::Enabled, activation, at, failures, last_error };
        for record in outcome_to_notice::records(webhook, &notice) {
            let topic = match record.topic {
                NoticeTopic::WebhookEvents => &self.topics.webhook_events,
                NoticeTopic::Notifications => &self.topics.notifications,
                NoticeTopic::WebhookStates => &self.topics.webhook_states,
            };
            let (key, value) = (record.key.as_bytes(), Some(record.value.as_slice()));
            self.publish(&Outgoing { topic, partition: None, key, value, headers: &record.headers }).await?;
        }
        Ok(())
    }

    async fn publish_state(&self, key: &str, value: &[u8]) -> Result<(), CommandError> {
        let topic = &self.topics.webhook_states;
        let (key, value) = (key.as_bytes(), Some(value));
        self.publish_edit_record(&Outgoing { topic, partition: None, key, value, headers: &[] })
            .await
            .map(drop)
    }
}
