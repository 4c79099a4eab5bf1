//! The change log: who changed what of a webhook, and when.
//!
//! It is what the records of `webhook-settings` and `webhook-states` say, kept in a topic of its own, since compaction takes
//! those away. Whoever sees a record that has no change yet publishes one; its id follows from the record, so that of several
//! who do one counts.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{CommandError, Commands, within};
pub use crate::wire::change::{Change, ChangedField};
use crate::{
    io::kafka::{
        follow::{Follow, Following},
        publisher::{AckGroup, Outgoing},
        replay::{Replayed, replay},
    },
    model::{
        ids::{WebhookId, WorkspaceId, derive_id},
        time::Millis,
    },
    wire::{change::changed_fields, settings, state},
};

/// What is known while the topics are read.
#[derive(Default)]
struct Known {
    /// Changes that have a record.
    published: HashSet<Uuid>,
    /// The latest settings of each webhook.
    latest: HashMap<WebhookId, Map<String, Value>>,
    /// Changes that have none yet, in order.
    pending: Vec<Change>,
}

impl Commands {
    /// Changes of a workspace, or of one of its webhooks, newest first.
    ///
    /// # Errors
    /// If Kafka can't be read.
    pub async fn changes(
        &self,
        workspace: Option<&WorkspaceId>,
        webhook: Option<&WebhookId>,
    ) -> Result<Vec<Change>, CommandError> {
        let topic = &self.topics.webhook_changes;
        let found = Arc::new(Mutex::new(HashMap::new()));
        for partition in 0..self.partitions(topic).await? {
            let (found, workspace, webhook) = (found.clone(), workspace.cloned(), webhook.cloned());
            let take = move |record: &Replayed<'_>| {
                let change = record.value.and_then(Change::decode).filter(|change| {
                    workspace.as_ref().is_none_or(|workspace| change.workspace_id == *workspace)
                        && webhook.as_ref().is_none_or(|webhook| change.webhook_id == *webhook)
                });
                if let Some(change) = change {
                    found.lock().unwrap_or_else(PoisonError::into_inner).insert(change.change_id, change);
                }
                ControlFlow::Continue(())
            };
            let reading = replay(&self.kafka, topic, partition, 0, take);
            let read = within(self.patience, "the change log could not be read from Kafka", reading).await?;
            read.map_err(CommandError::unread)?;
        }
        let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        let mut changes: Vec<Change> = found.into_values().collect();
        changes.sort_by(|one, other| {
            (&other.at, other.version, other.change_id).cmp(&(&one.at, one.version, one.change_id))
        });
        Ok(changes)
    }

    /// Keeps the change log until it is told to stop. Answers how far the topics are read, and the task that publishes.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn keep_changes(
        &self,
        embedded: bool,
        stop: CancellationToken,
    ) -> Result<(Following, JoinHandle<()>), CommandError> {
        let topics = &self.topics;
        let follow = Follow {
            settings: &self.kafka,
            topics: vec![
                topics.webhook_changes.clone(),
                topics.webhook_settings.clone(),
                topics.webhook_states.clone(),
            ],
            what: "change log",
            embedded,
            stop,
        };
        let known = Arc::new(Mutex::new(Known::default()));
        let shared = known.clone();
        let following = follow
            .start(|_| Box::new(move |topic, message| lock(&shared).take(topic, message)))
            .map_err(CommandError::failed)?;
        let publishing = tokio::spawn(publish(self.clone(), following.clone(), known));
        Ok((following, publishing))
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes changes that have no record, each time all topics have been read to their ends.
async fn publish(commands: Commands, following: Following, known: Arc<Mutex<Known>>) {
    let mut fresh = following.watch();
    while fresh.changed().await.is_ok() {
        let pending = {
            let mut known = lock(&known);
            let pending = std::mem::take(&mut known.pending);
            pending.into_iter().filter(|change| known.published.insert(change.change_id)).collect::<Vec<_>>()
        };
        for change in pending {
            let value = change.encode();
            let record = Outgoing {
                topic: &commands.topics.webhook_changes,
                partition: None,
                key: change.workspace_id.as_str().as_bytes(),
                value: Some(&value),
                headers: &[],
            };
            // It ends the process, and whoever comes next finds the change missing.
            if let Err(error) = commands.publisher.publish(&record, &AckGroup::default()).await {
                warn!(%error, webhook = %change.webhook_id, "a change could not be noted");
            }
        }
    }
}

impl Known {
    fn take(&mut self, topic: usize, message: &BorrowedMessage<'_>) {
        match topic {
            0 => self
                .published
                .extend(message.payload().and_then(Change::decode).map(|change| change.change_id)),
            1 => self.take_settings(message),
            _ => self.take_state(message),
        }
    }

    fn take_settings(&mut self, message: &BorrowedMessage<'_>) {
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        let Some(id) = key.and_then(|key| WebhookId::parse(key).ok()) else { return };
        let Some(value) = message.payload() else {
            if let Some(former) = self.latest.remove(&id) {
                let mut change = change(message, &id, workspace(&former), "deleted");
                change.label = text(&former, "label");
                change.by = header(message, "updated-by").unwrap_or_else(|| "somebody".to_owned());
                self.add(change);
            }
            return;
        };
        // What can't be used is not in force.
        let Ok(webhook) = settings::decode(value) else { return };
        let Ok(record) = serde_json::from_slice::<Map<String, Value>>(value) else { return };
        let former = self.latest.insert(id.clone(), record.clone());
        let fields = changed_fields(former.as_ref().unwrap_or(&Map::new()), &record);
        if fields.is_empty() {
            return;
        }
        let what = if former.is_some() { "changed" } else { "created" };
        let mut change = change(message, &id, webhook.workspace_id, what);
        change.label = webhook.label;
        change.version = Some(webhook.version);
        change.by = webhook.updated_by.unwrap_or_else(|| "somebody".to_owned());
        change.fields = fields;
        self.add(change);
    }

    fn take_state(&mut self, message: &BorrowedMessage<'_>) {
        let Some((id, _)) = message.key().and_then(state::decode_key) else { return };
        let Some(Ok(record)) = message.payload().map(serde_json::from_slice::<Map<String, Value>>) else {
            return;
        };
        let what = match record.get("kind").and_then(Value::as_str) {
            Some("disabled") => "disabled",
            Some("cut") => "discarded",
            // One that is not null only stores what the settings say.
            Some("activation") if record.get("activation").is_none_or(Value::is_null) => "enabled",
            _ => return,
        };
        let mut change = change(message, &id, workspace(&record), what);
        change.label = self.latest.get(&id).map(|settings| text(settings, "label")).unwrap_or_default();
        if let Some(by) = record.get("by").and_then(Value::as_str) {
            by.clone_into(&mut change.by);
        }
        self.add(change);
    }

    fn add(&mut self, change: Change) {
        if !self.published.contains(&change.change_id) {
            self.pending.push(change);
        }
    }
}

fn change(message: &BorrowedMessage<'_>, id: &WebhookId, workspace: WorkspaceId, what: &str) -> Change {
    let at = Millis(message.timestamp().to_millis().unwrap_or_default());
    let place =
        [message.topic(), &at.0.to_string(), &message.partition().to_string(), &message.offset().to_string()];
    Change::new(derive_id("change", &place), workspace, id.clone(), what, at.to_rfc3339())
}

fn text(record: &Map<String, Value>, field: &str) -> String {
    record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn workspace(record: &Map<String, Value>) -> WorkspaceId {
    WorkspaceId::parse(&text(record, "workspace_id"))
        .unwrap_or_else(|_| WorkspaceId::parse("unknown").expect("it is short enough"))
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let header = message.headers()?.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(header.value?).into_owned())
}
