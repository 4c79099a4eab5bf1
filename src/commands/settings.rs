//! Editing the settings of a webhook. What Kafka holds is the truth: an edit is based on the latest record there.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};

use super::{CommandError, Commands, Sealing, within};
use crate::{
    io::{
        clock,
        kafka::{
            publisher::Outgoing,
            replay::{Replayed, replay},
            tail::usable,
        },
        redis::edits::Subject,
    },
    model::{
        edit::{CLAIM_VERSION, EditClaim, Revision},
        ids::WebhookId,
        time::Millis,
        webhook::Webhook,
    },
    ops::failpoint,
    wire::settings,
};

/// A record of `webhook-settings`.
#[derive(Debug, Clone)]
pub(super) struct SettingsRecord {
    partition: i32,
    offset: i64,
    at: Millis,
    /// None: it deletes the webhook.
    value: Option<Vec<u8>>,
}

/// The settings that an edit is based on.
pub(super) struct Base {
    /// The latest record, be it usable or not.
    latest: SettingsRecord,
    /// The settings in force, and their record.
    pub webhook: Webhook,
    pub record: Vec<u8>,
}

impl Commands {
    /// The latest settings of a webhook. Where `version` is given, they must have it.
    pub(super) async fn base(&self, id: &WebhookId, version: Option<u64>) -> Result<Base, CommandError> {
        let mut records = Vec::new();
        for partition in 0..self.partitions(&self.topics.webhook_settings).await? {
            records.extend(self.settings_records(id, partition, 0).await?);
        }
        // All of a key stand in one partition, unless somebody has added partitions.
        records.sort_by_key(|record| (record.at, record.offset));
        let in_force = records.iter().rev().find_map(|record| match &record.value {
            None => Some(None),
            Some(value) => {
                let webhook = usable(Some(id.as_str().as_bytes()), value, self.require_sealed).ok();
                webhook.map(|webhook| Some((webhook, value.clone())))
            }
        });
        let in_force = match in_force {
            // None of them can be used, and compaction took the ones before them: `webhook-states` has what is in force.
            None if !records.is_empty() => {
                let webhook = Webhook::clone(&self.current(id).await?.webhook);
                let record = settings::encode(&webhook).to_string().into_bytes();
                Some((webhook, record))
            }
            found => found.flatten(),
        };
        let found = in_force.zip(records.pop());
        let ((webhook, record), latest) = found.ok_or_else(|| CommandError::unknown(id))?;
        if let Some(expected) = version.filter(|expected| *expected != webhook.version) {
            let by = said_by(&webhook);
            return Err(CommandError::Conflict(format!(
                "webhook `{id}` has version {}, changed by {by}, expected {expected}; look at it and try again",
                webhook.version
            )));
        }
        Ok(Base { latest, webhook, record })
    }

    /// Switches a webhook on or off.
    pub(super) async fn publish_switch(&self, base: &Base, enabled: bool) -> Result<Webhook, CommandError> {
        let fields = Map::from_iter([("enabled".to_owned(), enabled.into())]);
        self.publish_edit(base, fields, if enabled { "enable" } else { "disable" }).await
    }

    /// Publishes settings with some fields changed. Of several edits on the same base one is published, the others are
    /// refused.
    pub(super) async fn publish_edit(
        &self,
        base: &Base,
        fields: Map<String, Value>,
        what: &str,
    ) -> Result<Webhook, CommandError> {
        let id = &base.webhook.webhook_id;
        let version = base.webhook.version + 1;
        let secret = fields.contains_key("secrets") || fields.contains_key("headers");
        let record = settings::edited(&base.record, fields, version, clock::now(), &self.by);
        let unreadable =
            || CommandError::Failed(format!("the settings of webhook `{id}` are no JSON object"));
        let record = record.ok_or_else(unreadable)?;
        let mut webhook = settings::decode(&record).map_err(|poison| CommandError::Invalid(poison.detail))?;
        let record = if secret { self.seal(&mut webhook, record)? } else { record };
        self.publish_on(base, Some(&record), &[], what).await?;
        Ok(webhook)
    }

    /// Seals what is secret in settings.
    pub(super) fn seal(&self, webhook: &mut Webhook, record: Vec<u8>) -> Result<Vec<u8>, CommandError> {
        if !webhook.has_plain_secrets {
            return Ok(record);
        }
        match &self.sealing {
            Sealing::Plain => Ok(record),
            Sealing::Refused => Err(CommandError::Refused(
                "secrets and headers can't be stored: there are no sealing keys (`BUNDLEHOOK_SEALING_KEYS`)"
                    .to_owned(),
            )),
            Sealing::With(keys) => {
                let sealed = keys.seal_settings(&webhook.webhook_id, &record, rand::random);
                let sealed = sealed.map_err(CommandError::failed)?.unwrap_or(record);
                *webhook = settings::decode(&sealed).map_err(CommandError::failed)?;
                Ok(sealed)
            }
        }
    }

    /// Publishes a record after a base; none deletes the webhook.
    pub(super) async fn publish_on(
        &self,
        base: &Base,
        record: Option<&[u8]>,
        headers: &[(&'static str, String)],
        what: &str,
    ) -> Result<(), CommandError> {
        let id = &base.webhook.webhook_id;
        let revision = Revision::of_settings(base.latest.offset);
        self.claim(id, Subject::Settings, revision, what).await?;
        // Whoever was published before the claim is seen now; whoever comes by the same way is refused.
        self.expect_nothing_between(id, base, None).await?;
        failpoint::reach("command.claimed");
        let outgoing = Outgoing {
            topic: &self.topics.webhook_settings,
            partition: Some(base.latest.partition),
            key: id.as_str().as_bytes(),
            value: record,
            headers,
        };
        let published = self.publish_edit_record(&outgoing).await?;
        failpoint::reach("command.published");
        self.expect_nothing_between(id, base, Some(published)).await
    }

    /// Claims the next edit on a base.
    pub(super) async fn claim(
        &self,
        id: &WebhookId,
        subject: Subject,
        base: Revision,
        what: &str,
    ) -> Result<(), CommandError> {
        let at = clock::now();
        let claim = EditClaim { v: CLAIM_VERSION, base, by: self.by.clone(), what: what.to_owned(), at };
        match self.edits.claim(id, subject, &claim, at).await? {
            None => Ok(()),
            Some(other) => Err(CommandError::Conflict(format!(
                "webhook `{id}` is being changed by `{}` (`{}`, since {}); look at it and try again",
                other.by, other.what, other.at
            ))),
        }
    }

    /// Fails if somebody else has published settings after the base, and before (if given) an own record. Only who does
    /// not ask for the claim, another system say, can come between the two.
    async fn expect_nothing_between(
        &self,
        id: &WebhookId,
        base: &Base,
        own: Option<i64>,
    ) -> Result<(), CommandError> {
        let after = self.settings_records(id, base.latest.partition, base.latest.offset + 1).await?;
        let other = after.iter().find(|record| own.is_none_or(|own| record.offset < own));
        let Some(other) = other else { return Ok(()) };
        let webhook = other.value.as_deref().and_then(|value| settings::decode(value).ok());
        let who = webhook.as_ref().map_or_else(|| "somebody".to_owned(), said_by);
        let (what, advice) = match own {
            None => ("meanwhile", "look at them and try again"),
            Some(_) => (
                "while this edit was being published, which is in force now with what was before",
                "publish them again if they are wanted",
            ),
        };
        Err(CommandError::Conflict(format!(
            "the settings of webhook `{id}` were changed {what}: by {who} at {}; {advice}",
            other.at
        )))
    }

    /// The records of a webhook in a partition from an offset on.
    async fn settings_records(
        &self,
        id: &WebhookId,
        partition: i32,
        from: i64,
    ) -> Result<Vec<SettingsRecord>, CommandError> {
        let found = Arc::new(Mutex::new(Vec::new()));
        let (records, key) = (found.clone(), id.as_str().as_bytes().to_vec());
        let take = move |record: &Replayed<'_>| {
            if record.key == Some(&key) {
                let value = record.value.map(<[u8]>::to_vec);
                let record = SettingsRecord { partition, offset: record.offset, at: record.at, value };
                records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            }
            ControlFlow::Continue(())
        };
        let reading = replay(&self.kafka, &self.topics.webhook_settings, partition, from, take);
        let read = within(self.patience, "the settings could not be read from Kafka", reading).await?;
        read.map_err(CommandError::unread)?;
        let records = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(records)
    }
}

/// Who made the settings, and when, as they say.
fn said_by(webhook: &Webhook) -> String {
    let by = webhook.updated_by.as_deref().unwrap_or("somebody");
    match &webhook.updated_at {
        Some(at) => format!("`{by}` at {at}"),
        None => format!("`{by}`"),
    }
}
