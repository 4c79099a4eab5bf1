//! The stream of events.

use serde_json::json;

use crate::commands::{events, start};
use crate::support::{LIMIT, claims, hang, ok, receiver, signed, token};

#[tokio::test]
async fn attempts_and_changes_are_told_to_those_whose_they_are() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let editor = token("ws", "editor");
    let told = console.listen(&editor).await;
    system.publish(&events(0..1)).await;
    let text = told.wait_for("event: attempt").await;
    assert!(text.contains(r#"data: {"webhook_id":"wh"}"#), "{text}");
    // By then the log shows it.
    assert_eq!(console.get("/api/v1/webhooks/wh/log").await.as_array().map(Vec::len), Some(1));

    let told = console.listen(&token("other", "viewer")).await;
    system.publish(&events(1..2)).await;
    let other = crate::support::webhook("wh-other", "other", "http://127.0.0.1:9/", json!({}));
    system.settings(std::slice::from_ref(&other)).await;
    crate::support::wait_until("it to be known", LIMIT, async || {
        let path = "/api/v1/webhooks/wh-other";
        console.call("GET", path, &token("other", "viewer"), &json!(null)).await.status == 200
    })
    .await;
    system.settings(&[other]).await;
    let text = told.wait_for("wh-other").await;
    assert!(!text.contains(r#""wh""#), "{text}");
}

/// Clocks may differ by 30 s, so this token is good for some seconds more.
#[tokio::test]
async fn the_stream_ends_with_the_token_and_is_not_there_for_others() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let mut claims = claims("ws", "viewer");
    claims["exp"] = json!(bundlehook::io::clock::now().0 / 1000 - 15);
    let stream = signed(&claims);
    let told = console.listen(&stream).await;
    // Without an end there would be a comment now and then for ever.
    tokio::time::timeout(LIMIT, told.ended()).await.expect("it ends");
    let path = "/api/v1/events?webhook_id=wh";
    for (of, expected) in [(signed(&claims), 401), (token("other", "editor"), 404)] {
        assert_eq!(console.call("GET", path, &of, &json!(null)).await.status, expected);
    }
}

#[tokio::test]
async fn a_console_that_is_to_stop_answers_what_it_was_asked_and_ends_its_streams() {
    let endpoint = receiver(ok());
    let Some(system) = start(&endpoint, json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let told = console.listen(&token("ws", "viewer")).await;
    endpoint.set(hang()).await;
    let editor = token("ws", "editor");
    // It waits for the endpoint, which says nothing until the deadline of its request.
    let (body, asked) = (json!({}), "/api/v1/webhooks/wh/test");
    let stop = async {
        endpoint.wait_for(|requests| !requests.is_empty(), "the test").await;
        console.process.sigterm();
    };
    let (answered, ()) = futures_util::future::join(console.call("POST", asked, &editor, &body), stop).await;
    assert_eq!(answered.json()["attempt"]["outcome"], "timeout", "{}", answered.text());
    tokio::time::timeout(LIMIT, told.ended()).await.expect("it ends");
    assert!(console.process.wait_exit(LIMIT).await.success());
    assert!(!console.process.stderr().contains("are given up"));
}
