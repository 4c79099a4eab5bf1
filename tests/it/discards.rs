//! What was dropped stays dropped: by a discard, by its owner, by a deletion; also where Redis loses everything and the
//! log, which still has it, is read again.

use std::os::unix::process::ExitStatusExt as _;

use serde_json::{Value, json};

use crate::commands::{PARKED, assert_ended, by_chat, events, ids, numbered};
use crate::support::{
    LIMIT, Receiver, Record, SESSION, System, event, message_ids, ok, receiver, status, system, wait_until,
    webhook,
};

const COUNT: usize = 40;
const DROPPED: &str = "bundlehook_bundles_settled_total{result=\"dropped\"}";
const REBUILT: &str = "bundlehook_claims_total{role=\"deliver\",state=\"rebuilt\"}";

/// A system whose webhook `wh` the system has disabled, with deliveries that are held, and with no `deliver` any more.
struct Held {
    endpoint: Receiver,
    system: System,
    /// Requests before that.
    posts: usize,
}

fn settings(endpoint: &Receiver) -> Value {
    webhook("wh", "ws", &endpoint.url("/"), json!({}))
}

impl Held {
    async fn begin() -> Option<Self> {
        let endpoint = receiver(status(500));
        let system = system(2_000)
            .env("BUNDLEHOOK_RETRY_SCHEDULE", "50ms")
            .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
            .start(&[settings(&endpoint)])
            .await?;
        system.publish(&events(0..COUNT)).await;
        let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
        system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
        system.deliver.wait_sum(PARKED, COUNT as f64).await;
        system.wait_committed("deliver", "bundles").await;
        let mut held = Self { posts: endpoint.requests().len(), endpoint, system };
        held.end_deliver().await;
        held.endpoint.set(ok()).await;
        Some(held)
    }

    async fn end_deliver(&mut self) {
        self.system.deliver.process.sigkill();
        self.system.deliver.process.wait_exit(LIMIT).await;
    }

    async fn rebuild(&mut self) {
        self.system.redis.flushall().await;
        self.system.restart("deliver").await;
        self.system.deliver.wait_sum(REBUILT, 1.0).await;
    }

    /// Only messages from a number on were sent, each once.
    async fn assert_sent(&self, numbers: std::ops::Range<usize>) {
        self.system.wait_done().await;
        let sent = ids(&self.endpoint.requests()[self.posts..]);
        assert_eq!(by_chat(&sent), by_chat(&numbered(numbers)));
    }

    /// Everything that was parked has its end in the log.
    async fn wait_ended(&self) {
        let over = async || {
            let mut last = std::collections::BTreeMap::new();
            for record in self.system.records("waiting-deliveries").await {
                last.insert(record.key().to_owned(), record.value.is_some());
            }
            !last.into_iter().any(|(key, waits)| waits && !key.contains("claim"))
        };
        wait_until("an end of everything that was parked", LIMIT, over).await;
    }
}

/// The discard is in the log, and nobody has carried it out when Redis forgets. The log still has every delivery.
#[tokio::test]
async fn what_was_discarded_while_nobody_delivered_does_not_come_back_with_a_rebuild() {
    let Some(mut held) = Held::begin().await else { return };
    assert_ended(&held.system.webhook(&["enable", "wh", "--discard"]).await, 0, "on again");

    held.rebuild().await;

    held.system.deliver.wait_sum(DROPPED, COUNT as f64).await;
    held.wait_ended().await;
    held.system.publish(&events(COUNT..COUNT + 4)).await;
    held.assert_sent(COUNT..COUNT + 4).await;

    // Once more, with all of it ended in the log.
    held.end_deliver().await;
    held.rebuild().await;
    held.system.publish(&events(COUNT + 4..COUNT + 8)).await;
    held.assert_sent(COUNT..COUNT + 8).await;
    assert_eq!(held.system.deliver.sum(DROPPED).await.to_string(), "0", "it was dropped once");
}

/// The process dies between the ends in the log and the queue, and Redis forgets.
#[tokio::test]
async fn a_discard_that_breaks_off_is_finished_by_whoever_comes_next() {
    for point in ["deliver.taken-out:1", "deliver.queued:1", "deliver.taken-out:30"] {
        let Some(mut held) = Held::begin().await else { return };
        assert_ended(&held.system.webhook(&["enable", "wh", "--discard"]).await, 0, "on again");

        let dying = held.system.start_with("deliver", "BUNDLEHOOK_FAILPOINT", point);
        let ended = dying.process.wait_exit(LIMIT).await;
        assert_eq!(ended.signal(), Some(9), "`{point}`: {}", dying.process.stderr());
        held.rebuild().await;

        held.wait_ended().await;
        held.system.publish(&events(COUNT..COUNT + 4)).await;
        held.assert_sent(COUNT..COUNT + 4).await;
    }
}

#[tokio::test]
async fn what_waited_for_a_deleted_webhook_does_not_come_back_for_its_successor_of_the_same_id() {
    let Some(mut held) = Held::begin().await else { return };
    held.system.delete_webhook("wh").await;
    held.system.settings(&[settings(&held.endpoint)]).await;
    held.system.settings_count().await;

    held.rebuild().await;

    held.system.deliver.wait_sum(DROPPED, COUNT as f64).await;
    held.wait_ended().await;
    held.system.publish(&events(COUNT..COUNT + 4)).await;
    held.assert_sent(COUNT..COUNT + 4).await;
}

#[tokio::test]
async fn what_waited_when_its_owner_switched_off_does_not_come_back_when_it_is_on_again() {
    let Some(mut held) = Held::begin().await else { return };
    assert_ended(&held.system.webhook(&["disable", "wh"]).await, 0, "is off");
    assert_ended(&held.system.webhook(&["enable", "wh"]).await, 0, "is on");
    held.system.settings_count().await;

    held.rebuild().await;

    held.system.deliver.wait_sum(DROPPED, COUNT as f64).await;
    held.wait_ended().await;
    held.system.publish(&events(COUNT..COUNT + 4)).await;
    held.assert_sent(COUNT..COUNT + 4).await;
}

/// The window goes on for another webhook, and is built again from messages that the deleted one had wanted.
#[tokio::test]
async fn an_open_window_that_is_rebuilt_holds_nothing_for_whom_was_deleted_meanwhile() {
    let (deleted, other) = (receiver(ok()), receiver(ok()));
    let windowed =
        |id: &str, receiver: &Receiver| webhook(id, "ws", &receiver.url("/"), json!({"granularity": "12h"}));
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[windowed("wh", &deleted), windowed("other", &other)]).await else {
        return;
    };
    system.window_start(12).await;
    system.publish(&[event("ws", "c", "1"), event("ws", "c", "2")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 2.0).await;
    system.aggregate.process.sigkill();
    system.aggregate.process.wait_exit(LIMIT).await;
    system.delete_webhook("wh").await;
    system.settings(&[windowed("wh", &deleted)]).await;
    system.settings_count().await;
    system.publish(&[event("ws", "c", "3")]).await;

    system.redis.flushall().await;
    system.restart("aggregate").await;

    system.wait_done().await;
    let bundles = |receiver: &Receiver| receiver.requests().iter().map(message_ids).collect::<Vec<_>>();
    assert_eq!(bundles(&other), [["1", "2", "3"]]);
    assert_eq!(bundles(&deleted), [["3"]]);
}
