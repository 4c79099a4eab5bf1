//! Pulls parked deliveries of a webhook out of the queue of a partition, a page at a time and in order, with their
//! bodies; and ends the waiting of those that nobody wants any more.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Deliver,
    memory::Share,
    parking::{Limits, Parking},
    queued::{Origin, Queued},
};
use crate::{
    flow::{
        bundle_to_delivery::Delivery,
        parked_to_delivery::{Fate, fate, that_fit},
    },
    io::{StoreError, clock, kafka::reader::FoundRecord},
    model::{bundle::BundleHead, ids::WebhookId, parked::Parked},
    wire::bundle,
};

/// At most so many bytes of bodies are pulled at once.
const PAGE_BYTES: u64 = 256 * 1024;
/// So many entries are looked at in one step of a sweep.
const SWEEP_ENTRIES: usize = 500;
/// Pause before bodies that could not be read are asked for again.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// What a lane wants from a queue.
pub(super) struct Wish {
    pub parking: Parking,
    pub webhook: WebhookId,
    /// Of the lane.
    pub share: Share,
    /// Changes whenever what is fetched meanwhile would be out of order.
    pub epoch: u64,
    /// Bundle offsets that the lane has in memory or in flight.
    pub taken: HashSet<i64>,
    /// Those that were parked since while they are in flight.
    pub held: Held,
}

/// Bundle offsets of deliveries that were parked while their requests hang, since a fetch began. They stay here until
/// the next fetch, also when they have ended: whoever finds one in the queue must leave it to its attempt.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<HashSet<i64>>>);

impl Held {
    pub fn add(&self, offset: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(offset);
    }

    fn contains(&self, offset: i64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&offset)
    }
}

/// What came of it.
pub(super) struct Fetched {
    pub partition: i32,
    pub token: Uuid,
    pub epoch: u64,
    pub what: What,
}

pub(super) enum What {
    /// Deliveries, ready to go, in order.
    Pulled {
        deliveries: Vec<Queued>,
        /// The next page begins after this bundle offset.
        after: i64,
        /// There was nothing more.
        at_end: bool,
    },
    /// The first that goes on waiting.
    Swept(Option<Parked>),
    /// The claim has ended.
    Over,
}

impl Wish {
    /// True if nothing was begun with it.
    fn is_free(&self, limits: &Limits, Parked { offset, .. }: &Parked) -> bool {
        let is_begun =
            limits.leaving.contains(offset) || self.taken.contains(offset) || self.held.contains(*offset);
        !is_begun
    }

    fn fetched(&self, what: What) -> Fetched {
        let (partition, token) = (self.parking.partition(), self.parking.token());
        Fetched { partition, token, epoch: self.epoch, what }
    }

    /// The queue can't be used any more.
    fn over(&self, problem: &StoreError) -> Fetched {
        if !self.parking.is_over() {
            warn!(partition = self.parking.partition(), %problem, "the queue of parked deliveries can't be read");
            self.parking.break_off();
        }
        self.fetched(What::Over)
    }
}

impl Deliver {
    /// Pulls at most so many deliveries that stand after a bundle offset.
    pub(super) async fn pull(self: Arc<Self>, wish: Wish, after: i64, most: usize) -> Fetched {
        let limits = wish.parking.limits(&wish.webhook);
        let page = match self.page(wish.parking.queue(), &wish.webhook, after, most).await {
            Ok(page) => page,
            Err(problem) => return wish.over(&problem),
        };
        let full = page.len() >= most;
        let in_order: Vec<Parked> =
            page.iter().copied().take_while(|parked| parked.offset < limits.before).collect();
        // What stands behind an order that is not carried out comes later; the lane is told then.
        let cut = in_order.len() < page.len();
        let free = in_order.iter().copied().filter(|parked| wish.is_free(&limits, parked)).collect();
        let waiting = self.end_unwanted(&wish, free);
        let bytes = self.memory.left(&wish.share).unwrap_or_default().min(PAGE_BYTES);
        let fitting = &waiting[..that_fit(&waiting, bytes)];
        let all_fit = fitting.len() == waiting.len();
        let last = if all_fit { in_order.last() } else { fitting.last() };
        let after = last.map_or(after, |parked| parked.offset);
        match self.read_back(&wish, fitting).await {
            Some(deliveries) => {
                wish.fetched(What::Pulled { deliveries, after, at_end: (cut || !full) && all_fit })
            }
            None => wish.fetched(What::Over),
        }
    }

    /// Ends the waiting of all that stand before the first that goes on waiting.
    pub(super) async fn sweep(self: Arc<Self>, wish: Wish) -> Fetched {
        let mut after = -1;
        loop {
            let limits = wish.parking.limits(&wish.webhook);
            let page = match self.page(wish.parking.queue(), &wish.webhook, after, SWEEP_ENTRIES).await {
                Ok(page) => page,
                Err(problem) => return wish.over(&problem),
            };
            let Some(last) = page.last().map(|parked| parked.offset) else {
                return wish.fetched(What::Swept(None));
            };
            let free: Vec<Parked> = page.into_iter().filter(|parked| wish.is_free(&limits, parked)).collect();
            let looked_at = free.len();
            let waiting = self.end_unwanted(&wish, free);
            if waiting.len() == looked_at && looked_at > 0 {
                return wish.fetched(What::Swept(waiting.first().copied()));
            }
            after = last;
            wish.parking.caught_up().await;
        }
    }

    /// Orders those to be taken out that nobody wants any more, and returns the others.
    fn end_unwanted(&self, wish: &Wish, page: Vec<Parked>) -> Vec<Parked> {
        let now = clock::now();
        let fates: Vec<Fate> = {
            let directory = self.process.tail.directory();
            page.iter().map(|parked| fate(parked, &wish.webhook, &directory, now)).collect()
        };
        let mut waiting = Vec::with_capacity(page.len());
        for (parked, fate) in page.into_iter().zip(fates) {
            match fate.result() {
                None => waiting.push(parked),
                result => wish.parking.take_out(&wish.webhook, parked.offset, result, None),
            }
        }
        waiting
    }

    /// The deliveries with their bodies, once there is memory for them; none if the claim ends before.
    async fn read_back(&self, wish: &Wish, page: &[Parked]) -> Option<Vec<Queued>> {
        if page.is_empty() {
            return Some(Vec::new());
        }
        let memory = self.memory.take_page(&wish.share, page.iter().map(|parked| parked.bytes as usize));
        let rooms = tokio::select! {
            rooms = memory => rooms,
            () = wish.parking.settlements().revoked().cancelled() => return None,
        };
        let records = self.bodies(wish, page.iter().map(|parked| parked.offset).collect()).await?;
        let mut deliveries = Vec::with_capacity(page.len());
        for ((parked, room), record) in page.iter().zip(rooms).zip(records) {
            let Some((head, body)) = record.and_then(|record| verified(parked, record)) else {
                let (partition, offset) = (wish.parking.partition(), parked.offset);
                error!(webhook = %wish.webhook, partition, offset, "the body of a parked delivery is gone");
                wish.parking.take_out(&wish.webhook, offset, Some("expired"), None);
                continue;
            };
            let delivery = Delivery {
                head,
                body: body.into(),
                partition: wish.parking.partition(),
                offset: parked.offset,
                bundled_at: parked.bundled_at,
                attempts: parked.attempts,
                refusals: parked.refusals,
            };
            let (parking, metrics) = (wish.parking.clone(), &self.process.metrics);
            deliveries.push(Queued::new(delivery, parking, Origin::Queue(*parked), room, metrics));
        }
        Some(deliveries)
    }

    /// The records of bundles, waiting for Kafka as long as it takes; none if the claim ends before.
    async fn bodies(&self, wish: &Wish, offsets: Vec<i64>) -> Option<Vec<Option<FoundRecord>>> {
        loop {
            match wish.parking.bodies().read(offsets.clone()).await {
                Ok(records) => return Some(records),
                Err(_) if wish.parking.is_over() => return None,
                Err(error) => {
                    info!(partition = wish.parking.partition(), %error, "bodies of parked deliveries can't be read now");
                    tokio::time::sleep(READ_PAUSE).await;
                }
            }
        }
    }
}

/// Head and body, if the record is that of the delivery.
fn verified(parked: &Parked, record: FoundRecord) -> Option<(BundleHead, Vec<u8>)> {
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let head = bundle::decode(headers).ok().filter(|head| head.bundle_id == parked.bundle_id)?;
    Some((head, record.value))
}
