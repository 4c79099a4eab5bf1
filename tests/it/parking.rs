//! What can't go waits: parked, in order, and harming nobody.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bundlehook::io::clock;
use bundlehook::wire::waiting::WaitingDelivery;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Answer, LIMIT, Outgoing, PATIENT, Receiver, Record, Request, SESSION, System, answer, committed, event,
    message_ids, ok, receiver, refuse, status, system, wait_until, webhook,
};

const CHATS: usize = 40;
const PARKED: &str = "bundlehook_deliveries_parked{";

/// Messages of a workspace over its chats, by number.
fn events(workspace: &str, numbers: std::ops::Range<usize>) -> Vec<Value> {
    let one = |n: usize| event(workspace, &format!("{workspace}-{}", n % CHATS), &format!("{n:05}"));
    numbers.map(one).collect()
}

fn ids(requests: &[Request]) -> Vec<String> {
    requests.iter().flat_map(message_ids).collect()
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{n:05}")).collect()
}

/// Each message once, and each chat's in the order of their numbers.
fn assert_once_and_in_order(requests: &[Request], numbers: std::ops::Range<usize>) {
    let mut all = ids(requests);
    let mut last = HashMap::new();
    for id in &all {
        let number: usize = id.parse().expect("it is a number");
        let before = last.insert(number % CHATS, number);
        assert!(before.is_none_or(|before| before < number), "{number} came after {before:?}");
    }
    all.sort();
    assert_eq!(all, numbered(numbers));
}

/// The latest record of each key.
async fn latest(system: &System) -> BTreeMap<String, Record> {
    let records = system.records("waiting-deliveries").await;
    let deliveries = records.into_iter().filter(|record| !record.key().contains("claim"));
    deliveries.map(|record| (record.key().to_owned(), record)).collect()
}

async fn wait_no_waiting_delivery(system: &System) {
    wait_until("tombstones for all that waited", LIMIT, async || {
        latest(system).await.values().all(|record| record.value.is_none())
    })
    .await;
}

/// A system with a webhook whose endpoint refuses connections.
async fn start(dead: &Receiver, more: &[Value], retry: &str) -> Option<System> {
    let mut webhooks = vec![webhook("dead", "ws-dead", &dead.url("/"), json!({}))];
    webhooks.extend_from_slice(more);
    system(2_000)
        .env("BUNDLEHOOK_WAITING_MEMORY", "1")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", retry)
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
        .start(&webhooks)
        .await
}

#[tokio::test]
async fn an_endpoint_that_is_away_stops_nobody_and_gets_everything_once_and_in_order_when_it_is_back() {
    const DEAD: usize = 4_000;
    let (dead, healthy) = (receiver(refuse()), receiver(ok()));
    let other = webhook("healthy", "ws-healthy", &healthy.url("/"), json!({}));
    let Some(system) = start(&dead, &[other], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..DEAD)).await;
    system.publish(&events("ws-healthy", 0..200)).await;

    healthy.wait_for(|requests| requests.len() == 200, "all of the healthy webhook's").await;
    assert_once_and_in_order(&healthy.requests(), 0..200);
    system.wait_committed("deliver", "bundles").await;
    system.deliver.wait_sum(PARKED, DEAD as f64).await;
    assert!(system.deliver.sum("bundlehook_deliveries_waiting_bytes ").await <= 1024.0 * 1024.0);
    // Others may have been parked for a moment, for want of memory.
    let mut waiting = latest(&system).await;
    waiting.retain(|_, record| record.value.is_some() && record.json()["webhook_id"] == "dead");
    assert_eq!(waiting.len(), DEAD);
    assert!(waiting.values().all(|record| WaitingDelivery::decode(record.text().as_bytes()).is_ok()));
    let key = queue_key(&system).await;
    let used: usize = system.redis.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
    assert!(used / DEAD <= 200, "{} bytes of Redis for each", used / DEAD);

    dead.set(ok()).await;

    dead.wait_for(|requests| requests.len() >= DEAD, "all that waited").await;
    system.wait_delivered().await;
    assert_once_and_in_order(&dead.requests(), 0..DEAD);
    wait_no_waiting_delivery(&system).await;
    system.publish(&events("ws-dead", DEAD..DEAD + 10)).await;
    dead.wait_for(|requests| requests.len() == DEAD + 10, "what comes later").await;
}

async fn queue_key(system: &System) -> String {
    let tag = format!("{{{}bundles:0}}", system.prefix);
    let incarnation: String = system.redis.command(&["HGET", &format!("{tag}:owner"), "incarnation"]).await;
    format!("{tag}:{incarnation}:dead")
}

/// Kills `deliver` while deliveries are parked, lets `loss` happen, and lets the endpoint recover.
async fn kill_while_parked(loss: impl AsyncFnOnce(&System)) -> Option<System> {
    const COUNT: usize = 2_000;
    let dead = receiver(refuse());
    let mut system = start(&dead, &[], PATIENT).await?;
    system.publish(&events("ws-dead", 0..COUNT)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;

    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    loss(&system).await;
    dead.set(ok()).await;
    system.restart("deliver").await;
    dead.wait_for(|requests| requests.len() >= COUNT / 4, "the draining").await;
    // Once more, in the midst of it.
    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    let recorded = system.records("delivery-attempts").await;
    system.restart("deliver").await;

    system.wait_delivered().await;
    wait_no_waiting_delivery(&system).await;
    let mut times = HashMap::new();
    for request in dead.requests() {
        *times.entry(request.header("webhook-id").unwrap_or_default().to_owned()).or_insert(0) += 1;
    }
    for attempt in recorded.iter().map(Record::json).filter(|attempt| attempt["settled"] == "delivered") {
        let id = attempt["bundle"]["bundle_id"].as_str().expect("it is a text");
        assert_eq!(times[id], 1, "what was recorded is not repeated");
    }
    let mut all = ids(&dead.requests());
    assert!(all.len() - COUNT <= 40, "{} are more than can be in flight", all.len() - COUNT);
    all.sort();
    all.dedup();
    assert_eq!(all, numbered(0..COUNT));
    Some(system)
}

#[tokio::test]
async fn killing_deliver_while_thousands_are_parked_loses_none_and_repeats_only_those_in_flight() {
    let Some(system) = kill_while_parked(async |_| {}).await else { return };
    let kept = "bundlehook_claims_total{role=\"deliver\",state=\"kept\"}";
    assert!(system.deliver.sum(kept).await >= 1.0, "the queue was used as it was");
}

#[tokio::test]
async fn a_queue_that_redis_forgot_is_rebuilt_from_the_log() {
    kill_while_parked(async |system| system.redis.flushall().await).await;
}

#[tokio::test]
async fn a_queue_that_is_lost_under_a_running_process_is_rebuilt() {
    const COUNT: usize = 500;
    let dead = receiver(refuse());
    let Some(system) = start(&dead, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;

    system.redis.flushall().await;
    dead.set(ok()).await;

    dead.wait_for(|requests| requests.len() >= COUNT, "all that waited").await;
    system.wait_delivered().await;
    assert_once_and_in_order(&dead.requests(), 0..COUNT);
    wait_no_waiting_delivery(&system).await;
}

/// Nobody has written it for so long that ends of waiting may be gone from the log that it has not heard of.
#[tokio::test]
async fn a_queue_that_nobody_wrote_for_long_is_rebuilt_from_the_log() {
    const COUNT: usize = 100;
    let dead = receiver(refuse());
    let Some(mut system) = start(&dead, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    system.deliver.process.sigterm();
    assert!(system.deliver.process.wait_exit(LIMIT).await.success());

    let owner = format!("{{{}bundles:0}}:owner", system.prefix);
    let written: i64 = system.redis.command(&["HGET", &owner, "written_at"]).await;
    let long_ago = (written - 13 * 3_600_000).to_string();
    system.redis.command::<i64>(&["HSET", &owner, "written_at", &long_ago]).await;
    dead.set(ok()).await;
    system.restart("deliver").await;

    let rebuilt = "bundlehook_claims_total{role=\"deliver\",state=\"rebuilt\"}";
    system.deliver.wait_sum(rebuilt, 1.0).await;
    system.wait_delivered().await;
    assert_once_and_in_order(&dead.requests(), 0..COUNT);
    wait_no_waiting_delivery(&system).await;
}

#[tokio::test]
async fn what_the_system_holds_survives_a_restart_and_goes_when_the_owner_switches_off() {
    const COUNT: usize = 300;
    let failing = receiver(status(500));
    let Some(mut system) = start(&failing, &[], "50ms").await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
    system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
    system.wait_committed("deliver", "bundles").await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    let posts = failing.requests().len();

    failing.set(ok()).await;
    system.deliver.process.sigterm();
    system.deliver.process.wait_exit(LIMIT).await;
    system.restart("deliver").await;
    system.publish(&events("ws-dead", COUNT..COUNT + 10)).await;
    system.deliver.wait_sum(PARKED, (COUNT + 10) as f64).await;
    assert_eq!(failing.requests().len(), posts, "held, not sent");

    system.settings(&[webhook("dead", "ws-dead", &failing.url("/"), json!({"enabled": false}))]).await;

    system
        .deliver
        .wait_sum("bundlehook_bundles_settled_total{result=\"dropped\"}", (COUNT + 10) as f64)
        .await;
    wait_no_waiting_delivery(&system).await;
    assert_eq!(failing.requests().len(), posts);
    assert_eq!(system.deliver.sum(PARKED).await.to_string(), "0");
}

#[tokio::test]
async fn what_the_system_holds_goes_out_without_new_traffic_when_it_is_enabled_again() {
    let failing = receiver(status(500));
    let Some(system) = start(&failing, &[], "50ms").await else { return };
    system.publish(&events("ws-dead", 0..50)).await;
    let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
    let states = system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
    system.deliver.wait_sum(PARKED, 50.0).await;
    let posts = failing.requests().len();
    failing.set(ok()).await;

    // The command to enable it is a state with a newer activation.
    let former = states.iter().map(Record::json).find(|state| state["kind"] == "activation");
    let mut state = former.expect("the activation is stored");
    state["activation"] = json!(format!("{}.1.0", clock::now().0));
    let record = Outgoing::new("dead/activation", state.to_string());
    system.produce("webhook-states", [record]).await;

    failing.wait_for(|requests| requests.len() >= posts + 50, "all that was held").await;
    system.wait_delivered().await;
    assert_once_and_in_order(&failing.requests()[posts..], 0..50);
}

#[tokio::test]
async fn one_chat_keeps_its_order_while_its_endpoint_fails_now_and_then() {
    const COUNT: usize = 120;
    let flaky = receiver(answer(|request| {
        Answer::status(if request.number % 7 == 0 { 503 } else { 200 }).after(Duration::from_millis(5))
    }));
    let Some(system) = start(&flaky, &[], "20ms").await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;

    system.wait_delivered().await;

    let delivered: Vec<Request> =
        flaky.requests().into_iter().filter(|request| request.number % 7 != 0).collect();
    assert_once_and_in_order(&delivered, 0..COUNT);
}

#[tokio::test]
async fn after_an_outage_deliveries_go_directly_again_though_messages_keep_coming() {
    let recovering = receiver(refuse());
    let Some(system) = start(&recovering, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..300)).await;
    system.deliver.wait_sum(PARKED, 300.0).await;
    recovering.set(ok()).await;

    let mut sent = 300;
    wait_until("messages that were not parked", LIMIT, async || {
        system.publish(&events("ws-dead", sent..sent + 5)).await;
        sent += 5;
        let delivered = "bundlehook_bundles_settled_total{result=\"delivered\"}";
        system.deliver.sum(delivered).await - system.deliver.sum("bundlehook_drained_total").await >= 50.0
    })
    .await;

    system.wait_delivered().await;
    recovering.wait_for(|requests| requests.len() == sent, "all of them").await;
    assert_once_and_in_order(&recovering.requests(), 0..sent);
}

/// What a slow endpoint's lane holds in memory stands before what is parked, and is read again at the next claim.
#[tokio::test]
async fn what_waited_in_memory_keeps_its_place_before_what_was_parked_when_deliver_restarts() {
    const COUNT: usize = 3_000;
    let slow = receiver(ok());
    let webhooks = [webhook("dead", "ws-dead", &slow.url("/"), json!({}))];
    let system = system(2_000)
        .env("BUNDLEHOOK_WAITING_MEMORY", "1")
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "60s")
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
        .start(&webhooks);
    let Some(mut system) = system.await else { return };
    // The lane is there, and has nothing parked, before there is more than it can hold.
    system.publish(&events("ws-dead", 0..CHATS)).await;
    slow.wait_for(|requests| requests.len() == CHATS, "the first ones").await;
    system.wait_delivered().await;
    let released = CancellationToken::new();
    let gate = released.clone();
    slow.set(answer(move |_| Answer::status(200).once(&gate))).await;
    system.publish(&events("ws-dead", CHATS..COUNT)).await;
    system.deliver.wait_sum(PARKED, 500.0).await;
    let committed = committed(
        system.kafka.servers(),
        &format!("{}bundlehook-deliver", system.prefix),
        &system.topic("bundles"),
    )
    .await;
    let mut parked = latest(&system).await;
    parked.retain(|_, record| record.value.is_some());
    let first_parked = parked.keys().filter_map(|key| key.strip_prefix("0/")?.parse::<i64>().ok()).min();
    let committed = committed[0].offset;
    assert!(committed < first_parked, "something waits in memory: {committed:?}, {first_parked:?}");
    slow.set(answer(|_| Answer::status(200).after(Duration::from_millis(40)))).await;
    released.cancel();

    system.deliver.process.sigterm();
    assert!(system.deliver.process.wait_exit(LIMIT).await.success());
    system.restart("deliver").await;

    system.wait_delivered().await;
    assert_once_and_in_order(&slow.requests(), 0..COUNT);
    wait_no_waiting_delivery(&system).await;
}

/// A process that lost its partition may put what it held after the new owner has delivered it.
#[tokio::test]
async fn a_late_put_of_an_ended_claim_is_taken_back_and_never_sent() {
    let endpoint = receiver(refuse());
    let Some(mut system) = start(&endpoint, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..20)).await;
    system.deliver.wait_sum(PARKED, 20.0).await;
    let is_put = |record: &&Record| record.value.is_some() && record.json().get("offset").is_some();
    let puts = system.records("waiting-deliveries").await;
    let put = puts.iter().find(is_put).expect("a delivery is parked").clone();
    endpoint.set(ok()).await;
    system.wait_delivered().await;
    wait_no_waiting_delivery(&system).await;
    system.deliver.process.sigterm();
    system.deliver.process.wait_exit(LIMIT).await;
    system.restart("deliver").await;

    let late = Outgoing::new(put.key(), put.text());
    system.produce("waiting-deliveries", [late]).await;
    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    system.redis.flushall().await;
    system.restart("deliver").await;

    let rebuilt = "bundlehook_claims_total{role=\"deliver\",state=\"rebuilt\"}";
    assert!(system.deliver.sum(rebuilt).await >= 1.0);
    wait_no_waiting_delivery(&system).await;
    system.publish(&events("ws-dead", 20..30)).await;
    system.wait_done().await;
    assert_once_and_in_order(&endpoint.requests(), 0..30);
}

#[tokio::test]
async fn what_is_held_expires_seven_days_after_the_disabling_and_nothing_more_is_collected() {
    const COUNT: usize = 30;
    let failing = receiver(status(500));
    let Some(system) = start(&failing, &[], "50ms").await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
    let states = system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    failing.set(ok()).await;
    let posts = failing.requests().len();

    // As if it had happened a week ago.
    let mut state = states.iter().find(|record| is_disabled(record)).expect("it was just seen").json();
    state["at"] = clock::now().minus(Duration::from_hours(7 * 24)).to_rfc3339().into();
    system.produce("webhook-states", [Outgoing::new("dead/disabled", state.to_string())]).await;

    let expired = "bundlehook_bundles_settled_total{result=\"expired\"}";
    system.deliver.wait_sum(expired, COUNT as f64).await;
    wait_no_waiting_delivery(&system).await;
    system.settings_count().await;
    let changed = system.records("webhook-states").await.iter().map(|record| record.timestamp).max();
    wait_until("the state to count", LIMIT, async || clock::now().0 > changed.unwrap_or_default() + 5_000)
        .await;
    let bundles = system.records("bundles").await.len();
    system.publish(&events("ws-dead", COUNT..COUNT + 5)).await;
    system.wait_done().await;
    assert_eq!(system.records("bundles").await.len(), bundles, "collecting has stopped");
    assert_eq!(failing.requests().len(), posts, "nothing was sent");
}

#[tokio::test]
async fn a_parked_delivery_whose_body_is_gone_expires_and_the_next_ones_go_on() {
    const COUNT: usize = 40;
    let dead = receiver(refuse());
    let Some(mut system) = start(&dead, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    system.wait_committed("deliver", "bundles").await;

    // What a running process has read ahead is not gone yet.
    system.deliver.process.sigterm();
    system.deliver.process.wait_exit(LIMIT).await;
    system.kafka.delete_records(&system.topic("bundles"), 0, 10).await;
    dead.set(ok()).await;
    system.restart("deliver").await;

    dead.wait_for(|requests| requests.len() >= COUNT - 10, "those that have a body").await;
    system.wait_delivered().await;
    assert_once_and_in_order(&dead.requests(), 10..COUNT);
    let expired = "bundlehook_bundles_settled_total{result=\"expired\"}";
    assert_eq!(system.deliver.sum(expired).await.to_string(), "10");
    wait_no_waiting_delivery(&system).await;
}

/// What was delivered stays so, though the queue is lost with orders on their way, and the claim ends with them.
#[tokio::test]
async fn a_queue_that_is_lost_while_it_drains_repeats_nothing() {
    const COUNT: usize = 2_000;
    let endpoint = receiver(refuse());
    let Some(system) = start(&endpoint, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;

    endpoint.set(ok()).await;
    for part in 1..=3 {
        endpoint.wait_for(|requests| requests.len() >= COUNT * part / 4, "a part of it").await;
        system.redis.flushall().await;
    }

    endpoint.wait_for(|requests| requests.len() >= COUNT, "all of it").await;
    system.wait_delivered().await;
    assert_once_and_in_order(&endpoint.requests(), 0..COUNT);
    wait_no_waiting_delivery(&system).await;
}

/// Neither an entry of the queue nor the health of a webhook that can't be read stops anybody.
#[tokio::test]
async fn what_is_damaged_in_redis_is_restored_from_the_log() {
    const COUNT: usize = 100;
    let endpoint = receiver(refuse());
    let Some(mut system) = start(&endpoint, &[], PATIENT).await else { return };
    system.publish(&events("ws-dead", 0..COUNT)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    system.deliver.process.sigterm();
    system.deliver.process.wait_exit(LIMIT).await;
    let key = queue_key(&system).await;
    let removed: i64 = system.redis.command(&["ZREMRANGEBYRANK", &key, "50", "50"]).await;
    let added: i64 = system.redis.command(&["ZADD", &key, "50", "no entry"]).await;
    assert_eq!((removed, added), (1, 1));
    let slot = format!("{{{}wh:dead}}:health", system.prefix);
    system.redis.command::<()>(&["SET", &slot, "no health"]).await;
    endpoint.set(ok()).await;

    system.restart("deliver").await;

    endpoint.wait_for(|requests| requests.len() >= COUNT, "all that waited").await;
    system.wait_delivered().await;
    assert_once_and_in_order(&endpoint.requests(), 0..COUNT);
    wait_no_waiting_delivery(&system).await;
}
