//! What a lane holds in memory, by chat: the deliveries of a chat go one at a time and in order.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::queued::{Chat, Queued};

/// The deliveries of a chat, oldest first.
#[derive(Default)]
struct ChatQueue {
    waiting: VecDeque<(u64, Queued)>,
    /// Its oldest delivery is in flight.
    busy: bool,
}

/// The chats of a lane.
#[derive(Default)]
pub(super) struct Chats {
    queues: HashMap<Chat, ChatQueue>,
    /// Chats whose oldest delivery may go, by how long it has waited.
    ready: BTreeMap<u64, Chat>,
    next_place: u64,
    waiting: usize,
}

impl Chats {
    /// True if nothing waits and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// How many deliveries wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The delivery that has waited longest of those that may go.
    pub fn first(&self) -> Option<&Queued> {
        let (_, chat) = self.ready.first_key_value()?;
        self.queues.get(chat)?.waiting.front().map(|(_, queued)| queued)
    }

    /// Adds a delivery behind all others.
    pub fn push(&mut self, queued: Queued) {
        let place = self.next_place;
        self.next_place += 1;
        self.waiting += 1;
        let chat = queued.chat();
        let queue = self.queues.entry(chat.clone()).or_default();
        if queue.waiting.is_empty() && !queue.busy {
            self.ready.insert(place, chat);
        }
        queue.waiting.push_back((place, queued));
    }

    /// Takes the first away; its chat is busy until [`Chats::free`].
    pub fn start_first(&mut self) -> Option<Queued> {
        let (_, chat) = self.ready.pop_first()?;
        let queue = self.queues.get_mut(&chat)?;
        let (_, queued) = queue.waiting.pop_front()?;
        queue.busy = true;
        self.waiting -= 1;
        Some(queued)
    }

    /// Nothing of a chat is in flight any more: its next delivery gets ready, or the chat is forgotten.
    pub fn free(&mut self, chat: &Chat) {
        let Some(queue) = self.queues.get_mut(chat) else {
            return;
        };
        queue.busy = false;
        match queue.waiting.front() {
            Some((place, _)) => {
                self.ready.insert(*place, chat.clone());
            }
            None => {
                self.queues.remove(chat);
            }
        }
    }

    /// True if one of those that wait is like this.
    pub fn any(&self, mut is_it: impl FnMut(&Queued) -> bool) -> bool {
        self.queues.values().flat_map(|queue| &queue.waiting).any(|(_, queued)| is_it(queued))
    }

    /// Takes away all that wait and are like this, in their order.
    pub fn take_where(&mut self, mut is_it: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut taken = Vec::new();
        self.ready.clear();
        self.queues.retain(|chat, queue| {
            let (out, kept) = std::mem::take(&mut queue.waiting).into_iter().partition(|(_, q)| is_it(q));
            queue.waiting = kept;
            taken.extend::<VecDeque<_>>(out);
            if let Some((place, _)) = queue.waiting.front().filter(|_| !queue.busy) {
                self.ready.insert(*place, chat.clone());
            }
            queue.busy || !queue.waiting.is_empty()
        });
        taken.sort_by_key(|(place, _)| *place);
        let taken: Vec<Queued> = taken.into_iter().map(|(_, queued)| queued).collect();
        self.waiting -= taken.len();
        taken
    }
}
