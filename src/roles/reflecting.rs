//! Keeps the views of webhooks up with one partition of a topic, record by record in the order of their offsets. What
//! this process has written is handed over; everything else is read from the topic: what came before the claim, what a
//! former owner wrote late, and, if Redis lost the views, all of it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::error::KafkaError;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{debug, info, warn};

use super::process::Process;
use crate::{
    io::{
        StoreError, clock,
        kafka::replay::{Replayed, replay},
        redis::views::{Item, Progress, ViewSource, ViewStore},
    },
    model::statistics::Tenure,
};

/// So many records are taken in at a time.
const BATCH: usize = 500;
/// So many webhooks are written at a time.
const AT_ONCE: usize = 32;
/// So many records that were handed over wait in memory; what is beyond is read from the topic.
const WAITING: usize = 2_000;
/// Records gather for so long before they are taken in: each time takes two calls of Redis, for however many.
const GATHER: Duration = Duration::from_millis(100);
/// A record that is missing between others for so long was written by somebody else.
const GAP: Duration = Duration::from_secs(1);
/// How often a view is looked at of which nothing comes.
const LOOK: Duration = Duration::from_secs(5);
/// Pause after trouble with Redis or Kafka.
const PAUSE: Duration = Duration::from_millis(500);

/// What a record says, by webhook.
pub type Items = Vec<(Tenure, Item)>;

/// Reads what a record says: its partition, its offset, its value.
pub type ReadItems = fn(i32, i64, &[u8]) -> Items;

/// Hands over records that were acknowledged. Never waits.
#[derive(Clone)]
pub struct HandOver {
    records: mpsc::Sender<(i64, Items)>,
    /// Something did not fit.
    missed: Arc<AtomicBool>,
}

impl HandOver {
    /// Hands over what the record at an offset says. What does not fit is read from the topic.
    pub fn note(&self, offset: i64, items: Items) {
        if self.records.try_send((offset, items)).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// What is followed.
pub struct Reflecting {
    pub process: Process,
    pub topic: String,
    pub source: ViewSource,
    pub read: ReadItems,
}

impl Reflecting {
    /// A follower and the way to hand records over to it.
    #[must_use]
    pub fn begin(self) -> (HandOver, Follower) {
        let (sender, records) = mpsc::channel(WAITING);
        let missed = Arc::new(AtomicBool::new(false));
        let views = Arc::new(ViewStore::new(self.process.redis.clone(), self.process.topics.prefix()));
        let follower = Follower {
            views,
            records,
            missed: missed.clone(),
            waiting: BTreeMap::new(),
            progress: Progress { incarnation: 0, reflects: 0 },
            known: HashMap::new(),
            following: self,
        };
        (HandOver { records: sender, missed }, follower)
    }
}

/// See the module.
pub struct Follower {
    following: Reflecting,
    views: Arc<ViewStore>,
    records: mpsc::Receiver<(i64, Items)>,
    missed: Arc<AtomicBool>,
    /// Records that were handed over and are not taken in yet.
    waiting: BTreeMap<i64, Items>,
    /// All records below this are taken in.
    progress: Progress,
    /// What the view of each webhook reflects, as far as this follower wrote it.
    known: HashMap<Tenure, i64>,
}

/// Why following ended.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The views can't be relied on; they are begun anew, or somebody has done so.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The view of a webhook lacks what was written to it, although the progress is there.
    #[error("the view of a webhook is gone or went backwards")]
    Partly,
    /// The log ends below what the views reflect: it is another one.
    #[error("the log ends below what is reflected")]
    OtherLog,
    #[error("{0}")]
    Kafka(#[from] KafkaError),
}

impl Follower {
    /// Follows until it is dropped.
    pub async fn run(mut self) {
        let _watch = self.following.process.watch_for_panic("views of webhooks");
        let source = self.following.source;
        let mut anew = false;
        loop {
            let Err(trouble) = self.follow(anew).await else { return };
            anew = matches!(trouble, Trouble::Partly | Trouble::OtherLog);
            match &trouble {
                Trouble::Store(StoreError::Lost) | Trouble::Partly | Trouble::OtherLog => {
                    info!(%source, reason = %trouble, "views of webhooks are read again");
                }
                other => warn!(%source, error = %other, "views of webhooks wait"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends without an error if nothing can be handed over any more.
    async fn follow(&mut self, anew: bool) -> Result<(), Trouble> {
        self.progress = self.found(anew).await?;
        self.known.clear();
        self.catch_up().await?;
        let mut gap_since = None;
        let mut looked = Instant::now();
        loop {
            let wait = if self.waiting.is_empty() { LOOK } else { GAP };
            match tokio::time::timeout(wait, self.records.recv()).await {
                Ok(Some((offset, items))) => {
                    self.wait_with(offset, items);
                    tokio::time::sleep(GATHER).await;
                }
                Ok(None) => return Ok(()),
                Err(_) => {}
            }
            while let Ok((offset, items)) = self.records.try_recv() {
                self.wait_with(offset, items);
            }
            let taken = self.take_waiting().await?;
            if taken || self.waiting.is_empty() {
                gap_since = None;
            }
            let has_gap =
                !self.waiting.is_empty() && gap_since.get_or_insert_with(Instant::now).elapsed() >= GAP;
            if has_gap || self.missed.swap(false, Ordering::Relaxed) {
                self.catch_up().await?;
                gap_since = None;
            }
            if taken {
                looked = Instant::now();
            } else if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.advance(self.progress.reflects).await?;
            }
        }
    }

    fn wait_with(&mut self, offset: i64, items: Items) {
        if offset >= self.progress.reflects && self.waiting.len() < WAITING {
            self.waiting.insert(offset, items);
        } else if offset >= self.progress.reflects {
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// The progress of the views as it stands, or of new ones.
    async fn found(&self, anew: bool) -> Result<Progress, Trouble> {
        let source = self.following.source;
        let found = self.views.progress(source).await?;
        if let Some(progress) = found.filter(|_| !anew) {
            return Ok(progress);
        }
        let last = found.map_or(0, |progress| progress.incarnation).max(self.progress.incarnation);
        let begun = self.views.begin(source, clock::now().0.max(last + 1)).await?;
        debug!(%source, incarnation = begun.incarnation, "views of webhooks are begun anew");
        Ok(begun)
    }

    /// Takes in what was handed over, as far as nothing is missing in between. True if there was something.
    async fn take_waiting(&mut self) -> Result<bool, Trouble> {
        let mut taken = false;
        loop {
            let (mut next, mut records) = (self.progress.reflects, Vec::new());
            self.waiting = self.waiting.split_off(&next);
            while let Some(items) = self.waiting.remove(&next).filter(|_| records.len() < BATCH) {
                records.push(items);
                next += 1;
            }
            if records.is_empty() {
                return Ok(taken);
            }
            self.take(records, next).await?;
            taken = true;
        }
    }

    /// Reads the topic from where the views are to its end.
    async fn catch_up(&mut self) -> Result<(), Trouble> {
        let Reflecting { process, topic, source, read } = &self.following;
        let (sender, mut records) = mpsc::channel(2 * BATCH);
        let (partition, read, begun) = (source.partition, *read, self.progress.reflects);
        let take = move |record: &Replayed<'_>| {
            let items = record.value.map(|value| read(partition, record.offset, value)).unwrap_or_default();
            match sender.blocking_send((record.offset, items)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let (process, topic) = (process.clone(), topic.clone());
        let reading = replay(&process.kafka, &topic, partition, begun, take);
        let taking = async {
            let mut batch = Vec::with_capacity(BATCH);
            while records.recv_many(&mut batch, BATCH).await > 0 {
                let next = batch.last().map_or(0, |(offset, _)| offset + 1);
                let taken = self.take(batch.drain(..).map(|(_, items)| items).collect(), next).await;
                if taken.is_err() {
                    records.close();
                    return taken;
                }
            }
            Ok(())
        };
        let (end, taken) = tokio::join!(reading, taking);
        taken?;
        let end = end?;
        if end < begun {
            return Err(Trouble::OtherLog);
        }
        // What compaction or an unreadable record left out is passed.
        self.advance(end).await
    }

    /// Takes records into the views, which then reflect everything below an offset.
    async fn take(&mut self, records: Vec<Items>, next: i64) -> Result<(), Trouble> {
        let mut webhooks: BTreeMap<Tenure, Vec<Item>> = BTreeMap::new();
        for (webhook, item) in records.into_iter().flatten() {
            webhooks.entry(webhook).or_default().push(item);
        }
        let mut webhooks = webhooks.into_iter();
        let mut writes = JoinSet::new();
        loop {
            for (webhook, items) in webhooks.by_ref().take(AT_ONCE - writes.len()) {
                writes.spawn(self.write(webhook, items, next));
            }
            match writes.join_next().await {
                None => break,
                Some(Ok(written)) => self.note_written(written?, next)?,
                // Reported by the runtime; the records are read again.
                Some(Err(_)) => return Err(Trouble::Partly),
            }
        }
        self.advance(next).await
    }

    /// Takes items into the view of a webhook. Returns what it reflected before.
    fn write(
        &self,
        webhook: Tenure,
        items: Vec<Item>,
        next: i64,
    ) -> impl Future<Output = Result<(Tenure, Option<i64>), StoreError>> + use<> {
        let (views, source, incarnation) =
            (self.views.clone(), self.following.source, self.progress.incarnation);
        async move {
            let before = views.reflect(source, incarnation, &webhook, &items, next, clock::now()).await?;
            Ok((webhook, before))
        }
    }

    /// A view that reflected less than it should is to be built anew.
    fn note_written(&mut self, written: (Tenure, Option<i64>), next: i64) -> Result<(), Trouble> {
        let (webhook, before) = written;
        match self.known.insert(webhook, next) {
            Some(known) if before.is_none_or(|before| before < known) => Err(Trouble::Partly),
            _ => Ok(()),
        }
    }

    async fn advance(&mut self, next: i64) -> Result<(), Trouble> {
        self.views.advance(self.following.source, self.progress, next).await?;
        self.progress.reflects = self.progress.reflects.max(next);
        Ok(())
    }
}
