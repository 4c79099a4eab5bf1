//! The change log: who changed what of a webhook, and when.
//!
//! It is what the records of `webhook-settings` and `webhook-states` say, kept in a topic of its own, since compaction takes
//! those away. Whoever sees a record that has no change yet publishes one; its id follows from the record, so that of several
//! who do one counts. Where the latest changes of each workspace stand is known, so that a look at them reads no others.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
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
    config::KafkaSettings,
    io::kafka::{
        follow::{Follow, Following},
        publisher::{AckGroup, Outgoing},
        reader::read_places,
    },
    model::{
        ids::{WebhookId, WorkspaceId, derive_id},
        time::Millis,
    },
    wire::{change::changed_fields, settings, state},
};

/// So many changes of a workspace are shown; those before stay in the topic.
pub const MOST_CHANGES: usize = 10_000;

/// Where a change stands. In the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: String,
    version: Option<u64>,
    change_id: Uuid,
    webhook: WebhookId,
    partition: i32,
    offset: i64,
}

/// The latest changes of each workspace.
#[derive(Default)]
struct Index(HashMap<WorkspaceId, BTreeSet<Place>>);

impl Index {
    fn add(&mut self, change: &Change, partition: i32, offset: i64) {
        let places = self.0.entry(change.workspace_id.clone()).or_default();
        places.insert(Place {
            at: change.at.clone(),
            version: change.version,
            change_id: change.change_id,
            webhook: change.webhook_id.clone(),
            partition,
            offset,
        });
        if places.len() > MOST_CHANGES {
            places.pop_first();
        }
    }

    /// At most so many places, the newest first.
    fn newest(
        &self,
        workspace: Option<&WorkspaceId>,
        webhook: Option<&WebhookId>,
        count: usize,
    ) -> Vec<Place> {
        let is_wanted = |place: &&Place| webhook.is_none_or(|webhook| place.webhook == *webhook);
        let of = |places: &BTreeSet<Place>| -> Vec<Place> {
            places.iter().rev().filter(is_wanted).take(count).cloned().collect()
        };
        if let Some(workspace) = workspace {
            return self.0.get(workspace).map(of).unwrap_or_default();
        }
        let mut all: Vec<Place> = self.0.values().flat_map(of).collect();
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.truncate(count);
        all
    }
}

/// What is known while the topics are read.
#[derive(Default)]
struct Known {
    /// Changes that have a record, or are about to have one.
    noted: HashSet<Uuid>,
    /// Those of them whose record was read.
    published: HashSet<Uuid>,
    index: Index,
    /// The latest settings of each webhook.
    latest: HashMap<WebhookId, Map<String, Value>>,
    /// Changes that have none yet, in order.
    pending: Vec<Change>,
}

/// The change log, as it is kept.
#[derive(Clone)]
pub struct ChangeLog {
    known: Arc<Mutex<Known>>,
    following: Following,
    kafka: KafkaSettings,
    topic: String,
    patience: Duration,
}

impl ChangeLog {
    /// How far the topics are read.
    #[must_use]
    pub fn following(&self) -> &Following {
        &self.following
    }

    /// At most so many changes of a workspace, or of one of its webhooks, newest first.
    ///
    /// # Errors
    /// If Kafka can't be read.
    pub async fn newest(
        &self,
        workspace: Option<&WorkspaceId>,
        webhook: Option<&WebhookId>,
        count: usize,
    ) -> Result<Vec<Change>, CommandError> {
        let unread = "the change log could not be read from Kafka";
        if !within(self.patience, unread, self.following.fresh_since(Instant::now())).await? {
            return Err(CommandError::Failed("the change log is no longer read".to_owned()));
        }
        let places = lock(&self.known).index.newest(workspace, webhook, count);
        let wanted = places.iter().map(|place| (place.partition, place.offset));
        let reading = read_places(&self.kafka, &self.topic, wanted);
        let records = within(self.patience, unread, reading).await?.map_err(CommandError::unread)?;
        let change = |place: &Place| Change::decode(&records.get(&(place.partition, place.offset))?.value);
        Ok(places.iter().filter_map(change).collect())
    }
}

impl Commands {
    /// Keeps the change log until it is told to stop. Answers the log, and the task that publishes.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn keep_changes(
        &self,
        embedded: bool,
        stop: CancellationToken,
    ) -> Result<(ChangeLog, JoinHandle<()>), CommandError> {
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
        let publishing = tokio::spawn(publish(self.clone(), following.clone(), known.clone()));
        let (kafka, topic) = (self.kafka.clone(), topics.webhook_changes.clone());
        Ok((ChangeLog { known, following, kafka, topic, patience: self.patience }, publishing))
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
            pending.into_iter().filter(|change| known.noted.insert(change.change_id)).collect::<Vec<_>>()
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
            0 => self.take_change(message),
            1 => self.take_settings(message),
            _ => self.take_state(message),
        }
    }

    /// A change that was published twice counts once.
    fn take_change(&mut self, message: &BorrowedMessage<'_>) {
        let Some(change) = message.payload().and_then(Change::decode) else { return };
        self.noted.insert(change.change_id);
        if self.published.insert(change.change_id) {
            self.index.add(&change, message.partition(), message.offset());
        }
    }

    fn take_settings(&mut self, message: &BorrowedMessage<'_>) {
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        let Some(id) = key.and_then(|key| WebhookId::parse(key).ok()) else { return };
        let Some(value) = message.payload() else {
            if let Some(former) = self.latest.remove(&id) {
                let by = header(message, "updated-by");
                self.add(deletion(message, &id, &former, by));
            }
            return;
        };
        // What can't be used is not in force.
        let Ok(webhook) = settings::decode(value) else { return };
        let Ok(record) = serde_json::from_slice::<Map<String, Value>>(value) else { return };
        let mut former = self.latest.insert(id.clone(), record.clone());
        // One that moves to another workspace is gone for the former, and new to the other, which sees nothing of what was.
        if let Some(gone) = former.take_if(|former| workspace(former) != webhook.workspace_id) {
            let mut gone = deletion(message, &id, &gone, None);
            // The same record is also a change of the other workspace.
            gone.change_id = place_id("change/moved", message);
            self.add(gone);
        }
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
        let settings = self.latest.get(&id).filter(|settings| workspace(settings) == change.workspace_id);
        change.label = settings.map(|settings| text(settings, "label")).unwrap_or_default();
        if let Some(by) = record.get("by").and_then(Value::as_str) {
            by.clone_into(&mut change.by);
        }
        self.add(change);
    }

    fn add(&mut self, change: Change) {
        if !self.noted.contains(&change.change_id) {
            self.pending.push(change);
        }
    }
}

fn deletion(
    message: &BorrowedMessage<'_>,
    id: &WebhookId,
    former: &Map<String, Value>,
    by: Option<String>,
) -> Change {
    let mut change = change(message, id, workspace(former), "deleted");
    change.label = text(former, "label");
    change.by = by.unwrap_or_else(|| "somebody".to_owned());
    change
}

fn change(message: &BorrowedMessage<'_>, id: &WebhookId, workspace: WorkspaceId, what: &str) -> Change {
    Change::new(place_id("change", message), workspace, id.clone(), what, arrived(message).to_rfc3339())
}

fn arrived(message: &BorrowedMessage<'_>) -> Millis {
    Millis(message.timestamp().to_millis().unwrap_or_default())
}

/// An id that follows from the place of a record.
fn place_id(kind: &str, message: &BorrowedMessage<'_>) -> Uuid {
    let (at, partition, offset) =
        (arrived(message).0.to_string(), message.partition().to_string(), message.offset().to_string());
    derive_id(kind, &[message.topic(), &at, &partition, &offset])
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

#[cfg(test)]
mod tests {
    use super::*;

    fn change(workspace: &str, webhook: &str, number: usize) -> Change {
        let (workspace, webhook) =
            (WorkspaceId::parse(workspace).unwrap(), WebhookId::parse(webhook).unwrap());
        let id = Uuid::from_u128(number as u128);
        Change::new(id, workspace, webhook, "changed", format!("2021-02-24T16:00:{number:09}Z"))
    }

    #[test]
    fn the_newest_changes_of_a_workspace_are_found_and_only_so_many_are_remembered() {
        let mut index = Index::default();
        for number in 0..MOST_CHANGES + 5 {
            index.add(&change("ws", if number % 2 == 0 { "a" } else { "b" }, number), 3, number as i64);
        }
        index.add(&change("other", "a", 0), 1, 0);
        let (ws, a) = (WorkspaceId::parse("ws").unwrap(), WebhookId::parse("a").unwrap());
        let offsets = |workspace, webhook, count| {
            let places = index.newest(workspace, webhook, count);
            places.iter().map(|place| place.offset).collect::<Vec<_>>()
        };
        assert_eq!(offsets(Some(&ws), None, 3), [10_004, 10_003, 10_002]);
        assert_eq!(offsets(Some(&ws), Some(&a), 2), [10_004, 10_002]);
        assert_eq!(offsets(Some(&ws), None, usize::MAX).len(), MOST_CHANGES);
        assert_eq!(offsets(None, None, 1), [10_004]);
        assert_eq!(offsets(None, None, usize::MAX).last(), Some(&0), "the one of the other workspace");
    }
}
