//! Who works on the store of windows, step by step as `aggregate` does, and may die between any two steps. What is
//! committed and published outlives it.

use std::collections::{BTreeMap, btree_map::Entry};

use bundlehook::flow::event_to_window::{ChatAppend, ChatWindow, MessageAppend, Plan};
use bundlehook::io::redis::windows::WindowStore;
use bundlehook::io::{Redis, StoreError};
use bundlehook::model::position::ClosedWindow;
use bundlehook::model::time::Millis;
use bundlehook::model::window::WindowKey;
use uuid::Uuid;

use super::model::{Content, GRANULARITIES, Message, Place, rule};

const PREFIX: &str = "p.";
const PARTITION: i32 = 3;
const TOPIC: &str = "topic";
/// Windows closed in one step: few, so that a boundary takes several.
const PAGE: usize = 2;

/// What Kafka holds.
#[derive(Default)]
pub struct Kafka {
    pub log: Vec<Message>,
    pub published: BTreeMap<Place, Content>,
    /// Positions that were published once more.
    pub repeated: usize,
    /// The accepted claim.
    token: Option<Uuid>,
    done: Done,
}

/// What a commit says is done with.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    safe: i64,
    parts: i64,
    closings: Option<ClosedWindow>,
}

/// After which step the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    TokenSet,
    ClaimCommitted,
    StateTaken,
    Published,
    Committed,
}

/// Why a process works no longer.
#[derive(Debug)]
pub enum End {
    /// It died, as it was to.
    Died,
    /// Redis or Kafka refused it: it claims again.
    Refused(StoreError),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

/// What became of the state at a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Kept,
    Rebuilt,
}

impl Kafka {
    fn publish(&mut self, place: Place, content: Content) {
        match self.published.entry(place) {
            Entry::Vacant(free) => {
                free.insert(content);
            }
            Entry::Occupied(former) => {
                assert_eq!(former.get(), &content, "{:?} has two contents", former.key());
                self.repeated += 1;
            }
        }
    }

    /// The boundary that is closed before an offset.
    fn closed_before(&self, offset: i64) -> Option<Millis> {
        self.log.iter().rev().find(|message| message.offset < offset).map(Message::closed)
    }

    /// The messages from an offset on between which no boundary closes.
    fn batch(&self, from: i64, most: usize) -> Vec<Message> {
        let mut rest = self.log.iter().filter(|message| message.offset >= from).peekable();
        let hour = rest.peek().map(|message| message.hour);
        rest.take_while(|message| Some(message.hour) == hour).take(most).cloned().collect()
    }
}

/// A claim of the partition.
pub struct Owner {
    store: WindowStore,
    token: Uuid,
    /// Everything below is applied, as it knows.
    pub applied: i64,
    position: i64,
    open: BTreeMap<Millis, i64>,
    done: Done,
    pub state: State,
}

fn dies(die: Option<Step>, step: Step) -> Result<(), End> {
    if die == Some(step) { Err(End::Died) } else { Ok(()) }
}

impl Owner {
    /// Claims the partition. `remembered` is what this process has seen applied.
    pub async fn claim(
        redis: &Redis,
        kafka: &mut Kafka,
        remembered: Option<i64>,
        die: Option<Step>,
    ) -> Result<Self, End> {
        let token = Uuid::new_v4();
        let mut store = WindowStore::new(redis.clone(), PREFIX, PARTITION, token);
        let found = store.claim().await?;
        dies(die, Step::TokenSet)?;
        let (former, mut done) = (kafka.token.replace(token), kafka.done);
        dies(die, Step::ClaimCommitted)?;
        let at_least = done.safe.max(remembered.unwrap_or(0));
        let is_ours = found.readable
            && former.is_some()
            && found.writer == former
            && found.topic.as_deref() == Some(TOPIC)
            && found.applied.is_some_and(|applied| applied >= at_least);
        let (applied, state, open) = match (found.incarnation, found.applied) {
            (Some(incarnation), Some(applied)) if is_ours => {
                store.go_on(incarnation, applied).await?;
                let open = store.open_boundaries().await?;
                let last_closed = kafka.closed_before(applied);
                done.closings = done.closings.map(|closings| closings.done_in(&open, last_closed));
                (applied, State::Kept, open)
            }
            (former, _) => {
                store.begin_anew(TOPIC, done.safe).await?;
                if let Some(former) = former {
                    WindowStore::clear(redis, PREFIX, PARTITION, &former).await?;
                }
                (done.safe, State::Rebuilt, BTreeMap::new())
            }
        };
        dies(die, Step::StateTaken)?;
        Ok(Self { store, token, applied, position: applied, open, done, state })
    }

    /// Applies at most so many of the next messages.
    pub async fn apply(&mut self, kafka: &Kafka, most: usize) -> Result<(), End> {
        let batch = kafka.batch(self.position, most);
        let Some(last) = batch.last() else { return Ok(()) };
        let (to, plan) = (last.offset + 1, plan(&batch));
        self.store.apply(&plan, to, Some(last.closed()), &rule()).await?;
        for chat in &plan.chats {
            let fresh = chat.messages.iter().map(|message| message.offset);
            if let Some(first) = fresh.filter(|offset| *offset >= self.applied).min() {
                for window in &chat.windows {
                    let oldest = self.open.entry(window.window.end).or_insert(first);
                    *oldest = first.min(*oldest);
                }
            }
        }
        self.applied = self.applied.max(to);
        self.position = to;
        Ok(())
    }

    /// Reads on from before what is applied, as after a call without an answer.
    pub fn go_back(&mut self, messages: usize, kafka: &Kafka) {
        let below = kafka.log.iter().rev().filter(|message| message.offset < self.position);
        if let Some(message) = below.take(messages).last() {
            self.position = message.offset.max(self.done.safe);
        }
    }

    /// Publishes the parts that are sealed.
    pub async fn publish_parts(&mut self, kafka: &mut Kafka, die: Option<Step>) -> Result<(), End> {
        let parts = self.store.sealed_parts().await?;
        for part in parts.iter().filter(|part| part.by >= self.done.parts) {
            let log = self.store.read_part(part).await?;
            kafka.publish(Place::Part { by: part.by, window: part.key.name() }, (part.part, log));
        }
        dies(die, Step::Published)?;
        self.done.parts = self.done.parts.max(self.applied);
        self.commit(kafka)?;
        dies(die, Step::Committed)?;
        let names: Vec<String> = parts.into_iter().map(|part| part.name).collect();
        if !names.is_empty() {
            self.store.forget_parts(&names).await?;
        }
        Ok(())
    }

    /// Closes the windows of all boundaries that are closed, page by page. Their parts go first: a window that is done
    /// with holds nothing back that a rebuild would need to cut them again.
    pub async fn close(&mut self, kafka: &mut Kafka, die: Option<Step>) -> Result<(), End> {
        self.publish_parts(kafka, None).await?;
        let Some(closed) = kafka.closed_before(self.applied) else { return Ok(()) };
        let due: Vec<Millis> = self.open.range(..=closed).map(|(boundary, _)| *boundary).collect();
        for boundary in due {
            loop {
                let page = self.store.due(boundary, 0, PAGE).await?;
                let Some((last, first_offset)) = page.last() else { break };
                let at = |first_offset, granularity| ClosedWindow { boundary, first_offset, granularity };
                let last = at(*first_offset, last.window.granularity);
                let keys: Vec<_> = page.iter().map(|(key, _)| key.clone()).collect();
                let contents = self.store.read(&keys).await?;
                for ((key, first), (log, parts)) in page.iter().zip(contents) {
                    let closed = at(*first, key.window.granularity);
                    if Some(closed) > self.done.closings {
                        kafka.publish(Place::Closing { closed, window: key.name() }, (parts, log));
                    }
                }
                dies(die, Step::Published)?;
                self.done.closings = self.done.closings.max(Some(last));
                self.commit(kafka)?;
                dies(die, Step::Committed)?;
                self.store.forget(boundary, &keys).await?;
            }
            self.done.closings = self.done.closings.max(Some(ClosedWindow::last_of(boundary)));
            self.open.remove(&boundary);
        }
        self.commit(kafka)
    }

    /// Commits what is done, if the claim is still the accepted one.
    fn commit(&mut self, kafka: &mut Kafka) -> Result<(), End> {
        if kafka.token != Some(self.token) {
            return Err(End::Refused(StoreError::Fenced));
        }
        let oldest = self.open.values().min().copied().unwrap_or(i64::MAX);
        self.done.safe = oldest.min(self.done.parts).min(self.applied).max(self.done.safe);
        kafka.done = self.done;
        Ok(())
    }
}

/// A chat is written in pieces, now and then, as where its messages go to other windows in between.
fn plan(batch: &[Message]) -> Plan {
    let mut plan = Plan::default();
    for message in batch {
        let windows = GRANULARITIES.map(|granularity| message.window(granularity));
        let known = plan.chats.iter().rposition(|chat: &ChatAppend| chat.chat == windows[0].chat);
        let index = known.filter(|_| message.offset % 3 != 0).unwrap_or_else(|| {
            let window = |key: &WindowKey| ChatWindow { window: key.window, webhooks: Vec::new() };
            plan.chats.push(ChatAppend {
                workspace: windows[0].workspace.clone(),
                chat: windows[0].chat.clone(),
                windows: windows.iter().map(window).collect(),
                details: Vec::new(),
                messages: Vec::new(),
            });
            plan.chats.len() - 1
        });
        let chat = &mut plan.chats[index];
        let fingerprint = u64::from(message.details) + 1;
        let known = chat.details.iter().position(|(other, _)| *other == fingerprint);
        let details = known.unwrap_or_else(|| {
            chat.details.push((fingerprint, message.details_frame()));
            chat.details.len() - 1
        });
        chat.messages.push(MessageAppend {
            offset: message.offset,
            message_id: message.id.to_string(),
            size: message.size,
            details,
            frame: message.frame(),
            arrived: message.closed(),
        });
    }
    plan
}
