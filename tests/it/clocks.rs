//! Clocks that are wrong: of the host, against those of the brokers and of Redis. The processes are made to see theirs
//! ahead or behind by `BUNDLEHOOK_CLOCK_AHEAD_MS`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{
    LIMIT, Load, RedisKind, Request, SESSION, System, event, kafka, message_ids, ok, process, receiver,
    redis_with, system, wait_until, webhook,
};

const AHEAD: &str = "BUNDLEHOOK_CLOCK_AHEAD_MS";
const HOUR: i64 = 3_600_000;
const CLOSED_BY_CLOCK: &str = "bundlehook_boundaries_closed_total{by=\"clock\"}";
const WARNING: &str = "the host's clock differs from the brokers'";

/// A system with one webhook of hourly windows, whose clock is ahead by so much.
async fn start(url: &str, ahead: i64) -> Option<System> {
    let settings = webhook("wh", "ws", url, json!({"granularity": "1h"}));
    system(2_000).env(AHEAD, &ahead.to_string()).start(&[settings]).await
}

fn bundles(requests: &[Request]) -> Vec<Vec<String>> {
    requests.iter().map(message_ids).collect()
}

/// Nothing comes after the messages: only a clock can close their window, and it must not be the wrong one.
#[tokio::test]
async fn a_window_of_an_idle_partition_closes_once_by_the_brokers_clock_where_the_hosts_is_an_hour_ahead() {
    let receiver = receiver(ok());
    let Some(system) = start(&receiver.url("/"), HOUR).await else { return };

    for round in 0..3 {
        system.window_start(1).await;
        let events = ["a", "b"].map(|n| event("ws", "c", &format!("{round}{n}")));
        system.publish(&events[..1]).await;
        system.aggregate.wait_sum("bundlehook_events_accepted_total", f64::from(2 * round + 1)).await;
        system.publish(&events[1..]).await;
        receiver.wait_for(|requests| requests.len() > round as usize, "the bundle").await;
    }

    system.wait_done().await;
    assert_eq!(bundles(&receiver.requests()), [["0a", "0b"], ["1a", "1b"], ["2a", "2b"]]);
    assert!(system.aggregate.sum(CLOSED_BY_CLOCK).await >= 3.0);
    let warnings = system.aggregate.process.stderr().matches(WARNING).count();
    assert_eq!(warnings, 1, "it is said once a partition");
}

/// Who waits for a clock that is behind waits for no longer than that.
#[tokio::test]
async fn a_window_of_an_idle_partition_closes_late_by_what_the_hosts_clock_is_behind() {
    let receiver = receiver(ok());
    let Some(system) = start(&receiver.url("/"), -6_000).await else { return };
    system.window_start(1).await;

    system.publish(&[event("ws", "c", "1"), event("ws", "c", "2")]).await;

    receiver.wait_for(|requests| requests.len() == 1, "the bundle").await;
    system.wait_done().await;
    assert_eq!(bundles(&receiver.requests()), [["1", "2"]]);
    assert!(system.aggregate.sum(CLOSED_BY_CLOCK).await >= 1.0);
}

/// The records close windows whatever the host believes.
#[tokio::test]
async fn windows_close_by_records_where_the_hosts_clock_is_an_hour_behind() {
    let receiver = receiver(ok());
    let Some(system) = start(&receiver.url("/"), -HOUR).await else { return };
    let mut sent = 0;
    wait_until("some windows to close", LIMIT, async || {
        system.publish(&[event("ws", "c", &format!("{sent:05}"))]).await;
        sent += 1;
        receiver.requests().len() >= 4
    })
    .await;

    assert!(system.aggregate.sum(CLOSED_BY_CLOCK).await < 1.0);
    let came = receiver.requests().iter().flat_map(message_ids).collect::<Vec<_>>();
    let expected: Vec<_> = (0..came.len()).map(|n| format!("{n:05}")).collect();
    assert_eq!(came, expected, "all of closed windows, once and in order");
}

/// Processes on hosts whose clocks are an hour ahead, an hour behind and right take over from one another.
#[tokio::test]
async fn hosts_with_clocks_that_differ_by_hours_take_over_from_one_another_and_no_window_closes_twice() {
    let load = Load::new();
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env(AHEAD, &HOUR.to_string());
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };

    let mut last = None;
    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            system.aggregate.process.sigkill();
            let behind = system.start_with("aggregate", AHEAD, &(-HOUR).to_string());
            behind.wait_claimed(1).await;
            load.wait_more(50).await;
            behind.process.sigkill();
            let ahead = system.start_with("aggregate", AHEAD, &HOUR.to_string());
            ahead.wait_claimed(1).await;
            load.wait_more(50).await;
            ahead.process.sigterm();
            assert!(ahead.process.wait_exit(LIMIT).await.success());
            let right = system.start_with("aggregate", AHEAD, "0");
            right.wait_claimed(1).await;
            load.wait_more(50).await;
            last = Some(right);
        })
        .await;

    system.aggregate = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, 0);
    let mut closings = BTreeMap::<_, BTreeSet<_>>::new();
    for record in system.records("bundles").await {
        let field = |name: &str| record.header(name).map(str::to_owned);
        if field("stream").as_deref() == Some("closings") {
            let window = ["webhook-id", "chat-id", "window-start"].map(field);
            assert!(window.iter().all(Option::is_some), "{window:?}");
            closings.entry(window).or_default().insert(field("bundle-id"));
        }
    }
    assert!(closings.values().all(|ids| ids.len() == 1), "a window has one bundle: {closings:?}");
}

#[tokio::test]
async fn doctor_tells_how_far_the_clocks_of_brokers_and_redis_are_from_the_hosts() {
    let Some(kafka) = kafka().await else { return };
    let (prefix, redis) = (kafka.prefix(), redis_with(RedisKind::Single, &[]).await);
    let launch = |tool: &str| {
        process(tool)
            .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
            .env("BUNDLEHOOK_REDIS_URL", redis.url())
            .env("BUNDLEHOOK_TOPIC_PREFIX", &prefix)
    };
    let made = launch("topics").arg("--partitions=1").run().await;
    assert!(made.status.success(), "{made:?}");
    let topic = format!("{prefix}message-events");
    kafka.wait_for_leaders(&topic, 1).await;
    let record = crate::support::Outgoing::new("c", event("ws", "c", "1").to_string());
    crate::support::produce(kafka.servers(), &topic, [record]).await;

    let brokers = "clocks of this host and the brokers";
    let server = "clocks of this host and redis";
    for (ahead, of_brokers, of_redis) in [
        (0, "ok", "ok"),
        (-3_000 - 60_000, "fail", "warn"),
        (-HOUR, "fail", "warn"),
        // A broker that is behind can't be seen without writing to it.
        (HOUR, "ok", "warn"),
    ] {
        let finished = launch("doctor").arg("--json").env(AHEAD, ahead.to_string()).run().await;
        let report: Value = serde_json::from_str(&finished.stdout).expect("it says JSON");
        let checks = report["checks"].as_array().expect("it is a list");
        let check = |name: &str| checks.iter().find(|check| check["name"] == name).expect("it is there");
        assert_eq!(
            (&check(brokers)["level"], &check(server)["level"]),
            (&json!(of_brokers), &json!(of_redis))
        );
        if ahead != 0 {
            let seen = check(server)["seen"].as_str().expect("it is a text");
            let apart: i64 = seen.split(' ').next().and_then(|ms| ms.parse().ok()).expect("it is a number");
            assert!((apart - ahead.abs()).abs() < 1_000, "{seen}, expected {ahead}");
            assert!(check(server)["remedy"].as_str().is_some_and(|remedy| remedy.contains("NTP")));
        }
    }
}
