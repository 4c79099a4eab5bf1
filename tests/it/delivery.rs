//! One POST and what its answer means.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bundlehook::io::{attempt_log::LoggedAttempt, clock};
use serde_json::json;

use crate::support::{
    Answer, Behaviour, LIMIT, Outgoing, Request, Tenant, answer, event, hang, message_ids, ok, produce,
    receiver, refuse, status, system, tenant, wait_until, webhook,
};

const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4"];

/// Answers POSTs to `/none` by their number, from 1; all others with 200.
fn by_number(decide: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Behaviour {
    let seen = AtomicUsize::new(0);
    answer(move |request| match &*request.path {
        "/none" => decide(1 + seen.fetch_add(1, Ordering::Relaxed)),
        _ => Answer::status(200),
    })
}

fn ids(posts: &[Request]) -> Vec<String> {
    posts.iter().flat_map(message_ids).collect()
}

async fn outcomes(tenant: &Tenant, count: usize) -> Vec<(String, serde_json::Value)> {
    let attempts = tenant.wait_records_of("delivery-attempts", "none", count).await;
    let outcome = |record: &crate::support::Record| {
        let attempt = record.json();
        (attempt["outcome"].as_str().expect("it is a text").to_owned(), attempt["settled"].clone())
    };
    attempts.iter().map(outcome).collect()
}

#[tokio::test]
async fn another_2xx_under_the_rule_200_is_rejected_and_not_retried() {
    let Some(tenant) = tenant().await else { return };
    tenant.receiver.set(by_number(|number| Answer::status(if number == 1 { 202 } else { 200 }))).await;

    tenant.system.publish(&[tenant.event("c", "1"), tenant.event("c", "2")]).await;

    let posts = tenant.wait_posts("/none", 2).await;
    assert_eq!(ids(&posts), ["1", "2"]);
    let expected = [("status".to_owned(), json!("rejected")), ("delivered".to_owned(), json!("delivered"))];
    assert_eq!(outcomes(&tenant, 2).await, expected);
}

#[tokio::test]
async fn every_2xx_is_a_success_under_the_rule_2xx() {
    let Some(tenant) = tenant().await else { return };
    tenant.receiver.set(status(204)).await;
    tenant.change(&[tenant.webhook("none", json!({"success": "2xx"}))]).await;

    tenant.system.publish(&[tenant.event("c", "1")]).await;

    assert_eq!(outcomes(&tenant, 1).await, [("delivered".to_owned(), json!("delivered"))]);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let Some(tenant) = tenant().await else { return };
    let elsewhere = tenant.receiver.url("/elsewhere");
    let redirect = move |number| match number {
        1 => Answer::status(307).header("location", &elsewhere),
        _ => Answer::status(200),
    };
    tenant.receiver.set(by_number(redirect)).await;

    tenant.system.publish(&[tenant.event("c", "1")]).await;

    let posts = tenant.wait_posts("/none", 2).await;
    assert_eq!(ids(&posts), ["1", "1"]);
    let expected = [("redirect".to_owned(), json!(null)), ("delivered".to_owned(), json!("delivered"))];
    assert_eq!(outcomes(&tenant, 2).await, expected);
    assert!(tenant.posts("/elsewhere").is_empty());
}

#[tokio::test]
async fn a_delivery_that_the_endpoint_refuses_three_times_is_rejected_and_the_next_goes_on() {
    let Some(tenant) = tenant().await else { return };
    let refuse_first = |request: &Request| {
        Answer::status(if request.path == "/none" && message_ids(request) == ["1"] { 422 } else { 200 })
    };
    tenant.receiver.set(answer(refuse_first)).await;

    tenant.system.publish(&[tenant.event("c", "1"), tenant.event("c", "2")]).await;

    let posts = tenant.wait_posts("/none", 4).await;
    assert_eq!(ids(&posts), ["1", "1", "1", "2"]);
    let settled: Vec<_> = outcomes(&tenant, 4).await.into_iter().map(|(_, settled)| settled).collect();
    assert_eq!(settled, [json!(null), json!(null), json!("rejected"), json!("delivered")]);
}

#[tokio::test]
async fn a_retry_has_the_same_id_and_body_and_a_fresh_timestamp_and_waits_as_the_receiver_asks() {
    let Some(tenant) = tenant().await else { return };
    let busy = |number| match number {
        1 | 2 => Answer::status(503).header("retry-after", "1"),
        _ => Answer::status(200),
    };
    tenant.receiver.set(by_number(busy)).await;

    tenant.system.publish(&[tenant.event("c", "1"), tenant.event("c", "2")]).await;

    let posts = tenant.wait_posts("/none", 4).await;
    let (first, attempts) = (&posts[0], &posts[..3]);
    assert!(attempts.iter().all(|post| post.header("webhook-id") == first.header("webhook-id")));
    assert!(attempts.iter().all(|post| post.body == first.body));
    assert_eq!(message_ids(&posts[3]), ["2"], "the chat's next message waits");
    assert_ne!(posts[3].header("webhook-id"), first.header("webhook-id"));
    for pair in attempts.windows(2) {
        let sent = |post: &Request| -> i64 {
            post.header("webhook-timestamp").expect("it is set").parse().expect("it is a number")
        };
        assert!(sent(&pair[1]) > sent(&pair[0]));
        assert!(pair[1].arrived - pair[0].arrived >= Duration::from_secs(1));
    }
    assert!(posts[3].arrived - posts[2].arrived < Duration::from_secs(1), "a success closes the circuit");
}

#[tokio::test]
async fn the_messages_of_each_chat_arrive_in_order_through_failures() {
    let Some(tenant) = tenant().await else { return };
    tenant.receiver.set(by_number(|number| Answer::status(if number <= 7 { 500 } else { 200 }))).await;
    let chats = ["a", "b", "c"];
    let events: Vec<_> =
        (0..5).flat_map(|n| chats.map(|chat| tenant.event(chat, &format!("{chat}{n}")))).collect();

    tenant.system.publish(&events).await;

    tenant.wait_records_of("delivery-attempts", "none", 15).await;
    let all = |posts: &[Request], chat: &str| {
        let mut ids = ids(posts);
        ids.retain(|id| id.starts_with(chat));
        ids.dedup();
        ids
    };
    let delivered = |requests: &[Request]| {
        let at_once: Vec<Request> = requests.iter().filter(|post| post.path == "/none").cloned().collect();
        chats.iter().all(|chat| all(&at_once, chat).len() >= 5)
    };
    tenant.receiver.wait_for(delivered, "every message").await;
    for chat in chats {
        let expected: Vec<String> = (0..5).map(|n| format!("{chat}{n}")).collect();
        assert_eq!(all(&tenant.posts("/none"), chat), expected);
    }
}

#[tokio::test]
async fn a_dead_endpoint_does_not_hold_up_another_webhook() {
    let (Some(refusing), Some(hanging), Some(healthy)) = (tenant().await, tenant().await, tenant().await)
    else {
        return;
    };
    refusing.receiver.set(refuse()).await;
    hanging.receiver.set(hang()).await;
    let events = |tenant: &Tenant| -> Vec<_> {
        (0..40).map(|n| tenant.event(&format!("c{}", n % 10), &n.to_string())).collect()
    };
    let (dead, alive) = ([events(&refusing), events(&hanging)].concat(), events(&healthy));
    refusing.system.publish(&dead).await;
    hanging.wait_posts("/none", 8).await;
    let begun = Instant::now();

    healthy.system.publish(&alive).await;

    healthy.wait_posts("/none", 40).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_post_is_signed_with_each_secret_and_carries_the_extra_headers() {
    let Some(tenant) = tenant().await else { return };
    let more = json!({"secrets": SECRETS, "headers": {"Authorization": "Bearer s3cret", "X-Team": "crm"}});
    tenant.change(&[tenant.webhook("none", more)]).await;

    tenant.system.publish(&[tenant.event("c", "1")]).await;

    let post = &tenant.wait_posts("/none", 1).await[0];
    assert_eq!(post.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(post.header("x-team"), Some("crm"));
    for secret in SECRETS {
        let verifier = standardwebhooks::Webhook::new(secret).expect("the secret is one");
        verifier.verify(&post.body, &post.headers).expect("the signature is right");
    }
    let sent: i64 = post.header("webhook-timestamp").expect("it is set").parse().expect("it is a number");
    assert!((clock::now().0 / 1000 - sent).abs() < 60);
    let attempt = tenant.wait_records_of("delivery-attempts", "none", 1).await[0].text().to_owned();
    assert!(!attempt.contains("s3cret"), "{attempt}");
}

#[tokio::test]
async fn every_attempt_is_in_the_topic_of_attempts_and_in_the_log_of_the_webhook() {
    let Some(tenant) = tenant().await else { return };
    tenant
        .receiver
        .set(by_number(|number| match number {
            1 => Answer::status(500).body("try later"),
            _ => Answer::status(200).header("x-request", "7"),
        }))
        .await;

    tenant.system.publish(&[tenant.event("c", "1")]).await;

    let attempts = tenant.wait_records_of("delivery-attempts", "none", 2).await;
    let attempts: Vec<_> = attempts.iter().map(crate::support::Record::json).collect();
    assert_eq!(attempts[0]["response"]["body"], "try later");
    assert_eq!((&attempts[0]["attempt"], &attempts[1]["attempt"]), (&json!(1), &json!(2)));
    assert_eq!((&attempts[0]["counted"], &attempts[0]["failures"]), (&json!(true), &json!(1)));
    assert_eq!(attempts[1]["failures"], 0);
    let answered = attempts[1]["response"]["headers"].as_array().expect("headers are a list");
    assert!(answered.contains(&json!(["x-request", "7"])));
    let id = tenant.tenure("none");
    let log = tenant.system.attempt_log().await;
    let mut logged = Vec::new();
    wait_until("the log to hold both", LIMIT, async || {
        logged = log.recent_in_full(&id, 10).await.expect("it can be read");
        logged.len() == 2
    })
    .await;
    let record = |attempt: &LoggedAttempt| json!(attempt.record.as_ref().expect("the topic holds it"));
    let newest_first: Vec<_> = attempts.into_iter().rev().collect();
    assert_eq!(logged.iter().map(record).collect::<Vec<_>>(), newest_first);
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_dialled() {
    let receiver = crate::support::receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup = system(3_000).env("BUNDLEHOOK_ALLOW_ADDRESSES", "10.0.0.0/8");
    let Some(system) = setup.start(&[settings]).await else { return };

    system.publish(&[crate::support::event("ws", "c", "1")]).await;

    let attempts = system.wait_records("delivery-attempts", |records| !records.is_empty()).await;
    assert_eq!(attempts[0].json()["outcome"], "forbidden_address");
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn the_nth_failure_is_followed_by_the_nth_pause() {
    let receiver = crate::support::receiver(crate::support::fail_first(4));
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup = system(3_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "200ms,400ms,800ms");
    let Some(system) = setup.start(&[settings]).await else { return };

    system.publish(&[crate::support::event("ws", "c", "1")]).await;

    let posts = receiver.wait_for(|requests| requests.len() == 5, "the success").await;
    let pauses: Vec<_> = posts.windows(2).map(|pair| pair[1].arrived - pair[0].arrived).collect();
    for (pause, scheduled) in pauses.iter().zip([200, 400, 800, 800]) {
        let least = Duration::from_millis(scheduled * 9 / 10);
        assert!((least..least + Duration::from_secs(2)).contains(pause), "{pauses:?}");
    }
    system.wait_done().await;
}

#[tokio::test]
async fn a_record_that_is_no_bundle_goes_untouched_to_the_dead_letters_and_the_next_one_goes_on() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let Some(system) = system(2_000).start(&[settings]).await else { return };
    let strange = Outgoing::new("c", "not a body").header("bundlehook-version", "9");
    produce(system.kafka.servers(), &system.topic("bundles"), [strange]).await;
    system.publish(&[event("ws", "c", "1")]).await;

    receiver.wait_for(|requests| requests.len() == 1, "the bundle behind it").await;
    let letters = system.wait_records("dead-letters", |records| records.len() == 1).await;
    assert_eq!(letters[0].value.as_deref(), Some(&b"not a body"[..]));
    assert!(letters[0].header("detail").is_some_and(|detail| detail.contains("`bundlehook-version` is `9`")));
}

#[tokio::test]
async fn a_limit_of_deliveries_a_second_holds_over_all_processes() {
    let (limited, free) = (receiver(ok()), receiver(ok()));
    let webhooks = [
        webhook("limited", "ws", &limited.url("/"), json!({"max_per_second": 20})),
        webhook("free", "ws", &free.url("/"), json!({})),
    ];
    let Some(system) = system(2_000).partitions(4).start(&webhooks).await else { return };
    let other = system.another("deliver").await;
    other.wait_sum("bundlehook_partitions_owned{role=\"deliver\"}", 2.0).await;
    let events: Vec<_> = (0..60).map(|n| event("ws", &format!("c{n}"), &n.to_string())).collect();
    system.publish(&events).await;

    limited.wait_for(|requests| requests.len() == 60, "all of the limited webhook's").await;

    let delivered = "bundlehook_bundles_settled_total{result=\"delivered\"}";
    assert!(other.sum(delivered).await > 0.0 && system.deliver.sum(delivered).await > 0.0, "both deliver");
    let arrivals: Vec<Instant> = limited.requests().iter().map(|request| request.arrived).collect();
    let took = arrivals.iter().max().zip(arrivals.iter().min()).map(|(last, first)| *last - *first);
    // 59 turns of 50 ms; half of that if each process had its own.
    assert!(took >= Some(Duration::from_millis(2_200)), "{took:?}");
    free.wait_for(|requests| requests.len() == 60, "all of the other's").await;
}
