//! The commands that ask for a delivery: a test, or something of the past once more.

use bundlehook::io::clock;
use serde_json::{Value, json};

use crate::commands::{PARKED, assert_ended, attempts, by_chat, events, ids, numbered, start};
use crate::support::{
    Answer, LIMIT, PATIENT, Request, answer, message_ids, ok, receiver, refuse, status, system, wait_until,
    webhook,
};

#[tokio::test]
async fn a_test_goes_at_once_whatever_the_state_is_logged_and_counts_for_nothing() {
    let failing = receiver(status(500));
    let Some(system) = start(&failing, json!({}), "10m").await else { return };
    system.publish(&events(0..5)).await;
    system.deliver.wait_sum(PARKED, 5.0).await;
    let before = system.webhook_json(&["show", "wh"]).await;
    let posts = failing.requests().len();

    assert_ended(&system.webhook(&["test", "wh"]).await, 1, "answered 500 Internal Server Error");
    failing.set(ok()).await;
    let tested = system.webhook_json(&["test", "wh", "--by", "amnon"]).await;

    let attempt = &tested["attempt"];
    assert_eq!((&attempt["kind"], &attempt["settled"]), (&json!("test"), &json!("delivered")));
    assert_eq!((&attempt["counted"], &attempt["requested_by"]), (&json!(false), &json!("amnon")));
    assert_ended(&system.webhook(&["log", "wh"]).await, 0, "test");
    let after = system.webhook_json(&["show", "wh"]).await;
    for property in ["state", "failures", "since", "next_attempt_at", "parked", "last_attempt"] {
        assert_eq!(after[property], before[property], "{property}");
    }
    let sent = &failing.requests()[posts..];
    assert_eq!(ids(sent), ["test", "test"]);
    assert_eq!(sent[1].header("webhook-id"), tested["bundle_id"].as_str());

    // A request that is carried out twice; one to a webhook that its owner has switched off.
    let request = "9b7a3f52-0a6b-4a39-8a0e-1f2e3d4c5b6a";
    for _ in 0..2 {
        assert_ended(&system.webhook(&["test", "wh", "--request-id", request]).await, 0, "answered 200");
    }
    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "off");
    assert_ended(&system.webhook(&["test", "wh"]).await, 0, "answered 200");
    assert_eq!(failing.requests().len(), posts + 4);
}

#[tokio::test]
async fn a_test_has_the_body_of_the_granularity_and_does_not_come_again_after_a_restart() {
    let receiver = receiver(ok());
    let Some(mut system) = start(&receiver, json!({"granularity": "6h"}), "1s").await else { return };

    assert_ended(&system.webhook(&["test", "wh"]).await, 0, "answered 200");

    let body = receiver.requests()[0].json();
    assert_eq!(body["messages"].as_array().map(Vec::len), Some(1));
    assert!(body["aggregation"].as_str().is_some_and(|text| text.contains("This is a test")));
    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    system.restart("deliver").await;
    system.wait_delivered().await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn one_delivery_is_sent_again_under_the_same_id_or_a_new_one() {
    let receiver = receiver(ok());
    let Some(system) = start(&receiver, json!({}), "1s").await else { return };
    system.publish(&events(0..3)).await;
    let posts = receiver.wait_for(|requests| requests.len() == 3, "all messages").await;
    system.wait_delivered().await;
    let id = posts[1].header("webhook-id").expect("a POST has an id");
    // Where the log is lost, the attempts in Kafka tell.
    system.redis.command::<i64>(&["DEL", &format!("{{{}wh:wh}}:log:ws", system.prefix)]).await;

    let request = "9b7a3f52-0a6b-4a39-8a0e-1f2e3d4c5b6a";
    for _ in 0..2 {
        let resent = system.webhook(&["resend", "wh", "--delivery", id, "--request-id", request]).await;
        assert_ended(&resent, 0, "1 delivery is being sent again");
    }
    let resent = system.webhook(&["resend", "wh", "--delivery", id, "--new-id"]).await;
    assert_ended(&resent, 0, "1 delivery is being sent again");

    system.wait_delivered().await;
    let again = &receiver.requests()[3..];
    assert_eq!(again.len(), 2, "the request that was given twice is carried out once");
    assert_eq!(again[0].header("webhook-id"), Some(id));
    assert_ne!(again[1].header("webhook-id"), Some(id));
    assert!(again.iter().all(|post| post.body == posts[1].body));
    let kinds: Vec<Value> = attempts(&system).await.iter().map(|attempt| attempt["kind"].clone()).collect();
    assert_eq!(kinds, ["bundle", "bundle", "bundle", "resend", "resend"]);

    let tested = system.webhook_json(&["test", "wh"]).await;
    let test = tested["bundle_id"].as_str().expect("it has an id");
    assert_ended(&system.webhook(&["resend", "wh", "--delivery", test]).await, 1, "is a test");
}

#[tokio::test]
async fn a_range_of_time_is_sent_again_behind_what_waits_and_to_nobody_else() {
    let (receiver, other) = (receiver(ok()), receiver(ok()));
    let webhooks = [
        webhook("wh", "ws", &receiver.url("/"), json!({})),
        webhook("other", "ws", &other.url("/"), json!({})),
    ];
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_RETRY_SCHEDULE", PATIENT);
    let Some(system) = setup.start(&webhooks).await else { return };
    system.publish(&events(0..8)).await;
    system.wait_done().await;
    let from = clock::now().to_rfc3339();
    wait_until("the next millisecond", LIMIT, async || clock::now().to_rfc3339() > from).await;
    system.publish(&events(8..20)).await;
    system.wait_done().await;
    let to = clock::now().to_rfc3339();
    receiver.set(refuse()).await;
    system.publish(&events(20..32)).await;
    system.deliver.wait_sum(PARKED, 12.0).await;
    let before = receiver.requests();

    let resent = system.webhook(&["resend", "wh", "--from", &from, "--to", &to]).await;
    assert_ended(&resent, 0, "12 deliveries are being sent again");
    receiver.set(ok()).await;

    system.wait_delivered().await;
    let came = receiver.requests()[before.len()..].to_vec();
    let expected: Vec<String> = numbered(20..32).into_iter().chain(numbered(8..20)).collect();
    assert_eq!(by_chat(&ids(&came)), by_chat(&expected));
    let body_of = |requests: &[Request], id: &str| {
        requests.iter().find(|request| message_ids(request) == [id]).map(|request| request.body.clone())
    };
    for id in numbered(8..20) {
        assert_eq!(body_of(&came, &id), body_of(&before, &id));
    }
    assert_eq!(other.requests().len(), 32);
}

#[tokio::test]
async fn a_re_send_is_retried_and_counted_like_any_other_delivery() {
    let receiver = receiver(ok());
    let Some(system) = start(&receiver, json!({}), "50ms").await else { return };
    system.publish(&events(0..1)).await;
    system.wait_done().await;
    receiver.set(answer(|request| Answer::status(if request.number < 3 { 503 } else { 200 }))).await;

    let resent = system.webhook(&["resend", "wh", "--from", "2021-02-24T16:00:00Z"]).await;
    assert_ended(&resent, 0, "1 delivery is being sent again");

    system.wait_delivered().await;
    let told: Vec<_> = attempts(&system).await[1..]
        .iter()
        .map(|attempt| (attempt["attempt"].clone(), attempt["counted"].clone(), attempt["settled"].clone()))
        .collect();
    assert_eq!(told.first(), Some(&(json!(1), json!(true), Value::Null)));
    assert_eq!(
        told.last().map(|(_, counted, settled)| (counted, settled)),
        Some((&json!(false), &json!("delivered")))
    );
    assert!(told.len() >= 2);
}

/// The circuit remembers which attempts it has counted; those of a re-send under the same id are others.
#[tokio::test]
async fn failures_of_a_re_send_count_though_those_of_its_original_did() {
    let refusing = receiver(status(422));
    let Some(system) = start(&refusing, json!({}), "50ms").await else { return };
    system.publish(&events(0..1)).await;
    system.wait_done().await;
    let first = attempts(&system).await;
    assert_eq!(first.last().map(|attempt| &attempt["settled"]), Some(&json!("rejected")));
    let id = first[0]["bundle"]["bundle_id"].as_str().expect("it is a text").to_owned();

    assert_ended(&system.webhook(&["resend", "wh", "--delivery", &id]).await, 0, "is being sent again");

    system.wait_records("delivery-attempts", |records| records.len() == 6).await;
    let failures: Vec<Value> =
        attempts(&system).await.iter().map(|attempt| attempt["failures"].clone()).collect();
    assert_eq!(failures, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_re_send_that_waits_survives_a_crash_and_the_loss_of_redis() {
    let receiver = receiver(ok());
    let Some(mut system) = start(&receiver, json!({}), PATIENT).await else { return };
    system.publish(&events(0..8)).await;
    system.wait_done().await;
    receiver.set(refuse()).await;
    let resent = system.webhook(&["resend", "wh", "--from", "2021-02-24T16:00:00Z"]).await;
    assert_ended(&resent, 0, "8 deliveries are being sent again");
    system.deliver.wait_sum(PARKED, 8.0).await;

    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    system.redis.flushall().await;
    system.restart("deliver").await;
    receiver.set(ok()).await;

    system.wait_delivered().await;
    let requests = receiver.requests();
    assert_eq!(by_chat(&ids(&requests[8..])), by_chat(&numbered(0..8)));
    assert_eq!(attempts(&system).await.last().map(|attempt| attempt["kind"].clone()), Some(json!("resend")));
}
