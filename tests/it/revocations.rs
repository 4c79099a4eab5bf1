//! A partition is taken from a process whose requests hang, or whose records nobody acknowledges.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::support::{
    Kafka, LIMIT, Record, Request, Role, SESSION, System, event, hang, members, message_ids, ok, receiver,
    system, wait_until, webhook,
};

const CHATS: usize = 8;
const EACH: usize = 3;
const OWNED: &str = "bundlehook_partitions_owned{role=\"deliver\"}";
const IN_FLIGHT: &str = "bundlehook_requests_in_flight";

/// Some messages of each chat, named by chat and number.
fn events() -> Vec<Value> {
    let one = |n: usize| (n % CHATS, n / CHATS);
    let all = (0..CHATS * EACH).map(one);
    all.map(|(chat, number)| event("ws", &format!("c{chat}"), &format!("{chat}/{number}"))).collect()
}

/// The messages of each chat, in the order in which they came first.
fn by_chat(requests: &[Request]) -> BTreeMap<String, Vec<String>> {
    let mut chats = BTreeMap::<String, Vec<String>>::new();
    for id in requests.iter().flat_map(message_ids) {
        let chat = chats.entry(id.split('/').next().unwrap_or_default().to_owned()).or_default();
        if !chat.contains(&id) {
            chat.push(id);
        }
    }
    chats
}

fn all_in_order() -> BTreeMap<String, Vec<String>> {
    let chat = |chat: usize| (0..EACH).map(|number| format!("{chat}/{number}")).collect();
    (0..CHATS).map(|number| (number.to_string(), chat(number))).collect()
}

async fn attempts(system: &System) -> Vec<Value> {
    system.records("delivery-attempts").await.iter().map(Record::json).collect()
}

/// Starts a second process, and returns it once it is a member of the group.
async fn second(system: &System) -> Role {
    let second = system.another("deliver").await;
    let group = format!("{}bundlehook-deliver", system.prefix);
    wait_until("it to join the group", LIMIT, async || {
        members(system.kafka.servers(), &group).await == 2 || second.sum(OWNED).await >= 1.0
    })
    .await;
    second
}

#[tokio::test]
async fn a_request_that_hangs_when_its_partition_is_revoked_ends_and_is_recorded_before_another_process_goes_on()
 {
    let endpoint = receiver(hang());
    let setup = system(2_000)
        .partitions(2)
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "12s")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "300ms");
    let settings = webhook("wh", "ws", &endpoint.url("/"), json!({}));
    let Some(system) = setup.start(&[settings]).await else { return };
    system.publish(&events()).await;
    endpoint.wait_for(|requests| requests.len() == CHATS, "a request of each chat").await;

    let second = second(&system).await;
    assert_eq!(system.deliver.sum(IN_FLIGHT).await.to_string(), CHATS.to_string(), "they hang");
    assert!(second.sum(OWNED).await < 1.0, "they are waited for");
    assert!(attempts(&system).await.is_empty());
    wait_until("the second to own a partition", LIMIT, async || second.sum(OWNED).await >= 1.0).await;
    let ended = attempts(&system).await;
    let given_up = ended.iter().filter(|attempt| attempt["outcome"] == "timeout").count();
    assert!(given_up >= 1, "what hung is recorded before the second has the partition: {ended:?}");
    assert!(!system.deliver.process.stderr().contains("did not drain in time"));
    let posts = endpoint.requests().len();
    endpoint.set(ok()).await;

    wait_until("all to be delivered", LIMIT, async || {
        by_chat(&endpoint.requests()[posts..]) == all_in_order()
    })
    .await;
    system.wait_committed("deliver", "bundles").await;
    let attempts = attempts(&system).await;
    assert_eq!(attempts.len(), endpoint.requests().len(), "each request is recorded once");
    let delivered = attempts.iter().filter(|attempt| attempt["settled"] == "delivered").count();
    assert_eq!(delivered, CHATS * EACH);
    assert_numbered(&attempts);
    let counted = attempts.iter().filter(|attempt| attempt["counted"] == true && attempt["failures"] != 0);
    assert_eq!(counted.count(), posts - CHATS + 1, "one outage counts once");
}

/// The attempts of each delivery are numbered from 1, each number once.
fn assert_numbered(attempts: &[Value]) {
    let mut numbers = HashMap::<String, Vec<u64>>::new();
    for attempt in attempts {
        let id = attempt["bundle"]["bundle_id"].to_string();
        numbers.entry(id).or_default().push(attempt["attempt"].as_u64().expect("it is a number"));
    }
    for (id, mut numbers) in numbers {
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{id}");
    }
}

/// The endpoint answers, but the answers can't be recorded: the process that loses the partition gives up at its
/// deadline, and what it records later does no harm.
#[tokio::test]
async fn what_is_not_recorded_by_the_deadline_is_given_up_with_its_partition_and_comes_again_once() {
    let Some(kafka) = Kafka::start(3).await else { return };
    let endpoint = receiver(ok());
    // Nobody is given up while a broker dies.
    let session = "session.timeout.ms=120000,heartbeat.interval.ms=500,reconnect.backoff.max.ms=500";
    let setup = system(2_000).partitions(2).kafka(kafka).env("BUNDLEHOOK_KAFKA_PROPERTIES", session);
    let settings = webhook("wh", "ws", &endpoint.url("/"), json!({}));
    let Some(system) = setup.start(&[settings]).await else { return };
    system.kafka.wait_in_sync(3).await;
    let topic = system.topic("delivery-attempts");
    system.kafka.configure_topic(&topic, &[("min.insync.replicas", "3")]).await;
    system.kafka.kill9(2);
    system.kafka.wait_in_sync(2).await;
    system.publish(&events()).await;
    let all = CHATS * EACH;
    endpoint.wait_for(|requests| requests.len() == all, "all: no chat waits for acknowledgements").await;

    let second = second(&system).await;
    wait_until("the first to give up", LIMIT, async || {
        system.deliver.process.stderr().contains("did not drain in time")
    })
    .await;
    wait_until("the second to own a partition", LIMIT, async || second.sum(OWNED).await >= 1.0).await;
    endpoint.wait_for(|requests| requests.len() > all, "a repeat of what was not recorded").await;
    assert_eq!(attempts(&system).await, Vec::<Value>::new());
    system.kafka.restart(2).await;

    system.wait_committed("deliver", "bundles").await;
    let requests = endpoint.requests();
    assert_eq!(by_chat(&requests[..all]), all_in_order());
    let again = by_chat(&requests[all..]);
    assert_eq!(
        again.values().map(Vec::len).sum::<usize>(),
        requests.len() - all,
        "no message came a third time"
    );
    assert!(again.values().all(|chat| chat.is_sorted()), "what comes again is in order: {again:?}");
    wait_until("each request to be recorded", LIMIT, async || {
        attempts(&system).await.len() >= requests.len()
    })
    .await;
    assert_eq!(attempts(&system).await.len(), endpoint.requests().len(), "each is recorded once");
}
