//! Messages that come all the time, while something else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    Answer, LIMIT, Receiver, Request, System, answer, event, message_ids, ok, receiver, refuse, wait_until,
    webhook,
};

/// Chats that the messages belong to.
const CHATS: usize = 10;
/// Messages published at once.
const BATCH: usize = 5;
/// How often.
const PACE: Duration = Duration::from_millis(20);
/// Most messages that may be under way to the path `/none` at first: a busy machine gets no more than it can take.
const UNDER_WAY: usize = 1_000;

/// Where the messages go: at once to the path `/none`, hour by hour to `/1h`, and at once to `/parked` of a receiver
/// that can be away for a while, so that they are parked.
pub struct Load {
    pub receiver: Receiver,
    parked: Receiver,
    /// Requests to the path `/none`, and such as came again.
    at_once: Arc<AtomicUsize>,
    under_way: AtomicUsize,
}

impl Load {
    pub fn new() -> Self {
        let at_once = Arc::new(AtomicUsize::new(0));
        let count = at_once.clone();
        let behaviour = answer(move |request| {
            if request.path == "/none" {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Answer::status(200)
        });
        Self { receiver: receiver(behaviour), parked: receiver(ok()), at_once, under_way: UNDER_WAY.into() }
    }

    pub fn webhooks(&self) -> Vec<Value> {
        [("none", &self.receiver, "none"), ("1h", &self.receiver, "1h"), ("parked", &self.parked, "none")]
            .map(|(id, receiver, granularity)| {
                webhook(id, "ws", &receiver.url(&format!("/{id}")), json!({"granularity": granularity}))
            })
            .into()
    }

    /// Publishes messages of the workspace `ws` until something is over; answers how many.
    pub async fn run(&self, system: &System, something: impl Future<Output = ()>) -> usize {
        let over = CancellationToken::new();
        let publish = async {
            let (mut count, mut pace) = (0, tokio::time::interval(PACE));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !over.is_cancelled() {
                pace.tick().await;
                if count > self.at_once.load(Ordering::Relaxed) + self.under_way.load(Ordering::Relaxed) {
                    continue;
                }
                let batch = count..count + BATCH;
                let message = |n| event("ws", &format!("c{}", n % CHATS), &message(n));
                system.publish(&batch.clone().map(message).collect::<Vec<_>>()).await;
                count = batch.end;
            }
            count
        };
        let run = async {
            something.await;
            over.cancel();
        };
        tokio::join!(publish, run).0
    }

    /// The receiver of `/parked` refuses connections from now on.
    pub async fn leave(&self) {
        self.parked.set(refuse()).await;
    }

    /// It takes them again.
    pub async fn come_back(&self) {
        self.parked.set(ok()).await;
    }

    /// Lets so many more messages be under way, however many are.
    pub fn let_more_wait(&self, more: usize) {
        self.under_way.fetch_add(more, Ordering::Relaxed);
    }

    /// Waits until so many more POSTs have come.
    pub async fn wait_more(&self, more: usize) {
        let least = self.receiver.count() + more;
        let enough = async || self.receiver.count() >= least;
        wait_until(&format!("{more} more POSTs"), LIMIT, enough).await;
    }

    /// The most POSTs that can be in flight at a moment: one of each chat for each webhook.
    pub const IN_FLIGHT: usize = 3 * CHATS;

    /// Every message came to each of the webhooks, in the order of its chat, and once but for so many repeats of POSTs.
    /// Returns how many there were.
    ///
    /// # Panics
    ///
    /// If not.
    pub fn assert_all(&self, count: usize, repeats: usize) -> usize {
        let mut seen = std::collections::HashMap::new();
        let mut repeated = 0;
        let all = [self.receiver.requests(), self.parked.requests()].concat();
        let first: Vec<Request> = all
            .into_iter()
            .filter(|request| {
                let id = request.header("webhook-id").expect("each POST has an id").to_owned();
                seen.insert(id, request.body.clone()).is_none_or(|body| {
                    assert_eq!(body, request.body, "what comes again is the same");
                    repeated += 1;
                    false
                })
            })
            .collect();
        assert!(repeated <= repeats, "{repeated} POSTs came again");
        for path in ["/none", "/1h", "/parked"] {
            assert_once(path, &first, count);
        }
        repeated
    }
}

fn assert_once(path: &str, requests: &[Request], count: usize) {
    let ids: Vec<String> =
        requests.iter().filter(|request| request.path == path).flat_map(message_ids).collect();
    let mut sorted = ids.clone();
    sorted.sort();
    let lost: Vec<String> = (0..count).map(message).filter(|id| sorted.binary_search(id).is_err()).collect();
    let twice: Vec<_> = sorted.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    assert!(lost.is_empty() && twice.is_empty(), "{path}: lost {lost:?}, twice {twice:?}, of {count}");
    for chat in 0..CHATS {
        let digit = chat.to_string();
        let of_chat: Vec<_> = ids.iter().filter(|id| id.ends_with(&digit)).collect();
        assert!(of_chat.is_sorted(), "{path}: {of_chat:?}");
    }
}

fn message(n: usize) -> String {
    format!("{n:06}")
}
