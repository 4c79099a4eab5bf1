//! More partitions later, while everything runs.

use std::collections::{BTreeMap, BTreeSet};

use bundlehook::config::KafkaSettings;
use bundlehook::io::kafka::publisher::{Outgoing, Publisher};
use serde_json::{Value, json};

use crate::support::{self, LIMIT, System, event, message_ids, ok, receiver, system, wait_until, webhook};

const CHATS: usize = 24;
/// New partitions are looked for so often here.
const OFTEN: &str = "topic.metadata.refresh.interval.ms=500";

fn events(range: std::ops::Range<usize>) -> Vec<Value> {
    range.map(|n| event("ws", &format!("chat-{}", n % CHATS), &format!("{n:04}"))).collect()
}

/// Adds partitions to the topics in the order in which an operator is told to.
async fn grow(system: &System, topics: &[&str], partitions: usize) {
    for topic in topics {
        system.kafka.grow_topic(&system.topic(topic), partitions).await;
    }
}

#[tokio::test]
async fn nothing_is_lost_and_a_window_costs_at_most_one_more_post() {
    let (at_once, bundled) = (receiver(ok()), receiver(ok()));
    let webhooks = [
        webhook("at-once", "ws", &at_once.url("/"), json!({})),
        webhook("bundled", "ws", &bundled.url("/"), json!({"granularity": "1h"})),
    ];
    let set_up = system(20_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", OFTEN);
    let Some(system) = set_up.start(&webhooks).await else { return };
    system.window_start(1).await;
    system.publish(&events(0..200)).await;

    // The source first is the worse order: its new partitions have no bundles' partitions yet.
    grow(&system, &["message-events"], 4).await;
    support::produce_afresh(system.kafka.servers(), &system.topic("message-events"), records(200..400)).await;
    system.aggregate.wait_sum("bundlehook_partitions_owned{role=\"aggregate\"}", 4.0).await;
    grow(&system, &["bundles"], 4).await;
    system.deliver.wait_sum("bundlehook_partitions_owned{role=\"deliver\"}", 4.0).await;
    grow(&system, &["waiting-deliveries", "delivery-attempts", "message-skips"], 4).await;

    at_once.wait_for(|requests| requests.len() >= 400, "each message").await;
    let complete = |requests: &[support::Request]| requests.iter().flat_map(message_ids).count() >= 400;
    bundled.wait_for(complete, "all in bundles").await;
    system.wait_done().await;
    let numbers = |requests: &[support::Request]| {
        let ids: Vec<String> = requests.iter().flat_map(message_ids).collect();
        assert_eq!(ids.len(), 400, "each once");
        ids.into_iter().collect::<BTreeSet<_>>().len()
    };
    assert_eq!((numbers(&at_once.requests()), numbers(&bundled.requests())), (400, 400));
    let written = system.records("bundles").await;
    let mut posts = BTreeMap::new();
    for bundle in written.iter().filter(|bundle| bundle.header("granularity") == Some("1h")) {
        *posts.entry((bundle.key(), bundle.header("window-start"))).or_insert(0) += 1;
    }
    assert!(posts.values().all(|posts| *posts <= 2), "{posts:?}");
    let partitions: BTreeSet<i32> = written.iter().map(|bundle| bundle.partition).collect();
    assert_eq!(partitions, BTreeSet::from([0, 1, 2, 3]), "the new partitions were used");
    for role in [&system.aggregate, &system.deliver] {
        assert_eq!(role.process.exit_status(), None, "no process ended");
    }
}

fn records(range: std::ops::Range<usize>) -> impl Iterator<Item = support::Outgoing> {
    events(range).into_iter().map(|event| {
        support::Outgoing::new(
            event["chat"]["chat_id"].as_str().expect("the id is a text"),
            event.to_string(),
        )
    })
}

#[tokio::test]
async fn settings_in_a_partition_that_came_later_are_followed() {
    let (first, second) = (receiver(ok()), receiver(ok()));
    let webhooks = [webhook("wh-1", "ws", &first.url("/"), json!({}))];
    let Some(system) = system(2_000).start(&webhooks).await else { return };
    grow(&system, &["webhook-settings", "webhook-states"], 2).await;
    let more = webhook("wh-2", "ws", &second.url("/"), json!({}));
    let record = support::Outgoing::new("wh-2", more.to_string()).partition(1);
    support::produce_afresh(system.kafka.servers(), &system.topic("webhook-settings"), [record]).await;
    system.settings_count().await;

    system.publish(&[event("ws", "chat", "m-1")]).await;

    for receiver in [&first, &second] {
        receiver.wait_for(|requests| !requests.is_empty(), "the message").await;
        assert_eq!(message_ids(&receiver.requests()[0]), ["m-1"]);
    }
    wait_until("both roles to be well", LIMIT, async || {
        system.deliver.process.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await;
}

#[tokio::test]
async fn a_producer_finds_a_partition_that_came_since_it_asked() {
    let Some(kafka) = support::kafka().await else { return };
    let topic = format!("{}bundles", kafka.prefix());
    kafka.create_topic(&topic, 1, &[]).await;
    // Without asking by itself in the meantime.
    let properties = BTreeMap::from([("topic.metadata.refresh.interval.ms".to_owned(), "-1".to_owned())]);
    let settings = KafkaSettings::embedded(kafka.servers().to_owned(), properties);
    let publisher = Publisher::new(&settings, false).expect("a producer needs no network");
    let publish = async |partition| {
        let record = Outgoing {
            topic: &topic,
            partition: Some(partition),
            key: b"k",
            value: Some(b"v"),
            headers: &[],
        };
        publisher.publish_and_wait(&record).await
    };
    assert_eq!(publish(0).await, Ok(0));
    kafka.grow_topic(&topic, 3).await;

    assert_eq!(publish(2).await, Ok(0));
    assert_eq!(publish(0).await, Ok(1));
    assert!(publish(3).await.is_err(), "there is no such partition");
    assert_eq!(support::end_offsets(kafka.servers(), &topic).await, [2, 0, 1]);
}
