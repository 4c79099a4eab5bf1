//! Events become appends to windows, or bundles that are sent at once.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{
    model::{
        bundle::{BundleHead, BundleRecord, Origin, Source, message_bundle_id},
        event::{Event, Skip},
        history::Directory,
        ids::{ChatId, WebhookId, WorkspaceId},
        position::{NonePosition, Position},
        time::Millis,
        window::{Granularity, WindowKey, WindowRules, effective_time},
    },
    wire::{
        Poison, body,
        event::{Decoded, decode},
        window_log::{ChatDetails, Frame, LoggedMessage, encode},
    },
};

/// A record of the source, as far as this step needs it.
#[derive(Debug, Clone, Copy)]
pub struct SourceRecord<'a> {
    /// Its offset.
    pub offset: i64,
    /// The broker's timestamp.
    pub arrived: Millis,
    /// The event; none in a tombstone.
    pub value: Option<&'a [u8]>,
}

/// What a batch adds to one window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WindowAppend {
    /// Frames of chat details, each with a fingerprint: the script stores one only where the details change.
    pub chats: Vec<(u64, Vec<u8>)>,
    /// Messages in the order of their offsets.
    pub messages: Vec<MessageAppend>,
}

/// A message to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageAppend {
    /// Offset in the source.
    pub offset: i64,
    /// Tells repeats.
    pub message_id: String,
    /// Bytes of the message object.
    pub size: usize,
    /// Which of the chat frames stands before it.
    pub chat: usize,
    /// Its frame.
    pub frame: Vec<u8>,
    /// Its arrival.
    pub arrived: Millis,
    /// Who wants it.
    pub webhooks: Arc<[WebhookId]>,
}

/// A message that is sent at once, unless it is a repeat.
#[derive(Debug, Clone)]
pub struct AtOnce {
    /// Offset in the source.
    pub offset: i64,
    /// Its arrival.
    pub arrived: Millis,
    /// What a repeat has in common with it.
    pub repeat_key: String,
    /// One bundle a webhook, in the order of their ids.
    pub bundles: Vec<BundleRecord>,
}

/// A message that does not count for the webhooks that would have got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Offset in the source.
    pub offset: i64,
    /// Its arrival.
    pub arrived: Millis,
    /// Why.
    pub reason: Skip,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Those that wanted the messages of its workspace at its arrival.
    pub webhooks: Vec<WebhookId>,
}

/// A record that can't be processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Offset in the source.
    pub offset: i64,
    /// Why.
    pub poison: Poison,
}

/// What becomes of a batch.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order of their offsets.
    pub at_once: Vec<AtOnce>,
    /// By window.
    pub windows: HashMap<WindowKey, WindowAppend>,
    /// In the order of their offsets.
    pub dead_letters: Vec<DeadLetter>,
    /// How many messages do not count, by reason.
    pub skips: HashMap<Skip, u64>,
    /// Those of them that some webhook would have got; repeats are known only later.
    pub skipped: Vec<Skipped>,
    /// How many messages count.
    pub accepted: u64,
}

/// What decides the fate of messages.
pub struct Planner<'a> {
    /// Which webhooks want them.
    pub directory: &'a Directory,
    /// Where they come from.
    pub source: &'a Source,
    /// How windows are made.
    pub rules: &'a WindowRules,
    /// The last boundary closed before the first of them.
    pub last_closed: Option<Millis>,
}

impl Planner<'_> {
    /// Plans records between which no boundary closes.
    #[must_use]
    pub fn plan<'r>(&self, records: impl IntoIterator<Item = SourceRecord<'r>>) -> Plan {
        let mut plan = Plan::default();
        for record in records {
            match decode(record.value) {
                Err(poison) => plan.dead_letters.push(DeadLetter { offset: record.offset, poison }),
                Ok(Decoded::Skip(skip, workspace)) => {
                    self.skip(&mut plan, &record, skip, workspace.as_deref());
                }
                Ok(Decoded::Event(event)) => match self.place(&mut plan, &record, &event) {
                    Ok(()) => plan.accepted += 1,
                    Err(skip) => self.skip(&mut plan, &record, skip, Some(&event.workspace_id)),
                },
            }
        }
        plan
    }

    /// Counts a skip, also for each webhook that would have got the message.
    fn skip(&self, plan: &mut Plan, record: &SourceRecord<'_>, reason: Skip, workspace: Option<&str>) {
        *plan.skips.entry(reason).or_default() += 1;
        let Some(workspace) = workspace else { return };
        let wants = |id: &&WebhookId| self.directory.wanted(id, workspace, record.arrived).is_some();
        let webhooks: Vec<_> = self.directory.webhooks_of(workspace).filter(wants).cloned().collect();
        // A workspace that has webhooks has a valid id.
        if let Some(workspace) = WorkspaceId::parse(workspace).ok().filter(|_| !webhooks.is_empty()) {
            let (offset, arrived) = (record.offset, record.arrived);
            plan.skipped.push(Skipped { offset, arrived, reason, workspace, webhooks });
        }
    }

    fn place(&self, plan: &mut Plan, record: &SourceRecord<'_>, event: &Event<'_>) -> Result<(), Skip> {
        let rule = self.rules.at(record.arrived);
        if rule.too_old(event.message.timestamp, record.arrived) {
            return Err(Skip::TooOld);
        }
        let wanted = self.wanted(event, record.arrived)?;
        let effective = effective_time(event.message.timestamp, record.arrived, self.last_closed, rule);
        let object = body::message_object(&event.message);
        // Written by serde_json, so it is UTF-8.
        let object = String::from_utf8_lossy(&object);
        for (granularity, webhooks) in wanted {
            if granularity == Granularity::None {
                plan.at_once.push(self.at_once(record, event, &webhooks));
                continue;
            }
            let key = WindowKey {
                window: self.rules.at(effective).window(granularity, effective),
                workspace: event.workspace_id.to_string(),
                chat: event.chat.chat_id.to_string(),
            };
            append(plan.windows.entry(key).or_default(), record, event, &object, webhooks.into());
        }
        Ok(())
    }

    /// The webhooks that want a message, by granularity.
    fn wanted(
        &self,
        event: &Event<'_>,
        arrived: Millis,
    ) -> Result<BTreeMap<Granularity, Vec<WebhookId>>, Skip> {
        let workspace = &event.workspace_id;
        if !self.directory.knows(workspace) {
            return Err(Skip::UnknownWorkspace);
        }
        let mut wanted: BTreeMap<Granularity, Vec<WebhookId>> = BTreeMap::new();
        for id in self.directory.webhooks_of(workspace) {
            if let Some(granularity) = self.directory.wanted(id, workspace, arrived) {
                wanted.entry(granularity).or_default().push(id.clone());
            }
        }
        if wanted.is_empty() { Err(Skip::NoEnabledWebhook) } else { Ok(wanted) }
    }

    fn at_once(&self, record: &SourceRecord<'_>, event: &Event<'_>, webhooks: &[WebhookId]) -> AtOnce {
        let body: bytes::Bytes = body::single(event).into();
        let (workspace, chat, message) =
            (&event.workspace_id, &event.chat.chat_id, &event.message.message_id);
        let bundle = |webhook: &WebhookId| {
            let head = BundleHead {
                bundle_id: message_bundle_id(webhook, workspace, chat, message),
                webhook_id: webhook.clone(),
                // Checked when the event was decoded.
                workspace_id: WorkspaceId::parse(workspace).ok()?,
                chat_id: ChatId::parse(chat).ok()?,
                granularity: Granularity::None,
                window_start: None,
                part: 0,
                origin: Origin::Messages {
                    position: Position::None(NonePosition {
                        offset: record.offset,
                        webhook: webhook.clone(),
                    }),
                    source: self.source.clone(),
                    source_offset: record.offset,
                },
                messages: 1,
                arrived_at: record.arrived,
            };
            Some(BundleRecord { head, body: body.clone() })
        };
        AtOnce {
            offset: record.offset,
            arrived: record.arrived,
            repeat_key: format!("{}/{workspace}/{}/{chat}/{message}", workspace.len(), chat.len()),
            bundles: webhooks.iter().filter_map(bundle).collect(),
        }
    }
}

fn append(
    window: &mut WindowAppend,
    record: &SourceRecord<'_>,
    event: &Event<'_>,
    object: &str,
    webhooks: Arc<[WebhookId]>,
) {
    let details = encode(&Frame::ChatV1(ChatDetails::of(event)));
    let mut hasher = DefaultHasher::new();
    details.hash(&mut hasher);
    let fingerprint = hasher.finish();
    let known = window.chats.iter().position(|(known, _)| *known == fingerprint);
    let chat = known.unwrap_or_else(|| {
        window.chats.push((fingerprint, details));
        window.chats.len() - 1
    });
    window.messages.push(MessageAppend {
        offset: record.offset,
        message_id: event.message.message_id.to_string(),
        size: object.len(),
        chat,
        frame: encode(&Frame::MessageV1(LoggedMessage::new(event, object, record.offset, record.arrived))),
        arrived: record.arrived,
        webhooks,
    });
}
