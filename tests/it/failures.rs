//! Consecutive failures, the disabling, and the way back.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Answer, LIMIT, Record, Request, SESSION, System, Tenant, answer, event, message_ids, ok, receiver,
    status, system, tenant, webhook,
};

/// Fails requests to the path `/none` by their number among those; all others succeed.
async fn fail(tenant: &Tenant, fails: impl Fn(usize) -> bool + Send + Sync + 'static) {
    let seen = std::sync::atomic::AtomicUsize::new(0);
    let decide = move |request: &Request| {
        let failed =
            request.path == "/none" && fails(1 + seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Answer::status(if failed { 500 } else { 200 })
    };
    tenant.receiver.set(answer(decide)).await;
}

fn jsons(records: &[Record]) -> Vec<Value> {
    records.iter().map(Record::json).collect()
}

async fn wait_disabled(tenant: &Tenant) -> Value {
    let id = tenant.webhook_id("none");
    let is_it = |record: &Record| {
        record.value.is_some() && record.json()["kind"] == "disabled" && record.json()["webhook_id"] == *id
    };
    let states = tenant.system.wait_records("webhook-states", |records| records.iter().any(is_it)).await;
    states.iter().find(|record| is_it(record)).expect("it was just seen").json()
}

#[tokio::test]
async fn the_eleventh_consecutive_failure_disables_the_webhook_with_one_event_and_one_notification() {
    let Some(tenant) = tenant().await else { return };
    fail(&tenant, |_| true).await;

    let events: Vec<_> = (0..20).map(|n| tenant.event(&format!("c{n}"), &n.to_string())).collect();
    tenant.system.publish(&events).await;

    let state = wait_disabled(&tenant).await;
    let counted: Vec<_> = jsons(&tenant.records_of("delivery-attempts", "none").await)
        .into_iter()
        .filter(|attempt| attempt["counted"] == true)
        .collect();
    let mut failures: Vec<_> = counted.iter().filter_map(|attempt| attempt["failures"].as_u64()).collect();
    // The partitions take turns at being tried.
    failures.sort_unstable();
    assert_eq!(failures, (1..=11).collect::<Vec<_>>());
    let posts = tenant.posts("/none").len();
    assert!(posts <= 11 + 7, "only those in flight at the first failure come on top: {posts}");

    let events = tenant.records_of("webhook-events", "none").await;
    let kinds: Vec<_> = events.iter().filter_map(|event| event.header("ce_type")).collect();
    assert_eq!(kinds, ["webhook.warning", "webhook.disabled"]);
    let notifications = jsons(&tenant.records_of("notifications", "none").await);
    let told: Vec<_> = notifications.iter().map(|mail| (&mail["kind"], &mail["failures"])).collect();
    assert_eq!(told, [(&json!("webhook.warning"), &json!(5)), (&json!("webhook.disabled"), &json!(11))]);
    assert_eq!(notifications[1]["to"]["email"], "amnon@acme.example");
    assert_eq!(state["event_id"], notifications[1]["notification_id"]);
    assert_eq!(events[1].header("ce_id"), state["event_id"].as_str());
    assert_eq!(state["failures"], 11);
    let states = tenant.records_of("webhook-states", "none").await;
    assert_eq!(states.iter().filter(|record| record.json()["kind"] == "disabled").count(), 1);

    // Collected, but not sent.
    tenant.system.publish(&[tenant.event("c", "after")]).await;
    let of_hour = |requests: &[Request]| {
        requests
            .iter()
            .any(|request| request.path == "/1h" && message_ids(request).contains(&"after".to_owned()))
    };
    tenant.receiver.wait_for(of_hour, "the other webhook to get it").await;
    assert_eq!(tenant.posts("/none").len(), posts);
}

#[tokio::test]
async fn a_success_after_ten_failures_sets_the_count_to_zero() {
    let Some(tenant) = tenant().await else { return };
    fail(&tenant, |number| number != 11 && number < 22).await;

    tenant.system.publish(&[tenant.event("c", "1"), tenant.event("c", "2")]).await;

    let attempts = jsons(&tenant.wait_records_of("delivery-attempts", "none", 22).await);
    let failures: Vec<_> = attempts.iter().map(|attempt| attempt["failures"].clone()).collect();
    let expected: Vec<u32> = (1..=10).chain([0]).chain(1..=10).chain([0]).collect();
    assert_eq!(failures, expected);
    let events = tenant.records_of("webhook-events", "none").await;
    let kinds: Vec<_> = events.iter().filter_map(|event| event.header("ce_type")).collect();
    assert_eq!(kinds, ["webhook.warning"], "one warning a day");
}

#[tokio::test]
async fn a_webhook_that_is_switched_off_and_on_again_gets_what_arrives_then_and_counts_anew() {
    let Some(tenant) = tenant().await else { return };
    fail(&tenant, |number| number != 13).await;
    tenant.system.publish(&[tenant.event("c", "held")]).await;
    wait_disabled(&tenant).await;

    let settings = |enabled: bool| tenant.webhook("none", json!({"enabled": enabled}));
    tenant.change(&[settings(false), settings(true)]).await;
    tenant.system.publish(&[tenant.event("c", "new")]).await;

    let posts = tenant.wait_posts("/none", 13).await;
    let ids: Vec<_> = posts.iter().flat_map(message_ids).collect();
    assert!(ids[..11].iter().all(|id| id == "held"), "{ids:?}");
    assert_eq!(&ids[11..], ["new", "new"], "what was held is dropped with the switching off");
    let attempts = jsons(&tenant.wait_records_of("delivery-attempts", "none", 13).await);
    assert_eq!(attempts[11]["failures"], 1);
    assert_eq!(attempts[12]["state"], "healthy");
    tenant.receiver.set(ok()).await;
    tenant.wait_sentinel("c").await;
}

/// Waits until so many consecutive failures are on record.
async fn wait_failures(system: &System, least: u64) {
    let reached = |record: &Record| record.json()["failures"].as_u64() >= Some(least);
    system.wait_records("webhook-health", |records| records.iter().any(reached)).await;
}

#[tokio::test]
async fn a_redis_that_forgets_or_goes_backwards_changes_no_count_and_disables_nobody_twice() {
    let failing = receiver(status(500));
    let settings = webhook("wh", "ws", &failing.url("/"), json!({}));
    let setup =
        system(2_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "400ms").env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[settings]).await else { return };
    let slot = format!("{{{}wh:wh}}:health", system.prefix);
    let events: Vec<_> = (0..5).map(|n| event("ws", &format!("c{n}"), &n.to_string())).collect();
    system.publish(&events).await;

    wait_failures(&system, 2).await;
    let former: String = system.redis.command(&["GET", &slot]).await;
    wait_failures(&system, 3).await;
    system.redis.flushall().await;
    wait_failures(&system, 5).await;
    // As a replica would have it that lacks the last writes.
    system.redis.command::<()>(&["SET", &slot, &former]).await;
    wait_failures(&system, 7).await;
    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    system.redis.flushall().await;
    system.restart("deliver").await;
    wait_failures(&system, 11).await;
    let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
    system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
    system.redis.flushall().await;
    system.publish(&[event("ws", "c", "held")]).await;
    system.deliver.wait_sum("bundlehook_deliveries_parked{", 6.0).await;

    let counts = |name: &str, records: &[Record]| -> Vec<u64> {
        records.iter().filter_map(|record| record.json()[name].as_u64()).collect()
    };
    let healths = system.records("webhook-health").await;
    assert_eq!(counts("failures", &healths), (1..=11).collect::<Vec<_>>());
    assert_eq!(counts("number", &healths), (1..=11).collect::<Vec<_>>());
    let events = system.records("webhook-events").await;
    let ids: BTreeSet<_> = events.iter().filter_map(|event| event.header("ce_id")).collect();
    assert_eq!(ids.len(), 2, "one warning, one disabling");
    let attempts = system.records("delivery-attempts").await;
    assert_eq!(attempts.iter().filter(|attempt| attempt.json()["counted"] == true).count(), 11);
    let posts = failing.requests().len();
    assert!(posts <= 11 + 4 + 1, "{posts}: on top come those in flight at the first failure and at the kill");
}

/// One outage is one failure, however many requests meet it at once.
#[tokio::test]
async fn what_is_in_flight_when_the_circuit_trips_is_logged_and_not_counted() {
    const AT_ONCE: usize = 8;
    let endpoint = receiver(ok());
    let webhooks = [webhook("wh", "ws", &endpoint.url("/"), json!({}))];
    let Some(system) = system(2_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "10m").start(&webhooks).await else {
        return;
    };
    let released = CancellationToken::new();
    let gate = released.clone();
    endpoint.set(answer(move |_| Answer::status(503).once(&gate))).await;
    let one = |n: usize| event("ws", &format!("c{n}"), &format!("{n}"));
    system.publish(&(0..2 * AT_ONCE).map(one).collect::<Vec<_>>()).await;
    endpoint.wait_for(|requests| requests.len() == AT_ONCE, "as many requests as may be in flight").await;
    released.cancel();

    let attempts = system.wait_records("delivery-attempts", |records| records.len() == AT_ONCE).await;
    let counted: Vec<bool> =
        attempts.iter().map(|record| record.json()["counted"].as_bool().expect("it says so")).collect();
    assert_eq!(counted.iter().filter(|counted| **counted).count(), 1, "{counted:?}");
    assert_eq!(system.webhook_json(&["show", "wh"]).await["failures"], 1);
    let log = system.webhook_json(&["log", "wh"]).await;
    assert_eq!(log.as_array().expect("it is a list").len(), AT_ONCE);
    assert_eq!(endpoint.requests().len(), AT_ONCE, "nothing else goes before the pause is over");
}
