//! However long Redis stands still, what waits for it stays in Kafka, and not in the memory of the processes.

use serde_json::{Value, json};

use crate::support::{Fault, Process, Role, event, message_ids, ok, proxy, receiver, system, webhook};

const MESSAGES: usize = 5_000;
/// Of each message's text; 100 MiB in all.
const BYTES: usize = 20 * 1024;
/// The most that a process may grow meanwhile, in MiB.
const MOST: f64 = 64.0;
/// What librdkafka reads ahead is not what is in question.
const READ_AHEAD: &str = "queued.max.messages.kbytes=4096";
const FAILURES: &str = "bundlehook_redis_operation_failures_total";

fn events(numbers: std::ops::Range<usize>) -> Vec<Value> {
    let text = "x".repeat(BYTES);
    let one = |n: usize| {
        let mut event = event("ws", &format!("c{}", n % 20), &n.to_string());
        event["message"]["text"] = text.as_str().into();
        event
    };
    numbers.map(one).collect()
}

/// Memory of a process, in MiB.
fn memory(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") / 1024.0
}

/// Waits until a role has tried in vain again and again, and looks at what it has grown by.
async fn assert_small(role: &Role, before: f64) {
    let failures = role.sum(FAILURES).await;
    role.wait_sum(FAILURES, failures + 5.0).await;
    let grown = memory(&role.process) - before;
    assert!(grown < MOST, "it has grown by {grown:.0} MiB");
    println!("grown by {grown:.0} MiB over a backlog of {} MiB", MESSAGES * BYTES / 1024 / 1024);
}

#[tokio::test]
async fn what_aggregate_can_not_apply_while_redis_stands_still_waits_in_kafka() {
    let setup = system(3_600_000)
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", READ_AHEAD)
        .env("BUNDLEHOOK_REDIS_TIMEOUT", "500ms");
    let other = webhook("wh", "ws-other", "http://127.0.0.1:9/", json!({}));
    let Some(system) = setup.start(&[other]).await else { return };
    let before = memory(&system.aggregate.process);

    system.redis.sigstop();
    for from in (0..MESSAGES).step_by(500) {
        system.publish(&events(from..from + 500)).await;
    }
    assert_small(&system.aggregate, before).await;
    system.redis.sigcont();

    system.aggregate.wait_sum("bundlehook_events_read_total", MESSAGES as f64).await;
    system.wait_committed("aggregate", "message-events").await;
}

/// Redis stands still for the delivering process alone, so that bundles keep coming.
#[tokio::test]
async fn what_deliver_can_not_park_or_count_while_redis_stands_still_waits_in_kafka() {
    let endpoint = receiver(ok());
    let setup = system(2_000)
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", READ_AHEAD)
        .env("BUNDLEHOOK_WAITING_MEMORY", "8")
        .env("BUNDLEHOOK_REDIS_TIMEOUT", "500ms");
    let settings = webhook("wh", "ws", &endpoint.url("/"), json!({}));
    let Some(mut system) = setup.start(&[settings]).await else { return };
    let network = proxy(system.redis.addr());
    system.deliver.process.sigterm();
    assert!(system.deliver.process.wait_exit(crate::support::LIMIT).await.success());
    system.deliver =
        system.start_with("deliver", "BUNDLEHOOK_REDIS_URL", &format!("redis://{}", network.addr()));
    system.deliver.wait_claimed(1).await;
    let before = memory(&system.deliver.process);

    network.set(Fault::Stall).await;
    for from in (0..MESSAGES).step_by(500) {
        system.publish(&events(from..from + 500)).await;
    }
    system.wait_committed("aggregate", "message-events").await;
    assert_small(&system.deliver, before).await;
    network.set(Fault::None).await;

    system.wait_delivered().await;
    let mut numbers: Vec<usize> = endpoint
        .requests()
        .iter()
        .flat_map(message_ids)
        .map(|id| id.parse().expect("it is a number"))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
}
