//! The commands on webhooks that look and switch, each as a process of its own beside the roles.

use std::collections::HashMap;

use bundlehook::io::clock;
use serde_json::{Value, json};

use crate::support::{
    Finished, LIMIT, Receiver, Record, Request, System, event, hang, message_ids, ok, process, receiver,
    refuse, status, system, wait_until, webhook,
};

pub(crate) const PARKED: &str = "bundlehook_deliveries_parked{";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A system with the webhook `wh` of the workspace `ws`.
pub(crate) async fn start(receiver: &Receiver, more: Value, retry: &str) -> Option<System> {
    let webhooks = [webhook("wh", "ws", &receiver.url("/hook?key=s3cret"), more)];
    system(2_000).env("BUNDLEHOOK_RETRY_SCHEDULE", retry).start(&webhooks).await
}

pub(crate) fn events(numbers: std::ops::Range<usize>) -> Vec<Value> {
    numbers.map(|n| event("ws", &format!("c{}", n % 4), &format!("{n:03}"))).collect()
}

pub(crate) fn ids(requests: &[Request]) -> Vec<String> {
    requests.iter().flat_map(message_ids).collect()
}

pub(crate) fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("{n:03}")).collect()
}

/// The messages of each chat, in the order in which they came.
pub(crate) fn by_chat(ids: &[String]) -> HashMap<usize, Vec<&str>> {
    let mut chats: HashMap<usize, Vec<&str>> = HashMap::new();
    for id in ids {
        chats.entry(id.parse::<usize>().expect("it is a number") % 4).or_default().push(id);
    }
    chats
}

#[track_caller]
pub(crate) fn assert_ended(finished: &Finished, code: i32, part: &str) {
    let Finished { status, stdout, stderr } = finished;
    assert_eq!(status.code(), Some(code), "{stdout}\n{stderr}");
    assert!(stdout.contains(part) || stderr.contains(part), "`{part}` is not in: {stdout}\n{stderr}");
}

/// Waits until a property of the webhook is so.
async fn wait_shown(system: &System, property: &str, value: Value) -> Value {
    let mut shown = Value::Null;
    wait_until(&format!("`{property}` to be {value}"), LIMIT, async || {
        shown = system.webhook_json(&["show", "wh"]).await;
        shown[property] == value
    })
    .await;
    shown
}

/// Records of attempts, in order.
pub(crate) async fn attempts(system: &System) -> Vec<Value> {
    system.records("delivery-attempts").await.iter().map(Record::json).collect()
}

async fn wait_disabled(system: &System) {
    let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
    system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
}

#[tokio::test]
async fn a_webhook_is_shown_with_its_state_and_what_waits_and_without_its_secrets() {
    let failing = receiver(status(500));
    let more =
        json!({"secrets": [SECRET], "headers": {"authorization": "Bearer s3cret"}, "updated_by": "amnon"});
    let Some(system) = start(&failing, more, "10m").await else { return };
    system.publish(&events(0..5)).await;
    system.deliver.wait_sum(PARKED, 5.0).await;

    let shown = system.webhook_json(&["show", "wh"]).await;
    for (property, expected) in [
        ("state", json!("tripped")),
        ("failures", json!(1)),
        ("parked", json!(5)),
        ("enabled", json!(true)),
        ("updated_by", json!("amnon")),
        ("secrets", json!(1)),
        ("headers", json!({"authorization": "***"})),
    ] {
        assert_eq!(shown[property], expected, "{property}");
    }
    assert_eq!(shown["last_attempt"]["status"], 500);
    assert!(shown["next_attempt_at"].is_string());
    assert_eq!(shown["url"], failing.url("/hook?key=***"));

    let log = system.webhook_json(&["log", "wh", "--count", "1"]).await;
    assert_eq!(log.as_array().map(Vec::len), Some(1));
    let first = attempts(&system).await.into_iter().find(|attempt| attempt["counted"] == true);
    assert_eq!(first.expect("one was counted")["failures"], 1);

    for (args, part) in [
        (&["show", "wh"][..], "tripped"),
        (&["list"], "answered 500"),
        (&["list", "--workspace", "ws"], "wh"),
        (&["log", "wh"], "answered 500 Internal Server Error"),
    ] {
        let finished = system.webhook(args).await;
        assert_ended(&finished, 0, part);
        assert!(
            !finished.stdout.contains("s3cret") && !finished.stdout.contains(SECRET),
            "{}",
            finished.stdout
        );
    }
    assert_eq!(system.webhook_json(&["list", "--workspace", "other"]).await, json!([]));
}

#[tokio::test]
async fn what_is_not_there_or_can_not_be_reached_is_named_and_has_a_code_of_its_own() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let delivery = "9b7a3f52-0a6b-4a39-8a0e-1f2e3d4c5b6a";
    for args in [
        &["show", "none"][..],
        &["log", "none"],
        &["test", "none"],
        &["enable", "none"],
        &["disable", "none"],
        &["resend", "none", "--delivery", delivery],
    ] {
        assert_ended(&system.webhook(args).await, 66, "webhook `none` does not exist");
    }
    assert_ended(&system.webhook(&["resend", "wh", "--delivery", delivery]).await, 66, delivery);
    system.delete_webhook("wh").await;
    assert_ended(&system.webhook(&["show", "wh"]).await, 66, "webhook `wh` does not exist");
    let away = ["list", "--redis-url", "redis://127.0.0.1:1", "--timeout", "1s"];
    assert_ended(&system.webhook(&away).await, 69, "redis did not answer: Connection refused");
    let no_kafka = process("webhook").args(["list", "--kafka-brokers", "127.0.0.1:1", "--timeout", "1s"]);
    let finished = no_kafka.env("BUNDLEHOOK_REDIS_URL", system.redis.url()).run().await;
    assert_ended(&finished, 69, "the settings could not be read from Kafka within 1 s");
}

#[tokio::test]
async fn the_owner_switches_off_and_on_and_everything_else_stays_as_it_was() {
    let receiver = receiver(ok());
    let more = json!({"secrets": [SECRET], "unknown": 1, "version": 7});
    let Some(system) = start(&receiver, more, "1s").await else { return };

    assert_ended(&system.webhook(&["disable", "wh", "--by", "amnon"]).await, 0, "webhook `wh` is off");
    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "off already");
    system.settings_count().await;
    system.publish(&events(0..1)).await;
    assert_ended(
        &system.webhook(&["resend", "wh", "--from", "2021-02-24T16:00:00Z"]).await,
        1,
        "switched off",
    );
    assert_ended(&system.webhook(&["enable", "wh", "--if-version", "7"]).await, 75, "`amnon` at ");
    assert_ended(&system.webhook(&["enable", "wh", "--if-version", "8"]).await, 0, "webhook `wh` is on");
    system.settings_count().await;
    system.publish(&events(1..2)).await;
    receiver.wait_for(|requests| !requests.is_empty(), "what came after the enabling").await;

    system.wait_done().await;
    assert_eq!(ids(&receiver.requests()), ["001"]);
    let records: Vec<Value> = system.records("webhook-settings").await.iter().map(Record::json).collect();
    let edits: Vec<_> = records.iter().map(|record| (&record["version"], &record["enabled"])).collect();
    assert_eq!(edits, [(&json!(7), &Value::Null), (&json!(8), &json!(false)), (&json!(9), &json!(true))]);
    assert!(records.iter().all(|record| record["secrets"] == json!([SECRET]) && record["unknown"] == 1));
    assert_eq!(records[1]["updated_by"], "amnon");
}

#[tokio::test]
async fn of_two_edits_on_the_same_settings_one_is_refused_and_learns_of_the_other() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let key = format!("{{{}wh:wh}}:edit:settings", system.prefix);
    let place = async |offset: usize, age: i64| {
        let at = clock::now().0 - age;
        let claim = json!({"base": [offset, 0, 0], "by": "dana", "what": "disable", "at": at});
        let _: String = system.redis.command(&["SET", &key, &claim.to_string()]).await;
    };

    // Somebody has claimed the same and may be about to publish.
    place(0, 1_000).await;
    let refused = system.webhook(&["disable", "wh"]).await;
    assert_ended(&refused, 75, "webhook `wh` is being changed by `dana` (`disable`, since ");
    assert_eq!(system.records("webhook-settings").await.len(), 1);

    // They died before they published, or Redis forgot.
    place(0, 31_000).await;
    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "webhook `wh` is off");
    system.redis.flushall().await;
    assert_ended(&system.webhook(&["enable", "wh"]).await, 0, "webhook `wh` is on");

    // What they published is there; an upstream producer has edited since. The latest in Kafka is what counts.
    place(2, 1_000).await;
    let edited = webhook("wh", "ws", "http://127.0.0.1:9/", json!({"label": "upstream", "version": 5}));
    system.settings(&[edited]).await;
    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "webhook `wh` is off");
    let last = system.records("webhook-settings").await.last().map(Record::json).expect("there are some");
    assert_eq!(
        (&last["label"], &last["version"], &last["enabled"]),
        (&json!("upstream"), &json!(6), &json!(false))
    );
}

#[tokio::test]
async fn many_edits_at_once_give_one_record() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let disable = || system.webhook(&["disable", "wh"]);

    let all = tokio::join!(disable(), disable(), disable(), disable());

    for finished in <[Finished; 4]>::from(all) {
        let code = finished.status.code();
        assert!(code == Some(0) || code == Some(75), "{finished:?}");
    }
    let records = system.records("webhook-settings").await;
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].json()["version"], 2);
}

#[tokio::test]
async fn what_the_system_holds_is_sent_when_it_is_enabled_and_the_next_failure_is_the_first() {
    const COUNT: usize = 40;
    let failing = receiver(status(500));
    let Some(system) = start(&failing, json!({}), "50ms").await else { return };
    system.publish(&events(0..COUNT)).await;
    wait_disabled(&system).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    let shown = system.webhook_json(&["show", "wh"]).await;
    assert_eq!((&shown["state"], &shown["parked"]), (&json!("disabled"), &json!(COUNT)));
    assert!(shown["held_until"].is_string());
    assert_ended(&system.webhook(&["enable", "wh"]).await, 1, "`--send` or `--discard`");
    let before = attempts(&system).await.len();

    assert_ended(&system.webhook(&["enable", "wh", "--send"]).await, 0, "webhook `wh` is on again");

    wait_until("an attempt after the enabling", LIMIT, async || attempts(&system).await.len() > before).await;
    assert_eq!(attempts(&system).await[before]["failures"], 1, "the next failure is the first");
    assert_eq!(attempts(&system).await[before]["counted"], true);
    wait_shown(&system, "state", json!("disabled")).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    let posts = failing.requests().len();

    failing.set(ok()).await;
    let enabled = system.webhook_json(&["enable", "wh", "--send"]).await;
    assert_eq!(enabled["switched"], "by_activation");
    failing.wait_for(|requests| requests.len() >= posts + COUNT, "all that was held").await;
    system.wait_delivered().await;
    let came = ids(&failing.requests()[posts..]);
    assert_eq!(by_chat(&came), by_chat(&numbered(0..COUNT)));
    assert_eq!(system.webhook_json(&["enable", "wh", "--send"]).await["switched"], "unchanged");
    assert_eq!(system.webhook_json(&["show", "wh"]).await["failures"], 0);
}

#[tokio::test]
async fn a_failure_of_an_attempt_from_before_an_enabling_does_not_count() {
    let hanging = receiver(hang());
    let webhooks = [webhook("wh", "ws", &hanging.url("/"), json!({}))];
    let started = system(2_000)
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "60s")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "10m")
        .start(&webhooks)
        .await;
    let Some(system) = started else { return };
    system.publish(&events(0..1)).await;
    hanging.wait_for(|requests| requests.len() == 1, "the request").await;

    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "off");
    assert_ended(&system.webhook(&["enable", "wh"]).await, 0, "on");
    // `deliver` stores each activation that it reads.
    let stored = |records: &[Record]| records.iter().filter(|record| record.value.is_some()).count() == 2;
    system.wait_records("webhook-states", stored).await;
    hanging.set(refuse()).await;

    wait_until("the attempt to end", LIMIT, async || attempts(&system).await.len() == 1).await;
    let attempt = &attempts(&system).await[0];
    assert_eq!((&attempt["settled"], &attempt["counted"]), (&Value::Null, &json!(false)));
    assert_eq!(system.webhook_json(&["show", "wh"]).await["failures"], 0);
}

#[tokio::test]
async fn what_the_system_holds_is_dropped_when_it_is_enabled_with_a_discard() {
    const COUNT: usize = 40;
    let failing = receiver(status(500));
    let Some(system) = start(&failing, json!({}), "50ms").await else { return };
    system.publish(&events(0..COUNT)).await;
    wait_disabled(&system).await;
    system.deliver.wait_sum(PARKED, COUNT as f64).await;
    let posts = failing.requests().len();
    failing.set(ok()).await;

    assert_ended(&system.webhook(&["enable", "wh", "--discard"]).await, 0, "on again");
    system.publish(&events(COUNT..COUNT + 4)).await;

    let dropped = "bundlehook_bundles_settled_total{result=\"dropped\"}";
    system.deliver.wait_sum(dropped, COUNT as f64).await;
    system.wait_delivered().await;
    assert_eq!(ids(&failing.requests()[posts..]).len(), 4);
    let shown = wait_shown(&system, "parked", json!(0)).await;
    assert_eq!(shown["state"], "healthy");
    assert_eq!(system.deliver.sum(dropped).await.to_string(), COUNT.to_string());
}
