//! What the metrics say of where the work stands.

use bundlehook::io::clock;
use serde_json::{Value, json};

use crate::mails::{notification, notify, publish};
use crate::support::{
    ADMIN, LIMIT, Process, RedisKind, event, hang, mail_server, ok, receiver, redis, refuse, system,
    wait_until, webhook,
};

const RETENTION: f64 = 72.0 * 3600.0;

/// A series of a role's only partition.
fn of(name: &str, role: &str) -> String {
    format!("bundlehook_{name}{{partition=\"0\",role=\"{role}\"}}")
}

/// A length of an hour, in milliseconds, such that the present one ends in ten minutes at the earliest.
fn unfinished_hour() -> u64 {
    let now = clock::now().0 as u64;
    let mut lengths = (0..).map(|n| 3_600_000 - n * 1_000);
    lengths.find(|hour| (60_000..hour - 600_000).contains(&(now % hour))).expect("there are many")
}

/// Waits until a series has a value.
async fn wait_value(process: &Process, series: &str, value: f64) {
    wait_until(&format!("`{series}` to be {value}"), LIMIT, async || {
        process.metric(series).await == Some(value)
    })
    .await;
}

/// Waits until a series has a value that is as it should be.
async fn wait_metric(process: &Process, series: &str, is_right: impl Fn(f64) -> bool) {
    wait_until(&format!("`{series}` to be right"), LIMIT, async || {
        process.metric(series).await.is_some_and(&is_right)
    })
    .await;
}

#[tokio::test]
async fn open_windows_are_counted_and_the_first_that_can_close_is_told() {
    let receiver = receiver(ok());
    let hourly = webhook("hourly", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let daily = webhook("daily", "ws", &receiver.url("/"), json!({"granularity": "24h"}));
    let hour = unfinished_hour();
    let Some(system) = system(hour).start(&[hourly, daily]).await else { return };
    let (due, open) = (
        "bundlehook_oldest_window_due_timestamp_seconds{partition=\"0\"}",
        "bundlehook_windows_open{partition=\"0\"}",
    );
    let process = &system.aggregate.process;
    wait_value(process, open, 0.0).await;
    assert_eq!(process.metric(due).await, None, "nothing is open");

    let before = clock::now().0 as f64 / 1000.0;
    system.publish(&[event("ws", "c1", "1"), event("ws", "c2", "2"), event("ws", "c1", "3")]).await;
    wait_value(process, open, 4.0).await;

    let due = process.metric(due).await.expect("windows are open");
    // At the end of an hour, and a fifth of a second later.
    assert_eq!(((due * 1000.0).round() as i64 - 200).rem_euclid(hour as i64), 0, "{due}");
    assert!((before..before + 3601.0 + 60.0).contains(&due), "{due} is not within the hour after {before}");
    wait_metric(process, &of("retention_left_seconds", "aggregate"), |left| {
        (RETENTION - 300.0..=RETENTION).contains(&left)
    })
    .await;
}

#[tokio::test]
async fn what_is_not_applied_while_redis_is_away_shows_as_lag_that_ages() {
    let server = redis(RedisKind::Single).await;
    let at_once = webhook("at-once", "ws", &receiver(ok()).url("/"), json!({}));
    let Some(system) = system(1_000).redis(server).start(&[at_once]).await else { return };
    let (records, seconds) = (of("lag_records", "aggregate"), of("lag_seconds", "aggregate"));
    wait_value(&system.aggregate.process, &seconds, 0.0).await;
    system.redis.kill9();

    let events: Vec<Value> = (0..5).map(|n| event("ws", "c", &n.to_string())).collect();
    system.publish(&events).await;
    wait_value(&system.aggregate.process, &records, 5.0).await;
    let before = system.aggregate.process.metric(&seconds).await.expect("it was told");
    wait_metric(&system.aggregate.process, &seconds, |lag| lag > before).await;

    system.redis.restart().await;
    for series in [&records, &seconds] {
        wait_value(&system.aggregate.process, series, 0.0).await;
    }
}

#[tokio::test]
async fn a_bundle_in_flight_is_lag_of_deliver_in_records_and_not_in_seconds_and_one_that_is_parked_is_none() {
    let endpoint = receiver(hang());
    let at_once = webhook("at-once", "ws", &endpoint.url("/"), json!({}));
    let Some(system) = system(1_000).env("BUNDLEHOOK_REQUEST_TIMEOUT", "30s").start(&[at_once]).await else {
        return;
    };
    system.publish(&[event("ws", "c", "1"), event("ws", "c", "2")]).await;
    let process = &system.deliver.process;
    wait_value(process, &of("lag_records", "deliver"), 2.0).await;
    wait_value(process, &of("lag_seconds", "deliver"), 0.0).await;
    // What was in flight has failed.
    endpoint.set(refuse()).await;
    wait_value(process, &of("lag_records", "deliver"), 0.0).await;
}

#[tokio::test]
async fn emails_that_wait_for_their_server_are_lag_of_notify() {
    let receiver = receiver(ok());
    let at_once = webhook("at-once", "ws", &receiver.url("/"), json!({}));
    let Some(system) = system(1_000).start(&[at_once]).await else { return };
    let mut server = mail_server().await;
    server.stop();
    let sender = notify(&system, &server, &[]).await;
    for number in 1..=3 {
        publish(&system, &notification(number, "ann@acme.example")).await;
    }
    wait_value(&sender, &of("lag_records", "notify"), 3.0).await;
    wait_metric(&sender, &of("lag_seconds", "notify"), |lag| lag > 0.0).await;
    server.start().await;
    server.wait_for(3).await;
    for name in ["lag_records", "lag_seconds"] {
        wait_value(&sender, &of(name, "notify"), 0.0).await;
    }
    assert_eq!(sender.metric("bundlehook_notifications_read_total").await, Some(3.0));
    assert!(sender.metric(&of("last_progress_timestamp_seconds", "notify")).await.is_some());
}

#[tokio::test]
async fn a_partition_is_told_of_by_its_owner_alone() {
    let at_once = webhook("at-once", "ws", &receiver(ok()).url("/"), json!({"granularity": "1h"}));
    let Some(system) = system(1_000).partitions(2).start(&[at_once]).await else { return };
    let told = async |process: &Process| {
        let page = process.metrics().await;
        ["lag_records", "lag_seconds", "retention_left_seconds", "windows_open", "boundaries_open"]
            .map(|name| page.lines().filter(|line| line.starts_with(&format!("bundlehook_{name}{{"))).count())
    };
    wait_until("both partitions to be told of", LIMIT, async || {
        told(&system.aggregate.process).await == [2; 5]
    })
    .await;
    let other = system.another("aggregate").await;
    wait_until("each to tell of one", LIMIT, async || {
        (told(&system.aggregate.process).await, told(&other.process).await) == ([1; 5], [1; 5])
    })
    .await;
}

#[tokio::test]
async fn requests_streams_and_refused_tokens_of_the_console_are_counted() {
    let at_once = webhook("at-once", "ws", &receiver(ok()).url("/"), json!({}));
    let Some(system) = system(1_000).start(&[at_once]).await else { return };
    let console = system.console(&[]).await;
    let process = &console.process;
    let count = |route: &str, status: u16| {
        format!("bundlehook_http_requests_total{{method=\"GET\",route=\"{route}\",status=\"{status}\"}}")
    };
    let streams = "bundlehook_event_streams_open";
    for token in [ADMIN, ADMIN, "nobody's"] {
        console.call("GET", "/api/v1/webhooks/at-once", token, &Value::Null).await;
    }
    console.call("GET", "/nowhere/at/all", ADMIN, &Value::Null).await;
    assert_eq!(process.metric(&count("/api/v1/webhooks/{webhook_id}", 200)).await, Some(2.0));
    assert_eq!(process.metric(&count("/api/v1/webhooks/{webhook_id}", 401)).await, Some(1.0));
    assert_eq!(process.metric(&count("other", 404)).await, Some(1.0));
    let refused = "bundlehook_sign_ins_refused_total{cause=\"token\"}";
    assert_eq!(process.metric(refused).await, Some(1.0));

    assert_eq!(process.metric(streams).await, Some(0.0));
    let events = console.listen(ADMIN).await;
    wait_value(process, streams, 1.0).await;
    drop(events);
    wait_value(process, streams, 0.0).await;
}
