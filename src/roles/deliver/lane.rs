//! The lane of one webhook in one process: one POST a chat at a time, several chats in parallel, one probe at a time
//! while the circuit is tripped. What can't go soon is parked, and pulled again in order.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use uuid::Uuid;

use super::{
    Deliver,
    attempt::{Attempted, SharedSeen, span_until},
    chats::Chats,
    flying::Flying,
    memory::Share,
    parking::Parking,
    queued::Queued,
    slots::{RequestSlot, Slots},
    sources::Sources,
};
use crate::{
    io::{
        clock,
        redis::{health::Seen, turns::Turn},
    },
    model::{
        delivery::Settlement,
        health::{Circuit, Health, Permission},
        history::Current,
        ids::WebhookId,
        parked::Reason,
        ramp::Ramp,
        webhook::Activation,
    },
};

/// A lane without work ends after so long.
const IDLE: Duration = Duration::from_mins(1);
/// At most so many attempts of a lane are between their answer and their record.
const MOST_ATTEMPTS: usize = 128;
/// How often a lane that waits looks at its webhook's settings.
const LOOK: Duration = Duration::from_secs(1);
/// How often it looks at its webhook's health, if nothing else makes it.
const LOOK_AT_HEALTH: Duration = Duration::from_secs(30);
/// Longest that a delivery waits in memory before its offset may move on.
const IN_MEMORY: Duration = Duration::from_secs(30);
/// Most deliveries of a page.
const PAGE: usize = 64;

/// What a lane is told.
pub(super) enum Message {
    /// A delivery that was just read.
    Offered(Box<Queued>),
    /// Its webhook has deliveries parked there.
    Parked(Parking),
    /// Nothing of that claim is to stay in memory without being parked, not even what is in flight.
    Unload(Parking),
}

pub(super) struct Lane {
    deliver: Arc<Deliver>,
    webhook: WebhookId,
    /// Of the memory.
    share: Share,
    inbox: mpsc::UnboundedReceiver<Message>,
    chats: Chats,
    sources: Sources,
    /// Attempts, from the request to what follows it.
    in_flight: JoinSet<Attempted>,
    /// What attempts hold: a request until it ends, its chat until the record is on its way; after a failure both until
    /// the lane has taken it in.
    slots: Slots,
    ramp: Ramp,
    /// The deliveries that they are about.
    flying: Flying,
    seen: SharedSeen,
    /// As far as this lane knows, after the outcome of this number.
    circuit: Circuit,
    outcome: u64,
    activation: Activation,
    looked_at: Instant,
    tick_at: Instant,
    idle_since: Option<Instant>,
    /// Not before then.
    wait_until: Option<Instant>,
    /// When the next delivery may begin by the webhook's limit of deliveries a second, if that is settled.
    turn: Option<Instant>,
}

impl Lane {
    pub fn new(deliver: Arc<Deliver>, webhook: WebhookId, inbox: mpsc::UnboundedReceiver<Message>) -> Self {
        let settings = &deliver.settings;
        let ramp = Ramp::new(settings.lane_requests.into(), settings.lane_requests_ceiling.into());
        let share = deliver.memory.share(&webhook);
        let sources = Sources::new(webhook.clone(), share.clone());
        Self {
            deliver,
            webhook,
            share,
            inbox,
            chats: Chats::default(),
            sources,
            in_flight: JoinSet::new(),
            flying: Flying::default(),
            slots: Slots::default(),
            ramp,
            seen: Arc::new(Mutex::new(Seen::default())),
            circuit: Circuit::Healthy,
            outcome: 0,
            activation: Activation::default(),
            looked_at: Instant::now(),
            tick_at: Instant::now() + LOOK,
            idle_since: None,
            wait_until: None,
            turn: None,
        }
    }

    pub async fn run(mut self) {
        let _watch = self.deliver.process.watch_for_panic("lane of a webhook");
        self.look().await;
        loop {
            self.slots.freed_chats().iter().for_each(|chat| self.chats.free(chat));
            // Also where there is so much to do that nothing is ever waited for.
            if self.tick_at <= Instant::now() && self.tick().await {
                return;
            }
            self.dispatch().await;
            self.sources.fetch(&self.deliver, self.wanted());
            let freed = self.slots.freed.clone();
            let wake = self.wake();
            tokio::select! {
                biased;
                Some(done) = self.in_flight.join_next() => match done {
                    Ok(attempted) => self.finish(attempted),
                    Err(panic) => self.deliver.process.fail(format!("an attempt died: {panic}")),
                },
                () = freed.notified() => {}
                Some(message) = self.inbox.recv() => self.take(message),
                Some(fetched) = self.sources.fetched() => match fetched {
                    Ok(fetched) => self.sources.take(fetched).into_iter().for_each(|queued| self.chats.push(queued)),
                    Err(panic) => self.deliver.process.fail(format!("the reading of a queue died: {panic}")),
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.chats.is_empty() && self.in_flight.is_empty() && self.sources.is_idle()
    }

    /// When there may be something to do again.
    fn wake(&mut self) -> Instant {
        let now = Instant::now();
        if self.is_idle() {
            self.idle_since.get_or_insert(now);
        } else {
            self.idle_since = None;
            self.tick_at = self.tick_at.min(now + LOOK);
        }
        self.wait_until = self.wait_until.filter(|until| *until > now);
        let due = match self.circuit {
            // What is due but can't be fetched now is tried again at the next look.
            Circuit::Tripped { next_at, .. } if self.chats.waiting() == 0 && self.in_flight.is_empty() => {
                Some(span_until(next_at)).filter(|span| !span.is_zero()).map(|span| now + span)
            }
            _ => None,
        };
        [due, self.wait_until].into_iter().flatten().fold(self.tick_at, Instant::min)
    }

    /// Looks around. True if the lane has ended.
    async fn tick(&mut self) -> bool {
        let now = Instant::now();
        self.tick_at = now + if self.is_idle() { IDLE } else { LOOK };
        self.sources.drop_ended();
        if self.chats.any(Queued::is_over) {
            drop(self.chats.take_where(Queued::is_over));
        }
        self.drop_unwanted();
        self.park_overdue();
        let waits = self.circuit != Circuit::Healthy || !self.sources.is_empty();
        let enabled = self.current().is_some_and(|current| current.activation > self.activation);
        if enabled || (waits && now.duration_since(self.looked_at) >= LOOK_AT_HEALTH) {
            self.look().await;
        }
        let rested = self.idle_since.is_some_and(|since| since.elapsed() >= IDLE);
        rested && self.is_idle() && self.deliver.retire(&self.webhook, &self.inbox)
    }

    /// Reads the health, and publishes what another process left in the outbox.
    async fn look(&mut self) {
        self.looked_at = Instant::now();
        let Some(current) = self.current() else { return };
        let ((), health) = self.deliver.update_health(&current, &self.seen, |_| ()).await;
        let health = self.deliver.publish_notices(&current, health, &self.seen).await;
        self.activation = current.activation;
        self.set_circuit(&health);
    }

    fn current(&self) -> Option<Current> {
        self.deliver.process.tail.directory().current(&self.webhook)
    }

    /// Takes in what is known of the health by now.
    fn set_circuit(&mut self, health: &Health) {
        if health.number < self.outcome {
            return;
        }
        self.outcome = health.number;
        let was_healthy = self.circuit == Circuit::Healthy;
        let was_disabled = matches!(self.circuit, Circuit::Disabled { .. });
        self.circuit = health.circuit;
        match self.circuit {
            Circuit::Healthy if !was_healthy => {
                self.ramp.restart();
                self.wait_until = None;
                self.sources.reopen();
            }
            Circuit::Tripped { .. } if was_healthy => self.unload(None, Reason::Tripped),
            Circuit::Disabled { .. } if !was_disabled => self.unload(None, Reason::Disabled),
            _ => {}
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Offered(queued) => self.offered(*queued),
            Message::Parked(parking) => self.sources.told(parking),
            Message::Unload(parking) => self.free(&parking),
        }
    }

    /// Keeps a delivery in memory if it may go soon, or parks it.
    fn offered(&mut self, queued: Queued) {
        let reason = match self.circuit {
            Circuit::Tripped { .. } => Reason::Tripped,
            Circuit::Disabled { .. } => Reason::Disabled,
            Circuit::Healthy if queued.may_go() => return self.chats.push(queued),
            Circuit::Healthy => Reason::LaneFull,
        };
        let partition = queued.parking.partition();
        queued.park(reason, None);
        // Those of its partition that were pulled may be later ones of its chat, and what stands behind those, too.
        if self.chats.any(|other| other.is_parked() && other.parking.partition() == partition) {
            self.unload(Some(partition), reason);
        } else {
            self.sources.rewind(Some(partition));
        }
    }

    /// Parks everything that waits in memory, or everything of one partition. What is parked already is forgotten until
    /// it is pulled again.
    fn unload(&mut self, partition: Option<i32>, reason: Reason) {
        let is_it = |queued: &Queued| partition.is_none_or(|only| only == queued.parking.partition());
        for queued in self.chats.take_where(is_it) {
            if queued.is_parked() {
                self.sources.forget(&queued);
            } else {
                queued.park(reason, None);
            }
        }
        self.sources.rewind(partition);
    }

    /// Parks all that is in memory of a claim, and what is in flight: so its offset can move on, whatever the endpoint does.
    /// An attempt that is parked ends like any other one of a parked delivery.
    fn free(&mut self, parking: &Parking) {
        let reason = self.deliver.why_full(&self.webhook);
        self.unload(Some(parking.partition()), reason);
        // Nothing may be pulled yet, so what is in flight could not be told from what is not.
        if !parking.is_announced() {
            return;
        }
        let Self { flying, sources, .. } = self;
        flying.park(parking, reason, |offset| sources.hold(parking, offset));
    }

    /// Lets the source's offset move on past what waits for long.
    fn park_overdue(&mut self) {
        let is_overdue = |queued: &Queued| !queued.is_parked() && queued.since.elapsed() >= IN_MEMORY;
        let mut partitions = HashSet::new();
        self.chats.any(|queued| {
            if is_overdue(queued) {
                partitions.insert(queued.parking.partition());
            }
            false
        });
        for partition in partitions {
            self.unload(Some(partition), self.deliver.why_full(&self.webhook));
        }
    }

    /// What is pulled stays in memory until it goes: what the webhook's limit allows within two seconds.
    fn most_by_rate(&self) -> usize {
        let rate = self.current().and_then(|current| current.webhook.max_per_second);
        rate.map_or(usize::MAX, |rate| 2 * usize::from(rate))
    }

    /// How many deliveries there is room for.
    fn wanted(&self) -> usize {
        let waiting = self.chats.waiting();
        match self.circuit {
            Circuit::Healthy => {
                let has_room =
                    waiting < 2 * self.ramp.allowed() && self.deliver.memory.left(&self.share).is_some();
                if has_room { (4 * self.ramp.allowed()).min(PAGE).min(self.most_by_rate()) } else { 0 }
            }
            Circuit::Tripped { next_at, .. } => {
                usize::from(clock::now() >= next_at && waiting == 0 && self.in_flight.is_empty())
            }
            Circuit::Disabled { .. } => 0,
        }
    }

    /// Starts what may go now.
    async fn dispatch(&mut self) {
        while self.wait_until.is_none_or(|until| until <= Instant::now()) {
            self.drop_unwanted();
            let Some(current) = self.current().filter(|_| self.chats.first().is_some()) else {
                return;
            };
            let healthy = self.circuit == Circuit::Healthy;
            if self.in_flight.len() >= if healthy { MOST_ATTEMPTS } else { 1 } {
                return;
            }
            let Some(slot) = self.slots.request(self.ramp.allowed()) else { return };
            if !self.has_turn(&current).await {
                return;
            }
            let Some(lease) = self.permission(&current).await else {
                return;
            };
            self.start(current, lease, slot).await;
        }
    }

    /// Whether a delivery may begin now by the webhook's limit of deliveries a second. Every process takes turns.
    async fn has_turn(&mut self, current: &Current) -> bool {
        let Some(rate) = current.webhook.max_per_second else { return true };
        let turn = match self.turn.filter(|turn| turn.elapsed() < LOOK) {
            Some(turn) => turn,
            None => match self.deliver.take_turn(&self.webhook, rate).await {
                Turn::Taken(span) => Instant::now() + span,
                Turn::Later(span) => {
                    self.wait_until = Some(Instant::now() + span);
                    return false;
                }
            },
        };
        let is_due = turn <= Instant::now();
        (self.turn, self.wait_until) = if is_due { (None, None) } else { (Some(turn), Some(turn)) };
        is_due
    }

    /// A lease if one is needed; none if nothing may go now.
    async fn permission(&mut self, current: &Current) -> Option<Option<Uuid>> {
        if self.circuit == Circuit::Healthy && current.disabled.is_none() {
            return Some(None);
        }
        let (token, lease) = (Uuid::new_v4(), self.deliver.settings.drain());
        let ask = |health: &mut Health| health.permit(token, clock::now(), lease);
        let (permission, health) = self.deliver.update_health(current, &self.seen, ask).await;
        self.activation = current.activation;
        self.set_circuit(&health);
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
    async fn start(&mut self, current: Current, lease: Option<Uuid>, slot: RequestSlot) {
        if let Some(queued) = self.chats.start_first() {
            if let Some(in_flight) = queued.parking.settlements().begin() {
                self.flying.begin(&queued);
                let (seen, slots) = (self.seen.clone(), (slot, self.slots.chat(queued.chat())));
                let attempt = self.deliver.clone().attempt(queued, current, lease, seen, in_flight, slots);
                self.in_flight.spawn(attempt);
                return;
            }
            self.chats.free(&queued.chat());
        }
        // Its partition was given up: another process may try at once.
        if let Some(lease) = lease {
            self.deliver.update_health(&current, &self.seen, |health| health.release(lease)).await;
        }
    }

    /// Drops what the owner no longer wants, and forgets what belongs to a partition that was given up.
    fn drop_unwanted(&mut self) {
        while let Some(first) = self.chats.first() {
            let dropped = {
                let directory = self.deliver.process.tail.directory();
                directory.owner_dropped(&self.webhook, first.delivery.head.arrived_at)
                    || directory.current(&self.webhook).is_none()
            };
            if !dropped && !first.is_over() {
                return;
            }
            let Some(queued) = self.chats.start_first() else { return };
            let chat = queued.chat();
            self.sources.forget(&queued);
            if !queued.is_over() {
                queued.settle(Some("dropped"), None);
            }
            self.chats.free(&chat);
        }
    }

    fn finish(&mut self, attempted: Attempted) {
        let Attempted { mut queued, settlement, took, health, in_flight, slots } = attempted;
        self.flying.end(&mut queued);
        let partition = queued.parking.partition();
        if settlement == Settlement::Delivered {
            self.ramp.succeeded(took, self.chats.waiting() > 0);
        }
        self.sources.forget(&queued);
        if settlement == Settlement::Open {
            queued.park(Reason::Retry, Some(in_flight));
            // Nothing of its chat may overtake it.
            self.unload(Some(partition), Reason::LaneFull);
        } else {
            queued.settle(None, Some(in_flight));
        }
        self.set_circuit(&health);
        drop(slots);
    }
}
