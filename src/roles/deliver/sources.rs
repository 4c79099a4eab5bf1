//! The queues that a lane drains, one for each partition that has something of its webhook parked.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{JoinError, JoinSet};

use super::{
    Deliver,
    drain::{Fetched, Held, What, Wish},
    memory::Share,
    parking::Parking,
    queued::Queued,
};
use crate::{
    flow::parked_to_delivery::{Fate, fate},
    io::clock,
    model::{history::Directory, ids::WebhookId, parked::Parked},
};

/// How often a queue is looked through for what has expired, if nothing else makes that necessary.
const SWEEP: Duration = Duration::from_secs(30);

/// The queues of a lane. They take turns.
pub(super) struct Sources {
    webhook: WebhookId,
    share: Share,
    by_partition: BTreeMap<i32, Source>,
    /// Where the last page came from.
    last_pulled: i32,
    /// At most one at a time.
    fetches: JoinSet<Fetched>,
}

struct Source {
    parking: Parking,
    /// Everything up to this bundle offset was pulled.
    after: i64,
    /// What was pulled and is in memory or in flight.
    taken: HashSet<i64>,
    /// What was parked in flight since the last fetch began.
    held: Held,
    /// Changes when what is being fetched is out of date.
    epoch: u64,
    /// There was nothing more to pull.
    at_end: bool,
    /// More was parked since the last fetch began.
    has_more: bool,
    /// The first that waited when it was looked at last.
    front: Option<Parked>,
    sweep_at: Instant,
}

impl Source {
    fn new(parking: Parking) -> Self {
        let (taken, held, sweep_at) = (HashSet::new(), Held::default(), Instant::now());
        Self {
            parking,
            after: -1,
            taken,
            held,
            epoch: 0,
            at_end: false,
            has_more: false,
            front: None,
            sweep_at,
        }
    }

    fn wish(&mut self, webhook: &WebhookId, share: &Share) -> Wish {
        self.held = Held::default();
        let (parking, taken, held) = (self.parking.clone(), self.taken.clone(), self.held.clone());
        Wish { parking, webhook: webhook.clone(), share: share.clone(), epoch: self.epoch, taken, held }
    }

    /// What was pulled goes back: pulling begins anew.
    fn rewind(&mut self, webhook: &WebhookId) {
        self.parking.pulled(webhook, None);
        self.after = -1;
        self.epoch += 1;
        self.at_end = false;
    }
}

impl Sources {
    pub fn new(webhook: WebhookId, share: Share) -> Self {
        Self { webhook, share, by_partition: BTreeMap::new(), last_pulled: -1, fetches: JoinSet::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.by_partition.is_empty()
    }

    /// True if nothing is parked and nothing is being fetched.
    pub fn is_idle(&self) -> bool {
        self.fetches.is_empty()
            && !self.by_partition.values().any(|source| source.parking.holds(&self.webhook))
    }

    /// Something of the webhook is parked there.
    pub fn told(&mut self, parking: Parking) {
        let partition = parking.partition();
        let known = self.by_partition.get_mut(&partition);
        match known.filter(|source| source.parking.token() == parking.token()) {
            Some(source) => {
                (source.at_end, source.has_more) = (false, true);
                if source.front.is_none() {
                    source.sweep_at = Instant::now();
                }
            }
            None => drop(self.by_partition.insert(partition, Source::new(parking))),
        }
    }

    /// Forgets the queues of partitions that were given up.
    pub fn drop_ended(&mut self) {
        self.by_partition.retain(|_, source| !source.parking.is_over());
    }

    /// There may be more in every queue than was seen.
    pub fn reopen(&mut self) {
        self.by_partition.values_mut().for_each(|source| source.at_end = false);
    }

    /// What was pulled of one partition, or of all, goes back.
    pub fn rewind(&mut self, partition: Option<i32>) {
        for source in self.by_partition.values_mut() {
            if partition.is_none_or(|only| only == source.parking.partition()) {
                source.rewind(&self.webhook);
            }
        }
    }

    /// A delivery is parked while it is in memory: it is not to be pulled.
    pub fn hold(&mut self, parking: &Parking, offset: i64) {
        self.told(parking.clone());
        if let Some(source) = self.by_partition.get_mut(&parking.partition()) {
            source.held.add(offset);
            source.taken.insert(offset);
            source.rewind(&self.webhook);
        }
    }

    /// A delivery that was pulled is in memory no more.
    pub fn forget(&mut self, queued: &Queued) {
        let source = self.by_partition.get_mut(&queued.parking.partition());
        if let Some(source) = source.filter(|source| queued.is_of(&source.parking)) {
            source.taken.remove(&queued.delivery.offset);
        }
    }

    /// Fetches what can go next, at most so many; or ends what need not wait any more.
    pub fn fetch(&mut self, deliver: &Arc<Deliver>, most: usize) {
        if self.by_partition.is_empty() || !self.fetches.is_empty() {
            return;
        }
        let now = Instant::now();
        let to_sweep = self.to_sweep(&deliver.process.tail.directory(), now);
        if let Some(source) = to_sweep.and_then(|partition| self.by_partition.get_mut(&partition)) {
            source.sweep_at = now + SWEEP;
            self.fetches.spawn(deliver.clone().sweep(source.wish(&self.webhook, &self.share)));
            return;
        }
        let Some(partition) = self.to_pull().filter(|_| most > 0) else { return };
        self.last_pulled = partition;
        if let Some(source) = self.by_partition.get_mut(&partition) {
            source.has_more = false;
            self.fetches.spawn(deliver.clone().pull(
                source.wish(&self.webhook, &self.share),
                source.after,
                most,
            ));
        }
    }

    /// What comes of the fetch, if there is one.
    pub async fn fetched(&mut self) -> Option<Result<Fetched, JoinError>> {
        self.fetches.join_next().await
    }

    /// Takes in what came of a fetch, and answers with what was pulled.
    pub fn take(&mut self, fetched: Fetched) -> Vec<Queued> {
        let source = self.by_partition.get_mut(&fetched.partition);
        let Some(source) = source.filter(|source| source.parking.token() == fetched.token) else {
            return Vec::new();
        };
        match fetched.what {
            What::Over => drop(self.by_partition.remove(&fetched.partition)),
            What::Swept(front) => source.front = front,
            What::Pulled { .. } if source.epoch != fetched.epoch => {}
            What::Pulled { deliveries, after, at_end } => {
                (source.after, source.at_end) = (after, at_end && !source.has_more);
                source.taken.extend(deliveries.iter().map(|queued| queued.delivery.offset));
                source.parking.pulled(&self.webhook, Some(source.taken.len()).filter(|_| at_end));
                return deliveries;
            }
        }
        Vec::new()
    }

    /// A queue whose first may have to end its waiting.
    fn to_sweep(&self, directory: &Directory, now: Instant) -> Option<i32> {
        let is_due = |source: &Source| {
            let ends = |front: &Parked| fate(front, &self.webhook, directory, clock::now()) != Fate::Waits;
            (source.sweep_at <= now || source.front.as_ref().is_some_and(ends))
                && source.parking.holds(&self.webhook)
        };
        self.by_partition.iter().find(|(_, source)| is_due(source)).map(|(partition, _)| *partition)
    }

    /// The next queue in turn that has more.
    fn to_pull(&self) -> Option<i32> {
        let has_more = |(_, source): &(&i32, &Source)| {
            !source.at_end && !source.parking.is_over() && source.parking.holds(&self.webhook)
        };
        let later = self.by_partition.range(self.last_pulled + 1..).find(has_more);
        later.or_else(|| self.by_partition.iter().find(has_more)).map(|(partition, _)| *partition)
    }
}
