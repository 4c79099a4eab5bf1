//! Events become appends to windows, or bundles that are sent at once.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{
    model::{
        bundle::{BundleHead, BundleRecord, Origin, Source, message_bundle_id},
        event::{Event, Skip},
        history::Directory,
        ids::{ChatId, WebhookId, WorkspaceId},
        position::{NonePosition, Position},
        time::Millis,
        window::{Granularity, Window, WindowRules, effective_time},
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

/// What a batch adds to windows of one chat: messages that go to the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatAppend {
    /// The chat's workspace.
    pub workspace: String,
    /// Its id.
    pub chat: String,
    /// The windows, at most one of each granularity.
    pub windows: Vec<ChatWindow>,
    /// Frames of chat details, each with a fingerprint: the script stores one only where the details change.
    pub details: Vec<(u64, Vec<u8>)>,
    /// Messages in the order of their offsets.
    pub messages: Vec<MessageAppend>,
}

/// One of the windows that messages go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatWindow {
    /// When.
    pub window: Window,
    /// Who wants the messages.
    pub webhooks: Vec<WebhookId>,
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
    /// Which of the frames of details stands before it.
    pub details: usize,
    /// Its frame.
    pub frame: Vec<u8>,
    /// Its arrival.
    pub arrived: Millis,
}

impl ChatAppend {
    /// The name of one of its windows in Redis.
    #[must_use]
    pub fn name(&self, window: &ChatWindow) -> String {
        window.window.name(&self.workspace, &self.chat)
    }

    /// Itself with each message in each window, in the order in which the store numbers them.
    pub fn pairs(&self) -> impl Iterator<Item = (&Self, &ChatWindow, &MessageAppend)> {
        let of_window = move |window| self.messages.iter().map(move |message| (self, window, message));
        self.windows.iter().flat_map(of_window)
    }
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
    /// By chat. A chat has several where its messages go to different windows; they are in the order of their offsets.
    pub chats: Vec<ChatAppend>,
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
        let mut latest = Latest::new();
        for record in records {
            match decode(record.value) {
                Err(poison) => plan.dead_letters.push(DeadLetter { offset: record.offset, poison }),
                Ok(Decoded::Skip(skip, workspace)) => {
                    self.skip(&mut plan, &record, skip, workspace.as_deref());
                }
                Ok(Decoded::Event(event)) => match self.place(&mut plan, &mut latest, &record, &event) {
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

    fn place<'r>(
        &self,
        plan: &mut Plan,
        latest: &mut Latest<'r>,
        record: &SourceRecord<'r>,
        event: &Event<'r>,
    ) -> Result<(), Skip> {
        let rule = self.rules.at(record.arrived);
        if rule.too_old(event.message.timestamp, record.arrived) {
            return Err(Skip::TooOld);
        }
        let wanted = self.wanted(event, record.arrived)?;
        let effective = effective_time(event.message.timestamp, record.arrived, self.last_closed, rule);
        let (at_once, windowed) =
            wanted.split_at(wanted.partition_point(|(granularity, _)| *granularity == Granularity::None));
        if !at_once.is_empty() {
            plan.at_once.push(self.at_once(record, event, at_once.iter().map(|(_, webhook)| *webhook)));
        }
        if !windowed.is_empty() {
            let rule = self.rules.at(effective);
            let by_granularity = windowed.chunk_by(|one, other| one.0 == other.0);
            let windows: Vec<_> =
                by_granularity.map(|webhooks| (rule.window(webhooks[0].0, effective), webhooks)).collect();
            append_to(&mut plan.chats, latest, event, &windows).take(record, event);
        }
        Ok(())
    }

    /// The webhooks that want a message, in the order of their granularities.
    fn wanted(&self, event: &Event<'_>, arrived: Millis) -> Result<Vec<(Granularity, &WebhookId)>, Skip> {
        let workspace = &event.workspace_id;
        if !self.directory.knows(workspace) {
            return Err(Skip::UnknownWorkspace);
        }
        let granularity = |id| Some((self.directory.wanted(id, workspace, arrived)?, id));
        let mut wanted: Vec<_> = self.directory.webhooks_of(workspace).filter_map(granularity).collect();
        wanted.sort_by_key(|(granularity, _)| *granularity);
        if wanted.is_empty() { Err(Skip::NoEnabledWebhook) } else { Ok(wanted) }
    }

    fn at_once<'w>(
        &self,
        record: &SourceRecord<'_>,
        event: &Event<'_>,
        webhooks: impl Iterator<Item = &'w WebhookId>,
    ) -> AtOnce {
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
            bundles: webhooks.filter_map(bundle).collect(),
        }
    }
}

/// Where the messages of a chat were put last, by workspace and chat.
type Latest<'r> = HashMap<(Cow<'r, str>, Cow<'r, str>), usize>;

/// A window, and who wants a message in it.
type Wanted<'w> = (Window, &'w [(Granularity, &'w WebhookId)]);

impl ChatWindow {
    fn of((window, wanted): &Wanted<'_>) -> Self {
        Self { window: *window, webhooks: wanted.iter().map(|(_, webhook)| (*webhook).clone()).collect() }
    }

    fn is(&self, (window, wanted): &Wanted<'_>) -> bool {
        self.window == *window && self.webhooks.iter().eq(wanted.iter().map(|(_, webhook)| *webhook))
    }
}

/// What a message of a chat is put to: the chat's latest, if that goes to the same windows for the same webhooks.
fn append_to<'p, 'r>(
    chats: &'p mut Vec<ChatAppend>,
    latest: &mut Latest<'r>,
    event: &Event<'r>,
    windows: &[Wanted<'_>],
) -> &'p mut ChatAppend {
    let is_same = |append: &ChatAppend| {
        let mut pairs = append.windows.iter().zip(windows);
        append.windows.len() == windows.len() && pairs.all(|(own, wanted)| own.is(wanted))
    };
    let chat = (event.workspace_id.clone(), event.chat.chat_id.clone());
    let known = latest.get(&chat).copied().filter(|index| is_same(&chats[*index]));
    let index = known.unwrap_or_else(|| {
        chats.push(ChatAppend {
            workspace: event.workspace_id.to_string(),
            chat: event.chat.chat_id.to_string(),
            windows: windows.iter().map(ChatWindow::of).collect(),
            details: Vec::new(),
            messages: Vec::new(),
        });
        latest.insert(chat, chats.len() - 1);
        chats.len() - 1
    });
    &mut chats[index]
}

impl ChatAppend {
    fn take(&mut self, record: &SourceRecord<'_>, event: &Event<'_>) {
        let details = encode(&Frame::ChatV1(ChatDetails::of(event)));
        let known = self.details.iter().rposition(|(_, known)| *known == details);
        let details = known.unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            details.hash(&mut hasher);
            self.details.push((hasher.finish(), details));
            self.details.len() - 1
        });
        let (offset, arrived) = (record.offset, record.arrived);
        self.messages.push(MessageAppend {
            offset,
            message_id: event.message.message_id.to_string(),
            size: body::message_size(&event.message),
            details,
            frame: encode(&Frame::MessageV2(LoggedMessage::new(event, offset, arrived))),
            arrived,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        model::{history::Place, time::Millis, window::WindowRule},
        wire::settings,
    };

    /// A message of the chat `c`, sent so many minutes after the hour in which it arrives.
    fn message(minute: i64) -> Vec<u8> {
        let line = include_str!("../../tests/examples/events.jsonl").lines().next().expect("there is one");
        let mut event: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
        event["message"]["timestamp"] = json!(Millis(HOUR + 60_000 * minute).to_rfc3339());
        event["message"]["message_id"] = json!(minute.to_string());
        event.to_string().into_bytes()
    }

    const HOUR: i64 = 3_600_000;

    #[test]
    fn messages_of_a_chat_that_go_to_the_same_windows_stand_together_and_in_order() {
        let mut directory = Directory::default();
        let event: serde_json::Value = serde_json::from_slice(&message(0)).expect("it is JSON");
        for (id, granularity) in [("a", "1h"), ("b", "24h"), ("c", "24h")] {
            let settings = json!({
                "webhook_id": id, "workspace_id": event["workspace_id"], "label": "l", "url": "https://crm.example/",
                "granularity": granularity, "owner": {"full_name": "Amnon", "email": "amnon@acme.example"},
            });
            let webhook = settings::decode(settings.to_string().as_bytes()).expect("it is valid");
            let place = Place { at: Millis(0), offset: 0 };
            directory.change(place, &webhook.webhook_id.clone(), Some(webhook));
        }
        let hour = std::time::Duration::from_millis(HOUR as u64);
        let rules = WindowRules::single(WindowRule::new(hour, hour, std::time::Duration::ZERO));
        let source = Source { topic_id: "t".to_owned(), partition: 0 };
        let planner = Planner { directory: &directory, source: &source, rules: &rules, last_closed: None };
        // The third one belongs to the hour before: to another window of an hour, and to the same one of a day.
        let minutes = [30, 31, -1, 32, 33];
        let values: Vec<Vec<u8>> = minutes.iter().map(|minute| message(*minute)).collect();
        let arrived = Millis(HOUR + 40 * 60_000);
        let records = values.iter().zip(0..).map(|(value, offset)| SourceRecord {
            offset,
            arrived,
            value: Some(value),
        });
        let plan = planner.plan(records);
        assert_eq!(plan.accepted, 5, "{plan:?}");
        let offsets: Vec<Vec<i64>> = plan
            .chats
            .iter()
            .map(|chat| chat.messages.iter().map(|message| message.offset).collect())
            .collect();
        assert_eq!(offsets, [vec![0, 1], vec![2], vec![3, 4]]);
        let starts =
            |chat: &ChatAppend| chat.windows.iter().map(|window| window.window.start.0).collect::<Vec<_>>();
        assert_eq!(plan.chats.iter().map(starts).collect::<Vec<_>>(), [[HOUR, 0], [0, 0], [HOUR, 0]]);
        let ids = |window: &ChatWindow| window.webhooks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(plan.chats[0].windows.iter().map(ids).collect::<Vec<_>>(), [vec!["a"], vec!["b", "c"]]);
        assert_eq!(plan.chats[0].details.len(), 1, "the details of the chat stand once");
    }
}
