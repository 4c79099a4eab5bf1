//! What is parked of a partition, as its owner sees it, and the orders to park and to take out that are not carried
//! out yet. Only [`super::parker`] carries them out, one batch after the other, so that the queue in Redis always
//! reflects a prefix of `waiting-deliveries`.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    bodies::Bodies,
    settlements::{InFlight, Settlements},
};
use crate::{
    io::redis::queue::QueueStore,
    model::{
        ids::WebhookId,
        parked::{Parked, Reason},
    },
    ops::metrics::Metrics,
    wire::waiting::Owner,
};

/// Who orders many things waits until no more than this are left.
const FEW_ORDERS: usize = 2_000;

/// The parked deliveries of one claim of a partition.
#[derive(Clone)]
pub(super) struct Parking(Arc<Inner>);

struct Inner {
    partition: i32,
    token: Uuid,
    settlements: Settlements,
    queue: QueueStore,
    bodies: Bodies,
    metrics: Metrics,
    state: Mutex<State>,
    /// Wakes the parker.
    wake: Notify,
    /// The queue is gone or has another owner: the claim ends.
    broken: CancellationToken,
}

struct State {
    webhooks: HashMap<WebhookId, Held>,
    orders: VecDeque<Order>,
    /// Lanes are told of what is parked.
    announced: bool,
}

/// What a webhook has parked.
#[derive(Default)]
struct Held {
    /// In the queue.
    count: u64,
    /// Offsets that are ordered to be put, each with how many orders.
    coming: BTreeMap<i64, usize>,
    /// Offsets that are ordered to be taken out.
    leaving: HashSet<i64>,
    /// Its lane was told that there is more.
    told: bool,
    /// Its lane has pulled everything, so what is read from now on can stand behind that in memory.
    all_pulled: bool,
    /// How often its lane has given back what it had in memory.
    given_back: u64,
}

/// When a delivery was let pass: as long as its lane has given nothing back since, nothing that is parked stands before
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pass(u64);

impl Held {
    fn is_empty(&self) -> bool {
        self.count == 0 && self.coming.is_empty() && self.leaving.is_empty()
    }

    fn can_pass(&self) -> bool {
        self.coming.is_empty() && (self.all_pulled || self.is_empty())
    }
}

/// A change of the queue to be carried out.
pub(super) struct Order {
    pub change: Change,
    /// Ends with the order.
    in_flight: Option<InFlight>,
}

/// What an order asks for.
pub(super) enum Change {
    /// Parks a delivery, or renews what is known of a parked one.
    Put {
        owner: Owner,
        parked: Parked,
        reason: Reason,
        /// The bundle is done with as far as reading goes, once it is parked.
        settles: bool,
    },
    /// It is done with.
    TakeOut {
        webhook: WebhookId,
        offset: i64,
        /// What became of it, if that is not counted yet.
        result: Option<&'static str>,
    },
}

impl Change {
    pub fn webhook(&self) -> &WebhookId {
        match self {
            Self::Put { owner, .. } => &owner.webhook_id,
            Self::TakeOut { webhook, .. } => webhook,
        }
    }

    pub fn offset(&self) -> i64 {
        match self {
            Self::Put { parked, .. } => parked.offset,
            Self::TakeOut { offset, .. } => *offset,
        }
    }
}

/// What a page must leave out to be in order and free of repeats.
pub(super) struct Limits {
    /// Offsets that are ordered to be taken out.
    pub leaving: HashSet<i64>,
    /// What comes from this offset on may lack one that is ordered to be put.
    pub before: i64,
}

impl Parking {
    /// The parked deliveries of a claim, by what its queue holds.
    pub fn new(
        partition: i32,
        token: Uuid,
        settlements: Settlements,
        queue: QueueStore,
        bodies: Bodies,
        metrics: Metrics,
        counts: HashMap<WebhookId, u64>,
    ) -> Self {
        let held = |(webhook, count)| (webhook, Held { count, ..Held::default() });
        let webhooks = counts.into_iter().map(held).collect();
        let state = Mutex::new(State { webhooks, orders: VecDeque::new(), announced: false });
        let (wake, broken) = (Notify::new(), CancellationToken::new());
        let inner = Inner { partition, token, settlements, queue, bodies, metrics, state, wake, broken };
        inner.show();
        Self(Arc::new(inner))
    }

    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The claim's token.
    pub fn token(&self) -> Uuid {
        self.0.token
    }

    pub fn settlements(&self) -> &Settlements {
        &self.0.settlements
    }

    pub fn queue(&self) -> &QueueStore {
        &self.0.queue
    }

    pub fn bodies(&self) -> &Bodies {
        &self.0.bodies
    }

    /// True if the claim has ended, or must end.
    pub fn is_over(&self) -> bool {
        self.0.settlements.is_revoked() || self.0.broken.is_cancelled()
    }

    /// True if the claim must end, as its queue is gone or has another owner.
    pub fn is_broken(&self) -> bool {
        self.0.broken.is_cancelled()
    }

    /// Waits until the claim must end, as its queue is gone or has another owner.
    pub async fn broken(&self) {
        self.0.broken.cancelled().await;
    }

    /// Ends the claim.
    pub fn break_off(&self) {
        self.0.broken.cancel();
        // Attempts in flight end with their orders; the next claim learns of them from their records.
        let dropped = std::mem::take(&mut self.0.state().orders);
        drop(dropped);
    }

    /// Lanes may pull from now on: whatever is parked later stands behind what is parked now. Returns the webhooks
    /// whose lanes are to be told.
    ///
    /// At a claim that is so only once the worker has read past everything that was parked before. The former owner may
    /// have held deliveries in memory that stand before parked ones; they are read again and parked where they belong,
    /// and a lane that had pulled on past that place would leave them behind.
    pub fn announce(&self) -> Vec<WebhookId> {
        let mut state = self.0.state();
        state.announced = true;
        let tell = |(webhook, held): (&WebhookId, &mut Held)| {
            held.told = true;
            webhook.clone()
        };
        state.webhooks.iter_mut().map(tell).collect()
    }

    /// True if lanes were told of what is parked.
    pub fn is_announced(&self) -> bool {
        self.0.state().announced
    }

    /// True if a webhook has something parked, or about to be.
    pub fn holds(&self, webhook: &WebhookId) -> bool {
        self.0.state().webhooks.get(webhook).is_some_and(|held| !held.is_empty())
    }

    /// Lets a delivery of a webhook that was just read go to its lane, if nothing that is parked can come after it.
    pub fn pass(&self, webhook: &WebhookId) -> Option<Pass> {
        match self.0.state().webhooks.get(webhook) {
            None => Some(Pass::default()),
            Some(held) => held.can_pass().then_some(Pass(held.given_back)),
        }
    }

    /// True if a delivery that was let pass may still go before all that is parked.
    pub fn is_valid(&self, webhook: &WebhookId, pass: Pass) -> bool {
        // Where nothing is parked any more, all that was is done with.
        self.0.state().webhooks.get(webhook).is_none_or(|held| held.given_back == pass.0)
    }

    /// The lane of a webhook has so many of its parked deliveries in memory or in flight, and found no more; or (none)
    /// it has forgotten some of them.
    pub fn pulled(&self, webhook: &WebhookId, taken: Option<usize>) {
        if let Some(held) = self.0.state().webhooks.get_mut(webhook) {
            let all = |taken| held.coming.is_empty() && held.count == (taken + held.leaving.len()) as u64;
            held.all_pulled = taken.is_some_and(all);
            held.given_back += u64::from(taken.is_none());
        }
    }

    /// Orders a delivery to be parked that its lane had in memory or in flight. It is `settles` for one that was not parked
    /// before.
    pub fn give_back(
        &self,
        owner: Owner,
        parked: Parked,
        reason: Reason,
        settles: bool,
        in_flight: Option<InFlight>,
    ) {
        self.order(Order { change: Change::Put { owner, parked, reason, settles }, in_flight }, true);
    }

    /// Orders a delivery to be parked that was just read.
    pub fn put(&self, owner: Owner, parked: Parked, reason: Reason) {
        self.order(
            Order { change: Change::Put { owner, parked, reason, settles: true }, in_flight: None },
            false,
        );
    }

    /// Orders a parked delivery to be taken out, as it is done with.
    pub fn take_out(
        &self,
        webhook: &WebhookId,
        offset: i64,
        result: Option<&'static str>,
        in_flight: Option<InFlight>,
    ) {
        let change = Change::TakeOut { webhook: webhook.clone(), offset, result };
        self.order(Order { change, in_flight }, false);
    }

    /// Where a lane gives something back, passes from before are void with the order, not a moment earlier or later.
    fn order(&self, order: Order, gives_back: bool) {
        // What was attempted is brought to its end even when the partition is being given up.
        let pointless = self.0.settlements.is_revoked() && order.in_flight.is_none();
        if pointless {
            return;
        }
        let mut state = self.0.state();
        // Nobody carries out what comes after [`Parking::break_off`], and what is in flight would never end.
        if self.0.broken.is_cancelled() {
            return;
        }
        let held = state.webhooks.entry(order.change.webhook().clone()).or_default();
        held.given_back += u64::from(gives_back);
        match &order.change {
            Change::Put { parked, .. } => *held.coming.entry(parked.offset).or_default() += 1,
            Change::TakeOut { offset, .. } => {
                held.leaving.insert(*offset);
            }
        }
        state.orders.push_back(order);
        drop(state);
        self.0.wake.notify_one();
    }

    /// Waits until few orders are left, or the claim is over.
    pub async fn caught_up(&self) {
        while self.0.state().orders.len() > FEW_ORDERS && !self.is_over() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The oldest orders, once there are any.
    pub async fn orders(&self, most: usize) -> Vec<Order> {
        loop {
            let woken = self.0.wake.notified();
            let orders = self.0.state().oldest(most);
            if !orders.is_empty() {
                return orders;
            }
            woken.await;
        }
    }

    /// Orders were carried out; webhooks have so many left in the queue. Returns whose lanes are to be told.
    pub fn carried_out(&self, orders: &[Order], left: &[(WebhookId, u64)]) -> Vec<WebhookId> {
        let mut state = self.0.state();
        let state = &mut *state;
        let mut to_tell = Vec::new();
        for Order { change, .. } in orders {
            let Some(held) = state.webhooks.get_mut(change.webhook()) else { continue };
            match change {
                Change::Put { parked, .. } => {
                    if let Some(count) = held.coming.get_mut(&parked.offset) {
                        *count -= 1;
                        if *count == 0 {
                            held.coming.remove(&parked.offset);
                        }
                    }
                    held.all_pulled = false;
                    if state.announced && !std::mem::replace(&mut held.told, true) {
                        to_tell.push(change.webhook().clone());
                    }
                }
                Change::TakeOut { offset, .. } => {
                    held.leaving.remove(offset);
                }
            }
        }
        for (webhook, count) in left {
            if let Some(held) = state.webhooks.get_mut(webhook) {
                held.count = *count;
                if held.is_empty() {
                    state.webhooks.remove(webhook);
                }
            }
        }
        self.0.show_in(state);
        to_tell
    }

    /// A page of a webhook is about to be read: what it must leave out. What is parked from now on is told to its lane.
    pub fn limits(&self, webhook: &WebhookId) -> Limits {
        let mut state = self.0.state();
        match state.webhooks.get_mut(webhook) {
            None => Limits { leaving: HashSet::new(), before: i64::MAX },
            Some(held) => {
                held.told = false;
                let before = held.coming.first_key_value().map_or(i64::MAX, |(offset, _)| *offset);
                Limits { leaving: held.leaving.clone(), before }
            }
        }
    }
}

impl State {
    fn oldest(&mut self, most: usize) -> Vec<Order> {
        let count = self.orders.len().min(most);
        self.orders.drain(..count).collect()
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        self.show_in(&self.state());
    }

    fn show_in(&self, state: &State) {
        let parked: u64 = state.webhooks.values().map(|held| held.count).sum();
        let label = self.partition.to_string();
        self.metrics.deliveries_parked.with_label_values(&[&label]).set(parked as i64);
    }
}
