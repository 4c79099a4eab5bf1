//! The log of a webhook and what is counted of it by day.

use std::collections::BTreeMap;

use bundlehook::io::attempt_log::{AttemptLog, LoggedAttempt};
use bundlehook::io::clock;
use bundlehook::model::event::Skip;
use bundlehook::model::ids::{WebhookId, WorkspaceId};
use bundlehook::model::statistics::{Day, DayCounts, LogEntry, Statistics, Tenure};
use bundlehook::model::time::Millis;
use bundlehook::wire::attempt::AttemptRecord;
use bundlehook::wire::skips::{SkipRecord, WebhookSkips};
use serde_json::{Value, json};

use crate::support::{
    Answer, Behaviour, LIMIT, Outgoing, Record, SESSION, System, answer, committed, event, message_ids, ok,
    receiver, system, wait_until, webhook,
};

/// A webhook of the workspace `ws`.
fn id(webhook: &str) -> Tenure {
    Tenure { webhook: WebhookId::parse(webhook).expect("it is an id"), workspace: workspace("ws") }
}

fn workspace(id: &str) -> WorkspaceId {
    WorkspaceId::parse(id).expect("it is an id")
}

fn events(chats: usize, count: usize) -> Vec<serde_json::Value> {
    (0..count).map(|n| event("ws", &format!("c{}", n % chats), &format!("{n:04}"))).collect()
}

/// Refuses each message whose number is a multiple of ten, the first time.
fn refuse_tenths_once() -> Behaviour {
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    answer(move |request| {
        let message = message_ids(request).concat();
        let is_new_tenth =
            message.ends_with('0') && seen.lock().expect("no holder panics").insert(message.clone());
        Answer::status(if is_new_tenth { 500 } else { 200 }).body(format!("got {message}"))
    })
}

/// The attempts of a webhook with their places, newest first.
async fn attempts(system: &System, webhook: &str) -> Vec<(Record, AttemptRecord)> {
    let records = system.records("delivery-attempts").await;
    let parse = |record: Record| {
        let attempt: AttemptRecord = serde_json::from_value(record.json()).expect("it is an attempt");
        (record, attempt)
    };
    let mut attempts: Vec<_> = records.into_iter().map(parse).collect();
    attempts.retain(|(_, attempt)| attempt.webhook_id.as_str() == webhook);
    attempts.sort_by_key(|(record, attempt)| {
        std::cmp::Reverse((attempt.started_at.clone(), record.partition, record.offset))
    });
    attempts
}

/// Deliveries and failures by day, as the records say.
fn counted(attempts: &[(Record, AttemptRecord)]) -> BTreeMap<String, (u64, u64)> {
    let mut days: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (_, attempt) in attempts {
        let (deliveries, failures) = days.entry(attempt.started_at[..10].to_owned()).or_default();
        *if attempt.outcome.is_delivered() { deliveries } else { failures } += 1;
    }
    days
}

fn shown(statistics: &Statistics) -> BTreeMap<String, (u64, u64)> {
    let of_day = |day: &DayCounts| (day.day.to_string(), (day.deliveries, day.failures));
    statistics.days.iter().map(of_day).filter(|(_, counts)| *counts != (0, 0)).collect()
}

/// Waits until the views of a webhook hold every attempt there is.
async fn wait_reflected(system: &System, log: &AttemptLog, webhook: &str) -> Vec<(Record, AttemptRecord)> {
    let attempts = attempts(system, webhook).await;
    let expected = counted(&attempts);
    wait_until("the counts to be those of the topic", LIMIT, async || {
        log.statistics(&id(webhook)).await.is_ok_and(|statistics| shown(&statistics) == expected)
    })
    .await;
    attempts
}

fn places(entries: &[LogEntry]) -> Vec<(i32, i64)> {
    entries.iter().map(|entry| (entry.partition, entry.offset)).collect()
}

#[tokio::test]
async fn the_log_holds_the_last_hundred_attempts_of_all_partitions_newest_first_with_all_that_was_sent_and_received()
 {
    let receiver = receiver(refuse_tenths_once());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"headers": {"X-Key": "s3cret"}}));
    let Some(system) = system(2_000).partitions(3).start(&[settings]).await else { return };
    system.publish(&events(24, 130)).await;
    system.wait_delivered().await;
    receiver.wait_for(|requests| requests.len() >= 143, "everything").await;
    let log = system.attempt_log().await;

    let attempts = wait_reflected(&system, &log, "wh").await;

    assert!(attempts.len() >= 143);
    let hundred = log.recent(&id("wh"), 100).await.expect("redis answers");
    let newest: Vec<_> = attempts.iter().take(100).map(|(r, _)| (r.partition, r.offset)).collect();
    assert_eq!(places(&hundred), newest);
    assert_eq!(
        newest.iter().map(|(partition, _)| partition).collect::<std::collections::BTreeSet<_>>().len(),
        3
    );
    let ten = log.recent_in_full(&id("wh"), 10).await.expect("kafka answers");
    let all = log.recent_in_full(&id("wh"), 100).await.expect("kafka answers");
    assert_eq!(all[..10], ten);
    let requests = receiver.requests();
    for (LoggedAttempt { entry, record, body }, (_, attempt)) in all.iter().zip(&attempts) {
        assert_eq!(record.as_ref(), Some(attempt));
        assert_eq!(
            (entry.status, entry.attempt),
            (attempt.response.as_ref().map(|r| r.status), attempt.attempt)
        );
        let post = requests
            .iter()
            .find(|request| request.header("webhook-id") == Some(&entry.bundle_id.to_string()))
            .expect("it was received");
        assert_eq!(body.as_ref(), Some(&post.body));
        assert_eq!(
            attempt.response.as_ref().map(|r| r.body.clone()),
            Some(format!("got {}", message_ids(post)[0]))
        );
        assert!(attempt.request.headers.contains(&("x-key".to_owned(), "***".to_owned())));
    }
}

#[tokio::test]
async fn what_redis_lost_of_logs_and_counts_comes_back_while_the_roles_run_and_after_a_restart() {
    let receiver = receiver(refuse_tenths_once());
    let settings = ["wh-1", "wh-2"].map(|id| webhook(id, "ws", &receiver.url(&format!("/{id}")), json!({})));
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&settings).await else { return };
    system.publish(&events(12, 120)).await;
    system.wait_delivered().await;
    let log = system.attempt_log().await;
    let mut before = Vec::new();
    for webhook in ["wh-1", "wh-2"] {
        wait_reflected(&system, &log, webhook).await;
        before.push((
            log.recent(&id(webhook), 100).await.expect("redis answers"),
            log.statistics(&id(webhook)).await.expect("redis answers"),
        ));
    }
    assert_eq!(before[0].0.len(), 100);
    assert!(before[0].1.last_response.is_some() && before[0].1.error_rate() > Some(0.0));

    for restarts in [false, true] {
        if restarts {
            system.deliver.process.sigkill();
            system.deliver.process.wait_exit(LIMIT).await;
        }
        system.redis.flushall().await;
        if restarts {
            system.restart("deliver").await;
        }
        for (webhook, (recent, statistics)) in ["wh-1", "wh-2"].into_iter().zip(&before) {
            wait_until("the views to come back", LIMIT, async || {
                log.statistics(&id(webhook)).await.is_ok_and(|now| now == *statistics)
            })
            .await;
            assert_eq!(log.recent(&id(webhook), 100).await.expect("redis answers"), *recent);
        }
    }
    system.publish(&[event("ws", "c1", "later")]).await;
    receiver.wait_for(|requests| requests.iter().any(|r| message_ids(r) == ["later"]), "the message").await;
    system.wait_delivered().await;
    wait_reflected(&system, &log, "wh-1").await;
}

#[tokio::test]
async fn the_counts_are_those_of_the_topic_though_deliver_is_killed_again_and_again() {
    let receiver = receiver(refuse_tenths_once());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[settings]).await else { return };
    system.publish(&events(20, 600)).await;
    for kill in 1..=3 {
        receiver.wait_for(|requests| requests.len() >= kill * 100, "some of them").await;
        system.deliver.process.sigkill();
        system.deliver.process.wait_exit(LIMIT).await;
        system.restart("deliver").await;
    }
    receiver.set(ok()).await;

    system.wait_delivered().await;

    let log = system.attempt_log().await;
    let attempts = wait_reflected(&system, &log, "wh").await;
    assert!(attempts.len() >= 600);
    let recent = log.recent(&id("wh"), 100).await.expect("redis answers");
    let newest: Vec<_> = attempts.iter().take(100).map(|(r, _)| (r.partition, r.offset)).collect();
    assert_eq!(places(&recent), newest);
}

/// What was skipped for a webhook, by reason.
async fn skipped(log: &AttemptLog, webhook: &str) -> BTreeMap<Skip, u64> {
    let statistics = log.statistics(&id(webhook)).await.expect("redis answers");
    let mut reasons = BTreeMap::new();
    for (reason, count) in statistics.days.into_iter().flat_map(|day| day.skipped) {
        *reasons.entry(reason).or_default() += count;
    }
    reasons
}

async fn wait_skipped(log: &AttemptLog, webhook: &str, expected: &BTreeMap<Skip, u64>) {
    wait_until(&format!("the skips of `{webhook}` to be {expected:?}"), LIMIT, async || {
        skipped(log, webhook).await == *expected
    })
    .await;
}

#[tokio::test]
async fn skips_are_counted_by_reason_for_each_webhook_that_would_have_got_the_message() {
    let receiver = receiver(ok());
    let url = receiver.url("/");
    let webhooks = [
        webhook("each", "ws", &url, json!({})),
        webhook("hourly", "ws", &url, json!({"granularity": "1h"})),
        webhook("off", "ws", &url, json!({"enabled": false})),
        webhook("other", "ws-other", &url, json!({})),
    ];
    let setup = system(3_000).partitions(2).env("BUNDLEHOOK_MAX_AGE", "1h");
    let Some(system) = setup.start(&webhooks).await else { return };
    let changed = |id: &str, pointer: &str, value: Value| {
        let mut event = event("ws", "c", id);
        event["message"][pointer] = value;
        event
    };
    let mut otherwise_broken = changed("photo-2", "attachments", json!([{}]));
    otherwise_broken["chat"] = json!(7);
    system.window_start(1).await;

    system
        .publish(&[
            changed("photo", "attachments", json!([{"filename": "a.jpg"}])),
            changed("blank", "text", json!(" ")),
            changed("null", "text", Value::Null),
            changed("old", "timestamp", json!("2021-02-24T16:25:29+0000")),
            event("ws", "c", "twice"),
            event("ws", "c", "twice"),
            event("ws-unknown", "c", "stranger"),
        ])
        .await;
    let broken = Outgoing::new("c", otherwise_broken.to_string());
    system.produce("message-events", [broken]).await;

    let log = system.attempt_log().await;
    let mut expected = BTreeMap::from([
        (Skip::Attachments, 2),
        (Skip::EmptyText, 2),
        (Skip::TooOld, 1),
        (Skip::Duplicate, 1),
    ]);
    for webhook in ["each", "hourly"] {
        wait_skipped(&log, webhook, &expected).await;
    }
    let records = system.records("message-skips").await;
    let from: i64 = records.iter().map(|record| record.timestamp).min().expect("there are some");
    let today = log.statistics(&id("each")).await.expect("redis answers");
    let first = today.days.iter().find(|day| !day.skipped.is_empty()).expect("some were skipped");
    assert!([Day::of(Millis(from)), Day::of(Millis(from - 60_000))].contains(&first.day));

    system.redis.flushall().await;
    for webhook in ["each", "hourly"] {
        wait_skipped(&log, webhook, &expected).await;
    }
    system.publish(&[changed("photo-3", "attachments", json!([{}]))]).await;
    *expected.entry(Skip::Attachments).or_default() += 1;
    wait_skipped(&log, "hourly", &expected).await;
    for webhook in ["off", "other"] {
        assert_eq!(skipped(&log, webhook).await, BTreeMap::new());
    }
}

#[tokio::test]
async fn no_skip_is_counted_twice_or_not_at_all_though_aggregate_is_killed_and_redis_forgets() {
    const BATCH: usize = 400;
    let receiver = receiver(ok());
    let webhooks = ["none", "1h"].map(|g| webhook(g, "ws", &receiver.url("/"), json!({"granularity": g})));
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&webhooks).await else { return };
    let batch = |round: usize| -> Vec<Value> {
        let photo = |n: usize| {
            let mut event = event("ws", &format!("c{}", n % 8), &format!("{round}-{n:04}"));
            if !n.is_multiple_of(4) {
                event["message"]["attachments"] = json!([{}]);
            }
            event
        };
        (0..BATCH).map(photo).collect()
    };
    for round in 0..4 {
        system.publish(&batch(round)).await;
        let series = "bundlehook_events_read_total";
        system.aggregate.wait_sum(series, 1.0).await;
        if round == 1 {
            // Long enough that what was counted is published, before or after the kill.
            system.wait_records("message-skips", |records| !records.is_empty()).await;
        }
        system.aggregate.process.sigkill();
        system.aggregate.process.wait_exit(LIMIT).await;
        if round == 2 {
            system.redis.flushall().await;
        }
        system.restart("aggregate").await;
    }

    system.wait_done().await;

    let log = system.attempt_log().await;
    let expected = BTreeMap::from([(Skip::Attachments, (4 * BATCH * 3 / 4) as u64)]);
    for webhook in ["none", "1h"] {
        wait_skipped(&log, webhook, &expected).await;
    }
}

#[tokio::test]
async fn skips_that_were_published_but_not_committed_as_done_are_not_counted_again() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[settings]).await else { return };
    let photos = |count: usize| -> Vec<Value> {
        let photo = |n: usize| {
            let mut event = event("ws", "c", &n.to_string());
            event["message"]["attachments"] = json!([{}]);
            event
        };
        (0..count).map(photo).collect()
    };
    system.publish(&photos(1)).await;
    system.wait_done().await;
    system.aggregate.process.sigkill();
    system.aggregate.process.wait_exit(LIMIT).await;
    system.publish(&photos(5)).await;
    let group = format!("{}bundlehook-aggregate", system.prefix);
    let committed = committed(system.kafka.servers(), &group, &system.topic("message-events")).await;
    let metadata: Value = serde_json::from_str(&committed[0].metadata).expect("it is JSON");
    let skips = WebhookSkips {
        webhook_id: id("wh").webhook,
        workspace_id: Some(workspace("ws")),
        day: Day::of(clock::now()),
        reasons: BTreeMap::from([(Skip::Attachments, 5)]),
    };
    let topic = metadata["topic"].as_str().expect("it is a text").to_owned();
    let record = SkipRecord::new(topic, 0, (1, 6), vec![skips]);
    system.produce("message-skips", [Outgoing::new("0", record.encode())]).await;

    system.restart("aggregate").await;
    system.publish(&photos(1)).await;

    let log = system.attempt_log().await;
    wait_skipped(&log, "wh", &BTreeMap::from([(Skip::Attachments, 7)])).await;
}

#[tokio::test]
async fn what_a_former_owner_publishes_late_counts_too_and_what_is_lost_of_one_webhook_comes_back() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let Some(system) = system(2_000).start(&[settings]).await else { return };
    let log = system.attempt_log().await;
    system.publish(&events(4, 20)).await;
    system.wait_delivered().await;
    let attempts = wait_reflected(&system, &log, "wh").await;
    let late = Outgoing::new("wh", attempts[0].0.text()).partition(0);
    system.produce("delivery-attempts", [late]).await;

    system.publish(&[event("ws", "c1", "later")]).await;
    system.wait_delivered().await;

    assert_eq!(wait_reflected(&system, &log, "wh").await.len(), 22);
    let gone: i64 = system.redis.command(&["DEL", &format!("{{{}wh:wh}}:counts:ws", system.prefix)]).await;
    assert_eq!(gone, 1);
    system.publish(&[event("ws", "c1", "latest")]).await;
    system.wait_delivered().await;
    assert_eq!(wait_reflected(&system, &log, "wh").await.len(), 23);
}
