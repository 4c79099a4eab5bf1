//! The lane of one webhook in one process: one POST a chat at a time, several chats in parallel, one probe at a time
//! while the circuit is tripped.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use super::{
    Deliver,
    attempt::{Attempted, SharedSeen, span_until},
    settlements::Settlements,
};
use crate::{
    flow::bundle_to_delivery::Delivery,
    io::{clock, redis::health::Seen},
    model::{
        delivery::Settlement,
        health::{Circuit, Permission},
        history::Current,
        ids::{ChatId, WebhookId, WorkspaceId},
    },
    ops::metrics::Metrics,
};

/// A lane without work ends after so long.
const IDLE: Duration = Duration::from_mins(1);
/// At most so many attempts of a lane are between their answer and their record.
const MOST_ATTEMPTS: usize = 128;
/// How often a lane that waits looks at its webhook's settings and health.
const LOOK: Duration = Duration::from_secs(1);

/// A delivery that waits in memory.
pub(super) struct Queued {
    pub delivery: Delivery,
    pub settlements: Settlements,
    _room: OwnedSemaphorePermit,
    counted: Waiting,
}

/// Counts a delivery as waiting as long as it lives.
struct Waiting {
    metrics: Metrics,
    bytes: i64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.metrics.deliveries_waiting.dec();
        self.metrics.deliveries_waiting_bytes.sub(self.bytes);
    }
}

impl Queued {
    pub fn new(
        delivery: Delivery,
        settlements: Settlements,
        room: OwnedSemaphorePermit,
        metrics: &Metrics,
    ) -> Self {
        let counted = Waiting { metrics: metrics.clone(), bytes: delivery.body.len() as i64 };
        metrics.deliveries_waiting.inc();
        metrics.deliveries_waiting_bytes.add(counted.bytes);
        Self { delivery, settlements, _room: room, counted }
    }

    fn chat(&self) -> Chat {
        (self.delivery.head.workspace_id.clone(), self.delivery.head.chat_id.clone())
    }

    /// It is done with.
    fn settle(self) {
        self.settlements.settle(self.delivery.offset);
        drop(self.counted);
    }
}

/// A chat is identified by workspace and chat id together.
type Chat = (WorkspaceId, ChatId);

/// The deliveries of a chat, oldest first.
#[derive(Default)]
struct ChatQueue {
    waiting: VecDeque<(u64, Queued)>,
    /// Its place in the lane while its oldest delivery is in flight.
    busy: bool,
}

/// Slots for the requests of a lane that are in flight.
struct RequestSlots {
    slots: Arc<Semaphore>,
    freed: Arc<Notify>,
}

/// A request in flight.
pub(super) struct RequestSlot {
    slot: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl RequestSlots {
    fn new(most: u16) -> Self {
        Self { slots: Arc::new(Semaphore::new(usize::from(most))), freed: Arc::default() }
    }

    fn take(&self) -> Option<RequestSlot> {
        let slot = self.slots.clone().try_acquire_owned().ok()?;
        Some(RequestSlot { slot: Some(slot), freed: self.freed.clone() })
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        // Free before the lane looks.
        drop(self.slot.take());
        self.freed.notify_one();
    }
}

pub(super) struct Lane {
    deliver: Arc<Deliver>,
    webhook: WebhookId,
    inbox: mpsc::UnboundedReceiver<Queued>,
    chats: HashMap<Chat, ChatQueue>,
    /// Chats whose oldest delivery may go, by how long it has waited.
    ready: BTreeMap<u64, Chat>,
    next_place: u64,
    /// Attempts, from the request to what follows it.
    in_flight: JoinSet<(u64, Attempted)>,
    /// Slots for requests; free again as soon as the answer is there.
    requests: RequestSlots,
    seen: SharedSeen,
    /// As far as this lane knows.
    circuit: Circuit,
    /// Not before then.
    wait_until: Option<Instant>,
}

impl Lane {
    pub fn new(deliver: Arc<Deliver>, webhook: WebhookId, inbox: mpsc::UnboundedReceiver<Queued>) -> Self {
        let requests = RequestSlots::new(deliver.settings.lane_requests);
        Self {
            deliver,
            webhook,
            inbox,
            chats: HashMap::new(),
            ready: BTreeMap::new(),
            next_place: 0,
            in_flight: JoinSet::new(),
            requests,
            seen: Arc::new(Mutex::new(Seen::default())),
            circuit: Circuit::Healthy,
            wait_until: None,
        }
    }

    pub async fn run(mut self) {
        let _watch = self.deliver.process.watch_for_panic("lane of a webhook");
        self.look().await;
        loop {
            self.dispatch().await;
            let idle = self.chats.is_empty() && self.in_flight.is_empty();
            let freed = self.requests.freed.clone();
            let wake = self.wait_until.unwrap_or_else(|| Instant::now() + if idle { IDLE } else { LOOK });
            tokio::select! {
                biased;
                Some(done) = self.in_flight.join_next() => match done {
                    Ok((place, attempted)) => self.finish(place, attempted),
                    Err(panic) => self.deliver.process.fail(format!("an attempt died: {panic}")),
                },
                () = freed.notified() => {}
                Some(queued) = self.inbox.recv() => self.queue(queued),
                () = tokio::time::sleep_until(wake.into()) => {
                    self.wait_until = None;
                    if idle && self.deliver.retire(&self.webhook, &self.inbox) {
                        return;
                    }
                }
            }
        }
    }

    /// Reads the health, and publishes what another process left in the outbox.
    async fn look(&mut self) {
        let Some(current) = self.current() else { return };
        let ((), health) = self.deliver.update_health(&current, &self.seen, |_| ()).await;
        let health = self.deliver.publish_notices(&current, health, &self.seen).await;
        self.circuit = health.circuit;
    }

    fn current(&self) -> Option<Current> {
        self.deliver.process.tail.directory().current(&self.webhook)
    }

    fn queue(&mut self, queued: Queued) {
        let place = self.next_place;
        self.next_place += 1;
        let chat = queued.chat();
        let queue = self.chats.entry(chat.clone()).or_default();
        if queue.waiting.is_empty() && !queue.busy {
            self.ready.insert(place, chat);
        }
        queue.waiting.push_back((place, queued));
    }

    /// Starts what may go now.
    async fn dispatch(&mut self) {
        while !self.ready.is_empty() && self.wait_until.is_none_or(|until| until <= Instant::now()) {
            self.drop_unwanted();
            let Some(current) = self.current().filter(|_| !self.ready.is_empty()) else {
                return;
            };
            let healthy = self.circuit == Circuit::Healthy;
            if self.in_flight.len() >= if healthy { MOST_ATTEMPTS } else { 1 } {
                return;
            }
            let Some(slot) = self.requests.take() else { return };
            let Some(lease) = self.permission(&current).await else {
                return;
            };
            self.start(current, lease, slot);
        }
    }

    /// A lease if one is needed; none if nothing may go now.
    async fn permission(&mut self, current: &Current) -> Option<Option<Uuid>> {
        let token = Uuid::new_v4();
        let lease = self.deliver.settings.drain();
        let permission = if self.circuit == Circuit::Healthy && current.disabled.is_none() {
            Permission::Go
        } else {
            let ask = |health: &mut crate::model::health::Health| health.permit(token, clock::now(), lease);
            let (permission, health) = self.deliver.update_health(current, &self.seen, ask).await;
            self.circuit = health.circuit;
            permission
        };
        match permission {
            Permission::Go => Some(None),
            Permission::Probe(token) => Some(Some(token)),
            Permission::Wait(until) => {
                self.wait_until = Some(Instant::now() + span_until(until).min(LOOK));
                None
            }
            Permission::Held => {
                self.wait_until = Some(Instant::now() + LOOK);
                None
            }
        }
    }

    /// Starts the delivery that has waited longest of those that may go.
    fn start(&mut self, current: Current, lease: Option<Uuid>, slot: RequestSlot) {
        let Some((place, chat)) = self.ready.pop_first() else {
            return;
        };
        let Some(queue) = self.chats.get_mut(&chat) else {
            return;
        };
        let Some((_, queued)) = queue.waiting.pop_front() else {
            return;
        };
        let Some(in_flight) = queued.settlements.begin() else {
            self.advance(&chat);
            return;
        };
        queue.busy = true;
        if let Some(rate) = current.webhook.max_per_second {
            self.wait_until = Some(Instant::now() + Duration::from_secs(1) / u32::from(rate));
        }
        let attempt =
            self.deliver.clone().attempt(queued, current, lease, self.seen.clone(), in_flight, slot);
        self.in_flight.spawn(async move { (place, attempt.await) });
    }

    /// Drops what the owner no longer wants, and forgets what belongs to a partition that was given up.
    fn drop_unwanted(&mut self) {
        let metrics = self.deliver.process.metrics.clone();
        while let Some((_, chat)) = self.ready.first_key_value() {
            let chat = chat.clone();
            let Some((_, queued)) = self.chats.get(&chat).and_then(|queue| queue.waiting.front()) else {
                return;
            };
            let dropped = {
                let directory = self.deliver.process.tail.directory();
                directory.owner_dropped(&self.webhook, queued.delivery.head.arrived_at)
                    || directory.current(&self.webhook).is_none()
            };
            if !dropped && !queued.settlements.is_revoked() {
                return;
            }
            self.ready.pop_first();
            let removed = self.chats.get_mut(&chat).and_then(|queue| queue.waiting.pop_front());
            if let Some((_, queued)) = removed.filter(|(_, queued)| !queued.settlements.is_revoked()) {
                metrics.bundles_settled.with_label_values(&["dropped"]).inc();
                queued.settle();
            }
            self.advance(&chat);
        }
    }

    /// Lets the next delivery of a chat get ready, or forgets the chat.
    fn advance(&mut self, chat: &Chat) {
        let Some(queue) = self.chats.get_mut(chat) else {
            return;
        };
        queue.busy = false;
        match queue.waiting.front() {
            Some((place, _)) => {
                self.ready.insert(*place, chat.clone());
            }
            None => {
                self.chats.remove(chat);
            }
        }
    }

    fn finish(&mut self, place: u64, attempted: Attempted) {
        let Attempted { queued, settlement, health, in_flight, slot: _slot } = attempted;
        self.circuit = health.circuit;
        let chat = queued.chat();
        if settlement == Settlement::Open {
            if let Some(queue) = self.chats.get_mut(&chat) {
                queue.waiting.push_front((place, queued));
            }
        } else {
            queued.settle();
        }
        drop(in_flight);
        self.advance(&chat);
    }
}
