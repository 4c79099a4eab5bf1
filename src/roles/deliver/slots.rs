//! What attempts of a lane hold, and give back without the lane: slots for requests, and chats.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use super::queued::Chat;

/// What is taken of a lane, and who is told when some of it gets free.
#[derive(Clone, Default)]
pub(super) struct Slots {
    requests: Arc<AtomicUsize>,
    /// Chats that have got free since the lane looked.
    chats: Arc<Mutex<Vec<Chat>>>,
    pub freed: Arc<Notify>,
}

/// A request in flight. Its slot is free when this is dropped.
pub(super) struct RequestSlot(Slots);

/// The next delivery of a chat may go when this is dropped.
pub(super) struct ChatSlot(Slots, Chat);

impl Slots {
    /// A slot for a request, if fewer than so many are taken. Only the lane itself takes any.
    pub fn request(&self, allowed: usize) -> Option<RequestSlot> {
        if self.requests.load(Ordering::Acquire) >= allowed {
            return None;
        }
        self.requests.fetch_add(1, Ordering::AcqRel);
        Some(RequestSlot(self.clone()))
    }

    /// That of a chat, which the lane takes for busy.
    pub fn chat(&self, chat: Chat) -> ChatSlot {
        ChatSlot(self.clone(), chat)
    }

    /// The chats that have got free since this was asked last.
    pub fn freed_chats(&self) -> Vec<Chat> {
        std::mem::take(&mut self.chats.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        // Free before the lane looks.
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

impl Drop for ChatSlot {
    fn drop(&mut self) {
        self.0.chats.lock().unwrap_or_else(PoisonError::into_inner).push(self.1.clone());
        self.0.freed.notify_one();
    }
}
