//! What one webhook may take: requests at once, and memory.

use std::{ops::Range, time::Duration};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Answer, Behaviour, Outgoing, Receiver, System, answer, event, message_ids, ok, receiver, refuse, system,
    wait_until, webhook,
};

const PARKED: &str = "bundlehook_deliveries_parked{";
const IN_FLIGHT: &str = "bundlehook_requests_in_flight";
const IN_MEMORY: &str = "bundlehook_deliveries_waiting_bytes";
/// Of a lane, by default.
const SHARE: f64 = 1024.0 * 1024.0;

/// Messages, each in a chat of its own, with texts of so many characters.
fn large_events(workspace: &str, count: usize, characters: usize) -> Vec<Value> {
    let one = |n: usize| {
        let mut event = event(workspace, &format!("{workspace}-{n}"), &format!("{n:05}"));
        event["message"]["text"] = "x".repeat(characters).into();
        event
    };
    (0..count).map(one).collect()
}

/// Answers with 200, but not before it is released.
fn gate() -> (Behaviour, CancellationToken) {
    let released = CancellationToken::new();
    let gate = released.clone();
    (answer(move |_| Answer::status(200).once(&gate)), released)
}

/// The next requests stop at a gate of their own, those that stand at the former one are answered; then so many requests
/// are in flight, and no more.
async fn next_gate(
    system: &System,
    endpoint: &Receiver,
    former: &CancellationToken,
    requests: usize,
) -> CancellationToken {
    let (gate, released) = gate();
    endpoint.set(gate).await;
    former.cancel();
    let is_so = || async { system.deliver.sum(IN_FLIGHT).await as usize == requests };
    wait_until(&format!("{requests} requests in flight"), Duration::from_mins(1), is_so).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(is_so().await, "not {requests}, but {} in flight", system.deliver.sum(IN_FLIGHT).await);
    released
}

#[tokio::test]
async fn after_an_outage_requests_at_once_double_up_to_the_usual_number_and_rise_by_one_up_to_the_ceiling() {
    const COUNT: usize = 600;
    let endpoint = receiver(refuse());
    let webhooks = [webhook("wh", "ws", &endpoint.url("/"), json!({}))];
    let system = system(2_000)
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "300ms")
        .env("BUNDLEHOOK_LANE_REQUESTS_CEILING", "11")
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "60s")
        .start(&webhooks);
    let Some(system) = system.await else { return };
    system.publish(&large_events("ws", COUNT, 10)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;

    // The probe, then one to see whether it stands, then twice as many for each success, but no more than usual.
    let mut released = CancellationToken::new();
    for requests in [1, 1, 2, 8] {
        released = next_gate(&system, &endpoint, &released, requests).await;
    }
    // Eight successes are a round; then there is one more.
    for requests in 9..=11 {
        released = next_gate(&system, &endpoint, &released, requests).await;
    }
    for _ in 0..3 {
        released = next_gate(&system, &endpoint, &released, 11).await;
    }
    endpoint.set(ok()).await;
    released.cancel();
    system.wait_delivered().await;
    assert_eq!(endpoint.requests().len(), COUNT, "each once");
}

/// Pulled and in flight counts like what was just read: an endpoint that is slow but well could else take all there is.
#[tokio::test]
async fn a_slow_endpoint_takes_no_more_memory_than_its_share_and_others_are_not_parked() {
    const COUNT: usize = 200;
    const CHARACTERS: usize = 60_000;
    let (slow, healthy) = (receiver(refuse()), receiver(ok()));
    let webhooks = [
        webhook("slow", "ws-slow", &slow.url("/"), json!({})),
        webhook("healthy", "ws-healthy", &healthy.url("/"), json!({})),
    ];
    let system = system(2_000)
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "300ms")
        .env("BUNDLEHOOK_LANE_REQUESTS", "64")
        .env("BUNDLEHOOK_LANE_REQUESTS_CEILING", "64")
        .start(&webhooks);
    let Some(system) = system.await else { return };
    system.publish(&large_events("ws-slow", COUNT, CHARACTERS)).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;

    slow.set(answer(|_| Answer::status(200).after(Duration::from_millis(500)))).await;
    let mut most: f64 = 0.0;
    let mut sent = 0;
    wait_until("the backlog to be sent", Duration::from_mins(2), async || {
        most = most.max(system.deliver.sum(IN_MEMORY).await);
        if slow.requests().len() >= COUNT / 4 && sent == 0 {
            sent = 50;
            system.publish(&large_events("ws-healthy", sent, CHARACTERS / 10)).await;
        }
        slow.requests().len() >= COUNT
    })
    .await;
    system.wait_delivered().await;
    assert_eq!((slow.requests().len(), healthy.requests().len()), (COUNT, 50));
    let of_healthy = (50 * CHARACTERS / 10 * 2) as f64;
    assert!(most > SHARE / 2.0, "only {most} bytes were ever in memory");
    assert!(most <= SHARE + of_healthy, "{most} bytes were in memory");
    let waited = system.records("waiting-deliveries").await;
    let parked = waited.iter().filter(|record| record.key().contains("healthy") && record.value.is_some());
    assert_eq!(parked.count(), 0, "the healthy one was parked");
}

/// The record of a bundle is kept for 14 days; a delivery ends its waiting a day before that.
#[tokio::test]
async fn what_waits_expires_13_days_after_its_bundle_and_the_rest_goes_on() {
    const OLD: Range<usize> = 0..20;
    const DAY: i64 = 24 * 3_600_000;
    let endpoint = receiver(refuse());
    let webhooks = [webhook("wh", "ws", &endpoint.url("/"), json!({}))];
    let Some(mut system) = system(2_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "300ms").start(&webhooks).await
    else {
        return;
    };
    // What aggregate publishes while nobody delivers is published again as if that had been 13 days ago.
    system.deliver.process.sigterm();
    system.deliver.process.wait_exit(crate::support::LIMIT).await;
    system.publish(&large_events("ws", OLD.len(), 10)).await;
    let bundles = system.wait_records("bundles", |bundles| bundles.len() == OLD.len()).await;
    let topic = system.topic("bundles");
    let config = [
        ("message.timestamp.type", "CreateTime"),
        ("retention.ms", "1209600000"),
        ("max.message.bytes", "8388608"),
    ];
    system.kafka.configure_topic(&topic, &config).await;
    let aged = bundles.iter().map(|bundle| {
        let record = Outgoing::new(bundle.key(), bundle.text()).at(bundle.timestamp - 13 * DAY);
        bundle.headers.iter().fold(record, |record, (name, value)| record.header(name, value))
    });
    system.produce("bundles", aged).await;
    system.kafka.delete_records(&topic, 0, OLD.len() as i64).await;
    system.restart("deliver").await;

    let expired = "bundlehook_bundles_settled_total{result=\"expired\"}";
    system.deliver.wait_sum(expired, OLD.len() as f64).await;
    let event = event("ws", "fresh", "fresh");
    system.publish(&[event]).await;
    system.deliver.wait_sum(PARKED, 1.0).await;
    endpoint.set(ok()).await;
    system.wait_delivered().await;
    let received: Vec<String> = endpoint.requests().iter().flat_map(message_ids).collect();
    assert_eq!(received, ["fresh"]);
    assert_eq!(system.deliver.sum(expired).await.to_string(), OLD.len().to_string());
}
